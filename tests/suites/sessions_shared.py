"""Sessions in a real Redis that two servers share: each goes on with what the other left, also in the
middle of a turn, and the text is always that of a run that was never cut.
"""

import contextlib
import functools
import signal
import sys
import threading
import time
import urllib.request

import grpc
import pytest

import session_calls
from certificates import Authority
from redis_server import Redis
from service import CALL_SECONDS, Server, pb
from session_calls import DEMO, PROMPT, ROOT, code, get, kill, sessions
from t2r.v1 import sessions_pb2 as spb

sys.path.insert(0, str(ROOT / "docs" / "examples"))
import resume  # noqa: E402

SAMPLING = {"temperature": 0.9, "top_p": 0.95, "seed": 11, "repetition_penalty": 1.2}
LONG = 1500  # tokens: more than are on their way when the first ones come
LEASE = ("--session-lease-seconds", "2")
turn = functools.partial(session_calls.turn, sampling=SAMPLING)
whole = functools.partial(session_calls.whole, sampling=SAMPLING)


@pytest.fixture(name="redis")
def a_redis(tmp_path):
    with Redis(tmp_path) as one:
        yield one


def request(session, max_tokens, prompt=PROMPT, **ref):
    reference = spb.SessionRef(id=session, create=True, **ref)
    return pb.GenerateRequest(text=prompt, max_tokens=max_tokens, sampling=pb.Sampling(**SAMPLING),
                              ignore_eos=True, session=reference)


def metric(server, name):
    with urllib.request.urlopen(f"http://{server.admin}/metrics", timeout=CALL_SECONDS) as page:
        values = [line.split()[-1] for line in page.read().decode().splitlines()
                  if line.startswith(name + " ")]
    return float(values[0])


def test_two_servers_have_the_same_sessions(redis, tmp_path):
    store = ("--session-store", redis.url, *LEASE)
    with Server(DEMO, *store) as one, Server(DEMO, *store, "--session-dir", str(tmp_path / "disk")) as two:
        expected = whole(one, 120)
        parts = [turn(server, "story", 30, prompt)
                 for server, prompt in ((one, PROMPT), (two, ""), (two, ""), (one, ""))]
        assert sum((part.token_ids for part in parts), []) == expected.token_ids
        assert "".join(part.text for part in parts) == expected.text
        sessions(two).ForkSession(spb.ForkSessionRequest(id="story", new_id="branch", count=5))
        listed, token = [], ""
        while True:
            page = sessions(one).ListSessions(spb.ListSessionsRequest(page_size=2, page_token=token))
            listed += [session.id for session in page.sessions]
            token = page.next_page_token
            if not token:
                break
        assert listed == [f"branch-{i}" for i in range(1, 6)] + ["story"]
        sessions(one).DeleteSession(spb.DeleteSessionRequest(id="branch-3"))
        assert code(lambda: get(two, "branch-3"))[0] == grpc.StatusCode.NOT_FOUND
        assert code(lambda: sessions(two).CreateSession(spb.CreateSessionRequest(id="story")))[
            0] == grpc.StatusCode.ALREADY_EXISTS
        # Sessions expire in the store.
        turn(one, "short", 3, PROMPT, ttl={"nanos": 200_000_000})
        deadline = time.monotonic() + CALL_SECONDS
        while "short" in [s.id for s in sessions(two).ListSessions(spb.ListSessionsRequest()).sessions]:
            assert time.monotonic() < deadline
        assert code(lambda: get(one, "short"))[0] == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("sync", ["turn", "16"])
def test_a_killed_servers_turn_goes_on_on_the_other(redis, sync):
    store = ("--session-store", redis.url, "--session-sync", sync)
    with Server(DEMO, *store) as one, Server(DEMO, *store) as two:
        expected = whole(one, LONG)
        call = one.stub.Generate(request("story", LONG), timeout=CALL_SECONDS)
        position, ids, text = None, [], ""
        with pytest.raises(grpc.RpcError):
            for event in call:
                if event.HasField("started"):
                    begin = position = event.started.session_position
                elif event.HasField("delta"):
                    position = event.delta.position
                    ids += event.delta.token_ids
                    text += event.delta.text
                    if one.process.poll() is None:
                        kill(one)
        assert position == begin + len(ids) < begin + LONG
        rest = pb.GenerateRequest(session=spb.SessionRef(id="story", resume_at=position))
        finished = None
        for event in two.stub.Generate(rest, timeout=CALL_SECONDS):
            if event.HasField("started"):
                assert event.started.session_position == position
                assert event.started.prompt_tokens == begin
            elif event.HasField("delta"):
                ids += event.delta.token_ids
                text += event.delta.text
            else:
                finished = event.finished
        assert ids == expected.token_ids and text == expected.text
        assert finished.usage.generated_tokens == LONG
        assert finished.session_position == begin + LONG == get(two, "story").position
        # Its end may be lost as well: it is given again, as often as it is asked for.
        for at in (begin, begin + LONG - 100, begin + LONG):
            rest.session.resume_at = at
            again = [list(event.delta.token_ids) for event in two.stub.Generate(rest, timeout=CALL_SECONDS)
                     if event.HasField("delta")]
            assert sum(again, []) == expected.token_ids[at - begin:]
        rest.session.resume_at = begin + LONG + 1
        assert code(lambda: list(two.stub.Generate(rest)))[0] == grpc.StatusCode.ABORTED
        assert turn(two, "story", 5).token_ids


def test_a_drained_turn_goes_on_on_the_other(redis):
    store = ("--session-store", redis.url, "--drain-seconds", "0", "--resumable-streams")
    with Server(DEMO, *store) as one, Server(DEMO, *store) as two:
        expected = whole(two, LONG)
        servers = [one, two]
        texts = {}

        class Channel:
            """One server after the other, as a balancer would choose them."""

            def Generate(self, message, metadata=()):
                return servers[0].stub.Generate(message, timeout=CALL_SECONDS, metadata=metadata)

        def run(name):
            message = request(name, LONG, expected_position=0)
            if name == "plain":
                message.ClearField("session")
            ids, text = [], ""
            for event in resume.generate(Channel(), message):
                if isinstance(event, pb.Delta):
                    ids += event.token_ids
                    text += event.text
                    count[name] = len(ids)
            texts[name] = ids, text

        names = ["a", "b", "c", "plain"]
        count = dict.fromkeys(names, 0)
        threads = [threading.Thread(target=run, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + CALL_SECONDS
        while min(count.values()) < 20:
            assert time.monotonic() < deadline
        servers.reverse()
        one.process.terminate()
        for thread in threads:
            thread.join()
        assert one.process.wait() == 0
        for name in names:
            assert texts[name] == (expected.token_ids, expected.text), name


def test_a_server_paused_past_its_lease_writes_nothing(redis):
    store = ("--session-store", redis.url, "--session-lease-seconds", "1")
    with Server(DEMO, *store) as one, Server(DEMO, *store) as two:
        turn(one, "story", 10, PROMPT)
        position = get(one, "story").position
        failure = []

        def long_turn():
            try:
                for event in one.stub.Generate(request("story", 4000, prompt=""), timeout=CALL_SECONDS):
                    if event.HasField("delta"):
                        running.set()
            except grpc.RpcError as error:
                failure.append(error)

        running = threading.Event()
        thread = threading.Thread(target=long_turn)
        thread.start()
        assert running.wait(CALL_SECONDS)
        status, said = code(lambda: turn(two, "story", 7, expected_position=position))
        assert status == grpc.StatusCode.ABORTED and "busy" in said
        one.process.send_signal(signal.SIGSTOP)
        try:
            deadline = time.monotonic() + CALL_SECONDS
            while True:
                with contextlib.suppress(grpc.RpcError):
                    mine = turn(two, "story", 7, expected_position=position)
                    break
                assert time.monotonic() < deadline
            stored = get(two, "story")
            assert stored.position == position + 7
        finally:
            one.process.send_signal(signal.SIGCONT)
        thread.join()
        assert failure and failure[0].code() == grpc.StatusCode.ABORTED
        assert "taken over" in failure[0].details()
        assert get(one, "story") == get(two, "story") == stored
        expected = whole(two, 10 + 7 + 5)
        assert expected.token_ids[10:] == mine.token_ids + turn(one, "story", 5).token_ids


def test_without_the_store_only_what_needs_it_is_refused(redis):
    with Server(DEMO, "--session-store", redis.url) as server:
        expected = whole(server, 60)
        first = turn(server, "story", 30, PROMPT)
        redis.stop()
        for call in (lambda: turn(server, "story", 30), lambda: get(server, "story"),
                     lambda: sessions(server).ListSessions(spb.ListSessionsRequest())):
            status, said = code(call)
            assert status == grpc.StatusCode.UNAVAILABLE
            assert "--session-store" in said and str(redis.port) in said
        assert whole(server, 60).token_ids == expected.token_ids
        assert metric(server, "t2r_ready") == 1
        assert metric(server, 't2r_session_store_errors_total{tier="shared"}') >= 3
        with redis:
            deadline = time.monotonic() + CALL_SECONDS
            while True:
                with contextlib.suppress(grpc.RpcError):
                    second = turn(server, "story", 30)
                    break
                assert time.monotonic() < deadline
            assert first.token_ids + second.token_ids == expected.token_ids


def test_over_tls_with_a_password(tmp_path):
    authority = Authority(tmp_path)
    certificate, key = authority.sign("redis", alternatives="IP:127.0.0.1")
    flags = ("--requirepass", "p/w", "--tls-cert-file", str(certificate), "--tls-key-file", str(key),
             "--tls-ca-cert-file", str(authority.certificate), "--tls-auth-clients", "no", "--tls-port")
    from redis_server import free_port
    port = free_port()
    with Redis(tmp_path, *flags, str(port)):
        url = f"rediss://:p%2Fw@127.0.0.1:{port}/1"
        with Server(DEMO, "--session-store", url, "--session-store-ca", str(authority.certificate)) as server:
            first = turn(server, "story", 20, PROMPT)
            assert first.token_ids + turn(server, "story", 20).token_ids == whole(server, 40).token_ids
        with Server(DEMO, "--session-store", url) as server:
            status, said = code(lambda: get(server, "story"))
            assert status == grpc.StatusCode.UNAVAILABLE and "certificate" in said
            assert "p/w" not in said and "p%2Fw" not in said
        wrong = url.replace("p%2Fw", "other")
        with Server(DEMO, "--session-store", wrong, "--session-store-ca",
                    str(authority.certificate)) as server:
            status, said = code(lambda: get(server, "story"))
            assert status == grpc.StatusCode.UNAVAILABLE and "password" in said


@pytest.mark.parametrize("shared", [True, False])
def test_a_client_that_is_gone_unnoticed_goes_on_at_the_same_server(redis, shared):
    with Server(DEMO, *(("--session-store", redis.url, "--session-sync", "16") if shared else ())) as server:
        expected = whole(server, LONG)
        silent = server.stub.Generate(request("story", LONG), timeout=CALL_SECONDS)
        ids, position = [], None
        for event in silent:
            if event.HasField("started"):
                position = event.started.session_position
            else:
                ids += event.delta.token_ids
                position = event.delta.position
                if len(ids) >= 20:
                    break
        # Nothing more is read, and nothing says that nobody will: its turn stands still, and runs.
        message = pb.GenerateRequest(session=spb.SessionRef(id="story", resume_at=position))
        deadline = time.monotonic() + CALL_SECONDS
        while True:
            try:
                for event in server.stub.Generate(message, timeout=CALL_SECONDS):
                    if event.HasField("delta"):
                        ids += event.delta.token_ids
                break
            except grpc.RpcError as error:
                assert error.code() == grpc.StatusCode.ABORTED and "busy" in error.details()
                assert time.monotonic() < deadline
        assert ids == expected.token_ids
        # The server had ended it.
        assert code(lambda: list(silent))[0] == grpc.StatusCode.CANCELLED
