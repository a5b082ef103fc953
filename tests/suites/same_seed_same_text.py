"""A sampled request gives the same tokens for the same seed, whatever runs beside it."""

import pytest

import make_models
from service import Server, collect, pb, shared

NEW_TOKENS = 48
SAMPLINGS = {
    "plain": {},
    "filtered": {"temperature": 0.9, "top_k": 40, "top_p": 0.95, "min_p": 0.01},
    "penalised": {"temperature": 1.2, "repetition_penalty": 1.1, "frequency_penalty": 0.2},
}


def run(server, prompt, **options):
    result = server.generate(prompt, NEW_TOKENS, pb.Sampling(**options), ignore_eos=True, logprobs=1)
    assert len(result.token_ids) == NEW_TOKENS
    return result


def run_crowded(server, prompt, others, **options):
    """The same request while sixteen with other seeds and a long prompt run."""
    calls = [server.start(prompt, 2 * NEW_TOKENS, pb.Sampling(seed=1000 + i)) for i in range(16)]
    calls.append(server.start(others, NEW_TOKENS, pb.Sampling(seed=1)))
    result = run(server, prompt, **options)
    for call in calls:
        collect(call)
    return result


def check(server, prompt, others):
    for name, options in SAMPLINGS.items():
        alone = run(server, prompt, seed=7, **options)
        crowded = run_crowded(server, prompt, others, seed=7, **options)
        assert crowded.token_ids == alone.token_ids, name
        assert crowded.text == alone.text, name
        assert crowded.logprobs == alone.logprobs, name
        assert alone.seed == 7
        other = run(server, prompt, seed=8, **options)
        assert other.token_ids != alone.token_ids, f"{name}: the seed changes nothing"


@pytest.mark.parametrize("name", ["llama-t2r-gqa", "gpt2-t2r-mixed", "llama-t2r-bfloat16"])
def test_random_model(tmp_path, name):
    spec = make_models.catalogue()[name]
    directory = make_models.make(spec, tmp_path / name)
    with Server(directory, "--max-sessions", "32") as server:
        check(server, [5, 17, 3, 111], [i % spec.vocab for i in range(400)])


def test_unset_seed_is_told_and_repeats(tmp_path):
    directory = make_models.make(make_models.catalogue()["llama-t2r-clamp"], tmp_path / "model")
    with Server(directory) as server:
        first, second = run(server, [1, 2, 3]), run(server, [1, 2, 3])
        assert first.seed != second.seed
        assert first.token_ids != second.token_ids
        assert run(server, [1, 2, 3], seed=first.seed).token_ids == first.token_ids


def test_stories260k():
    with Server(shared("stories260K"), "--max-sessions", "32") as server:
        check(server, "Once upon a time", server.tokenize("The dog ran. " * 80)[:400])
