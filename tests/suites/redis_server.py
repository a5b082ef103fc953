"""A redis-server of a test's own: on a free port, with its files in the test's folder."""

import socket
import subprocess
import time

SECONDS = 30


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Redis:
    """Keeps what it has across stop and start. flags: of redis-server."""

    def __init__(self, folder, *flags, port=None):
        self.folder, self.flags = folder, flags
        self.port = port or free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self.process = None

    def start(self):
        log = open(self.folder / "redis.log", "a")
        with log:
            self.process = subprocess.Popen(
                ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder),
                 "--appendonly", "yes", "--appendfsync", "always", "--save", "", *self.flags],
                stdout=log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1) as one:
                    one.sendall(b"PING\r\n")
                    if one.recv(64)[:1] in (b"+", b"-"):
                        return self
            except OSError:
                pass
            said = (self.folder / "redis.log").read_text()
            assert self.process.poll() is None and time.monotonic() < deadline, said
            time.sleep(0.02)

    def stop(self):
        self.process.terminate()
        self.process.wait(SECONDS)

    def __enter__(self):
        return self.start()

    def __exit__(self, *unused):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def ask(self, *command):
        """One command's raw answer."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=SECONDS) as one:
            parts = [f"*{len(command)}\r\n".encode()]
            for word in command:
                word = word if isinstance(word, bytes) else str(word).encode()
                parts.append(b"$%d\r\n%b\r\n" % (len(word), word))
            one.sendall(b"".join(parts))
            return one.recv(1 << 16)
