#!/usr/bin/env python3
"""Writes beams_golden.json: what Hugging Face transformers gives for beam searches.

  make_beam_goldens.py --shared DIR      DIR holds stories260K

Needs torch and transformers (the file says which versions it was made with); the tests that compare
with it do not.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile

# This folder's safetensors.py would be taken for the library's.
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.remove(HERE)

import torch  # noqa: E402
import transformers  # noqa: E402

STORY = [1, 403, 407, 261, 378]  # "Once upon a time"
DOG = [1, 385, 328, 432]
RANDOM = [5, 3, 120, 7]
SOURCE = [9, 44, 3, 98, 12]


def cases():
    """(model, prompt, parameters) of each; eos: the ids that end a hypothesis. A Marian's prompt is
    its source."""
    for penalty, stopping in itertools.product((0.0, 1.0, 2.0, -1.0), (False, True, "never")):
        common = {"length_penalty": penalty, "early_stopping": stopping}
        # 2 ends the text; 426 is "." and comes soon, 338 a common word's end, 13 a line's end.
        yield "stories260K", STORY, {"count": 4, "num_return": 4, "max_tokens": 20, "eos": [2], **common}
        yield "stories260K", STORY, {"count": 3, "num_return": 2, "max_tokens": 24, "eos": [426],
                                     **common}
        yield "stories260K", DOG, {"count": 5, "num_return": 5, "max_tokens": 16,
                                   "eos": [426, 338, 13], **common}
        yield "llama-softmax-gqa", RANDOM, {"count": 4, "num_return": 3, "max_tokens": 12, "eos": [11],
                                            **common}
        yield "llama-softmax", RANDOM, {"count": 2, "num_return": 1, "max_tokens": 12,
                                        "eos": list(range(40)), **common}
        yield "gpt2-softmax", RANDOM, {"count": 8, "num_return": 8, "max_tokens": 10, "eos": [],
                                       **common}
        yield "marian-softmax", SOURCE, {"count": 4, "num_return": 4, "max_tokens": 12,
                                         "eos": [7, 30, 55], **common}


def load(directory):
    encoder_decoder = transformers.AutoConfig.from_pretrained(directory).is_encoder_decoder
    kind = (transformers.AutoModelForSeq2SeqLM if encoder_decoder else
            transformers.AutoModelForCausalLM)
    model = kind.from_pretrained(directory, dtype=torch.float32)
    # None of what a directory or the library sets by default.
    model.generation_config = transformers.GenerationConfig(
        decoder_start_token_id=getattr(model.config, "decoder_start_token_id", None))
    return model


def generate(model, prompt, case):
    out = model.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        do_sample=False, num_beams=case["count"],
        num_return_sequences=case["num_return"], max_new_tokens=case["max_tokens"],
        length_penalty=case["length_penalty"], early_stopping=case["early_stopping"],
        eos_token_id=case["eos"] or None, pad_token_id=0, return_dict_in_generate=True,
        output_scores=True)
    hypotheses = []
    for ids, score in zip(out.sequences.tolist(), out.sequences_scores.tolist()):
        ids = ids[1 if model.config.is_encoder_decoder else len(prompt):]
        ends = [i for i, token in enumerate(ids) if token in case["eos"]]
        hypotheses.append({"score": round(score, 6), "ids": ids[:ends[0] + 1] if ends else ids})
    return hypotheses


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", required=True)
    arguments = parser.parse_args()
    models, made = {}, []
    with tempfile.TemporaryDirectory() as scratch:
        for name, prompt, case in cases():
            if name not in models:
                directory = os.path.join(arguments.shared, name)
                if not os.path.exists(directory):
                    subprocess.run([sys.executable, os.path.join(HERE, "make_models.py"), "--out", scratch, name],
                                   check=True)
                    directory = os.path.join(scratch, name)
                models[name] = load(directory)
            made.append({"model": name, "prompt": prompt, **case,
                         "hypotheses": generate(models[name], prompt, case)})
    with open(os.path.join(HERE, "beams_golden.json"), "w") as file:
        file.write('{"made_with": "transformers %s, torch %s",\n"cases": [\n' %
                   (transformers.__version__, torch.__version__))
        file.write(",\n".join(json.dumps(case) for case in made) + "\n]}\n")


if __name__ == "__main__":
    main()
