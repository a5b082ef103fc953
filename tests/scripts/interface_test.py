"""engine/ops/cuda/interface.cmake: the digest that program and CUDA module agree on follows the headers."""

import pathlib
import re
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]

PROJECT = """
cmake_minimum_required(VERSION 3.22)
project(stub LANGUAGES NONE)
include(engine/ops/cuda/interface.cmake)
file(WRITE ${CMAKE_BINARY_DIR}/digest "${T2R_CUDA_INTERFACE}")
"""


@pytest.fixture(name="build")
def configured(tmp_path):
    shutil.copytree(ROOT / "engine", tmp_path / "engine", ignore=shutil.ignore_patterns("*.cc", "*.cu"))
    (tmp_path / "CMakeLists.txt").write_text(PROJECT)
    subprocess.run(["cmake", "-G", "Ninja", "-S", tmp_path, "-B", tmp_path / "build"], check=True,
                   capture_output=True)
    return tmp_path / "build"


def rebuilt(build):
    subprocess.run(["cmake", "--build", build], check=True, capture_output=True)
    return (build / "digest").read_text()


@pytest.mark.parametrize("header", ["ops/backend.h", "ops/linear_attention.h", "ops/cuda/cuda_module.h",
                                    "sampling/sample.h", "sampling/params.h"])
def test_a_changed_header_changes_the_digest_at_the_next_build(build, header):
    before = (build / "digest").read_text()
    assert re.fullmatch("[0-9a-f]{16}", before)
    path = build.parent / "engine" / header
    text = path.read_text()
    path.write_text(text + "// changed\n")
    assert rebuilt(build) != before
    path.write_text(text)
    assert rebuilt(build) == before


def test_a_new_header_changes_the_digest(build):
    before = (build / "digest").read_text()
    (build.parent / "engine/ops/new_op.h").write_text("#pragma once\n")
    assert rebuilt(build) != before


def test_what_does_not_cross_the_border_leaves_it(build):
    before = (build / "digest").read_text()
    (build.parent / "engine/ops/cpu/kernels.h").write_text("// changed\n")
    assert rebuilt(build) == before
