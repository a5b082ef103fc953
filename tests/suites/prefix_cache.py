"""Prompts that begin alike cost once: what a server says of it and computes, that its answers are the
same as without, and that one key gains nothing from another's prompts."""

import concurrent.futures
import os
import pathlib
import re
import subprocess
import urllib.request

import grpc
import pytest

from service import CALL_SECONDS, Server, collect, pb
from t2r.v1 import sessions_pb2 as spb

DEMO = pathlib.Path(__file__).resolve().parents[2] / "models" / "demo"
SYSTEM = [3 + i * i % 1900 for i in range(700)]
TAILS = [[5 + 7 * k + i for i in range(10 + 5 * k)] for k in range(6)]
SAMPLINGS = [pb.Sampling(temperature=0),
             pb.Sampling(temperature=0.9, seed=4, repetition_penalty=1.3, presence_penalty=0.2)]


def metric(server, name):
    with urllib.request.urlopen(f"http://{server.admin}/metrics", timeout=CALL_SECONDS) as page:
        return float(re.search(rf"^{name} (\S+)$", page.read().decode(), re.MULTILINE).group(1))


def ask(server, tail, sampling=None, **fields):
    return server.generate(SYSTEM + tail, 24, sampling or SAMPLINGS[0], ignore_eos=True, logprobs=1, **fields)


def test_the_second_request_has_cached_tokens():
    with Server(DEMO) as server:
        cached = [ask(server, tail).usage.cached_prompt_tokens for tail in TAILS]
        # The end of the last whole chunk of 128; then where the prompts part.
        assert cached == [0, 640] + 4 * [700]
        prompts = sum(len(SYSTEM) + len(tail) for tail in TAILS)
        assert metric(server, "t2r_prefix_cache_queries_total") == prompts
        assert metric(server, "t2r_prefix_cache_hits_total") == sum(cached)
        assert metric(server, "t2r_prompt_tokens_total") == prompts - sum(cached)
        states = metric(server, "t2r_prefix_cache_states")
        model = server.stub.GetModel(pb.GetModelRequest(), timeout=CALL_SECONDS)
        assert states >= 2
        assert metric(server, "t2r_prefix_cache_bytes") == states * model.state_bytes_per_session
        assert 0 < model.memory.prefix_cache_bytes <= 256 << 20


def test_answers_are_those_without():
    def answers(server):
        plain = [ask(server, tail, sampling) for tail in TAILS for sampling in SAMPLINGS]
        turns = [ask(server, tail, SAMPLINGS[1], session=spb.SessionRef(id=f"s{i}", create=True))
                 for i, tail in enumerate(TAILS)]
        more = [server.generate([9, 8, 7], 24, ignore_eos=True, logprobs=1, session=spb.SessionRef(id=f"s{i}"))
                for i in range(len(TAILS))]
        with concurrent.futures.ThreadPoolExecutor(8) as callers:
            together = list(callers.map(lambda tail: ask(server, tail, SAMPLINGS[1]), TAILS * 3))
        return plain + turns + more + together

    with Server(DEMO, "--prefix-cache-mib", "0") as server:
        expected = answers(server)
        assert all(each.usage.cached_prompt_tokens == 0 for each in expected)
        model = server.stub.GetModel(pb.GetModelRequest(), timeout=CALL_SECONDS)
        assert model.memory.prefix_cache_bytes == 0
    with Server(DEMO) as server:
        got = answers(server)
    for one, other in zip(got, expected):
        assert one.token_ids == other.token_ids
        assert one.text == other.text
        assert one.logprobs == other.logprobs
    assert sum(each.usage.cached_prompt_tokens > 0 for each in got) > len(got) // 2


@pytest.mark.parametrize("shared", [False, True])
def test_another_key_gets_no_hit(tmp_path, shared):
    secrets, lines = {}, []
    for name in ("alice", "bob"):
        said = subprocess.run([os.environ["T2R_SERVER"], "key", "new", name], capture_output=True, text=True,
                              check=True, timeout=CALL_SECONDS).stdout
        secrets[name] = re.search(r"^key: (\S+)$", said, re.MULTILINE).group(1)
        lines.append(re.search(r"^entry: (.+)$", said, re.MULTILINE).group(1))
    keys = tmp_path / "keys"
    keys.write_text("\n".join(lines) + "\n", encoding="utf-8")

    with Server(DEMO, "--api-keys", str(keys), *(["--prefix-cache-shared"] if shared else [])) as server:
        def cached(name):
            request = pb.GenerateRequest(tokens=pb.TokenIds(ids=SYSTEM), max_tokens=2, ignore_eos=True)
            call = server.stub.Generate(request, timeout=CALL_SECONDS, metadata=(("x-api-key", secrets[name]),))
            return collect(call).usage.cached_prompt_tokens

        assert cached("alice") == 0
        assert cached("alice") > 0
        assert (cached("bob") > 0) == shared
        assert cached("bob") > 0
        with pytest.raises(grpc.RpcError):
            secrets["eve"] = "t2r_nobody"
            cached("eve")
