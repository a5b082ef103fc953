"""The t2r-server process: its lines, its exit statuses, its start-up errors, its end."""

import json
import os
import queue
import re
import signal
import threading
import urllib.error
import urllib.request

import grpc
import pytest

import make_models
from server_process import SECONDS, Process, metrics_of, run, start_error
from t2r.v1 import generation_pb2 as pb
from t2r.v1 import generation_pb2_grpc as stubs

# The CUDA module for the CPU's emulator (docs/cuda.md).
EMULATED = os.environ["T2R_CUDA_EMULATED"]
NOT_SERVING = b"\x08\x02"  # a grpc.health.v1.HealthCheckResponse


def test_help_and_version():
    code, said, _ = run("--help")
    assert code == 0 and "--max-sessions" in said and "Examples:" in said
    code, said, _ = run("--version")
    assert code == 0 and re.fullmatch(r"t2r-server \d+\.\d+\.\d+\n", said)


def test_wrong_flag():
    code, said, errors = run("--modle", "x")
    assert code == 2 and said == "" and errors.count("\n") == 1
    assert "--modle" in errors or "--model" in errors


def test_unknown_backend(model):
    code, _, errors = run("--model", str(model), "--backend", "abacus", "--listen", "127.0.0.1:0",
                          "--admin", "127.0.0.1:0")
    assert code == 2 and "abacus" in errors and errors.count("\n") == 1


def test_no_such_directory(tmp_path):
    assert str(tmp_path / "nowhere") in start_error(tmp_path / "nowhere")


def test_a_session_directory_that_is_none(tmp_path, model):
    (tmp_path / "file").touch()
    code, _, errors = run("--model", str(model), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0",
                          "--session-dir", str(tmp_path / "file"))
    assert code == 1 and errors.count("\n") == 1
    assert errors.startswith(f"t2r-server: --session-dir {tmp_path / 'file'}: ")


def test_missing_weights(tmp_path):
    directory = make_models.make(make_models.catalogue()["llama-t2r-clamp"], tmp_path / "m")
    os.remove(os.path.join(directory, "model.safetensors"))
    assert "model.safetensors" in start_error(directory)


def test_truncated_weights(tmp_path):
    directory = make_models.make(make_models.catalogue()["llama-t2r-clamp"], tmp_path / "m")
    path = os.path.join(directory, "model.safetensors")
    os.truncate(path, os.path.getsize(path) // 2)
    assert "model.safetensors" in start_error(directory)


def test_wrong_shape(tmp_path):
    directory = make_models.make(make_models.catalogue()["llama-t2r-clamp"], tmp_path / "m")
    path = os.path.join(directory, "config.json")
    with open(path) as file:
        config = json.load(file)
    config["intermediate_size"] += 8
    with open(path, "w") as file:
        json.dump(config, file)
    assert re.search(r"mlp\.\w+_proj\.weight", start_error(directory))


def test_port_taken(tmp_path, model):
    with Process(tmp_path, model) as server:
        address = server.ready()
        code, _, errors = run("--model", str(model), "--listen", address, "--admin", "127.0.0.1:0")
        assert code == 1 and address in errors and "--listen" in errors and errors.count("\n") == 1
        admin = server.line(r"^admin: listening on (\S+)$").group(1)
        code, _, errors = run("--model", str(model), "--listen", "127.0.0.1:0", "--admin", admin)
        assert code == 1 and admin in errors and "--admin" in errors and errors.count("\n") == 1


def test_admin_pages(tmp_path, model):
    with Process(tmp_path, model) as server:
        server.ready()
        admin = "http://" + server.line(r"^admin: listening on (127\.0\.0\.1:\d+)$").group(1)
        with urllib.request.urlopen(admin + "/metrics", timeout=SECONDS) as answer:
            assert "text/plain" in answer.headers["Content-Type"]
            text = answer.read().decode()
        assert "t2r_slots 64\n" in text and "t2r_num_requests_running 0\n" in text
        assert "t2r_ready 1\n" in text and "t2r_alive 1\n" in text
        assert [status_of(server, page) for page in ("/livez", "/readyz", "/healthz")] == [200] * 3
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(admin + "/nothing", timeout=SECONDS)
        assert error.value.code == 404


def status_of(server, page):
    admin = "http://" + server.line(r"^admin: listening on (127\.0\.0\.1:\d+)$").group(1)
    try:
        with urllib.request.urlopen(admin + page, timeout=SECONDS) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def test_after_the_signal_it_listens_and_refuses_for_the_drain_delay(tmp_path, model):
    request = pb.GenerateRequest(tokens=pb.TokenIds(ids=[5]), max_tokens=1)
    with Process(tmp_path, model, "--drain-delay", "600") as server:
        address = server.ready()
        with grpc.insecure_channel(address) as channel:
            assert list(stubs.GenerationStub(channel).Generate(request, timeout=SECONDS))
        server.process.send_signal(signal.SIGTERM)
        server.line(r"^server: refusing new work, draining in 10m$")
        with grpc.insecure_channel(address) as channel:  # a connection of its own is still taken
            with pytest.raises(grpc.RpcError) as error:
                list(stubs.GenerationStub(channel).Generate(request, timeout=SECONDS))
            assert error.value.code() == grpc.StatusCode.UNAVAILABLE
            details = dict(error.value.trailing_metadata())["grpc-status-details-bin"]
            assert b"google.rpc.RetryInfo" in details
            check = channel.unary_unary("/grpc.health.v1.Health/Check")
            assert check(b"\x0a\x11t2r.v1.Generation", timeout=SECONDS) == NOT_SERVING
        # Not ready, but a restart would not help.
        assert status_of(server, "/readyz") == 503 and status_of(server, "/livez") == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(SECONDS) == 128 + signal.SIGTERM
    with Process(tmp_path, model, "--drain-delay", "0.1") as server:
        server.ready()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(SECONDS) == 0
        assert "server: stopped\n" in server.path.read_text()


def test_connections_end_at_their_age_and_streams_do_not(tmp_path, model):
    request = pb.GenerateRequest(tokens=pb.TokenIds(ids=[5]), max_tokens=1 << 16, ignore_eos=True)
    with Process(tmp_path, model, "--max-connection-age", "0.2") as server:
        with grpc.insecure_channel(server.ready()) as channel:
            states = queue.Queue()
            channel.subscribe(states.put, try_to_connect=True)
            call = stubs.GenerationStub(channel).Generate(request, timeout=SECONDS)
            events = iter(call)
            assert next(events).WhichOneof("event") == "started"
            while states.get(timeout=SECONDS) != grpc.ChannelConnectivity.READY:
                pass
            while states.get(timeout=SECONDS) != grpc.ChannelConnectivity.IDLE:  # GOAWAY has come
                pass
            for event in events:
                if event.WhichOneof("event") == "delta":
                    break  # the stream goes on
            call.cancel()


def test_memory_is_planned_and_told_three_ways(tmp_path, model):
    with Process(tmp_path, model, "--max-sessions", "7", "--tell-memory", "true") as server:
        with grpc.insecure_channel(server.ready()) as channel:
            info = stubs.GenerationStub(channel).GetModel(pb.GetModelRequest(), timeout=SECONDS)
        printed = {}
        for name in ("weights", "workspace", "states", "free"):
            text = server.line(rf"^memory: {name} +([\d,]+) bytes").group(1)
            printed[name] = int(text.replace(",", ""))
        server.line(r"^memory: states .* 7 sessions of ")
        text = metrics_of(server)
    memory = info.memory
    assert printed == {"weights": memory.weights_bytes, "workspace": memory.workspace_bytes,
                       "states": memory.states_bytes, "free": memory.free_bytes}
    assert memory.weights_bytes == info.parameters_bytes > 0 and memory.workspace_bytes > 0
    # A slot is rounded up to 64 bytes.
    assert 0 <= memory.states_bytes - 7 * info.state_bytes_per_session < 7 * 64
    assert memory.kv_bytes == memory.kv_pages == 0
    assert 0 < memory.free_bytes < memory.total_bytes
    for kind, value in printed.items():
        told = re.search(rf't2r_memory_bytes{{kind="{kind}"}} (\S+)', text).group(1)
        assert float(told) == pytest.approx(value, rel=1e-5)


def test_more_than_the_memory_holds_is_refused_with_the_numbers(tmp_path):
    directory = make_models.make(make_models.catalogue()["llama-softmax"], tmp_path / "m")
    code, said, errors = run("--model", str(directory), "--listen", "127.0.0.1:0", "--admin",
                             "127.0.0.1:0", "--kv-cache-mib", str(1 << 30))
    assert code == 1 and errors.count("\n") == 1 and "model: ready" not in said
    assert re.search(r"\d+ sessions? needs? \d+ bytes: .*keys and values \d+ x \d+.* free of \d+",
                     errors)
    assert "kv_cache_bytes" in errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_an_idle_server(tmp_path, model, number):
    with Process(tmp_path, model) as server:
        server.ready()
        server.process.send_signal(number)
        assert server.process.wait(SECONDS) == 0
        assert server.process.stderr.read() == ""


def endless(address):
    channel = grpc.insecure_channel(address)
    call = stubs.GenerationStub(channel).Generate(
        pb.GenerateRequest(tokens=pb.TokenIds(ids=[5]), max_tokens=100_000, ignore_eos=True),
        timeout=SECONDS)
    events = iter(call)
    while next(events).WhichOneof("event") != "delta":
        pass
    return channel, call, events


def test_drain_ends_streams_with_a_reason(tmp_path, model):
    with Process(tmp_path, model, "--drain-seconds", "0.5") as server:
        address = server.ready()
        channel, call, events = endless(address)
        server.process.send_signal(signal.SIGTERM)
        last = None
        with pytest.raises(grpc.RpcError) as error:
            for last in events:
                pass
        assert error.value.code() == grpc.StatusCode.UNAVAILABLE
        assert last.finished.reason == pb.FINISH_REASON_DRAINED
        assert server.process.wait(SECONDS) == 0
        channel.close()


def test_second_signal_ends_at_once(tmp_path, model):
    with Process(tmp_path, model, "--drain-seconds", "1000") as server:
        channel, call, events = endless(server.ready())
        reader = threading.Thread(target=lambda: call.code(), daemon=True)
        reader.start()
        server.process.send_signal(signal.SIGTERM)
        server.line(r"^server: draining$")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(SECONDS) == 128 + signal.SIGTERM
        channel.close()


def test_cuda_without_a_module_ends_with_one_line(model):
    code, said, errors = run("--model", str(model), "--backend", "cuda", "--listen", "127.0.0.1:0",
                             "--admin", "127.0.0.1:0", T2R_CUDA_MODULE="/nonexistent/module.so")
    assert code == 1 and errors.count("\n") == 1 and "model: ready" not in said
    assert "cuda" in errors and "/nonexistent/module.so" in errors and "CPU" in errors


def test_cuda_without_a_device_ends_with_one_line(model):
    code, _, errors = run("--model", str(model), "--backend", "cuda", "--listen", "127.0.0.1:0",
                          "--admin", "127.0.0.1:0", T2R_CUDA_MODULE=EMULATED,
                          T2R_EMULATOR_DEVICES="0")
    assert code == 1 and errors.count("\n") == 1 and "no CUDA device" in errors


@pytest.mark.parametrize(("flags", "said"), [
    (["--window-dtype", "int8"], "window_dtype is int8; this backend keeps windows as float32 or bfloat16"),
    (["--kv-dtype", "bfloat16"],
     "kv_dtype is bfloat16; this backend keeps keys and values as its activations: float32"),
])
def test_keys_and_values_that_a_device_cannot_keep_are_refused(model, flags, said):
    code, _, errors = run("--model", str(model), "--backend", "cuda", "--dtype", "float32", *flags,
                          "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", T2R_CUDA_MODULE=EMULATED)
    assert code == 1 and errors.count("\n") == 1 and said in errors


@pytest.mark.parametrize("environment", [{"T2R_CUDA_MODULE": "/nonexistent/module.so"},
                                         {"T2R_CUDA_MODULE": EMULATED, "T2R_EMULATOR_DEVICES": "0"}])
def test_auto_says_why_it_takes_the_cpu(tmp_path, model, environment):
    with Process(tmp_path, model, "--backend", "auto", **environment) as server:
        server.ready()
        said = server.line(r"^backend: cpu, since (.*) \(--backend cuda says more\)$").group(1)
        server.line(r"^model: ready .*, cpu, ")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(SECONDS) == 0
        assert server.process.stderr.read() == ""
    assert "CUDA" in said and len(said) < 80


def test_a_device_that_is_too_small_is_refused_with_the_numbers(model):
    code, _, errors = run("--model", str(model), "--backend", "cuda", "--max-sessions", "65536",
                          "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0",
                          T2R_CUDA_MODULE=EMULATED, T2R_EMULATOR_MEMORY=str(64 << 20))
    assert code == 1 and errors.count("\n") == 1
    most = int(re.search(r"65536 sessions need \d+ bytes: .* stay in reserve: lower max_sessions to "
                         r"(\d+) or less", errors).group(1))
    assert 64 < most < 65536


def test_sessions_fill_a_device(tmp_path, model):
    size, reserve = 36 << 20, 16 << 20  # beside the reserve, 16 MiB through which weights are loaded
    with Process(tmp_path, model, "--backend", "auto", "--tell-memory", "true",
                 T2R_CUDA_MODULE=EMULATED, T2R_EMULATOR_MEMORY=str(size)) as server:
        with grpc.insecure_channel(server.ready()) as channel:
            client = stubs.GenerationStub(channel)
            info = client.GetModel(pb.GetModelRequest(), timeout=SECONDS)
            memory = info.memory
            assert "cuda" in info.backend and memory.total_bytes == size
            assert info.limits.max_sessions > 100
            # Less than one more session beside the reserve.
            one = memory.states_bytes // info.limits.max_sessions
            assert reserve <= memory.free_bytes < reserve + 2 * one
            request = pb.GenerateRequest(tokens=pb.TokenIds(ids=[5, 6, 7]), max_tokens=4,
                                         sampling=pb.Sampling(temperature=0), ignore_eos=True)
            events = list(client.Generate(request, timeout=SECONDS))
            assert events[-1].finished.usage.generated_tokens == 4


def test_a_start_that_runs_out_of_memory_ends_with_one_line(model):
    code, _, errors = run("--model", str(model), "--backend", "cuda", "--listen", "127.0.0.1:0",
                          "--admin", "127.0.0.1:0", T2R_CUDA_MODULE=EMULATED,
                          T2R_EMULATOR_FAIL="malloc:9")
    assert code == 1 and errors.count("\n") == 1 and "cudaErrorMemoryAllocation" in errors


@pytest.mark.parametrize("plan", ["launch:5000", "sync:500"])
def test_a_failing_device_ends_streams_and_serving_but_not_the_process(tmp_path, model, plan):
    with Process(tmp_path, model, "--backend", "cuda", "--max-sessions", "1", T2R_CUDA_MODULE=EMULATED,
                 T2R_EMULATOR_FAIL=plan) as server:
        address = server.ready()
        with grpc.insecure_channel(address) as channel:
            client = stubs.GenerationStub(channel)
            request = pb.GenerateRequest(tokens=pb.TokenIds(ids=[5]), max_tokens=100_000,
                                         ignore_eos=True)
            calls = [client.Generate(request, timeout=SECONDS) for _ in range(3)]
            for call in calls:  # one runs, the others wait
                with pytest.raises(grpc.RpcError) as error:
                    for _ in call:
                        pass
                assert error.value.code() == grpc.StatusCode.UNAVAILABLE
                assert "cudaError" in error.value.details()
            with pytest.raises(grpc.RpcError) as error:
                next(iter(client.Generate(request, timeout=SECONDS)))
            assert error.value.code() == grpc.StatusCode.UNAVAILABLE
            check = channel.unary_unary("/grpc.health.v1.Health/Check")
            assert check(b"", timeout=SECONDS) == NOT_SERVING
            assert status_of(server, "/livez") == 503 and status_of(server, "/readyz") == 503
            assert "t2r_alive 0\n" in metrics_of(server)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(SECONDS) == 0
        said = server.process.stderr.read()
    assert said.count("\n") == 1 and "cudaError" in said
