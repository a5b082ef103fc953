"""Many sessions of one server parked in a directory: what they cost, listed and gone on with (bench/sessions)."""

import dataclasses
import os
import random
import subprocess
import sys
import tempfile
import time

import serving

PARENTS = 64  # sessions that all others are forks of
BEFORE, STEP = 8, 4  # tokens of a parent, and of a turn
PAGE = 1000


@dataclasses.dataclass
class Case:
    """A model and how many sessions of it; `forks` of a call; `turns` wherever their states lie."""

    name: str
    model: object
    count: int
    forks: int
    turns: int = 1000


def random_model(build_dir, out, shape, features):
    subprocess.run([build_dir / "t2r-random-model", "--shape", shape, "--feature-size", str(features),
                    "--dtype", "float32", "--out", out], check=True, stdout=subprocess.DEVNULL)
    return out


def quantiles(seconds):
    ordered = sorted(seconds)
    return [ordered[min(len(ordered) - 1, int(len(ordered) * q))] * 1e3 for q in (0.5, 0.99)]


def resident(process):
    """Bytes of the process that are in memory, files that it maps left out."""
    with open(f"/proc/{process.pid}/status", encoding="utf-8") as file:
        (line,) = [line for line in file if line.startswith("RssAnon:")]
    return int(line.split()[1]) << 10


def on_disk(directory):
    return sum(os.stat(os.path.join(directory, name)).st_blocks * 512 for name in os.listdir(directory))


def forget(directory):
    """The kernel's copies of what is in the directory go; the next read is from the disk."""
    os.sync()
    for name in os.listdir(directory):
        descriptor = os.open(os.path.join(directory, name), os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


class Client:
    def __init__(self, address):
        import grpc
        from t2r.v1 import generation_pb2, generation_pb2_grpc, sessions_pb2, sessions_pb2_grpc
        self.pb, self.spb = generation_pb2, sessions_pb2
        self.channel = grpc.insecure_channel(address)
        self.generation = generation_pb2_grpc.GenerationStub(self.channel)
        self.sessions = sessions_pb2_grpc.SessionsStub(self.channel)

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.channel.close()

    def generate(self, tokens, prompt=None, session=None):
        """The tokens, seconds to the first, and from the last to the end."""
        request = self.pb.GenerateRequest(max_tokens=tokens, ignore_eos=True)
        if prompt is not None:
            request.tokens.ids.extend(prompt)
            request.sampling.temperature, request.sampling.seed = 0.8, 5
        if session is not None:
            request.session.id, request.session.create = session, prompt is not None
        ids, begun, first, last = [], time.perf_counter(), None, None
        for event in self.generation.Generate(request):
            if event.HasField("delta"):
                last = time.perf_counter()
                first = first or last
                ids.extend(event.delta.token_ids)
        return ids, first - begun, time.perf_counter() - last

    def fork(self, session, new_id, count):
        self.sessions.ForkSession(self.spb.ForkSessionRequest(id=session, new_id=new_id, count=count))

    def pages(self):
        """Each page's ids, and seconds."""
        token = ""
        while True:
            begun = time.perf_counter()
            page = self.sessions.ListSessions(self.spb.ListSessionsRequest(page_size=PAGE, page_token=token))
            yield [session.id for session in page.sessions], time.perf_counter() - begun
            token = page.next_page_token
            if not token:
                return


class Parked:
    """One case's run. What it finds wrong ends the command."""

    def __init__(self, build_dir, case):
        self.build, self.case = build_dir, case
        self.chance = random.Random(3)
        self.figures = {}
        self.turns = {}  # what was where: pairs of seconds
        self.expected = []

    def server(self, directory):
        return serving.server(self.build, self.case.model, "--session-dir", directory, process=True)

    def run(self):
        with tempfile.TemporaryDirectory(dir=serving.ROOT / "build") as directory:
            with self.server(directory) as (address, process):
                with Client(address) as client:
                    self.figures["empty"] = resident(process)
                    self.make(client)
                    self.figures["parked"] = resident(process)
                    self.figures["disk"] = on_disk(directory)
                    self.list(client)
                    self.go_on(client, "page cache")
                    self.figures["used"] = resident(process)
                begun = time.perf_counter()
            self.figures["stop"] = time.perf_counter() - begun
            forget(directory)
            begun = time.perf_counter()
            with self.server(directory) as (address, process):
                self.figures["start"] = time.perf_counter() - begun
                self.figures["started"] = resident(process)
                forget(directory)
                with Client(address) as client:
                    self.go_on(client, "disk")
                    self.go_on(client, "memory", again=True)
                    self.figures["used again"] = resident(process)
        return self

    def make(self, client):
        case = self.case
        for parent in range(PARENTS):
            prompt = [3 + self.chance.randrange(500) for _ in range(16)]
            self.expected.append(client.generate(BEFORE + 3 * STEP, prompt)[0])
            ids = client.generate(BEFORE, prompt, f"parent-{parent:02}")[0]
            self.hold(ids, self.expected[-1][:BEFORE], f"parent-{parent:02}")
        self.names, calls = [], 0
        begun = time.perf_counter()
        while len(self.names) < case.count:
            parent = calls % PARENTS
            count = min(case.forks, case.count - len(self.names))
            name = f"fork-{parent:02}-{calls}"
            client.fork(f"parent-{parent:02}", name, count)
            self.names += [f"{name}-{i + 1}" for i in range(count)] if count > 1 else [name]
            calls += 1
        self.figures["forks"] = (time.perf_counter() - begun) / case.count
        self.left = self.chance.sample(self.names, 2 * case.turns)

    def list(self, client):
        last, count, times = "", 0, []
        for ids, seconds in client.pages():
            if ids != sorted(ids) or ids[0] <= last:
                raise SystemExit(f"{self.case.name}: a page is out of order behind {last}")
            last, count = ids[-1], count + len(ids)
            times.append(seconds)
        if count != self.case.count + PARENTS:
            raise SystemExit(f"{self.case.name}: {count} sessions are listed")
        self.figures["pages"] = times

    def go_on(self, client, where, again=False):
        """A turn of random sessions, nobody's twice; again: of those that were gone on with last."""
        if not again:
            self.last, self.left = self.left[:self.case.turns], self.left[self.case.turns:]
        at = BEFORE + (STEP if again else 0)
        self.turns[where] = []
        for name in self.last:
            ids, resume, park = client.generate(STEP, session=name)
            self.hold(ids, self.expected[int(name.split("-")[1])][at:at + STEP], name)
            self.turns[where].append((resume, park))

    def hold(self, ids, expected, name):
        if ids != expected:
            raise SystemExit(f"{self.case.name}: {name} has {ids}, and {expected} without a session")

    def row(self):
        figures, mib = self.figures, 2**20
        return [self.case.name, serving.number(self.case.count), serving.number(figures["forks"] * 1e6, 1),
                serving.number(figures["disk"] / mib), serving.number(figures["disk"] / self.case.count),
                *[serving.number(figures[name] / mib) for name in
                  ("empty", "parked", "used", "started", "used again")],
                serving.number(figures["stop"], 2), serving.number(figures["start"], 2),
                *[serving.number(value, 1) for value in quantiles(figures["pages"])]]

    def turn_rows(self):
        for where, pairs in self.turns.items():
            yield [self.case.name, where, len(pairs), *[
                serving.number(value, 2) for seconds in zip(*pairs) for value in quantiles(seconds)]]


ROW = ["state", "sessions", "fork, µs", "disk, MiB", "bytes each", "empty", "parked", "used", "started",
       "used again", "stop, s", "start, s", "page p50, ms", "p99"]
TURN_ROW = ["state", "read from", "turns", "resume p50", "p99", "park p50", "p99"]


def section(build_dir, count):
    """The Markdown of all cases; `count` sessions of the tiny model."""
    with tempfile.TemporaryDirectory() as models:
        cases = [
            Case("2 KiB", random_model(build_dir, f"{models}/tiny", "tiny", 8), count, 1000),
            Case("67 KiB", random_model(build_dir, f"{models}/middle", "demo-like", 11),
                 max(count // 20, 2000), 1000),
            Case("1.5 MiB", random_model(build_dir, f"{models}/large", "demo-like", 256),
                 max(count // 1000, 600), 64, turns=300),
        ]
        runs = []
        for case in cases:
            print(f"parking {case.count} sessions of {case.name}", file=sys.stderr)
            runs.append(Parked(build_dir, case).run())
    return f"""
## Parked

Sessions that lie in `--session-dir`, forks of {PARENTS} with prompts of their own, made by calls for up to 1,000
(64 where a state has 1.5 MiB); listed in pages of {serving.number(PAGE)}; then turns of {STEP} tokens in random
ones, whose tokens must be those of a run without a session. Resident memory of the server without what it maps,
MiB: with no session, with all, behind the turns of random ones; and of a server started anew, then behind as many
turns of others and of the same once more. Stop: from SIGTERM to the end; start: to SERVING, with
nothing of the directory in the kernel's memory.

{serving.table(ROW, [run.row() for run in runs])}

Resume: from the call to the first token; park: from the last token to the end of the call, which comes when the
session's new state is synced. Milliseconds at a Python client, one turn at a time. Read from: where the state
lay: in the kernel's memory alone, on the disk alone (a server started anew), or in the server's memory.

{serving.table(TURN_ROW, [row for run in runs for row in run.turn_rows()])}

llama.cpp's server, which saves and restores slots, is not built here and not measured beside it.
"""
