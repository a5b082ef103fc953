#!/usr/bin/env python3
"""Beam search over the float64 reference, whole sequences at a time, no states and no forks.

  beam_search.py DIR MAX_TOKENS BEAMS ID...     the hypotheses of a prompt: score, then ids

The definition is that of Hugging Face transformers' generate with num_beams; beams_golden.json holds
what that library itself gives (make_beam_goldens.py).
"""

import dataclasses
import sys

import numpy as np


@dataclasses.dataclass(frozen=True)
class Beams:
    count: int
    length_penalty: float = 1.0
    num_return: int = 1
    early_stopping: object = False  # False, True or "never"


@dataclasses.dataclass
class Result:
    hypotheses: list  # (score, ids), best first, num_return of them
    margin: float  # how close the closest decision was: scores nearer than a backend's error decide
    # nothing


def normalised(logprob, length, penalty):
    return logprob / length**penalty


def search(next_log_probs, beams, max_tokens, terminal_ids=(), suppressed_ids=()):
    """next_log_probs(ids) -> log p of each next token after the prompt and these ids. [vocabulary]"""
    running, ended, margin = [(0.0, [])], [], np.inf

    def gap(values, kept):
        """What separates the last of the `kept` largest from the next; inf where nothing follows."""
        ordered = sorted(values, reverse=True)
        return ordered[kept - 1] - ordered[kept] if 0 < kept < len(ordered) else np.inf

    for length in range(1, max_tokens + 1):
        extensions = []
        for logprob, ids in running:
            row = next_log_probs(ids)
            for token in np.argsort(-row, kind="stable")[:beams.count + len(terminal_ids) + 1 +
                                                         len(suppressed_ids)]:
                if token not in suppressed_ids:
                    extensions.append((logprob + row[token], [*ids, int(token)]))
        extensions.sort(key=lambda extension: -extension[0])
        last = length == max_tokens
        ends = [last or ids[-1] in terminal_ids for _, ids in extensions]
        for (logprob, ids), end in list(zip(extensions, ends))[:beams.count]:
            if end:
                ended.append((normalised(logprob, length, beams.length_penalty), ids))
        running = [e for e, end in zip(extensions, ends) if not end]
        scores = [logprob for logprob, _ in extensions]
        margin = min(margin, gap(scores, beams.count), gap([s for s, _ in running], beams.count))
        running = running[:beams.count]
        ended.sort(key=lambda hypothesis: -hypothesis[0])
        margin = min(margin, gap([score for score, _ in ended], beams.count))
        ended = ended[:beams.count]
        if not running:
            break
        if len(ended) == beams.count:
            if beams.early_stopping is True or beams.count == 1:
                break
            far = beams.early_stopping == "never" and beams.length_penalty > 0
            best = normalised(running[0][0], max_tokens if far else length, beams.length_penalty)
            margin = min(margin, abs(best - ended[-1][0]))
            if best <= ended[-1][0]:
                break
    for better, worse in zip(ended, ended[1:]):
        margin = min(margin, better[0] - worse[0])
    return Result(ended[:beams.num_return], margin)


def search_model(reference, prompt, beams, max_tokens, terminal_ids=()):
    """The same over a reference.Reference, which sees each sequence as a whole."""
    prompt = list(prompt)
    return search(lambda ids: reference.log_probs(prompt + ids)[-1], beams, max_tokens, terminal_ids)


def main(arguments):
    from reference import Reference
    if len(arguments) < 4:
        print(__doc__, file=sys.stderr)
        return 2
    reference = Reference(arguments[0])
    max_tokens, count = int(arguments[1]), int(arguments[2])
    eos = reference.config.get("eos_token_id")
    terminal = [] if eos is None else [eos] if isinstance(eos, int) else eos
    result = search_model(reference, [int(a) for a in arguments[3:]],
                          Beams(count, num_return=count), max_tokens, terminal)
    for score, ids in result.hypotheses:
        print(f"{score:.6f}", *ids)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
