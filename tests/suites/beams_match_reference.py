"""Generate with beams gives transformers' hypotheses, and the float64 reference's on models that
transformers does not have; alone and in a crowd, to the bit."""

import json
import os

import numpy as np
import pytest

import beam_search
import make_models
from marian import MarianReference
from reference import Reference
from service import CALL_SECONDS, Server, pb, shared

SPECS = {**make_models.catalogue(), **make_models.marian_catalogue()}
STOPPING = {False: pb.EARLY_STOPPING_FALSE, True: pb.EARLY_STOPPING_TRUE,
            "never": pb.EARLY_STOPPING_NEVER}
# Every feature map, full layers among linear ones, grouped heads, both families.
REFERENCE_MODELS = ["llama-t2r-gqa", "llama-elu-gqa-mixed", "gpt2-t2r-mixed", "gpt2-hedgehog-clamp",
                    "llama-rfa-gqa", "marian-t2r-before", "marian-t2r-mixed"]


def start(server, prompt, max_tokens, beams, eos):
    request = pb.GenerateRequest(
        tokens=pb.TokenIds(ids=prompt), max_tokens=max_tokens, ignore_eos=True, stop_token_ids=eos,
        beams=pb.Beams(count=beams.count, length_penalty=beams.length_penalty,
                       num_return=beams.num_return,
                       early_stopping=STOPPING[beams.early_stopping]))
    return server.stub.Generate(request, timeout=CALL_SECONDS)


def collect(call):
    """(score, ids) of each hypothesis; the stream's shape is checked."""
    started, finished = list(call)
    assert started.WhichOneof("event") == "started" and finished.WhichOneof("event") == "finished"
    hypotheses = finished.finished.hypotheses
    assert finished.finished.usage.generated_tokens == sum(len(h.token_ids) for h in hypotheses)
    return [(h.score, list(h.token_ids)) for h in hypotheses]


def score_bound(penalty, ids, tolerance):
    return tolerance * len(ids) * len(ids) ** -penalty


def beam_goldens():
    path = os.path.join(os.path.dirname(os.path.abspath(beam_search.__file__)), "beams_golden.json")
    with open(path) as file:
        return json.load(file)["cases"]


@pytest.mark.parametrize("name", sorted({case["model"] for case in beam_goldens()}))
def test_transformers_goldens(tmp_path, name):
    directory = make_models.make(SPECS[name], tmp_path / name) if name in SPECS else shared(name)
    cases = [case for case in beam_goldens() if case["model"] == name]
    with Server(directory, "--max-sessions", "24") as server:
        calls = [start(server, case["prompt"], case["max_tokens"],
                       beam_search.Beams(case["count"], case["length_penalty"], case["num_return"],
                                         case["early_stopping"]), case["eos"]) for case in cases]
        for case, call in zip(cases, calls):
            found = collect(call)
            assert [ids for _, ids in found] == [h["ids"] for h in case["hypotheses"]], case
            for (score, ids), golden in zip(found, case["hypotheses"]):
                bound = score_bound(case["length_penalty"], ids, 2e-5) + 1e-6  # stored to six places
                assert abs(score - golden["score"]) <= bound, case


@pytest.mark.parametrize("name", REFERENCE_MODELS)
def test_reference(tmp_path, name):
    spec = SPECS[name]
    directory = make_models.make(spec, tmp_path / name)
    marian = spec.family == "marian"
    reference = (MarianReference if marian else Reference)(directory)
    prompt_vocab = spec.source_vocab if marian else spec.vocab
    random = np.random.default_rng(len(name))
    searches = []
    for i, penalty in enumerate((1.0, 0.0, 2.0, -1.0, 0.7, 1.0)):
        beams = beam_search.Beams(count=2 + i % 4, num_return=1 + i % 2, length_penalty=penalty,
                                  early_stopping=(False, True, "never")[i % 3])
        prompt = random.integers(0, prompt_vocab, size=(3, 62, 130)[i % 3]).tolist()
        eos = random.integers(0, spec.vocab, size=3 * i).tolist()
        searches.append((prompt, 9, beams, eos))
    others = [random.integers(0, prompt_vocab, size=40).tolist() for _ in range(6)]

    with Server(directory, "--max-sessions", "24") as server:
        alone = [collect(start(server, *search)) for search in searches]
        sampled = [server.start(p, 60, pb.Sampling(seed=i)) for i, p in enumerate(others)]
        calls = [start(server, *search) for search in searches]
        crowded = [collect(call) for call in calls]
        for call in sampled:
            for _ in call:
                pass
    assert crowded == alone, "the neighbours change hypotheses or scores"

    decided = 0
    for (prompt, max_tokens, beams, eos), found in zip(searches, alone):
        if marian:
            encoded = reference.encode(prompt)
            expected = beam_search.search(
                lambda ids, p=prompt, e=encoded: reference.log_probs(p, ids, e)[-1], beams,
                max_tokens, eos)
        else:
            expected = beam_search.search_model(reference, prompt, beams, max_tokens, eos)
        if expected.margin < 1e-4 * max_tokens:
            continue  # closer than a float32 engine need tell apart
        decided += 1
        assert [ids for _, ids in found] == [ids for _, ids in expected.hypotheses], beams
        for (score, ids), (wanted, _) in zip(found, expected.hypotheses):
            assert abs(score - wanted) <= score_bound(beams.length_penalty, ids, spec.tolerance), beams
    assert decided >= 2, "too many ties to prove anything"
