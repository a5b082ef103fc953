"""Streams that outlive their servers: many of them through Envoy to two servers with one shared store,
which are restarted one after the other, and killed at random moments. Every stream's tokens are those of
an unbroken run, none twice and none missing.

T2R_STREAMS (100) streams at once, T2R_KILLS (2) kills; bench/restarts asks for more, and takes the line that
begins with "figures:".
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import threading
import time

import grpc
import pytest

from daemons import Envoy, channel as secure_channel
from envoy_test import one_authority, port, the_edges_pair  # noqa: F401 (fixtures)
from redis_server import Redis
from server_process import SECONDS, Process
from t2r.v1 import generation_pb2 as pb
from t2r.v1 import generation_pb2_grpc as stubs
from t2r.v1 import sessions_pb2 as spb

import resume

STREAMS = int(os.environ.get("T2R_STREAMS", "100"))
KILLS = int(os.environ.get("T2R_KILLS", "2"))
TOKENS = 160
PROMPTS = 8
CHANNELS = 8


def request(number, session=None):
    prompt = number % PROMPTS
    message = pb.GenerateRequest(tokens=pb.TokenIds(ids=[5 + prompt, 6, 7]), max_tokens=TOKENS, ignore_eos=True,
                                 sampling=pb.Sampling(temperature=0.8, seed=prompt))
    if session is not None:
        message.session.CopyFrom(spb.SessionRef(id=session, create=True, expected_position=0))
    return message


class Pair:
    """Two servers behind Envoy, each of which can be started anew at its address."""

    def __init__(self, stack, tmp_path, model, flags):
        self.stack, self.path, self.model, self.flags = stack, tmp_path, model, flags
        self.starts = 0
        self.servers = [self.start("127.0.0.1:0") for _ in range(2)]
        self.addresses = [server.ready() for server in self.servers]

    def start(self, address):
        folder = self.path / f"server-{self.starts}"
        folder.mkdir()
        self.starts += 1
        return self.stack.enter_context(Process(folder, self.model, "--listen", address, *self.flags))

    def restart(self, number):
        self.servers[number] = self.start(self.addresses[number])
        self.servers[number].ready()


class Load:
    """Streams in sessions of their own, one after the other on each thread, and what became of them."""

    def __init__(self, envoy, authority, expected):
        self.envoy, self.authority, self.expected = envoy, authority, expected
        self.stop = threading.Event()
        self.lock = threading.Lock()
        self.done, self.wrong, self.tokens, self.resumed = 0, [], 0, 0

    def run(self, number, stub):
        count = 0
        while not self.stop.is_set():
            session = f"s-{number}-{count}"
            count += 1
            ids, before = [], None
            try:
                calls = Counting(stub)
                for event in resume.generate(calls, request(number, session), patience=120,
                                             metadata=(("x-session-id", session),)):
                    if isinstance(event, pb.Delta):
                        ids += event.token_ids
                        with self.lock:
                            self.tokens += len(event.token_ids)
                        if before is not None and event.position != before + len(event.token_ids):
                            self.wrong.append((session, "positions", before, event.position))
                        before = event.position
            except grpc.RpcError as error:
                self.wrong.append((session, len(ids), error.code(), error.details()))
                continue
            with self.lock:
                self.done += 1
                self.resumed += calls.count > 1
                if ids != self.expected[number % PROMPTS]:
                    self.wrong.append((session, "tokens", len(ids)))

    def __enter__(self):
        self.channels = [secure_channel(self.envoy.address, self.authority) for _ in range(CHANNELS)]
        self.threads = [threading.Thread(target=self.run, args=(number, stubs.GenerationStub(
            self.channels[number % CHANNELS]))) for number in range(STREAMS)]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *unused):
        self.stop.set()
        for thread in self.threads:
            thread.join()
        for channel in self.channels:
            channel.close()

    def after(self, tokens):
        """Waits until so many more tokens have come."""
        deadline = time.monotonic() + 2 * SECONDS
        with self.lock:
            wanted = self.tokens + tokens
        while self.tokens < wanted:
            assert time.monotonic() < deadline and not self.wrong, (self.tokens, wanted, self.wrong[:5])
            time.sleep(0.01)


class Counting:
    """A stub that counts its calls."""

    def __init__(self, stub):
        self.stub, self.count = stub, 0

    def Generate(self, *arguments, **options):
        self.count += 1
        return self.stub.Generate(*arguments, **options)


@pytest.mark.parametrize("sync", [os.environ.get("T2R_SYNC", "32")])
def test_streams_outlive_restarts_and_kills(tmp_path, model, pair, authority, sync):
    chance = random.Random(7)
    begun = time.monotonic()
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(Redis(tmp_path, "--appendfsync", "everysec"))
        servers = Pair(stack, tmp_path, model, (
            "--session-store", redis.url, "--session-sync", sync, "--drain-seconds", "0",
            "--session-lease-seconds", "2"))
        with grpc.insecure_channel(servers.addresses[0]) as channel:
            stub = stubs.GenerationStub(channel)
            expected = [sum((list(event.delta.token_ids) for event in stub.Generate(request(number))), [])
                        for number in range(PROMPTS)]
        assert all(len(ids) == TOKENS for ids in expected)
        envoy = stack.enter_context(Envoy(tmp_path, pair, authority, servers.addresses))
        both = set(map(port, servers.addresses))
        envoy.wait_for(lambda: envoy.healthy() == both)
        with Load(envoy, authority, expected) as load:
            load.after(20 * STREAMS)
            for number in range(2):
                servers.servers[number].process.terminate()
                assert servers.servers[number].process.wait(SECONDS) == 0
                servers.restart(number)
                envoy.wait_for(lambda: envoy.healthy() == both)
                load.after(10 * STREAMS)
            for kill in range(KILLS):
                load.after(chance.randrange(1, 20 * STREAMS))
                number = kill % 2
                # Stopped first until streams wait for it: a fast server is done before a slow client reads.
                servers.servers[number].process.send_signal(signal.SIGSTOP)
                envoy.wait_for(lambda: envoy.active(port(servers.addresses[number])) >= STREAMS // 4)
                servers.servers[number].process.kill()
                servers.servers[number].process.wait()
                load.after(5 * STREAMS)
                servers.restart(number)
                envoy.wait_for(lambda: envoy.healthy() == both)
        print("figures:", json.dumps({
            "restarts": 2, "kills": servers.starts - 4, "done": load.done, "tokens": load.tokens,
            "resumed": load.resumed, "wrong": len(load.wrong), "seconds": time.monotonic() - begun}))
        assert not load.wrong, load.wrong[:5]
        assert load.resumed >= STREAMS // 4


def test_the_client_goes_on_by_itself(tmp_path, model, pair, authority):
    """t2r generate, whose server drains and is killed while it prints."""
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(Redis(tmp_path))
        servers = Pair(stack, tmp_path, model, ("--session-store", redis.url, "--drain-seconds", "0",
                                                "--session-lease-seconds", "2", "--resumable-streams"))
        envoy = stack.enter_context(Envoy(tmp_path, pair, authority, servers.addresses))
        both = set(map(port, servers.addresses))
        envoy.wait_for(lambda: envoy.healthy() == both)
        command = [os.environ["T2R_CLIENT"], "generate", "--tokens", "5,6,7", "-n", "3000", "--ignore-eos",
                   "--temperature", "0", "--json", "--server", envoy.address, "--tls-ca",
                   str(authority.certificate)]
        expected = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
        outs = [tmp_path / f"out-{number}" for number in range(4)]
        running = []
        for out in outs:
            with open(out, "w") as file:
                running.append(subprocess.Popen(command, stdout=file, stderr=subprocess.PIPE, text=True))
        envoy.wait_for(lambda: all("delta" in out.read_text() for out in outs))
        servers.servers[0].process.terminate()
        assert servers.servers[0].process.wait(SECONDS) == 0
        servers.restart(0)
        envoy.wait_for(lambda: envoy.healthy() == both)
        servers.servers[1].process.kill()
        servers.servers[1].process.wait()
        for process, out in zip(running, outs):
            _, err = process.communicate(timeout=2 * SECONDS)
            assert process.returncode == 0, err
            assert tokens_of(out.read_text()) == tokens_of(expected.stdout)


def tokens_of(lines):
    deltas = (json.loads(line).get("delta", {}) for line in lines.split("\n") if line)
    return sum((delta.get("token_ids", []) for delta in deltas), [])
