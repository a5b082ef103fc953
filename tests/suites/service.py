"""Starts t2r-server for a test and talks to it.

    with Server(directory) as server:
        logprobs = server.score([1, 2, 3])
        ids = server.generate([1, 2, 3], max_tokens=5, temperature=0).token_ids

Environment: T2R_SERVER (the binary), T2R_DATA. Ports are free ones; nothing outlives the
`with` block, whatever happens in it.
"""

import contextlib
import dataclasses
import os
import subprocess
import tempfile
import threading
import time

import grpc
import pytest

from t2r.v1 import generation_pb2 as pb
from t2r.v1 import generation_pb2_grpc as stubs

START_SECONDS = 60
CALL_SECONDS = 120
# grpc.health.v1's response with status SERVING; the Python package `grpc` leaves no room for
# generated modules of that name.
HEALTH_WATCH = "/grpc.health.v1.Health/Watch"
READINESS = b"\x0a\x11t2r.v1.Generation"  # the request that asks about the service
SERVING = b"\x08\x01"


def shared(*parts):
    """A path in the shared data, or skips the test."""
    root = os.environ.get("T2R_DATA", "")
    path = os.path.join(root, *parts)
    if not root or not os.path.exists(path):
        pytest.skip(f"{'/'.join(parts)} is not in T2R_DATA")
    return path


@dataclasses.dataclass
class Generation:
    token_ids: list
    text: str
    logprobs: list  # of the chosen tokens, where asked for
    reason: int
    seed: int
    usage: object


class Server:
    """One t2r-server process with the given model; `flags` are added to its command line."""

    def __init__(self, model, *flags, threads=2):
        self.command = [
            os.environ["T2R_SERVER"], "--model", str(model), "--listen", "127.0.0.1:0",
            "--admin", "127.0.0.1:0", "--backend", "cpu", "--threads", str(threads), *flags,
        ]
        self.process = None
        self.address = None
        self.admin = None
        self._lines = []
        self._listening = threading.Event()

    def __enter__(self):
        self._errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            self.command, stdout=subprocess.PIPE, stderr=self._errors, text=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self._wait_serving(time.monotonic() + START_SECONDS)
        except BaseException:
            self.__exit__()
            raise
        self.stub = stubs.GenerationStub(self.channel)
        return self

    def __exit__(self, *unused):
        if hasattr(self, "channel"):
            self.channel.close()
        self.process.terminate()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join()
        self.process.stdout.close()
        self._errors.close()

    def _read(self):
        for line in self.process.stdout:
            self._lines.append(line.rstrip("\n"))
            if line.startswith("admin: listening on "):
                self.admin = line.split()[-1]
            if line.startswith("grpc: listening on "):
                self.address = line.split()[-1]
            elif line.startswith("admin: listening on "):
                self.admin = line.split()[-1]
                self._listening.set()
        self._listening.set()

    def _wait_serving(self, deadline):
        self._listening.wait(deadline - time.monotonic())
        if self.address is None:
            self._fail("said no \"grpc: listening on\" line")
        self.channel = grpc.insecure_channel(self.address)
        watch = self.channel.unary_stream(HEALTH_WATCH)(
            READINESS, timeout=max(1, deadline - time.monotonic()))
        with contextlib.closing(watch_updates(watch)) as updates:
            try:
                if any(update == SERVING for update in updates):
                    return
            except grpc.RpcError as error:
                self._fail(f"did not become healthy: {error.code()} {error.details()}")
        self._fail("did not become healthy")

    def _fail(self, what):
        self._errors.seek(0)
        said = "\n".join(self._lines) + self._errors.read()
        raise AssertionError(f"{' '.join(self.command)}\n{what}; it said:\n{said}")

    def score(self, ids, source=None):
        """Logprobs of ids[1:], or of all ids given a source's."""
        request = pb.ScoreRequest(tokens=pb.TokenIds(ids=ids))
        if source is not None:
            request.source_tokens.ids.extend(source)
        return list(self.stub.Score(request, timeout=CALL_SECONDS).logprobs)

    def tokenize(self, text):
        request = pb.TokenizeRequest(text=text)
        return list(self.stub.Tokenize(request, timeout=CALL_SECONDS).tokens.ids)

    def start(self, prompt, max_tokens, sampling=None, **fields):
        """The running call; `prompt` is ids or text."""
        request = pb.GenerateRequest(max_tokens=max_tokens, sampling=sampling, **fields)
        if isinstance(prompt, str):
            request.text = prompt
        else:
            request.tokens.ids.extend(prompt)
        return self.stub.Generate(request, timeout=CALL_SECONDS)

    def generate(self, prompt, max_tokens, sampling=None, **fields):
        return collect(self.start(prompt, max_tokens, sampling, **fields))

    def greedy(self, prompt, max_tokens, **fields):
        return self.generate(prompt, max_tokens, pb.Sampling(temperature=0), **fields)


def watch_updates(call):
    """Yields a stream's messages; closing it cancels the call."""
    try:
        yield from call
    finally:
        call.cancel()


def collect(call):
    """The whole of a Generate call, its shape checked on the way."""
    ids, text, logprobs, started, finished = [], "", [], None, None
    for response in call:
        event = response.WhichOneof("event")
        assert finished is None, "an event after Finished"
        if event == "started":
            assert started is None, "two Started events"
            started = response.started
        elif event == "delta":
            assert started is not None, "a Delta before Started"
            ids += response.delta.token_ids
            text += response.delta.text
            logprobs += [entry.chosen.logprob for entry in response.delta.logprobs]
        elif event == "finished":
            finished = response.finished
    assert started is not None and finished is not None, "no Started or no Finished"
    assert finished.usage.generated_tokens == len(ids)
    return Generation(ids, text, logprobs, finished.reason, started.seed, finished.usage)
