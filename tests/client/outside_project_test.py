"""Another project links t2r_client as docs/client.md says, and compiles the example that stands there."""

import pathlib
import re
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]


def block(language):
    """The first example of that language in the document."""
    return re.search(rf"^```{language}\n(.*?)^```", (ROOT / "docs/client.md").read_text(), re.M | re.S).group(1)


def run(*command, **options):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def test_the_example_is_a_project(tmp_path):
    (tmp_path / "CMakeLists.txt").write_text(block("cmake"))
    (tmp_path / "story.cc").write_text(block("cpp"))
    (tmp_path / "t2r").symlink_to(ROOT)
    build = tmp_path / "build"
    run("cmake", "-G", "Ninja", "-S", tmp_path, "-B", build, "-DCMAKE_BUILD_TYPE=Release", "-DT2R_CUDA=OFF")
    # Not the libraries, which the build of this project compiles already.
    run("ninja", "-C", build, "CMakeFiles/story.dir/story.cc.o")
    assert " libt2r_client.a" in run("ninja", "-C", build, "-t", "query", "story").replace("t2r/client/", "")
    targets = run("ninja", "-C", build, "-t", "targets", "all")
    assert "t2r_python_stubs" in targets and "server_unit_test" not in targets
