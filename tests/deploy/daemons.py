"""Programs that the tests of deploy/ start beside the server, and calls that go on while they look."""

import contextlib
import json
import pathlib
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import grpc
import yaml

from conftest import ROOT, TOOLS
from server_process import SECONDS
from t2r.v1 import generation_pb2_grpc as stubs

COMPOSE = ROOT / "deploy" / "compose"
ENVOY = ROOT / "deploy" / "envoy" / "envoy.yaml"
UPSTREAM_TLS = ROOT / "deploy" / "envoy" / "upstream-tls.yaml"
RULES = [ROOT / "deploy" / "prometheus" / name for name in ("recording.yaml", "alerts.yaml")]


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def ask(url):
    with urllib.request.urlopen(url, timeout=SECONDS) as answer:
        return json.loads(answer.read())


class Daemon:
    """A process whose output goes into a file, ended with the `with` block."""

    def __init__(self, folder, *command):
        self.log = open(folder / "log", "w")
        self.process = subprocess.Popen(list(map(str, command)), stdout=self.log, stderr=subprocess.STDOUT)

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.process.terminate()
        try:
            self.process.wait(SECONDS)
        finally:
            self.process.kill()
            self.log.close()

    def wait_for(self, condition):
        """Until it holds; the daemon may be yet to listen."""
        deadline = time.monotonic() + SECONDS
        while True:
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                if condition():
                    return
            assert time.monotonic() < deadline and self.process.poll() is None, \
                pathlib.Path(self.log.name).read_text()
            time.sleep(0.05)


class Alertmanager(Daemon):
    """With the configuration of deploy/compose."""

    def __init__(self, folder):
        folder.mkdir()
        self.address = f"127.0.0.1:{free_port()}"
        super().__init__(folder, "prometheus-alertmanager", f"--config.file={COMPOSE}/alertmanager.yaml",
                         f"--storage.path={folder}", f"--web.listen-address={self.address}",
                         "--cluster.listen-address=")

    def alerts(self):
        return {one["labels"]["alertname"]: one["labels"] for one in ask(f"http://{self.address}/api/v2/alerts")}


class Prometheus(Daemon):
    """Over the given addresses, with rules and scrapes every second."""

    def __init__(self, folder, targets, alertmanager):
        folder.mkdir()
        for path in RULES:
            text = path.read_text().replace("interval: 30s", "interval: 1s")
            (folder / path.name).write_text(text)
        config = {"global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                  "rule_files": [path.name for path in RULES],
                  "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]},
                  "scrape_configs": [{"job_name": "t2r", "static_configs": [{"targets": targets}]}]}
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
        self.url = f"http://127.0.0.1:{free_port()}"
        super().__init__(folder, "prometheus", f"--config.file={folder}/prometheus.yaml",
                         f"--storage.tsdb.path={folder}/data",
                         f"--web.listen-address={self.url.removeprefix('http://')}")

    def query(self, text):
        return ask(f"{self.url}/api/v1/query?" + urllib.parse.urlencode({"query": text}))["data"]["result"]


def with_files(text, pair, authority):
    """A configuration of deploy/envoy with its files where a test has them."""
    for name, path in (("tls.crt", pair[0]), ("tls.key", pair[1]), ("ca.crt", authority.certificate)):
        for folder in ("/etc/envoy/tls/", "/etc/envoy/upstream/"):
            text = text.replace(folder + name, str(path))
    return text


class Envoy(Daemon):
    """With the configuration of deploy/envoy, on free ports, before the given servers."""

    def __init__(self, folder, pair, authority, servers, secured=False):
        config = yaml.safe_load(with_files(ENVOY.read_text(), pair, authority))
        config["admin"]["address"]["socket_address"]["port_value"] = 0
        (listener,) = config["static_resources"]["listeners"]
        listener["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": 0}
        (cluster,) = config["static_resources"]["clusters"]
        (locality,) = cluster["load_assignment"]["endpoints"]
        locality["lb_endpoints"] = [
            {"endpoint": {"address": {"socket_address": {
                "address": "127.0.0.1", "port_value": int(server.split(":")[1])}}}} for server in servers]
        if secured:
            cluster |= yaml.safe_load(with_files(UPSTREAM_TLS.read_text(), pair, authority))
        (folder / "envoy.yaml").write_text(yaml.safe_dump(config))
        self.admin_path = folder / "admin"
        super().__init__(folder, TOOLS / "envoy", "-c", folder / "envoy.yaml", "--admin-address-path",
                         self.admin_path, "--concurrency", "1", "--use-dynamic-base-id", "--log-level", "warning")

    def __enter__(self):
        try:
            self.wait_for(lambda: self.admin_path.exists() and self.admin_path.read_text())
            statuses = self.admin("/listeners?format=json")["listener_statuses"]
            port = statuses[0]["local_address"]["socket_address"]["port_value"]
            self.address = f"localhost:{port}"
        except BaseException:
            self.__exit__()
            raise
        return self

    def admin(self, page):
        return ask(f"http://{self.admin_path.read_text()}{page}")

    def healthy(self):
        """The ports of the servers that Envoy sends to."""
        return {host["address"]["socket_address"]["port_value"]
                for cluster in self.admin("/clusters?format=json")["cluster_statuses"]
                for host in cluster.get("host_statuses", [])
                if host["health_status"].get("eds_health_status") == "HEALTHY"
                and not set(host["health_status"]) & {"failed_active_health_check", "pending_active_hc",
                                                      "failed_outlier_check"}}

    def active(self, port):
        """The requests that the server at this port has not answered whole."""
        return sum(int(stat.get("value", 0))
                   for cluster in self.admin("/clusters?format=json")["cluster_statuses"]
                   for host in cluster.get("host_statuses", [])
                   if host["address"]["socket_address"]["port_value"] == port
                   for stat in host["stats"] if stat["name"] == "rq_active")


def channel(address, authority):
    """Over TLS; the server's certificate must be of the authority."""
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(authority.certificate.read_bytes()))


@contextlib.contextmanager
def under_load(address, authority, call, workers=1):
    """Until the block ends each of the workers calls `call(stub, worker, how many before)` again and again, over
    a connection of its own. Gives two lists that grow: what the calls returned, and the errors they ended with.
    """
    stop, results, failures = threading.Event(), [], []

    def work(worker):
        with channel(address, authority) as connection:
            stub, count = stubs.GenerationStub(connection), 0
            while not stop.is_set():
                try:
                    results.append(call(stub, worker, count))
                except grpc.RpcError as error:
                    failures.append(error)
                count += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(workers)]
    for thread in threads:
        thread.start()
    try:
        yield results, failures
    finally:
        stop.set()
        for thread in threads:
            thread.join()
