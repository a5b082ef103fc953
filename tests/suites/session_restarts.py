"""A session saved by one process and loaded by another goes on as if nothing had happened, for every
kind of model.

Each row runs 23 tokens in a first process, which keeps the session in a directory and gives a
snapshot, and is killed; the next 200 come from a second process, from the directory and from the
snapshot. All of it is what one process says alone.
"""

import dataclasses
import pathlib

import pytest

import make_models
from service import CALL_SECONDS, Server, pb
from t2r.v1 import sessions_pb2 as spb
from t2r.v1 import sessions_pb2_grpc as session_stubs

DEMO = pathlib.Path(__file__).resolve().parents[2] / "models" / "demo"
BEFORE, AFTER = 23, 200
DECODERS = ["llama-t2r-clamp", "llama-elu-clamp", "llama-rfa-clamp", "llama-hedgehog-clamp",
            "llama-window-codebook", "llama-window-t2r", "llama-window-none-plain-fold",
            "llama-t2r-mixed", "gpt2-t2r-mixed", "gpt2-softmax"]
ENCODER_DECODERS = ["marian-t2r-mixed", "marian-codebook-window"]
SAMPLINGS = {
    "greedy": {"temperature": 0},
    "penalised": {"temperature": 0.9, "top_p": 0.95, "seed": 11, "repetition_penalty": 1.2,
                  "frequency_penalty": 0.3, "presence_penalty": 0.1, "logit_bias": {5: 1.5}},
}
PROMPT = [1 + i * i % 90 for i in range(37)]


def specs():
    decoders, both = make_models.catalogue(), make_models.marian_catalogue()
    for name in DECODERS:
        yield pytest.param(decoders[name], id=name)
    for name in ENCODER_DECODERS:
        yield pytest.param(dataclasses.replace(both[name], positions=400), id=name)


def turn(server, session, tokens, prompt=None, sampling=None):
    return server.generate(
        prompt or [], tokens, sampling and pb.Sampling(**sampling), ignore_eos=True, logprobs=1,
        session=session and spb.SessionRef(id=session, create=prompt is not None))


@pytest.mark.parametrize("spec", specs())
def test_goes_on_in_another_process(tmp_path, spec):
    model = make_models.make(spec, tmp_path / "model")
    flags = ("--session-dir", str(tmp_path / "sessions"))
    whole, first, snapshots = {}, {}, {}
    with Server(model, *flags, threads=1) as server:
        sessions = session_stubs.SessionsStub(server.channel)
        for name, sampling in SAMPLINGS.items():
            whole[name] = turn(server, None, BEFORE + AFTER, PROMPT, sampling)
            first[name] = turn(server, name, BEFORE, PROMPT, sampling)
            chunks = sessions.ExportSession(spb.ExportSessionRequest(id=name), timeout=CALL_SECONDS)
            snapshots[name] = b"".join(chunk.data for chunk in chunks)
        server.process.kill()
        server.process.wait()
    with Server(model, *flags, threads=1) as server:
        sessions = session_stubs.SessionsStub(server.channel)
        for name, snapshot in snapshots.items():
            sessions.ImportSession(iter([spb.ImportSessionRequest(id=name + "-loaded", data=snapshot)]),
                                   timeout=CALL_SECONDS)
            for session in (name, name + "-loaded"):
                second = turn(server, session, AFTER)
                assert first[name].token_ids + second.token_ids == whole[name].token_ids, session
                assert first[name].logprobs + second.logprobs == whole[name].logprobs, session


class Story:
    """One session of models/demo, every turn of which has a process of its own, killed with -9 behind it."""

    def __init__(self, directory):
        self.flags = ("--session-dir", str(directory))

    def run(self, session, tokens, prompt, sampling, stop=()):
        with Server(DEMO, *self.flags, threads=1) as server:
            done = server.generate(
                prompt, tokens, sampling, ignore_eos=True, stop=stop,
                session=session and spb.SessionRef(id=session, create=bool(prompt)))
            server.process.kill()
            server.process.wait()
        return done


def test_text_goes_on_inside_a_code_point(tmp_path):
    """Tokens that are single bytes, of which two make a code point: turns end between them."""
    with Server(DEMO, threads=1) as server:
        lead, trail = (server.tokenize("\u00e9\u2603")[-5:][i] for i in (0, 1))
        assert server.stub.Detokenize(
            pb.DetokenizeRequest(tokens=pb.TokenIds(ids=[lead, trail]))).text == "\u00e9"
    sampling = pb.Sampling(temperature=1.0, seed=3, frequency_penalty=1.0,
                           logit_bias={lead: 100.0, trail: 100.0})
    story = Story(tmp_path / "sessions")
    whole = story.run(None, 24, "In the beginning", sampling)
    assert set(whole.token_ids) == {lead, trail}
    assert "\u00e9" in whole.text and "\ufffd" in whole.text
    ids = whole.token_ids
    cuts = [i for i in range(1, len(ids)) if ids[i - 1] == lead and ids[i] == trail]
    assert len(cuts) >= 2
    sizes = [end - begin for begin, end in zip([0, *cuts], [*cuts, len(ids)])]
    parts = [story.run("story", size, "" if i else "In the beginning", None if i else sampling)
             for i, size in enumerate(sizes)]
    assert [i for part in parts for i in part.token_ids] == whole.token_ids
    text = "".join(part.text for part in parts)
    # The end of the last turn may be inside one, too: it is held back there.
    assert whole.text.startswith(text) and len(whole.text) - len(text) <= 1


def test_a_stop_string_is_found_that_two_processes_generated(tmp_path):
    story = Story(tmp_path / "sessions")
    prompt = "And it came to pass"
    sampling = pb.Sampling(temperature=0.9, seed=11, repetition_penalty=1.2)
    unstopped = story.run(None, 40, prompt, sampling)
    begun = story.run("begun", 20, prompt, sampling)
    at = len(begun.text)
    assert unstopped.text.startswith(begun.text)
    stop = unstopped.text[at - 4:at + 5]
    assert stop not in unstopped.text[:at + 4]
    first = story.run("story", 20, prompt, sampling, (stop, "never"))
    assert first.token_ids == begun.token_ids
    assert first.text == begun.text[:-4], "the beginning of the stop string is held back"
    second = story.run("story", 20, "", None, (stop, "never"))
    assert second.reason == pb.FINISH_REASON_STOP
    assert first.text + second.text == unstopped.text[:at - 4]
    count = 20 + len(second.token_ids)
    assert count < 40
    assert first.token_ids + second.token_ids == unstopped.token_ids[:count]
