"""deploy/prometheus and deploy/grafana: rules by promtool, dashboards by a Prometheus that scrapes servers."""

import contextlib
import json
import re
import shutil
import subprocess
import time
import urllib.request

import grpc
import pytest
import yaml

from certificates import Authority
from conftest import ROOT, documents, tool
from daemons import COMPOSE, RULES, Alertmanager, Prometheus, ask, under_load
from server_process import BINARY, SECONDS, Process
from t2r.v1 import generation_pb2 as pb

ALERT_TESTS = ROOT / "deploy" / "prometheus" / "tests" / "alerts_test.yaml"
GRAFANA = ROOT / "deploy" / "grafana"


def rules():
    return [rule for path in RULES for group in yaml.safe_load(path.read_text())["groups"]
            for rule in group["rules"]]


ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}
RECORDS = {rule["record"]: rule for rule in rules() if "record" in rule}


def dashboards():
    return {path.name: json.loads(path.read_text()) for path in GRAFANA.glob("*.json")}


def queries():
    """Every query of every panel, with where it stands."""
    return [(f"{name}: {panel['title']}", target["expr"]) for name, board in dashboards().items()
            for panel in board["panels"] for target in panel.get("targets", [])]


def metrics_in(text):
    """The names of the server's metrics in a query, those of recorded series left out."""
    names = re.findall(r"(?<![\w:])t2r_\w+", re.sub(r"job:\w+:\w+", "", text))
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in names}


def test_rules_are_good():
    tool("promtool", "check", "rules", "--lint=all", "--lint-fatal", *RULES)
    tool("promtool", "test", "rules", ALERT_TESTS)


def test_every_alert_is_tested_both_ways_and_has_its_paragraph():
    tests = yaml.safe_load(ALERT_TESTS.read_text())["tests"]
    checks = [check for test in tests for check in test["alert_rule_test"]]
    assert {check["alertname"] for check in checks if check["exp_alerts"]} == set(ALERTS)
    assert {check["alertname"] for check in checks if not check["exp_alerts"]} == set(ALERTS)
    runbook = (ROOT / "docs" / "runbook.md").read_text()
    assert set(re.findall(r"^## (T2r\w+)$", runbook, re.M)) == set(ALERTS)
    for name, rule in ALERTS.items():
        assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{name.lower()}"
        assert rule["labels"]["severity"] in ("warning", "critical")


def test_the_charts_rules_are_these(tmp_path):
    said = tool("helm", "template", "t2r", ROOT / "deploy" / "helm" / "t2r",
                "--set", "monitoring.rules.enabled=true,monitoring.dashboards.enabled=true").stdout
    by_kind = {one["kind"]: one for one in documents(said)}
    groups = by_kind["PrometheusRule"]["spec"]["groups"]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": groups}))
    tool("promtool", "check", "rules", "--lint=all", "--lint-fatal", path)
    assert [rule for group in groups for rule in group["rules"]] == rules()
    boards = {name: json.loads(text) for name, text in by_kind["ConfigMap"]["data"].items()}
    assert boards == dashboards()


def test_composes_prometheus_is_good(tmp_path):
    for path in (COMPOSE / "prometheus.yaml", *RULES):
        shutil.copy(path, tmp_path)
    tool("promtool", "check", "config", tmp_path / "prometheus.yaml")
    tool("amtool", "check-config", COMPOSE / "alertmanager.yaml")


def test_dashboards_are_made_and_whole(tmp_path):
    tool(GRAFANA / "make", tmp_path)
    for path in GRAFANA.glob("*.json"):
        assert path.read_text() == (tmp_path / path.name).read_text(), "run deploy/grafana/make"
    for board in dashboards().values():
        ids = [panel["id"] for panel in board["panels"]]
        assert len(ids) == len(set(ids))
        for panel in board["panels"]:
            place = panel["gridPos"]
            assert 0 <= place["x"] and place["x"] + place["w"] <= 24
            assert panel["type"] == "row" or panel["targets"]


def test_the_panels_that_operations_names_are_there():
    titles = {(name.removeprefix("t2r-").removesuffix(".json"), panel["title"])
              for name, board in dashboards().items() for panel in board["panels"]}
    table = (ROOT / "docs" / "operations.md").read_text().split("| of vLLM's dashboards |")[1].split("\n\n")[0]
    named = {(board, title) for board, rest in re.findall(r"(service|engine): ((?:`[^`]+`(?:, )?)+)", table)
             for title in re.findall("`([^`]+)`", rest)}
    assert len(named) >= 16 and named <= titles


def substitute(query):
    for variable, value in (("$__rate_interval", "10s"), ("$job", ".*"), ("$instance", ".*"),
                            ("$tenant", ".*")):
        query = query.replace(variable, value)
    assert "$" not in query
    return query


def calls_of(tenant):
    """What a tenant's client does all the while: a call that ends well, two turns of a session, a call that is
    refused; and the line of the file of API keys that lets it."""
    made = subprocess.run([BINARY, "key", "new", tenant], capture_output=True, text=True, check=True).stdout
    key, entry = (re.search(rf"^{what}: (.*)$", made, re.M).group(1) for what in ("key", "entry"))
    prompt = pb.TokenIds(ids=[5, 6, 7])
    good = pb.GenerateRequest(tokens=prompt, max_tokens=20, ignore_eos=True)
    bad = pb.GenerateRequest(tokens=pb.TokenIds(ids=[1 << 30]), max_tokens=1)

    def call(stub, _, count):
        def generate(request):
            list(stub.Generate(request, timeout=SECONDS, metadata=(("x-api-key", key),)))

        turn = pb.GenerateRequest(tokens=prompt, max_tokens=2, ignore_eos=True)
        turn.session.id, turn.session.create = f"session-{count % 8}", True
        for request in (good, turn, turn):
            generate(request)
        with contextlib.suppress(grpc.RpcError):
            generate(bad)

    return call, entry


def is_number(sample):
    return sample["value"][1] != "NaN"


@pytest.fixture(scope="module", name="scraped")
def servers_and_prometheus(tmp_path_factory, model):
    folder = tmp_path_factory.mktemp("monitoring")
    authority = Authority(folder)
    certificate, key = authority.sign("server")
    call, entry = calls_of("alice")
    (folder / "keys").write_text(entry + "\n")
    flags = {"--tls-cert": certificate, "--tls-key": key, "--api-keys": folder / "keys",
             "--session-dir": folder / "sessions"}
    with Process(folder, model, *(str(word) for pair in flags.items() for word in pair)) as server:
        address = server.ready()
        admin = server.line(r"^admin: listening on (\S+)$").group(1)
        with under_load(address, authority, call) as (_, failures), \
                Alertmanager(folder / "alertmanager") as alertmanager, \
                Prometheus(folder / "prometheus", [admin], alertmanager.address) as prometheus:
            prometheus.wait_for(lambda: prometheus.query("t2r_ready == 1"))
            yield prometheus, admin, alertmanager, (authority, key)
            assert not failures


def test_every_query_is_answered(scraped):
    prometheus = scraped[0]
    wanted = [(where, substitute(query)) for where, query in queries()]
    wanted += [(name, name) for name in RECORDS]
    deadline = time.monotonic() + SECONDS
    while wanted and time.monotonic() < deadline:
        wanted = [(where, query) for where, query in wanted
                  if not any(map(is_number, prometheus.query(query)))]
        if wanted:
            time.sleep(0.5)  # until the next scrape
    assert not wanted


def test_alerts_are_evaluated(scraped):
    prometheus = scraped[0]
    found = [rule for group in ask(f"{prometheus.url}/api/v1/rules?type=alert")["data"]["groups"]
             for rule in group["rules"]]
    assert {rule["name"] for rule in found} == set(ALERTS)
    assert all(rule["health"] in ("ok", "unknown") for rule in found)


def test_dashboards_alerts_and_the_server_know_the_same_metrics(scraped):
    admin = scraped[1]
    with urllib.request.urlopen(f"http://{admin}/metrics", timeout=SECONDS) as answer:
        page = answer.read().decode()
    served = set(re.findall(r"^# TYPE (t2r_\w+) ", page, re.M))
    shown = set().union(*(metrics_in(query) for _, query in queries()))
    used = shown.union(*(metrics_in(rule["expr"]) for rule in rules()))
    assert used <= served, f"not served: {sorted(used - served)}"
    assert served <= shown, f"on no dashboard: {sorted(served - shown)}"
    recorded = set(re.findall(r"job:t2r_\w+:\w+", " ".join(query for _, query in queries())))
    assert recorded <= set(RECORDS)
    documented = (ROOT / "docs" / "serving.md").read_text()
    for name in served - {"t2r_request_prefill_time_seconds", "t2r_request_decode_time_seconds"}:
        assert f"`{name}" in documented, name


def test_an_alert_reaches_the_alertmanager(scraped):
    """A key that is not the certificate's is put into place: the server keeps the old one, and tells."""
    _, admin, alertmanager, (authority, key) = scraped
    shutil.copy(authority.sign("another")[1], key)
    alertmanager.wait_for(lambda: "T2rReloadRefused" in alertmanager.alerts())
    labels = alertmanager.alerts()["T2rReloadRefused"]
    assert labels["what"] == "certificate" and labels["instance"] == admin and labels["severity"] == "warning"
