"""deploy/envoy: what Envoy takes, and where it sends calls, with two servers behind it."""

import contextlib
import copy
import json
import pathlib
import subprocess
import threading
import time
import urllib.request

import grpc
import pytest
import yaml

from certificates import Authority
from conftest import ROOT, TOOLS, tool
from process_test import metrics_of
from server_process import SECONDS, Process
from t2r.v1 import generation_pb2 as pb
from t2r.v1 import generation_pb2_grpc as stubs

CONFIG = ROOT / "deploy" / "envoy" / "envoy.yaml"
UPSTREAM_TLS = ROOT / "deploy" / "envoy" / "upstream-tls.yaml"
REQUEST = pb.GenerateRequest(tokens=pb.TokenIds(ids=[5, 6]), max_tokens=8, ignore_eos=True)


@pytest.fixture(scope="module", name="authority")
def one_authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module", name="pair")
def the_edges_pair(authority):
    return authority.sign("tls", alternatives="DNS:localhost,DNS:t2r-headless,IP:127.0.0.1")


def rewrite(text, pair, authority):
    """The configuration with its files where this test has them."""
    for name, path in (("tls.crt", pair[0]), ("tls.key", pair[1]), ("ca.crt", authority.certificate)):
        for folder in ("/etc/envoy/tls/", "/etc/envoy/upstream/"):
            text = text.replace(folder + name, str(path))
    return text


def test_envoy_takes_the_configuration(tmp_path, pair, authority):
    config = yaml.safe_load(rewrite(CONFIG.read_text(), pair, authority))
    secured = copy.deepcopy(config)
    secured["static_resources"]["clusters"][0] |= yaml.safe_load(
        rewrite(UPSTREAM_TLS.read_text(), pair, authority))
    for number, one in enumerate((config, secured)):
        path = tmp_path / f"{number}.yaml"
        path.write_text(yaml.safe_dump(one))
        tool("envoy", "--mode", "validate", "-c", path)
    wrong = copy.deepcopy(config)
    wrong["static_resources"]["clusters"][0]["ring_hash_config"] = {}
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(wrong))
    assert tool("envoy", "--mode", "validate", "-c", tmp_path / "wrong.yaml", check=False).returncode != 0


class Envoy:
    """An Envoy with the configuration of deploy/envoy, on free ports, before the given servers."""

    def __init__(self, folder, pair, authority, servers, secured=False):
        config = yaml.safe_load(rewrite(CONFIG.read_text(), pair, authority))
        config["admin"]["address"]["socket_address"]["port_value"] = 0
        (listener,) = config["static_resources"]["listeners"]
        listener["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": 0}
        (cluster,) = config["static_resources"]["clusters"]
        (locality,) = cluster["load_assignment"]["endpoints"]
        locality["lb_endpoints"] = [
            {"endpoint": {"address": {"socket_address": {
                "address": "127.0.0.1", "port_value": int(server.split(":")[1])}}}} for server in servers]
        if secured:
            cluster |= yaml.safe_load(rewrite(UPSTREAM_TLS.read_text(), pair, authority))
        (folder / "envoy.yaml").write_text(yaml.safe_dump(config))
        self.admin_path = folder / "admin"
        self.log = open(folder / "envoy.log", "w")
        self.process = subprocess.Popen(
            [str(TOOLS / "envoy"), "-c", str(folder / "envoy.yaml"), "--admin-address-path",
             str(self.admin_path), "--concurrency", "1", "--use-dynamic-base-id", "--log-level", "warning"],
            stdout=self.log, stderr=subprocess.STDOUT)

    def __enter__(self):
        try:
            self.wait_for(lambda: self.admin_path.exists() and self.admin_path.read_text())
            statuses = self.ask("/listeners?format=json")["listener_statuses"]
            self.port = statuses[0]["local_address"]["socket_address"]["port_value"]
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *unused):
        self.process.terminate()
        try:
            self.process.wait(SECONDS)
        finally:
            self.process.kill()
            self.log.close()

    def ask(self, page):
        with urllib.request.urlopen(f"http://{self.admin_path.read_text()}{page}", timeout=SECONDS) as answer:
            return json.loads(answer.read())

    def wait_for(self, condition):
        deadline = time.monotonic() + SECONDS
        while not condition():
            said = pathlib.Path(self.log.name).read_text()
            assert self.process.poll() is None and time.monotonic() < deadline, said
            time.sleep(0.05)

    def healthy(self):
        """The ports of the servers that Envoy sends to."""
        return {host["address"]["socket_address"]["port_value"]
                for cluster in self.ask("/clusters?format=json")["cluster_statuses"]
                for host in cluster.get("host_statuses", [])
                if host["health_status"].get("eds_health_status") == "HEALTHY"
                and not set(host["health_status"]) & {"failed_active_health_check", "pending_active_hc",
                                                      "failed_outlier_check"}}

    def channel(self, authority):
        return grpc.secure_channel(f"localhost:{self.port}", grpc.ssl_channel_credentials(
            authority.certificate.read_bytes()))


def started(server):
    (value,) = [line.split()[1] for line in metrics_of(server).splitlines()
                if line.startswith("t2r_requests_started_total ")]
    return int(value)


def port(address):
    return int(address.split(":")[1])


@contextlib.contextmanager
def two_servers(tmp_path, model, *flags):
    with contextlib.ExitStack() as stack:
        servers = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            servers.append(stack.enter_context(Process(tmp_path / name, model, *flags)))
        yield servers, [server.ready() for server in servers]


def test_a_sessions_calls_go_to_one_server(tmp_path, model, pair, authority):
    """Over mutual TLS to the servers."""
    certificate, key = map(str, pair)
    with two_servers(tmp_path, model, "--tls-cert", certificate, "--tls-key", key, "--tls-client-ca",
                     str(authority.certificate)) as (servers, addresses):
        with Envoy(tmp_path, pair, authority, addresses, secured=True) as envoy:
            envoy.wait_for(lambda: envoy.healthy() == set(map(port, addresses)))
            with envoy.channel(authority) as channel:
                stub = stubs.GenerationStub(channel)
                places = set()
                for session in range(40):
                    before = [started(server) for server in servers]
                    for _ in range(3):
                        events = list(stub.Generate(REQUEST, timeout=SECONDS,
                                                    metadata=(("x-session-id", f"session-{session}"),)))
                        assert events[-1].finished.usage.generated_tokens == 8
                    grown = [started(server) - old for server, old in zip(servers, before)]
                    assert sorted(grown) == [0, 3]
                    places.add(grown.index(3))
                assert places == {0, 1}


def test_a_rolling_restart_fails_no_call(tmp_path, model, pair, authority):
    # Longer than Envoy takes to hear of it: a look every 2 s, and half a second of jitter.
    flags = ("--drain-delay", "4", "--drain-seconds", "20")
    with two_servers(tmp_path, model, *flags) as (servers, addresses), \
            Envoy(tmp_path, pair, authority, addresses) as envoy, contextlib.ExitStack() as stack:
        both = set(map(port, addresses))
        envoy.wait_for(lambda: envoy.healthy() == both)
        failures, calls, stop = [], [], threading.Event()

        def load(number):
            with envoy.channel(authority) as channel:
                stub = stubs.GenerationStub(channel)
                while not stop.is_set():
                    try:
                        calls.append(list(stub.Generate(
                            REQUEST, timeout=SECONDS, metadata=(("x-session-id", f"{number}-{len(calls)}"),))))
                    except grpc.RpcError as error:
                        failures.append(error)

        workers = [threading.Thread(target=load, args=(number,)) for number in range(4)]
        for worker in workers:
            worker.start()
        try:
            for number, address in enumerate(addresses):
                servers[number].process.terminate()
                assert servers[number].process.wait(SECONDS) == 0
                assert envoy.healthy() == both - {port(address)}
                folder = tmp_path / f"again-{number}"
                folder.mkdir()
                again = stack.enter_context(Process(folder, model, "--listen", address, *flags))
                again.ready()
                envoy.wait_for(lambda: envoy.healthy() == both)
                envoy.wait_for(lambda: started(again) > 10)
        finally:
            stop.set()
            for worker in workers:
                worker.join()
        assert not failures and len(calls) > 20
