"""scripts/capacity against what a server plans for the same model, byte by byte."""

import argparse
import importlib.machinery
import importlib.util
import json
import re
import subprocess

import pytest

import make_models
from conftest import ROOT
from server_process import Process

SCRIPT = ROOT / "scripts" / "capacity"
MODELS = ["demo", "llama-softmax-gqa", "llama-window-codebook", "gpt2-t2r-mixed", "qwen3-t2r-tied",
          "gpt-neox-t2r", "mistral-sliding", "phi3-sliding"]


def script():
    loader = importlib.machinery.SourceFileLoader("capacity", str(SCRIPT))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("capacity", loader))
    loader.exec_module(module)
    return module


def number(server, pattern):
    return int(server.line(pattern).group(1).replace(",", ""))


@pytest.mark.parametrize(("name", "windows"), [(name, "float32") for name in MODELS] +
                         [("llama-window-codebook", "bfloat16"), ("llama-window-codebook", "int8")])
def test_it_plans_as_the_server_does(name, windows, tmp_path):
    demo = name == "demo"
    directory = ROOT / "models" / "demo"
    if not demo:
        directory = make_models.make(make_models.catalogue()[name], tmp_path / name)
    config = json.loads((directory / "config.json").read_text())
    options = argparse.Namespace(shared=True, weight_size=2 if demo else 4, activation_size=4, kv_size=4,
                                 window_size={"float32": 4, "bfloat16": 2, "int8": 1}[windows],
                                 context=2048, prompt_chunk=128, linear=None)
    model = script().Model(config, options)
    with Process(tmp_path, directory, "--max-sessions", "7", "--window-dtype", windows) as server:
        server.ready()
        assert model.state_bytes() == number(server, r"^memory: states .* 7 sessions of ([\d,]+)$")
        assert model.workspace_bytes(7) == pytest.approx(number(server, r"^memory: workspace +([\d,]+) bytes"),
                                                         abs=20 * 256)  # each activation is rounded up
        cache = number(server, r"^memory: keys, values +([\d,]+) bytes")
        assert model.cache_bytes(model.full) * 7 == cache
        # Norms and biases are left out, and so is what pads narrow matrices.
        weights = number(server, r"^memory: weights +([\d,]+) bytes")
        assert model.weight_bytes() == pytest.approx(weights, rel=0.01 if demo else 0.1)


def test_what_it_prints():
    done = subprocess.run([SCRIPT, "--linear", "32", "--on", "h200", "8b"], capture_output=True, text=True,
                          check=True)
    cells = [cell.strip() for cell in done.stdout.splitlines()[-1].strip("|").split("|")]
    # 32 layers x 8 heads x 32 features x 129 x 4 bytes, and 32 layers x 2 x 8 x 128 x 2,048 positions x 2 bytes.
    assert cells[:4] == ["8b", "h200", "16.1 GB", "4.2 MB"] and cells[6] == "268 MB"
    assert re.fullmatch(r"[\d,]+", cells[4]) and re.fullmatch(r"[\d,]+", cells[8])
    document = (ROOT / "docs" / "capacity.md").read_text()
    for arguments in ("--linear 32 --on l4,h100,h200 1b 8b 32b", "--linear 64,64,4 --on h100,h200 1b 8b 32b"):
        table = subprocess.run([SCRIPT, *arguments.split()], capture_output=True, text=True, check=True).stdout
        assert table in document, arguments
    for arguments, said in ((["nope"], "nope"), (["8b", "--on", "x"], "--on"),
                            (["8b", "--window-dtype", "int8"], "h100 keeps no windows")):
        wrong = subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, check=False)
        assert wrong.returncode != 0 and said in wrong.stderr
