#!/usr/bin/env python3
"""Writes architectures_golden.json: log-probabilities by Hugging Face transformers of models that
make_models.py writes, one for each architecture and scaling of rotary positions.

  make_architecture_goldens.py [OUT]

Needs torch and transformers (the file says which versions it was made with); the tests that compare
with it do not.
"""

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

# A model and how many ids are scored: frequencies that depend on a text's length are those of this.
CASES = {
    "gpt-neox-softmax": 60,
    "gpt-neox-sequential": 60,
    "gpt-neox-no-biases": 60,
    "gpt-neox-silu-tied": 60,
    "gpt-neox-rope-yarn": 60,
    "phi3-softmax": 60,
    "phi3-whole-heads": 60,
    "phi3-sliding": 90,
    "phi3-softmax-rope-longrope": 120,
    "phi3-softmax-rope-longrope-short": 96,
    "llama-softmax-rope-llama3": 60,
    "llama-softmax-rope-yarn": 60,
    "llama-softmax-rope-yarn-original": 60,
    "llama-softmax-rope-dynamic": 60,
    "llama-softmax-rope-longrope": 120,
    "llama-softmax-rope-longrope-short": 96,
}


def ids_of(length):
    return [(i * i * 7 + i * 13 + 3) % 203 for i in range(length)]


def score(directory, ids):
    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, attn_implementation="eager").double().eval()
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].double()
    log_probs = logits.log_softmax(-1)
    return [round(log_probs[i, ids[i + 1]].item(), 7) for i in range(len(ids) - 1)]


def main():
    out = sys.argv[1] if len(sys.argv) > 1 else os.path.join(HERE, "architectures_golden.json")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, os.path.join(HERE, "make_models.py"), "--out", folder,
                        *CASES], check=True, stdout=subprocess.DEVNULL)
        cases = {name: score(os.path.join(folder, name), ids_of(length))
                 for name, length in CASES.items()}
    with open(out, "w") as file:
        file.write('{"transformers": "%s", "torch": "%s", "cases": {\n' % (
            transformers.__version__, torch.__version__))
        file.write(",\n".join(f'"{name}": {json.dumps(values)}' for name, values in cases.items()))
        file.write("\n}}\n")


if __name__ == "__main__":
    main()
