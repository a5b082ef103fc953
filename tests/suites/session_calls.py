"""What the suites of sessions share: turns at models/demo, what they must give, and the service's calls."""

import pathlib

import grpc
import pytest

from service import CALL_SECONDS, pb
from t2r.v1 import sessions_pb2 as spb
from t2r.v1 import sessions_pb2_grpc as session_stubs

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEMO = ROOT / "models" / "demo"
PROMPT = "And it came to pass"


def turn(server, session, max_tokens, prompt="", sampling=None, **ref):
    """A turn of the session, which is made if need be. sampling: fields of pb.Sampling, or the last turn's."""
    return server.generate(prompt, max_tokens, sampling and pb.Sampling(**sampling), ignore_eos=True,
                           session=spb.SessionRef(id=session, create=True, **ref))


def whole(server, max_tokens, sampling):
    """The run that nothing cuts."""
    return server.generate(PROMPT, max_tokens, pb.Sampling(**sampling), ignore_eos=True)


def sessions(server):
    return session_stubs.SessionsStub(server.channel)


def get(server, session):
    return sessions(server).GetSession(spb.GetSessionRequest(id=session), timeout=CALL_SECONDS)


def kill(server):
    server.process.kill()
    server.process.wait()


def code(call):
    """The status and the message that the call ends with."""
    with pytest.raises(grpc.RpcError) as error:
        call()
    return error.value.code(), error.value.details()
