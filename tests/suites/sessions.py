"""Sessions over real processes: kept between turns, across restarts and kill -9, and as files; the
text is always that of a run that was never cut.
"""

import os
import pty
import re
import subprocess

import grpc
import pytest

from service import CALL_SECONDS, Server, pb
from session_calls import DEMO, PROMPT, get, kill, sessions, turn, whole
from t2r.v1 import sessions_pb2 as spb

SAMPLINGS = {
    "greedy": {"temperature": 0},
    "penalised": {"temperature": 0.9, "top_p": 0.95, "seed": 11, "repetition_penalty": 1.2,
                  "frequency_penalty": 0.3, "presence_penalty": 0.1},
}


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS.keys())
def test_goes_on_after_kill_9(tmp_path, sampling):
    flags = ("--session-dir", str(tmp_path / "sessions"))
    with Server(DEMO, *flags) as server:
        expected = whole(server, 20 + 60 + 140, sampling)
        first = turn(server, "story", 20, PROMPT, sampling)
        kill(server)
    with Server(DEMO, *flags) as server:
        second = turn(server, "story", 60)
        kill(server)
    with Server(DEMO, *flags) as server:
        third = turn(server, "story", 140)
        assert get(server, "story").position == len(server.tokenize(PROMPT)) + 20 + 60 + 140
    ids = first.token_ids + second.token_ids + third.token_ids
    assert ids == expected.token_ids
    assert first.text + second.text + third.text == expected.text


def test_a_turn_that_kill_9_cuts_counts_not_at_all(tmp_path):
    flags = ("--session-dir", str(tmp_path / "sessions"))
    with Server(DEMO, *flags) as server:
        expected = whole(server, 50, SAMPLINGS["penalised"])
        first = turn(server, "story", 20, PROMPT, SAMPLINGS["penalised"])
        position = get(server, "story").position
        request = pb.GenerateRequest(max_tokens=100000, ignore_eos=True,
                                     session=spb.SessionRef(id="story"))
        call = server.stub.Generate(request, timeout=CALL_SECONDS)
        assert next(call).started.session_position == position
        delta = next(call).delta
        assert delta.position == position + len(delta.token_ids)
        kill(server)
        with pytest.raises(grpc.RpcError):
            list(call)
    with Server(DEMO, *flags) as server:
        assert get(server, "story").position == position
        again = turn(server, "story", 30, expected_position=position)
        assert first.token_ids + again.token_ids == expected.token_ids
        # Its end was lost on the way, perhaps: sent again it is not appended twice.
        with pytest.raises(grpc.RpcError) as error:
            turn(server, "story", 30, expected_position=position)
        assert error.value.code() == grpc.StatusCode.ABORTED
        assert str(position) in error.value.details()
        assert str(position + 30) in error.value.details()


def test_what_was_acknowledged_is_there(tmp_path):
    """Killed right behind a Finished, a session stands where that turn left it."""
    flags = ("--session-dir", str(tmp_path / "sessions"))
    acknowledged = {}
    for round_number in range(6):
        with Server(DEMO, *flags) as server:
            for name, position in acknowledged.items():
                assert get(server, name).position == position, name
            for index in range(4 + round_number):
                name = f"s{(round_number + index) % 7}"
                result = turn(server, name, 1 + index, PROMPT, {"temperature": 0})
                assert len(result.token_ids) == 1 + index
                acknowledged[name] = get(server, name).position
            kill(server)
    assert len(acknowledged) == 7


def test_save_and_load(tmp_path):
    client = os.environ["T2R_CLIENT"]
    file = tmp_path / "story.t2rsnap"

    def t2r(server, *arguments, status=0):
        done = subprocess.run([client, *arguments, "--server", server.address],
                              capture_output=True, text=True, timeout=CALL_SECONDS)
        assert done.returncode == status, done.stderr
        return done.stdout + done.stderr

    with Server(DEMO) as server:
        expected = whole(server, 50, SAMPLINGS["penalised"])
        first = turn(server, "story", 20, PROMPT, SAMPLINGS["penalised"])
        t2r(server, "session", "save", "story", str(file))
    with Server(DEMO) as server:
        assert "NOT_FOUND" in t2r(server, "session", "show", "story", status=1)
        assert "again" in t2r(server, "session", "load", str(file), "again")
        t2r(server, "session", "fork", "again", "branch", "--count", "3")
        assert "branch-3" in t2r(server, "session", "list")
        second = turn(server, "branch-2", 30)
        assert first.token_ids + second.token_ids == expected.token_ids
        assert t2r(server, "generate", "--session", "again", "-n", "30",
                   "--ignore-eos") == second.text + "\n"
        t2r(server, "session", "rm", "again")
        damaged = bytearray(file.read_bytes())
        damaged[len(damaged) // 2] ^= 1
        file.write_bytes(damaged)
        assert "DATA_LOSS" in t2r(server, "session", "load", str(file), status=1)


def test_other_bits_are_taken_where_that_is_said(tmp_path):
    client, file = os.environ["T2R_CLIENT"], str(tmp_path / "story.t2rsnap")

    def t2r(server, *arguments, status=0):
        done = subprocess.run([client, *arguments, "--server", server.address],
                              capture_output=True, text=True, timeout=CALL_SECONDS)
        assert done.returncode == status, done.stderr
        return done.stdout + done.stderr

    directory = str(tmp_path / "sessions")
    with Server(DEMO, "--session-dir", directory) as server:
        turn(server, "story", 5, PROMPT, {"temperature": 0})
        t2r(server, "session", "save", "story", file)
    with Server(DEMO, "--weights", "int8", "--session-dir", directory) as server:
        assert "FAILED_PRECONDITION" in t2r(server, "session", "load", file, "again", status=1)
        assert "again" in t2r(server, "session", "load", file, "again", "--allow-inexact")
        turn_of = ("generate", "--session", "story", "-n", "4")
        assert "FAILED_PRECONDITION" in t2r(server, *turn_of, status=1)
        assert t2r(server, *turn_of, "--allow-inexact", "--ids").count(" ") == 3


def test_another_model_refuses_it(tmp_path):
    import make_models
    other = make_models.make(make_models.catalogue()["llama-t2r-clamp"], tmp_path / "other")
    with Server(DEMO) as server:
        turn(server, "story", 5, PROMPT, {"temperature": 0})
        chunks = sessions(server).ExportSession(spb.ExportSessionRequest(id="story"))
        snapshot = b"".join(chunk.data for chunk in chunks)
        ours = server.stub.GetModel(pb.GetModelRequest()).exactness_class
    with Server(other) as server:
        theirs = server.stub.GetModel(pb.GetModelRequest()).exactness_class
        with pytest.raises(grpc.RpcError) as error:
            sessions(server).ImportSession(iter([spb.ImportSessionRequest(data=snapshot)]))
        assert error.value.code() == grpc.StatusCode.FAILED_PRECONDITION
        assert ours != theirs
        assert ours in error.value.details() and theirs in error.value.details()


def test_chat_keeps_its_history(tmp_path):
    client = os.environ["T2R_CLIENT"]
    with Server(DEMO, "--session-dir", str(tmp_path / "sessions")) as server:
        def chat(typed):
            return subprocess.run(
                [client, "chat", "--session", "talk", "-n", "12", "--temperature", "0", "--server",
                 server.address], input=typed, capture_output=True, text=True,
                timeout=CALL_SECONDS, check=True)
        sessions(server).CreateSession(spb.CreateSessionRequest(id="talk"))
        first = chat("In the beginning\nAnd God said\n")
        assert first.stdout.count("\n") >= 2
        position = get(server, "talk").position
        assert f"at {position} tokens" in first.stderr
        assert f"t2r chat --server {server.address} --session talk " in first.stderr
        assert ">" not in first.stderr
        assert f"session talk, {position} tokens" in chat("").stderr


def test_chat_says_that_it_waits_for_a_line():
    with Server(DEMO) as server:
        ours, theirs = pty.openpty()
        chat = subprocess.Popen([os.environ["T2R_CLIENT"], "chat", "-n", "4", "--server", server.address],
                                stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        os.close(theirs)
        assert re.fullmatch(rb"session \S+, 0 tokens\n", chat.stderr.readline())
        assert chat.stderr.read(2) == b"> "
        os.write(ours, b"In the beginning\n")
        assert chat.stderr.read(2) == b"> "
        os.write(ours, b"\x04")  # Ctrl-D
        said, _ = chat.communicate(timeout=CALL_SECONDS)
        os.close(ours)
        assert chat.returncode == 0 and said
