"""deploy/envoy: what Envoy takes, and where it sends calls, with two servers behind it."""

import contextlib
import copy

import pytest
import yaml

from certificates import Authority
from conftest import tool
from daemons import ENVOY, UPSTREAM_TLS, Envoy, channel, under_load, with_files
from server_process import SECONDS, Process, metrics_of
from t2r.v1 import generation_pb2 as pb
from t2r.v1 import generation_pb2_grpc as stubs

REQUEST = pb.GenerateRequest(tokens=pb.TokenIds(ids=[5, 6]), max_tokens=8, ignore_eos=True)


@pytest.fixture(scope="module", name="authority")
def one_authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module", name="pair")
def the_edges_pair(authority):
    return authority.sign("tls", alternatives="DNS:localhost,DNS:t2r-headless,IP:127.0.0.1")


def test_envoy_takes_the_configuration(tmp_path, pair, authority):
    config = yaml.safe_load(with_files(ENVOY.read_text(), pair, authority))
    secured = copy.deepcopy(config)
    secured["static_resources"]["clusters"][0] |= yaml.safe_load(
        with_files(UPSTREAM_TLS.read_text(), pair, authority))
    for number, one in enumerate((config, secured)):
        path = tmp_path / f"{number}.yaml"
        path.write_text(yaml.safe_dump(one))
        tool("envoy", "--mode", "validate", "-c", path)
    wrong = copy.deepcopy(config)
    wrong["static_resources"]["clusters"][0]["ring_hash_config"] = {}
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(wrong))
    assert tool("envoy", "--mode", "validate", "-c", tmp_path / "wrong.yaml", check=False).returncode != 0


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
            with channel(envoy.address, authority) as connection:
                stub = stubs.GenerationStub(connection)
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

    def call(stub, worker, count):
        session = (("x-session-id", f"{worker}-{count}"),)
        return list(stub.Generate(REQUEST, timeout=SECONDS, metadata=session))[-1].finished.usage.generated_tokens

    with two_servers(tmp_path, model, *flags) as (servers, addresses), \
            Envoy(tmp_path, pair, authority, addresses) as envoy, contextlib.ExitStack() as stack:
        both = set(map(port, addresses))
        envoy.wait_for(lambda: envoy.healthy() == both)
        with under_load(envoy.address, authority, call, workers=4) as (tokens, failures):
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
        assert not failures and len(tokens) > 20 and set(tokens) == {8}
