"""What the commands of bench/ share: building, running a server, tables, the machine's name."""

import contextlib
import datetime
import json
import os
import pathlib
import platform
import shlex
import signal
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent


def build(build_dir, targets):
    """Builds the targets; configures the release preset when there is no build yet."""
    if not (build_dir / "build.ninja").exists():
        subprocess.run(["cmake", "--preset", "release", "-B", str(build_dir), "-DT2R_CONVERT=OFF"],
                       cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["ninja", "-C", str(build_dir), *targets], check=True, stdout=subprocess.DEVNULL)


@contextlib.contextmanager
def listening(command, names=("grpc",)):
    """Runs a program that prints "NAME: listening on ADDRESS"; yields the addresses by these names, once all
    are known, and the process. It ends by SIGTERM."""
    with tempfile.TemporaryDirectory() as directory:
        log = pathlib.Path(directory) / "log"
        with open(log, "w", encoding="utf-8") as file:
            process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, stderr=file,
                                       text=True)
        try:
            addresses = {}
            for line in process.stdout:
                name, _, address = line.partition(": listening on ")
                addresses[name] = address.strip()
                if all(name in addresses for name in names):
                    break
            else:
                sys.exit(f"{command[0]} did not start: {log.read_text(encoding='utf-8').strip()}")
            yield addresses, process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()


@contextlib.contextmanager
def server(build_dir, model, *flags, admin=False, process=False, program=("t2r-server",)):
    """Runs t2r-server, or what takes its flags, on a free port; yields the address once it is serving, or that
    and the admin port's, or that and the process."""
    command = [build_dir / program[0], *program[1:], "--model", model, "--listen", "127.0.0.1:0",
               "--admin", "127.0.0.1:0", "--backend", "cpu", *flags]
    with listening(command, ("grpc", "admin")) as (addresses, running):
        subprocess.run([build_dir / "t2r", "health", "--server", addresses["grpc"], "--timeout", "120"],
                       check=True, stdout=subprocess.DEVNULL)
        also = [addresses["admin"]] if admin else [running] if process else []
        yield (addresses["grpc"], *also) if also else addresses["grpc"]


def cpu_seconds(pid):
    """Processor time of a process, of all its threads."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def json_lines(command, quiet=False):
    """Runs a command that prints a JSON object a line; its progress goes to our stderr, or nowhere."""
    output = subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE,
                            stderr=subprocess.DEVNULL if quiet else None, text=True).stdout
    return [json.loads(line) for line in output.splitlines() if line.strip()]


def suite(build_dir, name, tests, environment, deploy=False):
    """Runs some tests of tests/suites/NAME.py, or of tests/deploy/NAME_test.py, with these variables; gives the
    objects of the lines "figures: {...}" that they print. Exits where one fails."""
    build_dir = build_dir.resolve()
    build(build_dir, ["t2r-server", "t2r", "t2r_python_stubs"])
    suites = ROOT / "tests" / "suites"
    path = [build_dir / "python", suites, ROOT / "tests" / "reference", ROOT / "tests" / "server"]
    variables = {"T2R_SERVER": build_dir / "t2r-server", "T2R_CLIENT": build_dir / "t2r",
                 "PYTHONPATH": ":".join(map(str, path)), **environment}
    pytest = ([ROOT / "tests" / "deploy" / "run", ROOT / "tests" / "deploy" / f"{name}_test.py"] if deploy else
              ["/usr/bin/python3", "-B", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c",
               suites / "pytest.ini", suites / f"{name}.py"])
    command = [*pytest, "-s", "-p", "suite_plugin", "-k", tests]
    with subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True,
                          env=os.environ | {key: str(value) for key, value in variables.items()}) as running:
        lines = []
        for line in running.stdout:
            print(line, end="", file=sys.stderr)
            lines.append(line)
    if running.returncode != 0:
        sys.exit(f"{name}: its tests ended with status {running.returncode}")
    return [json.loads(line.split("figures: ")[1]) for line in lines if "figures: " in line]


def table(header, rows):
    """A Markdown table, numbers to the right."""
    cells = [header, *[[str(cell) for cell in row] for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = ["| " + " | ".join(c.rjust(w) for c, w in zip(row, widths)) + " |" for row in cells]
    rule = "|" + "|".join("-" * (w + 1) + ":" for w in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def machine():
    """CPU, cores and memory in one line."""
    model, flags = platform.processor(), set()
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                model = value.strip()
            elif key.strip() == "flags":
                flags = set(value.split())
    with open("/proc/meminfo", encoding="utf-8") as file:
        gib = int(file.readline().split()[1]) / 2**20
    isa = [name for name in ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16")
           if name in flags]
    return f"{model}, {os.cpu_count()} cores ({', '.join(isa)}), {gib:.0f} GiB"


def commit():
    def git(*arguments):
        return subprocess.run(["git", *arguments], cwd=ROOT, check=True, stdout=subprocess.PIPE,
                              text=True).stdout.strip()

    # What the measured binaries are made of; results themselves may be uncommitted.
    changed = git("status", "--porcelain", "--", "engine", "server", "client", "proto", "convert",
                  "bench/*.cc")
    return git("rev-parse", "--short", "HEAD") + (" with uncommitted changes" if changed else "")


def write_results(name, title, text, command=None):
    """bench/results/NAME.md: the text under commit, date, machine, load and command.

    command: the path that is run, bench/NAME unless given.
    """
    directory = ROOT / "bench" / "results"
    directory.mkdir(exist_ok=True)
    command = " ".join(shlex.quote(part) for part in [command or f"bench/{name}", *sys.argv[1:]])
    date = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    head = "\n".join([
        f"# {title}", "",
        f"Written by `{command}`; do not edit.", "",
        "| | |", "|---|---|",
        f"| commit | {commit()} |", f"| date | {date} |", f"| machine | {machine()} |",
        f"| load average at the end (1, 5, 15 min) | {load} |", ""])
    path = directory / f"{name}.md"
    path.write_text(f"{head}\n{text.strip()}\n", encoding="utf-8")
    print(text.strip())
    print(f"\nwritten to {path.relative_to(ROOT)}", file=sys.stderr)


def number(value, digits=0):
    return "-" if value is None else f"{value:,.{digits}f}"
