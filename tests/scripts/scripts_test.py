"""scripts/test and .ci/run: whatever was configured before, they run every test, and none is a failure.

They run in a project of a few lines with this one's presets and options, whose tests are /bin/true.
"""

import os
import pathlib
import re
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]

PROJECT = """
cmake_minimum_required(VERSION 3.25)
project(stub LANGUAGES NONE)
option(T2R_SERVER "" ON)
option(T2R_CONVERT "" ON)
option(T2R_TESTS "" ON)
if(T2R_TESTS)
  enable_testing()
  add_test(NAME engine COMMAND true)
  if(T2R_SERVER)
    add_test(NAME server COMMAND true)
    add_test(NAME deploy_image CONFIGURATIONS image COMMAND true)
  endif()
  if(T2R_CONVERT)
    add_test(NAME convert COMMAND true)
  endif()
endif()
"""
NO_TESTS = "cmake_minimum_required(VERSION 3.25)\nproject(stub LANGUAGES NONE)\nenable_testing()\n"


@pytest.fixture(name="project")
def small_project(tmp_path):
    for name in ("scripts/test", "scripts/test-image", "scripts/ctest-counts", ".ci/run", "CMakePresets.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("setup", "lint", "fuzz"):
        script = tmp_path / "scripts" / name
        script.write_text("#!/bin/sh\n")
        script.chmod(0o755)
    (tmp_path / "CMakeLists.txt").write_text(PROJECT)
    return tmp_path


def run(project, *command):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("T2R_")}
    return subprocess.run(command, cwd=project, capture_output=True, text=True, env=environment,
                          check=False)


def last_line(done):
    return done.stdout.strip().splitlines()[-1]


def configure_as_the_demo(project):
    command = re.search(r"cmake --preset release[^\n]*", (ROOT / "scripts/demo").read_text()).group()
    assert "T2R_TESTS=OFF" in command
    assert run(project, *command.split()).returncode == 0


def test_all_tests_run_in_a_fresh_tree(project):
    done = run(project, "scripts/test", "--no-setup")
    assert (done.returncode, last_line(done)) == (0, "3 passed, 0 failed"), done.stdout + done.stderr


def test_all_tests_run_after_the_demo(project):
    configure_as_the_demo(project)
    done = run(project, "scripts/test", "--no-setup")
    assert (done.returncode, last_line(done)) == (0, "3 passed, 0 failed"), done.stdout + done.stderr


def test_the_demo_after_the_tests_leaves_the_tree_as_it_is(project):
    assert run(project, "scripts/test", "--no-setup").returncode == 0
    # The demo configures only where there is no build.ninja.
    assert (project / "build/release/build.ninja").exists()
    done = run(project, "scripts/test", "--no-setup")
    assert last_line(done) == "3 passed, 0 failed"


@pytest.mark.parametrize("preset, tests", [("asan", 2), ("tsan", 1), ("dev", 3)])
def test_each_preset_runs_what_it_builds(project, preset, tests):
    run(project, "cmake", "--preset", preset, "-DT2R_TESTS=OFF", "-DT2R_CONVERT=OFF")
    done = run(project, "scripts/test", "--preset", preset, "--no-setup")
    assert (done.returncode, last_line(done)) == (0, f"{tests} passed, 0 failed")


def test_no_tests_is_a_failure(project):
    (project / "CMakeLists.txt").write_text(NO_TESTS)
    done = run(project, "scripts/test", "--no-setup")
    assert (done.returncode, last_line(done)) == (1, "0 passed, 0 failed")


def test_a_name_that_matches_no_test_is_a_failure(project):
    done = run(project, "scripts/test", "--no-setup", "-R", "no_such_test")
    assert (done.returncode, last_line(done)) == (1, "0 passed, 0 failed")


def test_ci_adds_up_all_presets_and_the_image(project):
    done = run(project, ".ci/run")
    assert (done.returncode, last_line(done)) == (0, "7 passed, 0 failed"), done.stdout + done.stderr


def test_ci_without_tests_is_a_failure(project):
    (project / "CMakeLists.txt").write_text(NO_TESTS)
    done = run(project, ".ci/run")
    assert (done.returncode, last_line(done)) == (1, "0 passed, 0 failed")


def test_ci_with_a_preset_without_tests_is_a_failure(project):
    with open(project / "CMakeLists.txt", "a", encoding="utf-8") as file:
        file.write('if(T2R_SANITIZE STREQUAL "thread")\n  message(FATAL_ERROR "no")\nendif()\n')
    done = run(project, ".ci/run")
    assert (done.returncode, last_line(done)) == (1, "6 passed, 0 failed")
