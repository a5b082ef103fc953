"""Sessions whose stores fail: killed while they write, full, damaged. What was acknowledged is there, and
everything else is a clear status.

T2R_STORE_KILLS (6) kills for each kind of store; bench/store-kills asks for more.
"""

import os
import pathlib
import random
import resource
import threading
import time

import grpc
import pytest

from redis_server import Redis
from service import CALL_SECONDS, Server, pb
from t2r.v1 import sessions_pb2 as spb
from t2r.v1 import sessions_pb2_grpc as session_stubs

DEMO = pathlib.Path(__file__).resolve().parents[2] / "models" / "demo"
PROMPT = "And it came to pass"
KILLS = int(os.environ.get("T2R_STORE_KILLS", "6"))
NAMES = [f"s{i}" for i in range(8)]
STEP = 3  # tokens of a turn


def turn(server, name, **ref):
    prompt = PROMPT if ref.get("expected_position") == 0 else ""
    return server.generate(prompt, STEP, pb.Sampling(temperature=0), ignore_eos=True,
                           session=spb.SessionRef(id=name, create=True, **ref))


def position(server, name):
    stub = session_stubs.SessionsStub(server.channel)
    try:
        return stub.GetSession(spb.GetSessionRequest(id=name), timeout=CALL_SECONDS).position
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.NOT_FOUND
        return 0


class Book:
    """What has been acknowledged of each session: its position, and its tokens."""

    def __init__(self):
        self.positions = dict.fromkeys(NAMES, 0)
        self.tokens = {name: [] for name in NAMES}

    def work(self, server, name, stop):
        while not stop.is_set():
            try:
                result = turn(server, name, expected_position=self.positions[name])
            except grpc.RpcError:
                return
            prompt = self.prompt if self.positions[name] == 0 else 0
            self.tokens[name] += result.token_ids
            self.positions[name] += prompt + STEP

    def look(self, server, expected):
        """At most the turn whose answer was lost is there too, and all of it."""
        for name in NAMES:
            found = position(server, name)
            lost = found - self.positions[name]
            begun = self.prompt if self.positions[name] == 0 else 0
            assert lost in (0, begun + STEP) or (lost == 0 == found), (name, found, self.positions[name])
            if lost:
                rest = pb.GenerateRequest(session=spb.SessionRef(id=name, resume_at=self.positions[name]))
                for event in server.stub.Generate(rest, timeout=CALL_SECONDS):
                    if event.HasField("delta"):
                        self.tokens[name] += event.delta.token_ids
                self.positions[name] = found
            assert self.tokens[name] == expected[:len(self.tokens[name])], name


@pytest.mark.parametrize("kind", ["directory", "redis"])
def test_killed_while_storing(tmp_path, kind):
    chance = random.Random(5)
    book = Book()
    with Redis(tmp_path) as redis:
        flags = (("--session-dir", str(tmp_path / "sessions")) if kind == "directory" else
                 ("--session-store", redis.url, "--session-lease-seconds", "1"))
        with Server(DEMO, *flags) as server:
            expected = server.generate(PROMPT, 4000, pb.Sampling(temperature=0), ignore_eos=True).token_ids
            book.prompt = len(server.tokenize(PROMPT))
        for _ in range(KILLS):
            with Server(DEMO, *flags) as server:
                book.look(server, expected)
                stop = threading.Event()
                threads = [threading.Thread(target=book.work, args=(server, name, stop)) for name in NAMES]
                for thread in threads:
                    thread.start()
                time.sleep(chance.uniform(0.02, 0.3))
                server.process.kill()
                server.process.wait()
                for thread in threads:
                    thread.join()
        with Server(DEMO, *flags) as server:
            book.look(server, expected)
    assert sum(map(len, book.tokens.values())) >= STEP * KILLS


def test_a_full_disk_refuses_turns_until_there_is_room(tmp_path):
    with Server(DEMO, "--session-dir", str(tmp_path / "sessions")) as server:
        first = turn(server, "a", expected_position=0)
        soft, hard = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
        # No file may grow beyond it: as a full disk does, but for this process alone.
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (200_000, hard))
        at = position(server, "a")
        status = None
        for number in range(20):
            try:
                turn(server, f"b{number}", expected_position=0)
            except grpc.RpcError as error:
                status = error
                break
        assert status.code() == grpc.StatusCode.UNAVAILABLE
        assert "--session-dir" in status.details()
        assert server.generate(PROMPT, 5, pb.Sampling(temperature=0)).token_ids
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (soft, hard))
        second = turn(server, "a", expected_position=at)
    with Server(DEMO, "--session-dir", str(tmp_path / "sessions")) as server:
        assert position(server, "a") == at + STEP
        whole = server.generate(PROMPT, 2 * STEP, pb.Sampling(temperature=0), ignore_eos=True)
        assert first.token_ids + second.token_ids == whole.token_ids
        for earlier in range(number):
            assert position(server, f"b{earlier}") > 0


def test_damaged_files_are_told_of(tmp_path):
    flags = ("--session-dir", str(tmp_path / "sessions"))
    with Server(DEMO, *flags) as server:
        expected = server.generate(PROMPT, 2 * STEP, pb.Sampling(temperature=0), ignore_eos=True).token_ids
        for name in NAMES:
            assert turn(server, name, expected_position=0).token_ids == expected[:STEP]
        at = position(server, NAMES[0])
    # Opened once more, what was logged is in files of its own.
    with Server(DEMO, *flags):
        pass
    blobs = sorted((tmp_path / "sessions").glob("*.blob"), key=lambda path: path.stat().st_size)
    damaged = bytearray(blobs[-1].read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    blobs[-1].write_bytes(damaged)
    good, lost = 0, 0
    with Server(DEMO, *flags) as server:
        for name in NAMES:
            try:
                assert turn(server, name, expected_position=at).token_ids == expected[STEP:]
                good += 1
            except grpc.RpcError as error:
                assert error.code() == grpc.StatusCode.DATA_LOSS, error.details()
                lost += 1
    assert (good, lost) == (len(NAMES) - 1, 1)
