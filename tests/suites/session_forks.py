"""Forks of a session are futures of their own, and docs/examples/tree_search.py searches with them."""

import concurrent.futures
import os
import pathlib
import subprocess
import sys

from service import CALL_SECONDS, Server, pb
from t2r.v1 import sessions_pb2 as spb
from t2r.v1 import sessions_pb2_grpc as session_stubs

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEMO = ROOT / "models" / "demo"
PROMPT = "And it came to pass"


def test_64_forks_in_one_call_are_64_futures():
    """Each fork, with a seed of its own, says what one prompt of all the tokens says with that seed."""
    with Server(DEMO) as server:
        sessions = session_stubs.SessionsStub(server.channel)
        first = server.generate(PROMPT, 8, pb.Sampling(temperature=0), ignore_eos=True,
                                session=spb.SessionRef(id="root", create=True))
        forks = sessions.ForkSession(
            spb.ForkSessionRequest(id="root", new_id="branch", count=64), timeout=CALL_SECONDS).sessions
        assert [fork.id for fork in forks] == [f"branch-{i}" for i in range(1, 65)]
        root = sessions.GetSession(spb.GetSessionRequest(id="root"), timeout=CALL_SECONDS)
        assert {fork.position for fork in forks} == {root.position}

        def go_on(seed):
            return server.generate("", 16, pb.Sampling(temperature=1.0, seed=seed), ignore_eos=True,
                                   session=spb.SessionRef(id=f"branch-{seed}"))

        with concurrent.futures.ThreadPoolExecutor(16) as callers:
            futures = list(callers.map(go_on, range(1, 65)))
        assert len({tuple(future.token_ids) for future in futures}) == 64
        # The same without any session: one prompt of all the tokens.
        so_far = server.tokenize(PROMPT) + first.token_ids
        for seed in (1, 33, 64):
            expected = server.generate(so_far, 16, pb.Sampling(temperature=1.0, seed=seed), ignore_eos=True)
            assert futures[seed - 1].token_ids == expected.token_ids
        # Nobody moved the origin.
        again = sessions.GetSession(spb.GetSessionRequest(id="root"), timeout=CALL_SECONDS)
        assert again.position == root.position


def test_tree_search_finds_a_likelier_text_than_one_sample():
    with Server(DEMO) as server:
        def search(*flags):
            done = subprocess.run(
                [sys.executable, str(ROOT / "docs" / "examples" / "tree_search.py"), PROMPT, "--server",
                 server.address, "--depth", "3", "--tokens", "8", *flags],
                capture_output=True, text=True, timeout=CALL_SECONDS, check=False, env=dict(os.environ))
            assert done.returncode == 0, done.stderr
            return [line.split("\t") for line in done.stdout.splitlines() if "\t" in line], done.stderr

        (best, *others), said = search("--width", "8", "--keep", "2")
        assert len(others) == 1
        assert float(best[0]) >= float(others[0][0])
        assert best[1].startswith(PROMPT)
        assert "24 forks, 25 turns" in said
        (single,), _ = search("--width", "1", "--keep", "1")
        assert float(best[0]) > float(single[0])
        assert search("--width", "8", "--keep", "2")[0] == [best, *others], "a seed is a result"
        left = session_stubs.SessionsStub(server.channel).ListSessions(spb.ListSessionsRequest())
        assert not left.sessions
