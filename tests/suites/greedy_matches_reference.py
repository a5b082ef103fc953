"""Greedy Generate gives the float64 reference's ids, alone and in a crowd.

The reference need not generate: given the ids the service chose, one pass tells at each step what
it would have chosen after the same ids. A step where its two best are closer than the bound on
log-probabilities allows to tell apart decides nothing, and neither do those after it; prompts are
many enough that nearly all steps count, which is checked.
"""

import numpy as np
import pytest

import make_models
from reference import Reference
from service import Server, collect, pb

SPECS = make_models.catalogue()
NEW_TOKENS = 24
STREAMS = 16
LONG_PROMPTS = 3


def decided_steps(reference, prompt, ids):
    """How many steps the reference decides; fails where it decides for another id."""
    log_probs = reference.log_probs(prompt + ids[:-1])[len(prompt) - 1:]
    for step, (row, chosen) in enumerate(zip(log_probs, ids)):
        second, first = np.sort(row)[-2:]
        if first - second < 1e-3:
            return step
        assert chosen == row.argmax(), (
            f"prompt of {len(prompt)}, step {step}: the reference leads by {first - second:.2e} "
            f"for id {row.argmax()}, the service chose {chosen}")
    return len(ids)


@pytest.mark.parametrize("name", SPECS)
def test_greedy(tmp_path, name):
    spec = SPECS[name]
    directory = make_models.make(spec, tmp_path / name)
    reference = Reference(directory)
    random = np.random.default_rng(len(spec.name))

    def prompt(length):
        return random.integers(0, spec.vocab, size=length).tolist()

    greedy = pb.Sampling(temperature=0)
    watched = prompt(9)
    prompts = [prompt(int(random.integers(1, 40))) for _ in range(STREAMS)]
    long_prompts = [prompt(spec.positions - 40) for _ in range(LONG_PROMPTS)]

    with Server(directory, "--max-sessions", "24") as server:
        alone = server.greedy(watched, NEW_TOKENS, logprobs=1)
        long_calls = [server.start(p, NEW_TOKENS, pb.Sampling(temperature=1, seed=i))
                      for i, p in enumerate(long_prompts)]
        calls = [server.start(p, NEW_TOKENS, greedy) for p in prompts]
        in_crowd = server.greedy(watched, NEW_TOKENS, logprobs=1)
        crowd = [collect(call) for call in calls]
        for call in long_calls:
            assert len(collect(call).token_ids) == NEW_TOKENS

    for result in [alone, in_crowd, *crowd]:
        assert result.reason == pb.FINISH_REASON_LENGTH
        assert len(result.token_ids) == NEW_TOKENS
    assert in_crowd.token_ids == alone.token_ids
    assert in_crowd.logprobs == alone.logprobs, "log-probabilities depend on the neighbours"
    decided = decided_steps(reference, watched, alone.token_ids)
    for p, result in zip(prompts, crowd):
        decided += decided_steps(reference, p, result.token_ids)
    assert decided >= 0.8 * NEW_TOKENS * (STREAMS + 1), "too many ties to prove anything"
    expected = reference.log_probs(watched + alone.token_ids[:-1])[len(watched) - 1:]
    expected = expected[np.arange(NEW_TOKENS), alone.token_ids]
    error = float(np.abs(np.array(alone.logprobs) - expected).max())
    assert error <= spec.tolerance, f"log-probabilities of generated ids are off by {error:.2e}"
