"""Python's grpcio, with stubs made from proto/, generates, cancels, times out and is refused cleanly."""

import re
import time
import urllib.request

import grpc
import pytest

import make_models
from service import CALL_SECONDS, READINESS, SERVING, Server, collect, pb, shared

REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
LIST_SERVICES = b"\x3a\x00"  # ServerReflectionRequest { list_services: "" }
HEALTH_CHECK = "/grpc.health.v1.Health/Check"
RETRY_INFO = b"type.googleapis.com/google.rpc.RetryInfo"
ENDLESS = 100_000


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("models") / "tiny"
    return make_models.make(make_models.catalogue()["llama-t2r-clamp"], directory)


def page(server, path):
    address = next(line for line in server._lines if line.startswith("admin: listening on "))
    with urllib.request.urlopen(f"http://{address.split()[-1]}{path}", timeout=30) as answer:
        return answer.read().decode()


def metric(server, name):
    values = re.findall(rf"^{re.escape(name)}(?:{{[^}}]*}})? (\S+)$", page(server, "/metrics"), re.M)
    return sum(float(value) for value in values)


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited a minute in vain"
        time.sleep(0.01)


def first_delta(call):
    for response in call:
        if response.WhichOneof("event") == "delta":
            return response.delta
    raise AssertionError("no Delta")


def code_of(call):
    with pytest.raises(grpc.RpcError) as error:
        list(call)
    return error.value


def test_generates(model):
    with Server(model) as server:
        request = pb.GenerateRequest(tokens=pb.TokenIds(ids=[5, 17, 3]), max_tokens=20, logprobs=2,
                                     ignore_eos=True, sampling=pb.Sampling(temperature=0, seed=3))
        result = collect(server.stub.Generate(request, timeout=CALL_SECONDS))
        assert len(result.token_ids) == 20 and result.seed == 3
        assert result.reason == pb.FINISH_REASON_LENGTH
        assert result.usage.prompt_tokens == 3
        assert collect(server.stub.Generate(request, timeout=CALL_SECONDS)).token_ids == result.token_ids

        scores = server.score([5, 17, 3] + result.token_ids)
        assert len(scores) == 22
        assert scores[2:] == pytest.approx(result.logprobs, abs=1e-4)

        described = server.stub.GetModel(pb.GetModelRequest(), timeout=CALL_SECONDS)
        assert described.architecture == "llama" and described.feature_map == "t2r"
        assert set(described.layer_types) == {"linear_attention"}
        assert described.state_bytes_per_session > 0 and described.vocab_size > 17


def test_streams_text():
    with Server(shared("stories260K")) as server:
        ids = server.tokenize("Once upon a time")
        assert ids == [1, 403, 407, 261, 378]
        result = server.greedy("Once upon a time", 12)
        assert result.text == ", there was a little girl named Lily. She"
        back = server.stub.Detokenize(pb.DetokenizeRequest(tokens=pb.TokenIds(ids=ids)),
                                      timeout=CALL_SECONDS)
        assert back.text == "Once upon a time"
        stopped = server.greedy("Once upon a time", 50, stop=["named Lily"])
        assert stopped.text == ", there was a little girl "
        assert stopped.reason == pb.FINISH_REASON_STOP


def test_cancels(model):
    with Server(model, "--max-sessions", "1") as server:
        running = server.start([5, 6], ENDLESS, ignore_eos=True)
        first_delta(running)
        queued = server.start([7, 8], ENDLESS, ignore_eos=True)
        wait_until(lambda: metric(server, "t2r_num_requests_waiting") == 1)
        for call in (queued, running):
            call.cancel()
            assert code_of(call).code() == grpc.StatusCode.CANCELLED
        wait_until(lambda: metric(server, "t2r_num_requests_running") == 0
                   and metric(server, "t2r_num_requests_waiting") == 0)
        assert metric(server, "t2r_requests_started_total") == 2
        assert metric(server, "t2r_request_success_total") == 2
        assert len(server.greedy([5, 6], 5, ignore_eos=True).token_ids) == 5


def test_times_out(model):
    with Server(model) as server:
        request = pb.GenerateRequest(tokens=pb.TokenIds(ids=[5, 6]), max_tokens=ENDLESS, ignore_eos=True)
        call = server.stub.Generate(request, timeout=0.5)
        assert code_of(call).code() == grpc.StatusCode.DEADLINE_EXCEEDED
        wait_until(lambda: metric(server, "t2r_num_requests_running") == 0)
        assert 't2r_request_success_total{finished_reason="deadline"} 1\n' in page(server, "/metrics")


def test_is_refused_cleanly(model):
    with Server(model, "--max-sessions", "1", "--max-queue-requests", "1") as server:
        running = server.start([5, 6], ENDLESS, ignore_eos=True)
        first_delta(running)
        queued = server.start([5, 6], 5, ignore_eos=True)
        wait_until(lambda: metric(server, "t2r_num_requests_waiting") == 1)

        error = code_of(server.start([5, 6], 5))
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "1" in error.details()
        details = dict(error.trailing_metadata())["grpc-status-details-bin"]
        assert RETRY_INFO in details

        running.cancel()
        assert len(collect(queued).token_ids) == 5


@pytest.mark.parametrize("what, request_fields", [
    ("prompt", {}),
    ("tokens", {"tokens": pb.TokenIds()}),
    ("vocabulary", {"tokens": pb.TokenIds(ids=[1_000_000])}),
    ("temperature", {"tokens": pb.TokenIds(ids=[1]), "sampling": pb.Sampling(temperature=-1)}),
    ("logprobs", {"tokens": pb.TokenIds(ids=[1]), "logprobs": 100}),
    ("max_tokens", {"tokens": pb.TokenIds(ids=[1]), "max_tokens": 4_000_000_000}),
])
def test_names_what_is_wrong(model, what, request_fields):
    with Server(model) as server:
        call = server.stub.Generate(pb.GenerateRequest(**request_fields), timeout=CALL_SECONDS)
        error = code_of(call)
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert what in error.details()


def test_health_and_reflection(model):
    with Server(model) as server:
        check = server.channel.unary_unary(HEALTH_CHECK)
        assert check(b"", timeout=CALL_SECONDS) == SERVING
        assert check(READINESS, timeout=CALL_SECONDS) == SERVING
        assert page(server, "/healthz") == "ok\n"
        listed = next(iter(server.channel.stream_stream(REFLECTION)(
            iter([LIST_SERVICES]), timeout=CALL_SECONDS)))
        assert b"t2r.v1.Generation" in listed and b"grpc.health.v1.Health" in listed
