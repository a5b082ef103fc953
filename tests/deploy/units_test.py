"""deploy/systemd and deploy/compose."""

import re
import shutil

import pytest
import yaml

from conftest import ROOT, tool
from daemons import Daemon
from manifests_test import known_flags

UNIT = ROOT / "deploy" / "systemd" / "t2r-server.service"
COMPOSE = ROOT / "deploy" / "compose"


def test_the_unit_is_good_and_closed(tmp_path):
    text = UNIT.read_text()
    command = re.search(r"^ExecStart=(.*?)\n(?!    )", text, re.M | re.S).group(1)
    flags = set(re.findall(r"--[a-z-]+", command))
    assert flags <= known_flags()
    delay, drain = (int(re.search(rf"--{name} (\d+)", command).group(1)) for name in
                    ("drain-delay", "drain-seconds"))
    assert int(re.search(r"^TimeoutStopSec=(\d+)$", text, re.M).group(1)) >= delay + drain + 10
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed")
    # The binary is not where it will be.
    path = tmp_path / UNIT.name
    path.write_text(text.replace("/usr/local/bin/t2r-server", "/bin/true"))
    assert tool("systemd-analyze", "verify", path).stderr == ""
    said = tool("systemd-analyze", "security", "--offline=true", "--threshold=20", path).stdout
    assert float(re.search(r"Overall exposure level for \S+: ([\d.]+)", said).group(1)) <= 2


def test_compose():
    compose = yaml.safe_load((COMPOSE / "compose.yaml").read_text())
    used = set()
    for name, service in compose["services"].items():
        assert re.search(r":v?\d[\w.-]*$", service["image"]), name
        assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"]
        assert re.fullmatch(r"\d+:\d+", service["user"]) and not service["user"].startswith("0:")
        assert service.get("read_only") or name == "grafana"
        assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                # The certificate is the operator's.
                assert source == "./tls" or (COMPOSE / source).exists(), source
            else:
                used.add(source)
    assert used == set(compose["volumes"])
    for name in ("server-1", "server-2"):
        service = compose["services"][name]
        flags = service["command"]
        assert {word for word in flags if word.startswith("--")} <= known_flags()
        grace = int(service["stop_grace_period"].removesuffix("s"))
        seconds = [int(flags[flags.index(flag) + 1]) for flag in ("--drain-delay", "--drain-seconds")]
        assert grace >= sum(seconds) + 10
        host, port = re.fullmatch(r"redis://(\w+):(\d+)", flags[flags.index("--session-store") + 1]).groups()
        assert host in compose["services"] and host in service["depends_on"] and port == "6379"
    store = compose["services"]["redis"]["command"]
    # A session that is there never goes to make room for another.
    assert store[store.index("--maxmemory-policy") + 1] == "noeviction"
    targets = yaml.safe_load((COMPOSE / "prometheus.yaml").read_text())["scrape_configs"][0]
    hosts = {one.split(":")[0] for one in targets["static_configs"][0]["targets"]}
    assert hosts == {"server-1", "server-2"} and targets["job_name"] == "t2r"


def test_redis_takes_composes_flags(tmp_path):
    program, *flags = yaml.safe_load((COMPOSE / "compose.yaml").read_text())["services"]["redis"]["command"]
    flags[flags.index("--dir") + 1] = str(tmp_path)
    path = tmp_path / "socket"
    with Daemon(tmp_path, program, *flags, "--port", "0", "--unixsocket", path) as redis:
        redis.wait_for(lambda: tool("redis-cli", "-s", path, "ping", check=False).stdout == "PONG\n")
        said = tool("redis-cli", "-s", path, "config", "get", "maxmemory-policy").stdout
        assert said.split()[1] == "noeviction"
