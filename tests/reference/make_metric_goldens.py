#!/usr/bin/env python3
"""Writes tests/convert/testdata/metrics/goldens.json: what sacreBLEU makes of the files there.

Needs sacreBLEU, which is not packaged by Debian; run it from a virtual environment:
    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install sacrebleu==2.6.0
    /tmp/venv/bin/python tests/reference/make_metric_goldens.py
Error rates, which sacreBLEU does not have, are by a plain edit distance of this file's own.
"""

import json
import pathlib

import sacrebleu

DIRECTORY = pathlib.Path(__file__).resolve().parent.parent / "convert" / "testdata" / "metrics"


def edits(a, b):
    """Insertions, deletions and substitutions between two sequences (whole table)."""
    table = [[i + j if i * j == 0 else 0 for j in range(len(b) + 1)] for i in range(len(a) + 1)]
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            table[i][j] = min(table[i - 1][j] + 1, table[i][j - 1] + 1,
                              table[i - 1][j - 1] + (a[i - 1] != b[j - 1]))
    return table[len(a)][len(b)]


def error_rate(hypotheses, references, split):
    pairs = [(split(h), split(r)) for h, r in zip(hypotheses, references)]
    return sum(edits(h, r) for h, r in pairs) / sum(len(r) for _, r in pairs)


def main():
    goldens = {"sacrebleu": sacrebleu.__version__, "files": {}}
    for path in sorted(DIRECTORY.glob("*.ref")):
        references = path.read_text(encoding="utf-8").splitlines()
        hypotheses = path.with_suffix(".hyp").read_text(encoding="utf-8").splitlines()
        goldens["files"][path.stem] = {
            "bleu": sacrebleu.corpus_bleu(hypotheses, [references]).score,
            "bleu_characters": sacrebleu.corpus_bleu(hypotheses, [references],
                                                     tokenize="char").score,
            "chrf": sacrebleu.corpus_chrf(hypotheses, [references]).score,
            "cer": error_rate(hypotheses, references, list),
            "wer": error_rate(hypotheses, references, str.split),
        }
    out = DIRECTORY / "goldens.json"
    out.write_text(json.dumps(goldens, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
