"""The image that scripts/build-image makes, run by runc as a cluster would: read-only, without capabilities, as
its own user. Skips where this machine lets nobody make namespaces."""

import json
import pathlib
import re
import subprocess
import tempfile

import grpc
import pytest

from clients_test import test_grpcurl, test_k6  # noqa: F401  (against the image here)
from conftest import ROOT, tool
from daemons import Daemon
from server_process import BINARY, SECONDS
from t2r.v1 import generation_pb2 as pb
from t2r.v1 import generation_pb2_grpc as stubs


@pytest.fixture(scope="module", name="bundle")
def unpacked_image():
    probe = subprocess.run(["unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "--mount-proc",
                            "chroot", "/", "true"], capture_output=True, text=True, check=False)
    if probe.returncode != 0:
        pytest.skip(f"no container can be run here: {probe.stderr.strip()}")
    # pytest keeps its own folders, and this is large.
    with tempfile.TemporaryDirectory() as folder:
        image = f"{folder}/image"
        tool(ROOT / "scripts" / "build-image", "--binaries", pathlib.Path(BINARY).parent, f"oci:{image}:t2r")
        bundle = pathlib.Path(folder) / "bundle"
        tool("umoci", "unpack", "--image", f"{image}:t2r", bundle)
        path = bundle / "config.json"
        config = json.loads(path.read_text())
        harden(config)
        path.write_text(json.dumps(config))
        yield bundle


def harden(config):
    """What a pod of deploy/ asks for; and nothing that a sandbox may refuse: no limits, the machine's own network
    and control group, free ports of its loopback address."""
    process = config["process"]
    assert process["user"] == {"uid": 10001, "gid": 10001}
    assert process["args"][0] == "t2r-server" and process["noNewPrivileges"]
    process["args"] = [{"0.0.0.0:50051": "127.0.0.1:0", "0.0.0.0:9100": "127.0.0.1:0"}.get(word, word)
                       for word in process["args"]]
    process["terminal"] = False
    process["capabilities"] = {kind: [] for kind in process["capabilities"]}
    del process["rlimits"]
    config["root"]["readonly"] = True
    config["mounts"] = [one for one in config["mounts"] if one["type"] != "cgroup"]
    linux = config["linux"]
    del linux["resources"]
    linux["namespaces"] = [one for one in linux["namespaces"] if one["type"] not in ("network", "cgroup")]


class Container(Daemon):
    """The image's server; runc's state lies in the folder that is given."""

    def __init__(self, folder, bundle):
        self.runc = ["runc", "--root", folder / "runc"]
        super().__init__(folder, *self.runc, "run", "--bundle", bundle, "t2r")

    def __exit__(self, *unused):
        subprocess.run([*self.runc, "delete", "--force", "t2r"], capture_output=True, check=False)
        super().__exit__()

    def said(self, pattern):
        found = None

        def look():
            nonlocal found
            found = re.search(pattern, pathlib.Path(self.log.name).read_text(), re.M)
            return found
        self.wait_for(look)
        return found

    def ready(self):
        self.said(r"^model: ready ")
        return self.said(r"^grpc: listening on (\S+)$").group(1)

    def terminate(self):
        tool(*self.runc, "kill", "t2r", "TERM")

    def inside(self, *command, check=True):
        return tool(*self.runc, "exec", "t2r", *command, check=check)

    def status(self):
        """/proc's words about the server."""
        pid = json.loads(tool(*self.runc, "state", "t2r").stdout)["pid"]
        return dict(line.split(":\t", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines())


@pytest.fixture(scope="module", name="container")
def running_container(bundle, tmp_path_factory):
    with Container(tmp_path_factory.mktemp("container"), bundle) as container:
        container.ready()
        yield container


@pytest.fixture(scope="module", name="address")
def its_address(container):
    return container.ready()


def test_it_may_do_nothing_but_serve(container, address):
    status = container.status()
    assert status["NSpid"].split()[1:] == ["1"]
    assert status["Uid"].split() == status["Gid"].split() == ["10001"] * 4
    assert {int(status[name], 16) for name in status if name.startswith("Cap")} == {0}
    assert status["NoNewPrivs"] == "1"
    for path in ("/x", "/models/demo/x", "/tmp/x"):
        assert "Read-only file system" in container.inside("touch", path, check=False).stderr
    # What HEALTHCHECK runs.
    assert re.search(r'CMD \["t2r", "health", "--server",', (ROOT / "Dockerfile").read_text())
    container.inside("t2r", "health", "--server", address, "--timeout", "30")


def test_it_drains_and_ends_well(bundle, tmp_path):
    wanted = 6000
    with Container(tmp_path, bundle) as container, grpc.insecure_channel(container.ready()) as channel:
        request = pb.GenerateRequest(text="In the beginning", max_tokens=wanted, ignore_eos=True)
        stream = stubs.GenerationStub(channel).Generate(request, timeout=SECONDS)
        assert next(stream).HasField("started")
        container.terminate()
        container.said(r"^server: draining$")
        events = list(stream)
        assert events[-1].finished.usage.generated_tokens == wanted
        assert sum(len(event.delta.token_ids) for event in events) == wanted
        assert container.process.wait(SECONDS) == 0
        container.said(r"^server: stopped$")
