"""What the tests of deploy/ share."""

import os
import pathlib
import subprocess
import sys

import pytest
import yaml

import make_models

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOOLS = pathlib.Path(os.environ["T2R_TOOLS"]) / "bin"

sys.path[:0] = [str(ROOT / "tests" / "server"), str(ROOT / "docs" / "examples")]


def tool(name, *arguments, check=True, **options):
    """A run of one of the tools; with `check`, its failure fails the test with what it said."""
    path = TOOLS / name if (TOOLS / name).exists() else name
    done = subprocess.run([str(path), *map(str, arguments)], capture_output=True, text=True, check=False,
                          **options)
    if check:
        assert done.returncode == 0, f"{name} {arguments}\n{done.stdout}{done.stderr}"
    return done


def documents(text):
    return [one for one in yaml.safe_load_all(text) if one is not None]


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("models") / "tiny"
    return make_models.make(make_models.catalogue()["llama-t2r-clamp"], directory)
