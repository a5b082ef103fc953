"""Clients that are not ours, against a server: grpcurl by reflection, and k6 with many streams."""

import json
import os

import pytest

from conftest import ROOT, tool
from server_process import Process


@pytest.fixture(scope="module", name="address")
def a_server(tmp_path_factory):
    with Process(tmp_path_factory.mktemp("server"), ROOT / "models" / "demo") as server:
        yield server.ready()


def messages(text):
    """The JSON documents that follow one another."""
    decoder, found = json.JSONDecoder(), []
    while text := text.lstrip():
        one, end = decoder.raw_decode(text)
        found.append(one)
        text = text[end:]
    return found


def call(address, method, request, check=True):
    return tool("grpcurl", "-plaintext", "-d", json.dumps(request), address, method, check=check)


def test_grpcurl(address):
    """It knows nothing but the address."""
    services = tool("grpcurl", "-plaintext", address, "list").stdout.split()
    assert {"t2r.v1.Generation", "t2r.v1.Sessions", "grpc.health.v1.Health"} <= set(services)
    (health,) = messages(call(address, "grpc.health.v1.Health/Check", {"service": "t2r.v1.Generation"}).stdout)
    assert health == {"status": "SERVING"}
    request = {"text": "In the beginning", "max_tokens": 12, "ignore_eos": True, "sampling": {"temperature": 0}}
    events = messages(call(address, "t2r.v1.Generation/Generate", request).stdout)
    assert events[0]["started"]["max_tokens"] == 12
    assert sum(len(event["delta"]["token_ids"]) for event in events[1:-1]) == 12
    assert events[-1]["finished"]["reason"] == "FINISH_REASON_LENGTH"
    request["sampling"]["temperature"] = -1
    refused = call(address, "t2r.v1.Generation/Generate", request, check=False)
    assert refused.returncode != 0 and "InvalidArgument" in refused.stderr and "temperature" in refused.stderr


def test_k6(address, capsys):
    """Its thresholds are on errors only; how fast it was is printed."""
    run = tool("k6", "run", "--no-usage-report", "--quiet", "--no-color", "--address", "",
               ROOT / "tests" / "deploy" / "load.js",
               env=os.environ | {"ADDRESS": address, "PROTO": str(ROOT / "proto")})
    figures = json.loads(run.stdout.splitlines()[-1])
    assert figures["streams"] == 200
    with capsys.disabled():
        print(f"\nk6: {figures}")
