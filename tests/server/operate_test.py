"""What operators ask of a t2r-server process: tenants' limits, the access log, traces, TLS for the admin port."""

import concurrent.futures
import contextlib
import json
import pathlib
import re
import ssl
import threading
import time
import urllib.request

import grpc
import pytest
from google.protobuf import duration_pb2

from certificates import Authority
from identity_test import channel_to, install, new_key, tls_flags, wait_for_metric
from opentelemetry import trace_service_pb2 as otlp
from opentelemetry import trace_service_pb2_grpc as otlp_stubs
from server_process import SECONDS, Process, metrics_of, run
from t2r.v1 import generation_pb2 as pb
from t2r.v1 import generation_pb2_grpc as stubs
from t2r.v1 import sessions_pb2 as spb
from t2r.v1 import sessions_pb2_grpc as session_stubs

IDS = pb.GenerateRequest(tokens=pb.TokenIds(ids=[5, 6, 7]), max_tokens=4, ignore_eos=True)
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
DEMO = pathlib.Path(__file__).parents[2] / "models" / "demo"


def call(channel, request=IDS, **metadata):
    """A finished Generate, and its stream."""
    stream = stubs.GenerationStub(channel).Generate(
        request, timeout=SECONDS, metadata=[(name.replace("_", "-"), value) for name, value in metadata.items()])
    list(stream)
    return stream


def refusal(channel, **metadata):
    """Status code, message and RetryInfo's seconds of a call that is refused."""
    with pytest.raises(grpc.RpcError) as error:
        call(channel, **metadata)
    details = dict(error.value.trailing_metadata())["grpc-status-details-bin"]
    # google.protobuf.Any's value, tag and length, and in it RetryInfo's retry_delay, likewise.
    value = details.partition(b"type.googleapis.com/google.rpc.RetryInfo")[2][2:]
    delay = duration_pb2.Duration.FromString(value[2:2 + value[1]])
    return error.value.code(), error.value.details(), delay.seconds + delay.nanos / 1e9


def replace(path, text):
    next_one = path.with_name("next")
    next_one.write_text(text)
    next_one.rename(path)


def lines_of(path, count):
    """So many lines of an access log, waiting for them."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        lines = path.read_text().splitlines() if path.exists() else []
        if len(lines) >= count:
            assert len(lines) == count, lines
            return [json.loads(line) for line in lines]
        threading.Event().wait(0.01)
    raise AssertionError(f"{len(lines)} lines of {count}")


def test_tenants_have_limits_that_change(tmp_path, model):
    alice, alices = new_key("alice")
    bob, bobs = new_key("bob")
    keys, limits = tmp_path / "keys", tmp_path / "limits"
    keys.write_text(f"{alices}\n{bobs}\n")
    limits.write_text('{"tenants": {"alice": {"requests_per_minute": 1, "max_sessions": 3}}}')
    with Process(tmp_path, model, "--api-keys", str(keys), "--tenants", str(limits)) as server:
        with grpc.insecure_channel(server.ready()) as channel:
            call(channel, x_api_key=alice)
            code, said, delay = refusal(channel, x_api_key=alice)
            assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "tenant 'alice' has used up its 1 requests a minute (requests_per_minute)" in said
            assert 0 < delay <= 60
            for _ in range(5):
                call(channel, x_api_key=bob)
            wait_for_metric(server, 't2r_quota_refusals_total{quota="requests_per_minute"} 1')
            wait_for_metric(server, 't2r_tenant_requests_total{code="OK",tenant="bob"} 5')
            wait_for_metric(server, 't2r_tenant_requests_total{code="RESOURCE_EXHAUSTED",tenant="alice"} 1')
            wait_for_metric(server, 't2r_tenant_tokens_total{kind="completion",tenant="alice"} 4')
            wait_for_metric(server, 't2r_tenant_tokens_total{kind="prompt",tenant="bob"} 15')

            replace(limits, '{"tenants": {"alice": {"requests_per_minute": 100000000}}}')
            wait_for_metric(server, 't2r_reloads_total{result="ok",what="tenants"} 1')
            call(channel, x_api_key=alice)
            replace(limits, '{"tenants": {"alice": {"requests": 1}}}')
            wait_for_metric(server, 't2r_reloads_total{result="refused",what="tenants"} 1')
            call(channel, x_api_key=alice)
            replace(limits, '{"default": {"tokens_per_minute": 1}}')
            wait_for_metric(server, 't2r_reloads_total{result="ok",what="tenants"} 2')
            call(channel, x_api_key=bob)  # takes seven
            said = refusal(channel, x_api_key=bob)[1]
            assert "tenant 'bob' has used up its 1 tokens a minute (tokens_per_minute)" in said
        server.process.terminate()
        assert "'requests' is no field of it; the old limits stay in use" in \
            server.process.communicate(timeout=SECONDS)[1]


def test_requests_at_once_are_bounded(tmp_path, model):
    limits = tmp_path / "limits"
    limits.write_text('{"default": {"max_requests": 1}}')
    with Process(tmp_path, model, "--tenants", str(limits)) as server:
        with grpc.insecure_channel(server.ready()) as channel:
            endless = pb.GenerateRequest(tokens=pb.TokenIds(ids=[5]), max_tokens=100000, ignore_eos=True)
            stream = stubs.GenerationStub(channel).Generate(endless, timeout=SECONDS)
            next(iter(stream))
            code, said, _ = refusal(channel)
            assert code == grpc.StatusCode.RESOURCE_EXHAUSTED and "(max_requests)" in said
            stream.cancel()
            deadline = time.monotonic() + SECONDS
            while True:
                try:
                    call(channel)
                    break
                except grpc.RpcError:
                    assert time.monotonic() < deadline


def test_files_that_are_not_good_end_the_start(tmp_path, model):
    bad = tmp_path / "bad"
    bad.write_text('{"tenants": {"a": {"weight": 0}}}')
    for flags, said in (
            (("--tenants", str(tmp_path / "absent")), "cannot be read"),
            (("--tenants", str(bad)), "tenants.a.weight"),
            (("--access-log", str(tmp_path / "absent" / "log")), "--access-log"),
            (("--admin-tls",), "--admin-tls"), (("--log-prompts",), "--log-prompts"),
            (("--keepalive-time", "0"), "--keepalive-time"), (("--trace-sample", "2"), "--trace-sample")):
        code, _, errors = run("--model", str(model), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", *flags)
        assert code in (1, 2) and said in errors and errors.count("\n") == 1, errors


def test_the_access_log_has_a_line_for_each_call(tmp_path, model):
    alice, alices = new_key("alice")
    (tmp_path / "keys").write_text(alices + "\n")
    log = tmp_path / "log"
    with Process(tmp_path, model, "--api-keys", str(tmp_path / "keys"), "--access-log", str(log)) as server:
        with grpc.insecure_channel(server.ready()) as channel:
            stream = call(channel, x_api_key=alice, x_request_id="my-id.1", traceparent=f"00-{TRACE}-{PARENT}-01")
            assert dict(stream.trailing_metadata())["x-request-id"] == "my-id.1"
            line, = lines_of(log, 1)
            seconds = [line.pop(name) for name in ("queue_seconds", "first_token_seconds", "total_seconds")]
            assert 0 <= seconds[0] <= seconds[1] <= seconds[2] < SECONDS and seconds[1] > 0
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line.pop("time"))
            assert re.fullmatch(r"ipv4:127\.0\.0\.1:\d+", line.pop("peer"))
            assert line == {"request_id": "my-id.1", "trace_id": TRACE, "tenant": "alice",
                            "method": "t2r.v1.Generation/Generate", "status": "OK", "prompt_tokens": 3,
                            "cached_tokens": 0, "completion_tokens": 4}
            # One that is made up, in place of one that could break lines.
            made = dict(call(channel, x_api_key=alice, x_request_id='a "b"').trailing_metadata())["x-request-id"]
            assert re.fullmatch(r"[0-9a-f]{32}", made)
            with pytest.raises(grpc.RpcError):
                call(channel, pb.GenerateRequest(text="a secret"), x_api_key=alice)
            stubs.GenerationStub(channel).GetModel(pb.GetModelRequest(), timeout=SECONDS,
                                                   metadata=(("x-api-key", alice),))
            lines = lines_of(log, 4)
            assert lines[1]["request_id"] == made and "trace_id" not in lines[1]
            assert {line["method"]: line["status"] for line in lines[2:]} == {
                "t2r.v1.Generation/Generate": "FAILED_PRECONDITION", "t2r.v1.Generation/GetModel": "OK"}
            # Rotated: within a second of the next line there is a new file.
            log.rename(tmp_path / "log.1")
            calls = 0
            while not log.exists():
                call(channel, x_api_key=alice)
                calls += 1
            lines_of(log, 4 + calls - len((tmp_path / "log.1").read_text().splitlines()))
            assert "secret" not in log.read_text() + (tmp_path / "log.1").read_text()
            assert alice not in log.read_text() + (tmp_path / "log.1").read_text()
        assert "t2r_access_log_dropped_total 0\n" in metrics_of(server)


def test_the_access_log_names_sessions(tmp_path, model):
    log = tmp_path / "log"
    with Process(tmp_path, model, "--access-log", str(log)) as server:
        with grpc.insecure_channel(server.ready()) as channel:
            sessions = session_stubs.SessionsStub(channel)
            made = sessions.CreateSession(spb.CreateSessionRequest(), timeout=SECONDS).id
            request = pb.GenerateRequest()
            request.CopyFrom(IDS)
            request.session.id = made
            call(channel, request)
            snapshot = b"".join(one.data for one in sessions.ExportSession(
                spb.ExportSessionRequest(id=made), timeout=SECONDS))
            sessions.ImportSession(iter([spb.ImportSessionRequest(id="copy", data=snapshot)]), timeout=SECONDS)
            with pytest.raises(grpc.RpcError):
                sessions.GetSession(spb.GetSessionRequest(id="x" * 1000), timeout=SECONDS)
        assert {line["method"].split("/")[1]: line.get("session") for line in lines_of(log, 5)} == {
            "CreateSession": made, "Generate": made, "ExportSession": made, "ImportSession": "copy",
            "GetSession": "x" * 128}


def test_tokens_that_need_not_run_are_logged(tmp_path):
    log = tmp_path / "log"
    request = pb.GenerateRequest(tokens=pb.TokenIds(ids=range(5, 405)), max_tokens=1)
    with Process(tmp_path, DEMO, "--access-log", str(log)) as server:
        with grpc.insecure_channel(server.ready()) as channel:
            told = []
            for calls in range(1, 4):
                events = list(stubs.GenerationStub(channel).Generate(request, timeout=SECONDS))
                told.append(events[-1].finished.usage)
                # Waited for: the line of a call that is over may be written after the next call's.
                assert lines_of(log, calls)[-1]["cached_tokens"] == told[-1].cached_prompt_tokens
        assert told[-1].cached_prompt_tokens > 0
        cached = sum(one.cached_prompt_tokens for one in told)
        wait_for_metric(server, f't2r_tenant_tokens_total{{kind="cached",tenant="other"}} {cached}')


def test_prompts_are_logged_only_where_that_is_said(tmp_path):
    request = pb.GenerateRequest(text="a\nsecret", max_tokens=1)
    with Process(tmp_path, DEMO, "--access-log", "-", "--log-prompts") as server:
        with grpc.insecure_channel(server.ready()) as channel:
            call(channel, request)
        assert json.loads(server.line(r'^{"time".*}$').group(0))["prompt"] == "a\nsecret"


def test_a_log_that_cannot_be_written_holds_nobody_up(tmp_path, model):
    with Process(tmp_path, model, "--access-log", "/dev/full") as server:
        with grpc.insecure_channel(server.ready()) as channel:
            for _ in range(20):
                call(channel)
            wait_for_metric(server, "t2r_access_log_dropped_total 20")


@pytest.mark.parametrize("alternatives, name", [
    ("URI:spiffe://t2r.example/ns/llm/sa/alice,DNS:alice.example", "spiffe://t2r.example/ns/llm/sa/alice"),
    ("DNS:bob.example,DNS:other.example", "bob.example"),
])
def test_certificates_name_their_holders(tmp_path, model, alternatives, name):
    authority = Authority(tmp_path / "authority")
    client = authority.sign("client", alternatives=alternatives)
    log, limits = tmp_path / "log", tmp_path / "limits"
    limits.write_text(json.dumps({"tenants": {name: {"requests_per_minute": 1}}}))
    with Process(tmp_path, model, *tls_flags(*authority.sign("server")), "--tls-client-ca",
                 str(authority.certificate), "--access-log", str(log), "--tenants", str(limits)) as server:
        with channel_to(server.ready(), authority, client) as channel:
            call(channel)
            assert f"tenant '{name}'" in refusal(channel)[1]
        assert [line["tenant"] for line in lines_of(log, 2)] == [name, name]
        wait_for_metric(server, f't2r_tenant_requests_total{{code="OK",tenant="{name}"}} 1')


class Collector(otlp_stubs.TraceServiceServicer):
    """Takes spans, as a collector does."""

    def __init__(self):
        self.changed = threading.Condition()
        self.requests = []

    def Export(self, request, context):
        with self.changed:
            self.requests.append(request)
            self.changed.notify_all()
        return otlp.ExportTraceServiceResponse()

    def spans(self, count):
        """So many, waiting for them, by name."""
        def all_of_them():
            return [span for request in self.requests for resource in request.resource_spans
                    for scope in resource.scope_spans for span in scope.spans]
        with self.changed:
            assert self.changed.wait_for(lambda: len(all_of_them()) >= count, SECONDS)
            return all_of_them()


@contextlib.contextmanager
def collecting():
    collector = Collector()
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
    otlp_stubs.add_TraceServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield collector, f"http://127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def test_traces_are_sent_as_their_parents_say(tmp_path):
    with collecting() as (collector, endpoint), \
            Process(tmp_path, DEMO, "--otlp-endpoint", endpoint, "--trace-sample", "0") as server:
        with grpc.insecure_channel(server.ready()) as channel:
            request = pb.GenerateRequest(text="hello there", max_tokens=3, ignore_eos=True)
            call(channel, request)  # begins a trace: not sampled
            call(channel, request, traceparent=f"00-{TRACE}-{PARENT}-00")
            call(channel, request, traceparent=f"00-{TRACE}-{PARENT}-01", x_request_id="mine")
            spans = {span.name: span for span in collector.spans(5)}
        wait_for_metric(server, 't2r_traces_total{result="sent"} 1')
        assert len(collector.spans(5)) == 5
        root = spans.pop("t2r.v1.Generation/Generate")
        assert root.trace_id.hex() == TRACE and root.parent_span_id.hex() == PARENT
        assert root.kind == otlp.Span.SPAN_KIND_SERVER
        attributes = {one.key: one.value.string_value or one.value.int_value for one in root.attributes}
        assert attributes["rpc.service"] == "t2r.v1.Generation" and attributes["rpc.method"] == "Generate"
        assert attributes["t2r.request_id"] == "mine" and attributes["gen_ai.usage.output_tokens"] == 3
        assert set(spans) == {"tokenise", "queue", "prefill", "decode"}
        for span in spans.values():
            assert span.trace_id == root.trace_id and span.parent_span_id == root.span_id
            assert len(span.span_id) == 8
            assert root.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        for before, after in (("tokenise", "queue"), ("queue", "prefill"), ("prefill", "decode")):
            assert spans[before].end_time_unix_nano <= spans[after].start_time_unix_nano
        assert len({span.span_id for span in [root, *spans.values()]}) == 5


def test_a_collector_that_is_not_there_delays_nobody(tmp_path, model):
    with Process(tmp_path, model, "--otlp-endpoint", "127.0.0.1:1", "--trace-sample", "1") as server:
        with grpc.insecure_channel(server.ready()) as channel:
            for _ in range(10):
                call(channel)
        wait_for_metric(server, 't2r_traces_total{result="sent"} 0')
        server.process.terminate()
        assert server.process.wait(SECONDS) == 0


def test_the_admin_port_speaks_tls(tmp_path, model):
    authority = Authority(tmp_path / "authority")
    paths = install(authority.sign("server"), tmp_path / "mounted")
    with Process(tmp_path, model, *tls_flags(*paths), "--admin-tls") as server:
        server.ready()
        address = server.line(r"^admin: listening on (127\.0\.0\.1:\d+)$").group(1)
        context = ssl.create_default_context(cafile=authority.certificate)

        def page(name, trust=context):
            with urllib.request.urlopen(f"https://{address}{name}", timeout=SECONDS, context=trust) as answer:
                return answer.status, answer.read().decode()

        assert page("/readyz") == (200, "ok\n")
        assert "t2r_ready 1\n" in page("/metrics")[1]
        for url, trust in ((f"http://{address}/readyz", None), (f"https://{address}/readyz",
                                                                ssl.create_default_context())):
            with pytest.raises((OSError, ValueError, urllib.error.URLError)):
                urllib.request.urlopen(url, timeout=SECONDS, context=trust)
        # Another authority's certificate, which the old one's clients do not trust.
        other = Authority(tmp_path / "other")
        install(other.sign("server"), tmp_path / "mounted")
        trust = ssl.create_default_context(cafile=other.certificate)
        deadline = time.monotonic() + SECONDS
        while True:
            with contextlib.suppress(urllib.error.URLError):
                if page("/livez", trust) == (200, "ok\n"):
                    break
            assert time.monotonic() < deadline
            threading.Event().wait(0.1)
