"""The Helm chart and the kustomize base: every variant against Kubernetes' schemas and our own rules."""

import copy
import json
import os
import pathlib
import re
import subprocess

import jsonschema
import kubernetes_validate
import pytest
import yaml

from conftest import ROOT, documents, tool
from server_process import BINARY, Process

CHART = ROOT / "deploy" / "helm" / "t2r"
KUSTOMIZE = ROOT / "deploy" / "kustomize"
VERSIONS = ("1.33", "1.37")

KEDA = {"autoscaling": {"kind": "keda", "min": 3, "max": 9}}
VARIANTS = {
    "default": {},
    "cuda, model on a claim": {
        "cuda": {"enabled": True, "gpus": 2, "runtimeClassName": "nvidia"},
        "image": {"repository": "registry.example/t2r-cuda", "digest": "sha256:" + "0" * 64},
        "model": {"source": "pvc", "name": "big", "pvc": {"claim": "models", "subPath": "big"}},
        "flags": {"max-sessions": 20000, "kv-cache-mib": 0, "dtype": "bfloat16", "batch-invariant": False},
        "nodeSelector": {"nvidia.com/gpu.product": "H200"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "priorityClassName": "serving"},
    "model from an init container": {
        "model": {"source": "init", "name": "m", "init": {
            "image": "registry.example/models/m:3", "command": ["cp"], "args": ["-r", "/m/.", "/models/m/"],
            "env": [{"name": "A", "value": "b"}]}},
        "podLabels": {"team": "llm"}, "podAnnotations": {"note": "x"}, "imagePullSecrets": [{"name": "pull"}]},
    "TLS, clients' certificates, keys": {
        "tls": {"enabled": True, "clientCa": True, "certManager": {
            "enabled": True, "issuerRef": {"name": "ca", "kind": "ClusterIssuer"}, "dnsNames": ["llm.example"]}},
        "apiKeys": {"secretName": "keys"}, "service": {"type": "LoadBalancer", "port": 443}},
    "TLS from a secret": {"tls": {"enabled": True, "secretName": "pair"}},
    "sessions on volumes": {
        "sessions": {"memoryMib": 1024, "ttlSeconds": 3600, "directory": {
            "enabled": True, "size": "5Gi", "storageClass": "fast"}},
        "headless": {"enabled": False}, "autoscaling": {"kind": "hpa"}},
    "shared sessions, tenants, log, traces": {
        "sessionStore": {"urlSecret": {"name": "store"}, "caSecretName": "store-ca", "port": 6380},
        "apiKeys": {"secretName": "keys"}, "accessLog": {"enabled": True, "prompts": True},
        "tenants": {"default": {"max_requests": 8}, "tenants": {"alice": {"priority": "high"}}},
        "traces": {"endpoint": "http://collector.tracing:4317", "sample": 0.5}},
    "TLS on the admin port": {
        "tls": {"enabled": True, "secretName": "pair", "admin": True},
        "sessionStore": {"url": "redis://redis.llm:6379/2"},
        "networkPolicy": {"sessionStore": [{"podSelector": {"matchLabels": {"app": "redis"}}}]},
        "monitoring": {"podMonitor": {"enabled": True}}},
    "HPA": {"autoscaling": {"kind": "hpa", "min": 3, "max": 9}},
    "KEDA, monitoring": KEDA | {"monitoring": {
        "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "rules": {"enabled": True, "labels": {"release": "prometheus"}}, "dashboards": {"enabled": True}}},
    "gateway, closed network": {
        "gateway": {"enabled": True, "parentRefs": [{"name": "edge", "namespace": "edge"}],
                    "hostnames": ["llm.example"]},
        "networkPolicy": {
            "clients": [{"namespaceSelector": {"matchLabels": {"team": "llm"}}}],
            "monitoring": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]},
        "serviceAccount": {"create": False}, "podDisruptionBudget": {"enabled": False},
        "headless": {"enabled": False}},
}


def render(values, tmp_path, check=True):
    path = tmp_path / "values.yaml"
    path.write_text(yaml.safe_dump(values))
    done = tool("helm", "template", "t2r", CHART, "-n", "llm", "-f", path, check=check)
    return documents(done.stdout) if check else done


@pytest.fixture(name="rendered", params=list(VARIANTS))
def every_variant(request, tmp_path):
    return render(VARIANTS[request.param], tmp_path)


def strict(schema):
    """The schema with every object closed that does not say it is open."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: strict(one) for name, one in schema.items()}
    if isinstance(closed.get("pattern"), str):  # Go writes flags where Python does not
        closed["pattern"] = closed["pattern"].replace("^(?i)", "(?i)^")
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" and \
            "additionalProperties" not in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        closed["additionalProperties"] = False
    return closed


def custom_schema(document):
    version = document["apiVersion"].split("/")[1]
    folder = pathlib.Path(os.environ.get("T2R_DATA", "")) / "crds"
    path = folder / f"{document['kind'].lower()}_{version}.json"
    if not path.exists():
        pytest.skip(f"{path.name} is not in T2R_DATA's crds/")
    schema = strict(json.loads(path.read_text()))
    schema.get("properties", {})["metadata"] = {"type": "object"}
    return schema


BUILT_IN = re.compile(r"^(v1|apps/v1|policy/v1|autoscaling/v2|networking\.k8s\.io/v1)$")


def validate(document):
    """Against Kubernetes' own schemas, misspelt fields included, or the custom resource's."""
    if BUILT_IN.match(document["apiVersion"]):
        for version in VERSIONS:
            kubernetes_validate.validate(document, version, strict=True)
    else:
        jsonschema.validate(document, custom_schema(document))


def test_every_object_is_what_kubernetes_knows(rendered):
    names = [(one["kind"], one["metadata"]["name"]) for one in rendered]
    assert len(names) == len(set(names))
    for document in rendered:
        if BUILT_IN.match(document["apiVersion"]):
            validate(document)


def test_the_validation_refuses_what_is_wrong(tmp_path):
    (deployment,) = (one for one in render({}, tmp_path) if one["kind"] == "Deployment")
    for change in (lambda spec: spec.update(terminationGracePeriod=5),
                   lambda spec: spec["containers"][0]["livenessProbe"].update(periodSeconds="ten"),
                   lambda spec: spec["containers"][0]["securityContext"].update(readonlyRootFilesystem=True)):
        wrong = copy.deepcopy(deployment)
        change(wrong["spec"]["template"]["spec"])
        with pytest.raises(kubernetes_validate.ValidationError):
            validate(wrong)


@pytest.mark.parametrize("variant, kind", [
    ("TLS, clients' certificates, keys", "Certificate"), ("KEDA, monitoring", "ScaledObject"),
    ("KEDA, monitoring", "PodMonitor"), ("TLS on the admin port", "PodMonitor"),
    ("KEDA, monitoring", "PrometheusRule"),
    ("gateway, closed network", "GRPCRoute")])
def test_custom_resources_fit_their_schemas(variant, kind, tmp_path):
    (document,) = (one for one in render(VARIANTS[variant], tmp_path) if one["kind"] == kind)
    validate(document)
    wrong = copy.deepcopy(document)
    wrong["spec"]["noSuchField"] = 1
    with pytest.raises(jsonschema.ValidationError):
        validate(wrong)


def check_pod(pod, labels, expected, claims):
    """The rules of this repository for every pod that it describes."""
    spec = pod["spec"]
    security = spec["securityContext"]
    assert security["runAsNonRoot"] and security["runAsUser"] == 10001
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert not any(spec.get(name) for name in ("hostNetwork", "hostPID", "hostIPC"))
    volumes = {one["name"] for one in spec["volumes"]} | claims
    for container in spec["containers"] + spec.get("initContainers", []):
        image = container["image"]
        assert re.search(r"(:[\w.-]+|@sha256:[0-9a-f]{64})$", image) and not image.endswith(":latest"), image
        own = container["securityContext"]
        assert own["runAsNonRoot"] and own["readOnlyRootFilesystem"]
        assert own["allowPrivilegeEscalation"] is False and own["capabilities"] == {"drop": ["ALL"]}
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
        assert "memory" in container["resources"]["limits"]
        assert {one["name"] for one in container["volumeMounts"]} <= volumes
    (server,) = spec["containers"]
    ports = {one["name"]: one["containerPort"] for one in server["ports"]}
    flags = flags_of(server)
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        assert server[probe]["httpGet"]["port"] in ports
        assert (server[probe]["httpGet"].get("scheme") == "HTTPS") == ("--admin-tls" in flags)
    # Nothing reaches another machine unencrypted unless that is said.
    assert "--insecure" in flags or {"--admin-tls", "--tls-cert"} <= set(flags)
    assert server["livenessProbe"]["httpGet"]["path"] == "/livez"
    assert server["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert flags["--listen"].endswith(f":{ports['grpc']}") and flags["--admin"].endswith(f":{ports['admin']}")
    grace = spec["terminationGracePeriodSeconds"]
    assert grace >= float(flags["--drain-delay"]) + float(flags["--drain-seconds"]) + 10
    # A balancer hears of it before the port closes: two looks of the readiness probe at least.
    readiness = server["readinessProbe"]
    assert float(flags["--drain-delay"]) > readiness["periodSeconds"] * readiness["failureThreshold"]
    paths = [one["mountPath"] for one in server["volumeMounts"]]
    for flag in ("--tls-cert", "--tls-key", "--tls-client-ca", "--api-keys", "--session-dir", "--tenants",
                 "--session-store-ca"):
        assert flag not in flags or any((flags[flag] + "/").startswith(path + "/") for path in paths)
    gpus = [server["resources"][kind].get("nvidia.com/gpu") for kind in ("requests", "limits")]
    assert (flags.get("--backend") == "cuda") == (gpus[0] is not None) and gpus[0] == gpus[1]
    assert expected.items() <= labels.items()


def flags_of(container):
    return dict(one.split("=", 1) if "=" in one else (one, "") for one in container["args"])


def known_flags():
    said = subprocess.run([BINARY, "--help"], capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"--[a-z][a-z-]*", said))


def check_objects(objects):
    (workload,) = (one for one in objects if one["kind"] in ("Deployment", "StatefulSet"))
    pod = workload["spec"]["template"]
    labels = pod["metadata"]["labels"]
    claims = {one["metadata"]["name"] for one in workload["spec"].get("volumeClaimTemplates", [])}
    check_pod(pod, labels, workload["spec"]["selector"]["matchLabels"], claims)
    if workload["kind"] == "StatefulSet":
        (service,) = (one for one in objects if one["metadata"]["name"] == workload["spec"]["serviceName"])
        assert service["kind"] == "Service" and service["spec"]["clusterIP"] == "None"
    (server,) = pod["spec"]["containers"]
    assert set(flags_of(server)) <= known_flags()
    ports = {one["name"] for one in server["ports"]}
    names = {one["metadata"]["name"] for one in objects}
    for one in objects:
        spec = one.get("spec", {})
        if one["kind"] == "Service":
            assert spec["selector"].items() <= labels.items()
            assert all(port["targetPort"] in ports and "appProtocol" in port for port in spec["ports"])
        elif one["kind"] in ("PodDisruptionBudget", "PodMonitor"):
            assert spec["selector"]["matchLabels"].items() <= labels.items()
        elif one["kind"] == "NetworkPolicy":
            assert spec["podSelector"]["matchLabels"].items() <= labels.items()
            assert all(port["port"] in ports for rule in spec["ingress"] for port in rule["ports"])
        elif one["kind"] in ("HorizontalPodAutoscaler", "ScaledObject"):
            assert spec["scaleTargetRef"]["name"] in names and "replicas" not in workload["spec"]
            assert spec["scaleTargetRef"]["kind"] == workload["kind"]
        if one["kind"] == "PodMonitor":
            assert all(endpoint["port"] in ports for endpoint in spec["podMetricsEndpoints"])
    return server


def test_our_own_rules_hold(rendered):
    check_objects(rendered)


def test_what_servers_call_is_let_out_and_nothing_else(tmp_path):
    def egress(values):
        (policy,) = (one for one in render(values, tmp_path) if one["kind"] == "NetworkPolicy")
        rules = policy["spec"].get("egress", [])
        return {port["port"]: rule.get("to") for rule in rules for port in rule["ports"]}

    assert egress({}) == {}
    assert egress(VARIANTS["shared sessions, tenants, log, traces"]) == {53: None, 6380: None, 4317: None}
    redis = [{"podSelector": {"matchLabels": {"app": "redis"}}}]
    assert egress(VARIANTS["TLS on the admin port"]) == {53: None, 6379: redis}


def test_passwords_come_from_secrets_and_limits_are_the_servers(tmp_path):
    objects = render(VARIANTS["shared sessions, tenants, log, traces"], tmp_path)
    (deployment,) = (one for one in objects if one["kind"] == "Deployment")
    (server,) = deployment["spec"]["template"]["spec"]["containers"]
    (one,) = server["env"]
    assert one == {"name": "T2R_SESSION_STORE", "valueFrom": {"secretKeyRef": {"name": "store", "key": "url"}}}
    assert "--session-store" not in flags_of(server)
    (limits,) = (one for one in objects if one["kind"] == "ConfigMap")
    limits = json.loads(limits["data"]["tenants.json"])
    assert limits == VARIANTS["shared sessions, tenants, log, traces"]["tenants"]


def test_the_server_takes_the_charts_flags_and_limits(tmp_path, model):
    """The very flags of the chart, on free ports, with a model and files that are here, and without a store."""
    values = VARIANTS["shared sessions, tenants, log, traces"] | {"sessionStore": {}}
    objects = render(values | {"flags": {"max-queue-requests": 7, "reflection": False}}, tmp_path)
    (deployment,) = (one for one in objects if one["kind"] == "Deployment")
    (limits,) = (one for one in objects if one["kind"] == "ConfigMap")
    flags = flags_of(deployment["spec"]["template"]["spec"]["containers"][0])
    for flag in ("--model", "--threads"):
        del flags[flag]
    made = subprocess.run([BINARY, "key", "new", "alice"], capture_output=True, text=True, check=True).stdout
    (tmp_path / "keys").write_text(re.search(r"^entry: (.*)$", made, re.M).group(1) + "\n")
    (tmp_path / "tenants.json").write_text(limits["data"]["tenants.json"])
    flags |= {"--listen": "127.0.0.1:0", "--admin": "127.0.0.1:0", "--api-keys": str(tmp_path / "keys"),
              "--tenants": str(tmp_path / "tenants.json"), "--otlp-endpoint": "http://127.0.0.1:1"}
    words = [word for flag, value in flags.items() for word in ((flag, value) if value else (flag,))]
    with Process(tmp_path, model, *words) as server:
        server.ready()


@pytest.mark.parametrize("values, said", [
    ({"replica": 3}, "replica"), ({"image": {"tag": "latest"}}, "tag"),
    ({"flags": {"listen": "0.0.0.0:1"}}, "listen"), ({"flags": {"--x": 1}}, "--x"),
    ({"model": {"source": "pvc"}}, "claim"), ({"model": {"source": "init"}}, "image"),
    ({"model": {"source": "init", "init": {"image": "models:latest"}}}, "image"),
    ({"flags": {"session-dir": "/x"}}, "session-dir"),
    ({"flags": {"session-store": "redis://x"}}, "session-store"),
    ({"sessionStore": {"url": "redis://:secret@x"}}, "url"), ({"sessionStore": {"url": "memcached://x"}}, "url"),
    ({"sessionStore": {"url": "redis://x", "urlSecret": {"name": "s"}}}, "not both"),
    ({"sessionStore": {"caSecretName": "s"}}, "no session store"),
    ({"tls": {"admin": True}}, "tls.enabled"), ({"traces": {"endpoint": "collector:4317"}}, "endpoint"),
    ({"sessions": {"memoryMib": 0, "directory": {"enabled": True}}}, "memoryMib"),
    ({"tls": {"enabled": True}}, "tls.secretName"), ({"autoscaling": {"kind": "vpa"}}, "kind"),
    ({"resources": {"limits": None, "requests": {"cpu": 1, "memory": "1Gi"}}}, "limits")])
def test_wrong_values_are_refused(values, said, tmp_path):
    done = render(values, tmp_path, check=False)
    assert done.returncode != 0 and said in done.stderr


def test_the_values_of_the_documents_are_good(tmp_path):
    """Each of docs/operations.md alone, and all of them together."""
    blocks = re.findall(r"^ *```yaml\n(.*?)^ *```", (ROOT / "docs" / "operations.md").read_text(), re.M | re.S)
    together = {}
    for values in map(yaml.safe_load, blocks):
        check_objects(render(values, tmp_path))
        together |= values
    check_objects(render(together, tmp_path))
    assert len(blocks) >= 2


def test_lint():
    tool("helm", "lint", "--strict", CHART)


def test_the_kustomize_base_is_the_charts(tmp_path):
    tool("bash", KUSTOMIZE / "make", tmp_path,
         env=os.environ | {"HELM": str(pathlib.Path(os.environ["T2R_TOOLS"]) / "bin" / "helm")})
    assert (tmp_path / "base" / "t2r.yaml").read_text() == (KUSTOMIZE / "base" / "t2r.yaml").read_text(), \
        "run deploy/kustomize/make"


@pytest.mark.parametrize("folder", ["base", "overlays/cuda"])
def test_kustomize(folder):
    objects = documents(tool("kubectl", "kustomize", KUSTOMIZE / folder).stdout)
    for document in objects:
        validate(document)
    server = check_objects(objects)
    assert ("cuda" in server["image"]) == (folder == "overlays/cuda")


def test_the_image_is_what_pods_expect():
    said = (ROOT / "Dockerfile").read_text()
    assert re.findall(r"^USER (.*)$", said, re.M)[-1] == "10001:10001"
    assert all("--insecure" in line for line in said.splitlines()
               if line.startswith("ENTRYPOINT") and "0.0.0.0" in line)
