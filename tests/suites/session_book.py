"""Sessions that several threads go on with while their store fails, and a book of what was acknowledged."""

import collections
import contextlib
import threading
import time

import grpc

from service import CALL_SECONDS, Server, pb
from session_calls import DEMO, PROMPT, get, turn, whole
from t2r.v1 import sessions_pb2 as spb

NAMES = [f"s{i}" for i in range(8)]
STEP = 3  # tokens of a turn
SAMPLING = {"temperature": 0.9, "top_p": 0.95, "seed": 11}


class Unbroken:
    """The tokens of one run in a server of its own that nothing cuts, as many as are asked for."""

    def __init__(self):
        self.server, self.tokens = Server(DEMO, threads=1), []

    def __enter__(self):
        self.server.__enter__()
        return self

    def __exit__(self, *unused):
        self.server.__exit__()

    def first(self, count):
        if count > len(self.tokens):
            tokens = whole(self.server, max(count, 2 * len(self.tokens), 1000), SAMPLING).token_ids
            assert tokens[:len(self.tokens)] == self.tokens
            self.tokens = tokens
        return self.tokens[:count]


def clear(status, said):
    if status == grpc.StatusCode.UNAVAILABLE:
        return "--session-store" in said
    return status == grpc.StatusCode.ABORTED and ("busy" in said or "taken over" in said)


class Book:
    """What has been acknowledged of each session: its position, and its tokens."""

    def __init__(self, unbroken):
        self.unbroken = unbroken
        self.prompt = len(unbroken.server.tokenize(PROMPT))
        self.positions = dict.fromkeys(NAMES, 0)
        self.tokens = {name: [] for name in NAMES}
        self.turns = collections.Counter()  # acknowledged, of each session
        self.found = 0  # turns whose answer was lost, and which were there
        self.statuses = collections.Counter()
        self.unclear = []  # what a call ended with that does not say what failed
        self.slowest = 0.0  # seconds that a call took to fail

    def after(self, position):
        """Where the session stands after one more turn."""
        return position + STEP + (self.prompt if position == 0 else 0)

    def least(self, since):
        """Turns that each session has had acknowledged since then."""
        return min(self.turns[name] - since[name] for name in NAMES)

    def step(self, server, name):
        at = self.positions[name]
        result = turn(server, name, STEP, PROMPT if at == 0 else "", SAMPLING, expected_position=at)
        self.tokens[name] += result.token_ids
        self.positions[name] = self.after(at)
        self.turns[name] += 1

    def until_the_server_goes(self, server, name, stop):
        while not stop.is_set():
            try:
                self.step(server, name)
            except grpc.RpcError as error:
                # What the one before had may be busy until its lease has run out.
                if error.code() != grpc.StatusCode.ABORTED or "busy" not in error.details():
                    return
                stop.wait(0.02)

    def whatever_fails(self, server, name, stop):
        """As a client does that tries again."""
        while not stop.is_set():
            begun = time.monotonic()
            try:
                self.step(server, name)
            except grpc.RpcError as error:
                self.slowest = max(self.slowest, time.monotonic() - begun)
                self.statuses[error.code().name] += 1
                said = error.details() or ""
                if error.code() == grpc.StatusCode.ABORTED and "was expected" in said:
                    with contextlib.suppress(grpc.RpcError):
                        self.take(server, name)
                elif not clear(error.code(), said):
                    self.unclear.append((name, error.code(), said))
                stop.wait(0.02)

    @contextlib.contextmanager
    def load(self, work, servers):
        """Each session is gone on with by a thread, at one of the servers. Ends of itself where `work` does."""
        stop = threading.Event()
        threads = [threading.Thread(target=work, args=(servers[number % len(servers)], name, stop))
                   for number, name in enumerate(NAMES)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    def take(self, server, name):
        """At most the turn whose answer was lost is there too, and all of it."""
        at, found = self.positions[name], 0
        try:
            found = get(server, name).position
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.NOT_FOUND:
                raise
        assert found in (at, self.after(at)), (name, found, at)
        if found > at:
            rest = pb.GenerateRequest(session=spb.SessionRef(id=name, resume_at=at))
            tokens = []
            for event in server.stub.Generate(rest, timeout=CALL_SECONDS):
                if event.HasField("delta"):
                    tokens += event.delta.token_ids
            self.tokens[name] += tokens
            self.positions[name] = found
            self.found += 1

    def look(self, server):
        for name in NAMES:
            self.take(server, name)
            assert self.tokens[name] == self.unbroken.first(len(self.tokens[name])), name
