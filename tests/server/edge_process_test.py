"""What clients and files may do to the t2r-server process: it stays up, answers others, and says so in
a line where it cannot."""

import json
import os
import pathlib
import random
import resource
import shutil
import signal
import socket
import stat
import struct
import subprocess
import threading
import urllib.error
import urllib.request

import grpc
import pytest

from server_process import BINARY, SECONDS, Process, start_error
from t2r.v1 import generation_pb2 as pb
from t2r.v1 import generation_pb2_grpc as stubs

DEMO = os.path.join(os.path.dirname(__file__), "../../models/demo")


def admin_of(server):
    return server.line(r"^admin: listening on (127\.0\.0\.1:\d+)$").group(1)


def healthz(server):
    try:
        with urllib.request.urlopen(f"http://{admin_of(server)}/healthz", timeout=SECONDS) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def generate(address, seed=1):
    """Waits until the server takes the connection: it may still be full of others that have just closed."""
    request = pb.GenerateRequest(tokens=pb.TokenIds(ids=[5, 6, 7]), max_tokens=24, ignore_eos=True,
                                 sampling=pb.Sampling(temperature=1, seed=seed))
    with grpc.insecure_channel(address) as channel:
        events = list(stubs.GenerationStub(channel).Generate(request, timeout=SECONDS, wait_for_ready=True))
    return [token for event in events for token in event.delta.token_ids]


def connect(address):
    host, port = address.rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=SECONDS)


def threads_of(server):
    return len(os.listdir(f"/proc/{server.process.pid}/task"))


def rss_of(server):
    with open(f"/proc/{server.process.pid}/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def ended(server, code=0):
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(SECONDS) == code


def test_more_connections_than_descriptors(tmp_path, model):
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, limits[1]))
    try:
        # The soft limit is raised at start: only the hard one binds.
        server = Process(tmp_path, model, preexec_fn=lambda: resource.setrlimit(
            resource.RLIMIT_NOFILE, (64, 64)))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    with server:
        address = server.ready()
        server.line(r"^files: 64 descriptors, up to \d+ connections$")
        held = [connect(address) for _ in range(114)]
        held += [connect(admin_of(server)) for _ in range(40)]
        for one in held:
            one.close()
        assert generate(address) and healthz(server) == 200
        ended(server)


def test_the_soft_limit_is_raised(tmp_path, model):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with Process(tmp_path, model, preexec_fn=lambda: resource.setrlimit(
            resource.RLIMIT_NOFILE, (64, hard))) as server:
        server.ready()
        assert int(server.line(r"^files: (\d+) descriptors").group(1)) == hard
        ended(server)


def test_half_open_admin_connections_hold_no_probe_up(tmp_path, model):
    with Process(tmp_path, model) as server:
        server.ready()
        held = [connect(admin_of(server)) for _ in range(300)]
        for one in held[:150]:
            one.sendall(b"GET /healthz HTTP/1.1\r\n")
        assert healthz(server) == 200
        for one in held:
            one.close()
        ended(server)


@pytest.mark.parametrize("target", ["/metricsX", "/healthz/a/b", "/metrics/", "/", "//metrics"])
def test_only_the_two_pages_are_there(tmp_path, model, target):
    with Process(tmp_path, model) as server:
        server.ready()
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(f"http://{admin_of(server)}{target}", timeout=SECONDS)
        assert error.value.code == 404
        ended(server)


def test_compressed_messages_are_not_inflated(tmp_path, model):
    with Process(tmp_path, model) as server:
        address = server.ready()
        generate(address)
        before = rss_of(server)
        with grpc.insecure_channel(address, compression=grpc.Compression.Gzip) as channel:
            for _ in range(4):
                with pytest.raises(grpc.RpcError) as error:
                    call = channel.unary_unary("/t2r.v1.Generation/Tokenize")
                    call(bytes(50_000_000), timeout=SECONDS)
                assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED
        assert rss_of(server) - before < 32 << 20
        ended(server)


def test_reflection_takes_no_threads(tmp_path, model):
    with Process(tmp_path, model) as server:
        address = server.ready()
        generate(address)
        before = threads_of(server)
        with grpc.insecure_channel(address) as channel:
            method = channel.stream_stream(
                "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
            gates = []
            for _ in range(200):
                stream = method(iter_until(gates), timeout=SECONDS)
                next(stream)
            assert threads_of(server) < before + 20
            for gate in gates:
                gate.set()
        ended(server)


def iter_until(gates):
    gate = threading.Event()
    gates.append(gate)

    def requests():
        yield b"\x3a\x01*"  # list_services
        gate.wait(SECONDS)
    return requests()


def test_nobody_reads_the_log(tmp_path, model):
    """stderr is a pipe that nobody reads, and clients fill it."""
    with Process(tmp_path, model) as server:
        address = server.ready()
        with grpc.insecure_channel(address) as channel:
            call = channel.unary_unary("/t2r.v1.Generation/Tokenize")
            for _ in range(1500):
                with pytest.raises(grpc.RpcError) as error:
                    call(b"\x0a\x02\xff\xfe", timeout=SECONDS)
                assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert generate(address) and healthz(server) == 200
        ended(server)


def frame(kind, flags, stream, payload):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def literal(name, value):
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


def test_clients_forge_no_log_lines(tmp_path, model):
    with Process(tmp_path, model) as server:
        address = server.ready()
        one = connect(address)
        one.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b""))
        for stream in range(1, 41, 2):
            headers = b"".join([
                literal(b":method", b"POST"), literal(b":scheme", b"http"),
                literal(b":path", b"/t2r.v1.Generation/GetModel"), literal(b":authority", b"x"),
                literal(b"content-type", b"application/grpc"),
                literal(b"te", b"x\nt2r-server: FORGED LINE\x1b[31m")])
            one.sendall(frame(1, 5, stream, headers))
        assert generate(address)
        one.close()
        ended(server)
        said = server.process.stderr.read()
    assert "\x1b" not in said
    assert not any(line.startswith("t2r-server: FORGED") for line in said.splitlines())


def copy_of(model, tmp_path):
    directory = tmp_path / "copy"
    shutil.copytree(model, directory)
    return directory, directory / "model.safetensors"


def test_weights_that_change_while_they_are_served(tmp_path, model):
    directory, weights = copy_of(model, tmp_path)
    with Process(tmp_path, directory) as server:
        address = server.ready()
        expected = generate(address)
        size = os.path.getsize(weights)
        with open(weights, "r+b") as file:
            file.seek(size // 8)
            file.write(random.Random(1).randbytes(size // 2))
        assert generate(address) == expected
        os.truncate(weights, 16)
        assert generate(address) == expected
        ended(server)


@pytest.mark.parametrize("bits", [0x7fc00000, 0x7f800000, 0xff800000])
def test_weights_that_are_no_numbers_are_refused_by_name(tmp_path, model, bits):
    directory, weights = copy_of(model, tmp_path)
    with open(weights, "r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(struct.pack("<I", bits))
    assert "NaN or infinite" in start_error(directory) and "tensor " in start_error(directory)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "model.safetensors",
                                  "tokenizer.json"])
def test_a_fifo_for_a_file_is_refused(tmp_path, model, name):
    directory, _ = copy_of(model, tmp_path)
    path = directory / name
    if path.exists():
        path.unlink()
    os.mkfifo(path)
    assert stat.S_ISFIFO(os.stat(path).st_mode)
    assert name in start_error(directory)


# AddressSanitizer reserves terabytes at the start, which such a limit forbids.
@pytest.mark.skipif(b"__asan_init" in pathlib.Path(BINARY).read_bytes(), reason="built with AddressSanitizer")
@pytest.mark.parametrize("kilobytes", [150_000, 300_000, 500_000])
def test_too_little_address_space_ends_with_a_line(model, kilobytes):
    """Or serves, where that suffices."""
    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (kilobytes << 10, kilobytes << 10))
    process = subprocess.Popen(
        [BINARY, "--model", str(model), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=limit)
    try:
        for line in process.stdout:
            if line.startswith("model: ready"):
                process.terminate()
        code = process.wait(SECONDS)
        said = process.stderr.read()
    finally:
        process.kill()
        process.communicate()
    assert code in (0, 1, 127), said
    assert code == 0 or said.count("\n") >= 1, said


def test_get_model_does_not_tell_the_machines_memory(tmp_path, model):
    with Process(tmp_path, model) as server:
        with grpc.insecure_channel(server.ready()) as channel:
            info = stubs.GenerationStub(channel).GetModel(pb.GetModelRequest(), timeout=SECONDS)
        assert info.memory.total_bytes == info.memory.free_bytes == 0
        assert info.memory.weights_bytes > 0 and info.limits.max_text_bytes == 1 << 20
        ended(server)


def test_a_tokenizer_with_more_tokens_than_the_model(tmp_path):
    directory, _ = copy_of(DEMO, tmp_path)
    token = {"content": "<|extra|>", "special": True, "lstrip": False, "rstrip": False,
             "normalized": False, "single_word": False}
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"added_tokens_decoder": {"2048": token}, "legacy": True}))
    with Process(tmp_path, directory) as server:
        with grpc.insecure_channel(server.ready()) as channel:
            stub = stubs.GenerationStub(channel)
            with pytest.raises(grpc.RpcError) as refused:
                stub.Score(pb.ScoreRequest(text="a <|extra|>"), timeout=SECONDS)
            stub.Score(pb.ScoreRequest(text="a b"), timeout=SECONDS)
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert refused.value.details() == (
            'text: holds the token "<|extra|>" of id 2048, which the tokenizer knows and the model does '
            "not: its vocabulary has 2048 tokens")
        ended(server)
        assert ("t2r-server: warning: the tokenizer has 2049 tokens, the model 2048 of them: texts with "
                'others (the first is "<|extra|>" of id 2048) are refused\n') in server.process.stderr.read()


def test_the_models_defaults_and_the_size_of_answers(tmp_path, model):
    directory, _ = copy_of(model, tmp_path)
    (directory / "generation_config.json").write_text(json.dumps(
        {"temperature": 2.0, "top_k": 1, "max_new_tokens": 5, "repetition_penalty": 1.5}))
    with Process(tmp_path, directory) as server:
        with grpc.insecure_channel(server.ready()) as channel:
            stub = stubs.GenerationStub(channel)
            defaults = stub.GetModel(pb.GetModelRequest(), timeout=SECONDS).defaults
            ids = pb.TokenIds(ids=[5, 6, 7])

            def tokens(sampling, **more):
                request = pb.GenerateRequest(tokens=ids, sampling=sampling, ignore_eos=True, **more)
                events = list(stub.Generate(request, timeout=SECONDS))
                return [token for event in events for token in event.delta.token_ids]
            # The one most likely token, whatever the seed and the temperature.
            greedy = tokens(pb.Sampling(temperature=0, top_k=0))
            assert len(greedy) == 5
            assert all(tokens(pb.Sampling(seed=seed)) == greedy for seed in range(5))
            assert tokens(pb.Sampling(seed=1), max_tokens=6)[:5] == greedy
            assert any(tokens(pb.Sampling(seed=seed, top_k=0)) != greedy for seed in range(5))
            with pytest.raises(grpc.RpcError) as refused:
                stub.Score(pb.ScoreRequest(tokens=pb.TokenIds(ids=[200] * 900_000)), timeout=SECONDS)
        ended(server)
    assert (defaults.temperature, defaults.top_k, defaults.max_tokens) == (2.0, 1, 5)
    assert defaults.repetition_penalty == 1.5 and not defaults.HasField("top_p")
    # 4 x 899,999 of numbers, 2 x 900,000 of ids, and 13 of tags and lengths.
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "the answer to 900000 tokens has 5400009 bytes" in refused.value.details()
    assert "limit of 4194304 (--max-response-bytes)" in refused.value.details()
