#!/usr/bin/env python3
"""A stream that outlives its server: Generate in a session, gone on with where it broke.

    PYTHONPATH=build/release/python docs/examples/resume.py SERVER SESSION "Once upon a time"

Needs python3-grpcio and the stubs of the API, which every build writes into its folder python/
(docs/client.md). The C++ client does the same inside a call.
"""

import sys
import time

import grpc

from t2r.v1 import generation_pb2 as pb
from t2r.v1 import generation_pb2_grpc as stubs
from t2r.v1 import sessions_pb2 as spb


def may_go_on(error):
    """The server went, drained, or cannot be reached; or the session's turn is still running somewhere,
    which passes: the server then says when to ask again. A proxy tells of a server that went by a reset
    of the stream, which gRPC calls INTERNAL, and a server that ends cancels what it cannot finish."""
    if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
        return True
    if error.code() == grpc.StatusCode.INTERNAL and "RST_STREAM" in (error.details() or ""):
        return True
    details = dict(error.trailing_metadata() or ())
    return error.code() == grpc.StatusCode.ABORTED and "grpc-status-details-bin" in details


def generate(stub, request, patience=60.0, metadata=()):
    """Yields the deltas of the request, a turn of a session, and last its Finished: as if nothing had
    happened, whatever becomes of the server meanwhile. Gives up after `patience` seconds without a
    token. A request with session.expected_position is also safe where its first answer was lost.
    """
    started, position, tail = False, 0, False
    pause, last = 0.05, time.monotonic()
    session, expected = request.session.id, request.session.expected_position
    may_repeat = request.session.HasField("expected_position")
    repeated = False
    while True:
        try:
            for event in stub.Generate(request, metadata=metadata):
                pause, last = 0.05, time.monotonic()
                if event.HasField("started") and not started:
                    started, position = True, event.started.session_position
                    session = event.started.session_id
                elif event.HasField("delta"):
                    # Text behind the last token may come again.
                    if not event.delta.token_ids and tail:
                        continue
                    tail = tail or not event.delta.token_ids
                    position = event.delta.position
                    yield event.delta
                elif event.HasField("finished"):
                    if event.finished.reason != pb.FINISH_REASON_DRAINED:
                        yield event.finished
                        return
        except grpc.RpcError as error:
            # The turn was made, and its answer lost: the session stands behind where it began.
            made = (not started and repeated and error.code() == grpc.StatusCode.ABORTED
                    and not may_go_on(error))
            if time.monotonic() > last + patience or not (started or may_repeat):
                raise
            if not (made or may_go_on(error)):
                raise
            if made:
                request = pb.GenerateRequest(session=spb.SessionRef(id=session, resume_at=expected))
            time.sleep(pause)
            pause = min(2 * pause, 2.0)
        repeated = True
        if started:
            request = pb.GenerateRequest(session=spb.SessionRef(id=session, resume_at=position))


def main():
    server, session, prompt = sys.argv[1:]
    with grpc.insecure_channel(server) as channel:
        request = pb.GenerateRequest(text=prompt, max_tokens=64,
                                     session=spb.SessionRef(id=session, create=True))
        for event in generate(stubs.GenerationStub(channel), request):
            if isinstance(event, pb.Delta):
                print(event.text, end="", flush=True)
    print()


if __name__ == "__main__":
    main()
