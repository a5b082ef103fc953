"""What bench/'s t2r-random-model writes is a model directory: it is served, and scored as the
reference does."""

import os
import subprocess

import numpy as np
import pytest

from reference import Reference
from service import Server


def write(directory, *flags):
    return subprocess.run([os.environ["T2R_RANDOM_MODEL"], "--out", str(directory), *flags],
                          capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("flags", [
    ("--feature-map", "t2r", "--feature-size", "24"),
    ("--feature-map", "elu", "--dtype", "float32"),
    ("--feature-map", "hedgehog", "--feature-size", "16", "--keep-full", "0"),
    ("--feature-map", "none"),
    ("--feature-map", "codebook", "--feature-size", "12", "--window", "16", "--sinks", "2"),
    ("--feature-map", "none", "--window", "24", "--fold", "8", "--dtype", "float32"),
], ids=lambda flags: "-".join(flags[1::2]))
def test_served_as_the_reference_reads_it(tmp_path, flags):
    done = write(tmp_path, "--shape", "tiny", *flags)
    assert done.returncode == 0, done.stderr
    reference = Reference(tmp_path)
    ids = np.random.default_rng(1).integers(0, reference.vocab_size, size=150).tolist()
    with Server(tmp_path) as server:
        scores = np.array(server.score(ids))
    assert np.abs(scores - reference.score(ids)).max() <= 1e-4


def test_same_options_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        assert write(tmp_path / name, "--shape", "tiny").returncode == 0
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.mark.parametrize("flags, named", [
    (("--shape", "huge"), "huge"),
    (("--shape", "tiny", "--feature-map", "relu"), "relu"),
    (("--shape", "tiny", "--feature-map", "rfa", "--feature-size", "7"), "7"),
    (("--shape", "tiny", "--keep-full", "9"), "9"),
    (("--shape", "tiny", "--sinks", "2"), "window"),
])
def test_refuses_by_name(tmp_path, flags, named):
    done = write(tmp_path / "model", *flags)
    assert done.returncode != 0
    assert named in done.stderr
    assert not (tmp_path / "model").exists()
