"""A t2r-server process under test."""

import os
import re
import subprocess
import time
import urllib.request

BINARY = os.environ["T2R_SERVER"]
SECONDS = 60


def local_unless(flags):
    """Addresses with free ports of this machine, where `flags` give no others."""
    return [word for flag in ("--listen", "--admin") if flag not in flags for word in (flag, "127.0.0.1:0")]


class Process:
    """A server whose stdout goes into a file."""

    def __init__(self, tmp_path, model, *flags, preexec_fn=None, **environment):
        self.path = tmp_path / "stdout"
        self.out = open(self.path, "w")
        self.process = subprocess.Popen(
            [BINARY, "--model", str(model), *local_unless(flags), "--threads", "1", *flags],
            stdout=self.out, stderr=subprocess.PIPE, text=True,
            env=os.environ | environment, preexec_fn=preexec_fn)

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        self.out.close()

    def line(self, pattern):
        """The first match in stdout, waiting for it."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            found = re.search(pattern, self.path.read_text(), re.M)
            if found:
                return found
            if self.process.poll() is not None:
                break
            time.sleep(0.01)
        raise AssertionError(f"no {pattern!r} in:\n{self.path.read_text()}")

    def ready(self):
        self.line(r"^model: ready ")
        return self.line(r"^grpc: listening on (127\.0\.0\.1:\d+)$").group(1)


def metrics_of(server):
    admin = "http://" + server.line(r"^admin: listening on (127\.0\.0\.1:\d+)$").group(1)
    with urllib.request.urlopen(admin + "/metrics", timeout=SECONDS) as answer:
        return answer.read().decode()


def run(*arguments, **environment):
    done = subprocess.run([BINARY, *arguments], capture_output=True, text=True, timeout=SECONDS,
                          env=os.environ | environment)
    return done.returncode, done.stdout, done.stderr


def start_error(directory):
    code, _, said = run("--model", str(directory), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0",
                        "--threads", "1")
    assert code == 1
    assert said.count("\n") == 1, said
    assert said.startswith("t2r-server: ")
    return said
