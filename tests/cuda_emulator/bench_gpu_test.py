"""bench/gpu's whole way on the emulated device: checks, measurements, tables.

    bench_gpu_test.py BINARY
"""

import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]


def table(text, heading):
    """Cells of the first table after the heading, without its head."""
    rows = re.search(rf"^## {heading}\n.*?((?:^\|[^\n]*\n)+)", text, re.M | re.S).group(1).splitlines()
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def value(cell):
    return float(cell.replace(",", "").replace("%", ""))


def run(*arguments):
    return subprocess.run([sys.executable, ROOT / "bench" / "gpu", "--tiny", *arguments],
                          capture_output=True, text=True, timeout=280, check=False)


def test_tables(binary):
    with tempfile.TemporaryDirectory() as folder:
        output = pathlib.Path(folder) / "gpu.md"
        done = run("--binary", binary, "--output", output)
        assert done.returncode == 0, done.stdout + done.stderr
        text = output.read_text(encoding="utf-8")
    assert text.strip() in done.stdout
    passed, failed = re.search(r"^(\d+) checks passed, (\d+) failed$", text, re.M).groups()
    assert int(passed) >= 10 and int(failed) == 0
    # What is not in a rehearsal is named, and nothing else is missing.
    left = re.search(r"^## Left out\n(.*)", text, re.M | re.S).group(1).strip().splitlines()
    assert all("PyTorch" in line or line == "- nothing" for line in left), left

    decode = table(text, "1. Decode")
    assert [row[1:3] for row in decode] == [["128", "1"], ["128", "3"]]
    assert len(re.findall(r"^\|[^|]*\| +128 \|", text, re.M)) == 4  # batch-invariant and not
    assert len(re.findall(r"^\|[^|]*\| +65,536 \|", text, re.M)) == 2
    for row in decode:
        step, tokens, floor, of_floor, bytes_only, kernels, launch = map(value, row[3:])
        assert step > 0 and tokens > 0 and floor > 0 and launch > 0
        assert 0 <= bytes_only <= of_floor  # the floor is no less than its bytes
        # Two layers of about ten kernels, and what is around them.
        assert 15 <= kernels <= 60
    prefill = table(text, "2. Prefill")
    assert [row[1] for row in prefill] == ["20"] and value(prefill[0][3]) > 0
    softmax = table(text, "3. Softmax baseline")
    assert [row[1:3] for row in softmax][:4] == [["70", "1"], ["70", "2"], ["130", "1"], ["130", "2"]]
    assert all(value(row[3]) > 0 for row in softmax[:4])
    # Two layers, 2 key/value heads, k 16, d 16: S and z in float32; keys and values in bfloat16.
    memory = {(row[1], row[2]): (value(row[3]), value(row[4])) for row in table(text, "4. Memory")}
    assert memory["t2r", "70"][0] == memory["t2r", "130"][0] == 2 * 2 * 16 * 17 * 4
    assert memory["softmax", "70"][0] == 2 * 64 * 2 * 2 * 2 * 16 * 2
    assert memory["softmax", "130"][0] == 3 * 64 * 2 * 2 * 2 * 16 * 2
    assert memory["t2r", "70"][1] > memory["softmax", "130"][1] > 0


def test_time_is_kept(binary):
    """With no time nothing runs, and that is said."""
    done = run("--binary", binary, "--minutes", "0.01", "--output", "/nonexistent/gpu.md")
    assert done.returncode == 1 and "no time left" in done.stderr, done.stderr


def main():
    test_tables(sys.argv[1])
    test_time_is_kept(sys.argv[1])


if __name__ == "__main__":
    main()
