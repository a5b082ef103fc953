"""Sessions whose stores fail: killed while they write, away, full, damaged. What was acknowledged is there,
and everything else is a clear status.

T2R_STORE_KILLS (6) kills for each kind of store, T2R_STORE_AWAY (1) seconds without one; bench/store-kills and
bench/store-away ask for more, and take the lines that begin with "figures:".
"""

import collections
import json
import os
import random
import resource
import signal
import threading
import time
import urllib.request

import grpc
import pytest

from redis_server import Redis
from service import CALL_SECONDS, Server
from session_book import NAMES, STEP, Book, Unbroken
from session_calls import DEMO, PROMPT, get, kill, turn, whole

KILLS = int(os.environ.get("T2R_STORE_KILLS", "6"))
AWAY = float(os.environ.get("T2R_STORE_AWAY", "1"))
GREEDY = {"temperature": 0}


def figures(**values):
    print("figures:", json.dumps(values))


def wait_for(condition):
    deadline = time.monotonic() + CALL_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("kind", ["directory", "redis"])
def test_killed_while_storing(tmp_path, kind):
    chance = random.Random(5)
    begun = time.monotonic()
    with Redis(tmp_path) as redis, Unbroken() as unbroken:
        book = Book(unbroken)
        flags = (("--session-dir", str(tmp_path / "sessions")) if kind == "directory" else
                 ("--session-store", redis.url, "--session-lease-seconds", "1"))
        for _ in range(KILLS):
            with Server(DEMO, *flags) as server:
                book.look(server)
                with book.load(book.until_the_server_goes, [server]):
                    time.sleep(chance.uniform(0.02, 0.3))
                    kill(server)
        with Server(DEMO, *flags) as server:
            book.look(server)
    turns, tokens = sum(book.turns.values()), sum(map(len, book.tokens.values()))
    figures(store=kind, kills=KILLS, acknowledged=turns, found=book.found, tokens=tokens,
            longest=max(map(len, book.tokens.values())), minutes=(time.monotonic() - begun) / 60)
    assert tokens == STEP * (turns + book.found) >= STEP * KILLS


class Plain:
    """Requests without a session, one after the other, and how long the slowest took."""

    def __init__(self, server):
        self.server, self.done, self.slowest, self.stop = server, 0, 0.0, threading.Event()
        self.failed = []
        self.thread = threading.Thread(target=self.run)

    def run(self):
        expected = None
        while not self.stop.is_set():
            begun = time.monotonic()
            try:
                tokens = whole(self.server, STEP, GREEDY).token_ids
                assert tokens == (expected := expected or tokens)
            except (grpc.RpcError, AssertionError) as error:
                self.failed.append(error)
            self.slowest = max(self.slowest, time.monotonic() - begun)
            self.done += 1

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *unused):
        self.stop.set()
        self.thread.join()


def ready(server):
    with urllib.request.urlopen(f"http://{server.admin}/readyz", timeout=CALL_SECONDS) as page:
        return page.status == 200


@pytest.mark.parametrize("how", ["hangs", "ended"])
def test_a_store_that_is_away_for_a_while(tmp_path, how):
    with Redis(tmp_path) as redis, Unbroken() as unbroken:
        book = Book(unbroken)
        flags = ("--session-store", redis.url, "--session-lease-seconds", "1")
        with Server(DEMO, *flags) as one, Server(DEMO, *flags) as two:
            with Plain(one) as plain, book.load(book.whatever_fails, [one, two]):
                wait_for(lambda: book.least(collections.Counter()) >= 5)
                before = book.turns.copy()
                if how == "hangs":
                    redis.process.send_signal(signal.SIGSTOP)
                else:
                    redis.stop()
                gone, served = time.monotonic(), plain.done
                time.sleep(AWAY)
                wait_for(lambda: plain.done > served + 1)
                wait_for(lambda: book.statuses["UNAVAILABLE"] > 0)
                assert ready(one) and ready(two)
                away, served = time.monotonic() - gone, plain.done - served
                while_away = book.turns - before
                if how == "hangs":
                    redis.process.send_signal(signal.SIGCONT)
                else:
                    redis.start()
                back, since = time.monotonic(), book.turns.copy()
                wait_for(lambda: book.least(since) >= 2)
                again = time.monotonic() - back
        with Server(DEMO, *flags) as server:
            book.look(server)
    figures(how=how, away=away, sessions=len(NAMES), before=sum(before.values()),
            answered=sum(while_away.values()), after=sum((book.turns - since).values()), found=book.found,
            statuses=dict(book.statuses), slowest=book.slowest, again=again, plain=served,
            plain_slowest=plain.slowest)
    assert not book.unclear and not plain.failed, (book.unclear[:5], plain.failed[:5])
    assert book.statuses["UNAVAILABLE"] > 0


def test_a_full_disk_refuses_turns_until_there_is_room(tmp_path):
    with Server(DEMO, "--session-dir", str(tmp_path / "sessions")) as server:
        first = turn(server, "a", STEP, PROMPT, GREEDY, expected_position=0)
        soft, hard = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
        # No file may grow beyond it: as a full disk does, but for this process alone.
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (200_000, hard))
        at = get(server, "a").position
        status = None
        for number in range(20):
            try:
                turn(server, f"b{number}", STEP, PROMPT, GREEDY, expected_position=0)
            except grpc.RpcError as error:
                status = error
                break
        assert status.code() == grpc.StatusCode.UNAVAILABLE
        assert "--session-dir" in status.details()
        assert whole(server, 5, GREEDY).token_ids
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (soft, hard))
        second = turn(server, "a", STEP, expected_position=at)
    with Server(DEMO, "--session-dir", str(tmp_path / "sessions")) as server:
        assert get(server, "a").position == at + STEP
        assert first.token_ids + second.token_ids == whole(server, 2 * STEP, GREEDY).token_ids
        for earlier in range(number):
            assert get(server, f"b{earlier}").position > 0


def test_damaged_files_are_told_of(tmp_path):
    flags = ("--session-dir", str(tmp_path / "sessions"))
    with Server(DEMO, *flags) as server:
        expected = whole(server, 2 * STEP, GREEDY).token_ids
        for name in NAMES:
            assert turn(server, name, STEP, PROMPT, GREEDY, expected_position=0).token_ids == expected[:STEP]
        at = get(server, NAMES[0]).position
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
                assert turn(server, name, STEP, expected_position=at).token_ids == expected[STEP:]
                good += 1
            except grpc.RpcError as error:
                assert error.code() == grpc.StatusCode.DATA_LOSS, error.details()
                lost += 1
    assert (good, lost) == (len(NAMES) - 1, 1)
