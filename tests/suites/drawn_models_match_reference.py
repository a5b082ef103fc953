"""Directories drawn from all that the format allows, served: turns of a session cut anywhere, a call
that is not cut and Score agree with the float64 reference, and bit for bit with each other, alone and
while 16 other sessions run."""

from concurrent.futures import ThreadPoolExecutor
import contextlib
import random
import threading

import numpy as np
import pytest

import drawn_models
import make_models
from marian import MarianReference
from reference import Reference
from service import Server, pb
from t2r.v1 import sessions_pb2 as spb

SPECS = drawn_models.catalogue()
MARIAN = drawn_models.marian_catalogue()
# The windows of the files themselves, and no linear layer.
SPECS |= {name: make_models.catalogue()[name] for name in (
    "mistral-sliding", "qwen2-sliding", "phi3-sliding", "qwen3-softmax-gqa", "gpt2-softmax")}
OTHERS = 16


class Decoder:
    """What is asked of a server: turns of (ids that it is given, new tokens), some 140 in all."""

    def __init__(self, directory, spec):
        self.reference = Reference(directory)
        self.draw = random.Random(spec.name)
        lengths = [self.draw.randint(1, 30) for _ in range(4)]
        lengths.insert(self.draw.randint(0, 4), 60)
        self.turns = [(self.some_ids(length), self.draw.randint(1, 9)) for length in lengths]

    def some_ids(self, count):
        return [self.draw.randrange(self.reference.vocab_size) for _ in range(count)]

    def generate(self, server, ids, count, **fields):
        return server.greedy(ids, count, logprobs=1, ignore_eos=True, **fields)

    def score(self, server, ids):
        """Log-probabilities of all ids but the first."""
        return server.score(ids)

    def log_probs(self, ids):
        """What the reference says: a row of log-probabilities for each that score gives."""
        return self.reference.log_probs(ids[:-1])


class Translator(Decoder):
    """The same of a target, whose first turn has the source too."""

    def __init__(self, directory, spec):
        self.reference = MarianReference(directory)
        self.draw = random.Random(spec.name)
        self.source = self.some_ids(40)
        self.turns = [(self.some_ids(70), 7)] + [([], self.draw.randint(1, 16)) for _ in range(4)]

    def generate(self, server, ids, count, **fields):
        if ids:
            return super().generate(server, self.source, count, **fields,
                                    target_prefix_tokens=pb.TokenIds(ids=ids))
        return super().generate(server, ids, count, **fields)

    def score(self, server, ids):
        return server.score(ids, source=self.source)[1:]

    def log_probs(self, ids):
        return self.reference.log_probs(self.source, ids[:-1])[1:]


def play(server, session, asked):
    """(ids of the sequence, log-probabilities that Score gives them, places of generated ids)."""
    ids, places, logprobs = [], [], []
    for given, count in asked.turns:
        turn = asked.generate(server, given, count, session=spb.SessionRef(id=session, create=True))
        assert turn.reason == pb.FINISH_REASON_LENGTH
        ids += given + turn.token_ids
        places += range(len(ids) - count, len(ids))
        logprobs += turn.logprobs
    whole = asked.generate(server, ids[:-count], count)
    assert whole.token_ids == ids[-count:], "what is chosen depends on the turns"
    assert whole.logprobs == logprobs[-count:], "log-probabilities depend on the turns"
    scores = asked.score(server, ids)
    assert [scores[place - 1] for place in places] == logprobs, "Score and Generate differ"
    return ids, scores, places


@contextlib.contextmanager
def crowd(server, prompts):
    """While it lasts, as many calls as `prompts` run, each begun anew where it ends."""
    ended, running = threading.Event(), threading.Barrier(len(prompts) + 1)

    def generate(prompt):
        running.wait()
        while not ended.is_set():
            server.greedy(prompt, 20, ignore_eos=True)

    with ThreadPoolExecutor(len(prompts)) as pool:
        calls = [pool.submit(generate, prompt) for prompt in prompts]
        running.wait()
        try:
            yield
        finally:
            ended.set()
    for call in calls:
        call.result()


@pytest.mark.parametrize("name", [*SPECS, *MARIAN])
def test_drawn_model(tmp_path, name):
    spec = SPECS.get(name) or MARIAN[name]
    directory = make_models.make(spec, tmp_path / name)
    asked = (Decoder if name in SPECS else Translator)(directory, spec)
    prompts = [asked.some_ids(1 + 9 * i) for i in range(OTHERS)]
    # No prompt's state is kept: the crowd and the calls within it compute all that they say.
    with Server(directory, "--max-sessions", "24", "--prefix-cache-mib", "0") as server:
        alone = play(server, "alone", asked)
        with crowd(server, prompts):
            assert play(server, "crowded", asked) == alone

    ids, scores, places = alone
    rows = asked.log_probs(ids)
    error = np.abs(np.array(scores) - rows[np.arange(len(rows)), ids[1:]])
    assert error.max() <= spec.tolerance, f"log p of id {error.argmax() + 1} of {len(ids)}"
    chosen = rows[np.array(places) - 1]
    second, first = np.sort(chosen)[:, -2:].T
    # Closer than two log-probabilities that are off by the bound, nothing is decided.
    decided = first - second > 2 * spec.tolerance
    assert (chosen.argmax(axis=-1) == np.array(ids)[places])[decided].all()
    assert decided.mean() > 0.8
