"""Score agrees with the float64 reference on directories of random weights."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import make_models
from marian import MarianReference
from reference import Reference
from service import Server

SPECS = make_models.catalogue()
MARIAN = make_models.marian_catalogue()


def compare(server, reference, spec):
    """Scores all sequences at once and compares each."""
    cases = make_models.sequences(spec)
    with ThreadPoolExecutor(len(cases)) as pool:
        results = list(pool.map(server.score, cases))
    wrong = []
    for ids, scores in zip(cases, results):
        assert len(scores) == len(ids) - 1
        error = np.abs(np.array(scores) - reference.score(ids))
        worst = int(error.argmax())
        if not error[worst] <= spec.tolerance:
            wrong.append(f"{len(ids)} ids: log p of id {worst + 1} is off by {error[worst]:.2e}")
    assert not wrong, f"more than {spec.tolerance}: " + "; ".join(wrong)


@pytest.mark.parametrize("name", SPECS)
def test_score(tmp_path, name):
    spec = SPECS[name]
    directory = make_models.make(spec, tmp_path / name)
    with Server(directory, "--max-sessions", "16") as server:
        compare(server, Reference(directory), spec)


@pytest.mark.parametrize("name", MARIAN)
def test_score_of_encoder_decoders(tmp_path, name):
    """All pairs at once, so that sources of mixed length are encoded together."""
    spec = MARIAN[name]
    directory = make_models.make(spec, tmp_path / name)
    reference = MarianReference(directory)
    pairs = make_models.pairs(spec)
    with Server(directory, "--max-sessions", "16") as server:
        with ThreadPoolExecutor(len(pairs)) as pool:
            results = list(pool.map(lambda pair: server.score(pair[1], source=pair[0]), pairs))
    wrong = []
    for (source, target), scores in zip(pairs, results):
        assert len(scores) == len(target)
        error = np.abs(np.array(scores) - reference.score(source, target))
        worst = int(error.argmax())
        if not error[worst] <= spec.tolerance:
            wrong.append(f"{len(source)} ids to {len(target)}: log p of id {worst} is off by "
                         f"{error[worst]:.2e}")
    assert not wrong, f"more than {spec.tolerance}: " + "; ".join(wrong)


@pytest.mark.parametrize("name", ["llama-t2r-bfloat16", "gpt2-t2r-float16"])
def test_score_of_16_bit_files_in_float32(tmp_path, name):
    """--dtype float32 widens the file's values, which is exact."""
    spec = SPECS[name]
    directory = make_models.make(spec, tmp_path / name)
    with Server(directory, "--dtype", "float32") as server:
        compare(server, Reference(directory), spec)
