"""TLS, clients' certificates and API keys at the t2r-server process."""

import os
import re
import shutil
import socket
import ssl
import subprocess
import threading

import grpc
import pytest

from certificates import Authority
from process_test import status_of
from server_process import BINARY, SECONDS, Process, local_unless, metrics_of, run
from t2r.v1 import generation_pb2 as pb
from t2r.v1 import generation_pb2_grpc as stubs

CLIENT = os.environ["T2R_CLIENT"]
REQUEST = pb.GenerateRequest(tokens=pb.TokenIds(ids=[5]), max_tokens=1)


@pytest.fixture(scope="module", name="authority")
def one_authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module", name="pair")
def a_servers_pair(authority):
    return authority.sign("server")


def install(pair, folder):
    """Copies a pair into place as a renewal does: each file is replaced by renaming."""
    folder.mkdir(exist_ok=True)
    for source, name in zip(pair, ("tls.crt", "tls.key")):
        shutil.copy(source, folder / "next")
        (folder / "next").rename(folder / name)
    return folder / "tls.crt", folder / "tls.key"


def tls_flags(certificate, key):
    return "--tls-cert", str(certificate), "--tls-key", str(key)


def channel_to(address, authority, pair=None):
    certificate, key = (path.read_bytes() for path in pair) if pair else (None, None)
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(
        authority.certificate.read_bytes(), key, certificate))


def generate(channel, metadata=()):
    return list(stubs.GenerationStub(channel).Generate(REQUEST, timeout=SECONDS, metadata=metadata))


def code_of(channel, metadata=()):
    with pytest.raises(grpc.RpcError) as error:
        generate(channel, metadata)
    return error.value.code()


def wait_for_metric(server, line):
    """Until the metrics page has the line; the server looks at its files every second."""
    for _ in range(SECONDS * 10):
        if line + "\n" in metrics_of(server):
            return
        threading.Event().wait(0.1)
    raise AssertionError(f"no {line!r} in\n{metrics_of(server)}")


def serial_of(address):
    host, port = address.split(":")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection((host, int(port)), SECONDS) as plain:
        with context.wrap_socket(plain) as secure:
            return secure.getpeercert(binary_form=True)


def test_tls_serves_and_plaintext_does_not(tmp_path, model, authority, pair):
    with Process(tmp_path, model, *tls_flags(*pair)) as server:
        address = server.ready()
        with channel_to(address, authority) as channel:
            assert generate(channel)
        with grpc.insecure_channel(address) as channel:
            assert code_of(channel) == grpc.StatusCode.UNAVAILABLE
        with channel_to(address, Authority(tmp_path, "stranger")) as channel:
            assert code_of(channel) == grpc.StatusCode.UNAVAILABLE
        # Its own look at the port speaks TLS too.
        assert status_of(server, "/livez") == 200 and status_of(server, "/readyz") == 200
        done = subprocess.run([CLIENT, "model", "--server", address, "--tls-ca", authority.certificate],
                              capture_output=True, text=True, timeout=SECONDS)
        assert done.returncode == 0 and "llama" in done.stdout, done.stderr
        server.process.terminate()
        assert server.process.wait(SECONDS) == 0
        # One line, at most, for each try of the plaintext client.
        assert all("wrong version number" in line for line in server.process.stderr)


def test_old_protocols_are_refused(tmp_path, model, pair):
    with Process(tmp_path, model, *tls_flags(*pair)) as server:
        host, port = server.ready().split(":")
        for version, good in ((ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True)):
            context = ssl.create_default_context()
            context.set_ciphers("DEFAULT:@SECLEVEL=0")
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.minimum_version = context.maximum_version = version
            with socket.create_connection((host, int(port)), SECONDS) as plain:
                if good:
                    context.wrap_socket(plain).close()
                else:
                    with pytest.raises((ssl.SSLError, OSError)):
                        context.wrap_socket(plain)


def test_clients_show_certificates_of_the_authority(tmp_path, model, authority, pair):
    client = authority.sign("client")
    stranger = Authority(tmp_path, "stranger").sign("impostor")
    with Process(tmp_path, model, *tls_flags(*pair), "--tls-client-ca",
                 str(authority.certificate)) as server:
        address = server.ready()
        with channel_to(address, authority, client) as channel:
            assert generate(channel)
        with channel_to(address, authority) as channel:
            assert code_of(channel) == grpc.StatusCode.UNAVAILABLE
        with channel_to(address, authority, stranger) as channel:
            assert code_of(channel) == grpc.StatusCode.UNAVAILABLE
        assert status_of(server, "/livez") == 200
        done = subprocess.run([CLIENT, "model", "--server", address, "--tls-ca", authority.certificate,
                               "--tls-cert", client[0], "--tls-key", client[1]],
                              capture_output=True, text=True, timeout=SECONDS)
        assert done.returncode == 0, done.stderr


def test_certificates_are_renewed_under_load_and_bad_ones_refused(tmp_path, model, authority, pair):
    paths = install(pair, tmp_path / "mounted")
    with Process(tmp_path, model, *tls_flags(*paths)) as server:
        address = server.ready()
        first = serial_of(address)
        failures, calls, stop = [], [], threading.Event()

        def load():
            while not stop.is_set():
                try:
                    with channel_to(address, authority) as channel:  # each call shakes hands anew
                        calls.append(generate(channel))
                except grpc.RpcError as error:
                    failures.append(error)

        worker = threading.Thread(target=load)
        worker.start()
        try:
            install(authority.sign("renewed"), tmp_path / "mounted")
            wait_for_metric(server, 't2r_reloads_total{result="ok",what="certificate"} 1')
            second = serial_of(address)
            assert second != first
            # A key that is another certificate's.
            key = authority.sign("other")[1]
            refused = int(re.search(r'result="refused",what="certificate"} (\d+)', metrics_of(server)).group(1))
            install((authority.folder / "renewed.crt", key), tmp_path / "mounted")
            wait_for_metric(server, f't2r_reloads_total{{result="refused",what="certificate"}} {refused + 1}')
            assert serial_of(address) == second
        finally:
            stop.set()
            worker.join()
        assert not failures and calls
        server.process.terminate()
        said = server.process.communicate(timeout=SECONDS)[1]
    assert "--tls-key" in said and "is not the key of the certificate" in said
    assert "PRIVATE KEY" not in said


def test_files_that_are_not_good_end_the_start(tmp_path, model, authority, pair):
    certificate, key = pair
    other = authority.sign("another")[1]
    old = authority.sign("old", days=-1)
    client = authority.sign("someone")[0]
    for flags, said in (
            (tls_flags(certificate, other), "is not the key of the certificate"),
            (tls_flags(*old), "ended at"),
            (tls_flags(tmp_path / "absent", key), "--tls-cert"),
            (tls_flags(key, key), "holds no certificate"),
            (tls_flags(certificate, client), "holds no private key"),
            (tls_flags(*pair) + ("--tls-client-ca", str(key)), "--tls-client-ca"),
            (("--api-keys", str(tmp_path / "absent")), "--api-keys"),
            (("--api-keys", str(certificate)), "line 1 is not NAME sha256:HEX")):
        code, _, errors = run("--model", str(model), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0",
                              *flags)
        assert code == 1 and said in errors and errors.count("\n") == 1, errors


@pytest.mark.parametrize("flags, said", [
    (("--listen", "0.0.0.0:0"), "--listen 0.0.0.0:0: other machines reach it"),
    (("--listen", "[::]:0"), "--listen [::]:0: other machines reach it"),
    (("--admin", "0.0.0.0:0"), "--admin 0.0.0.0:0: other machines reach it"),
    (("--tls-cert", "x"), "--tls-cert and --tls-key"),
    (("--tls-client-ca", "x"), "--tls-client-ca"),
])
def test_plaintext_stays_on_this_machine(model, flags, said):
    code, _, errors = run("--model", str(model), *local_unless(flags), *flags)
    assert code == 2 and said in errors and errors.count("\n") == 1, errors


def test_insecure_is_said(tmp_path, model):
    with Process(tmp_path, model, "--insecure", "--listen", "0.0.0.0:0", "--admin", "0.0.0.0:0") as server:
        server.line(r"^model: ready ")
        port = server.line(r"^grpc: listening on 0\.0\.0\.0:(\d+)$").group(1)
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            assert generate(channel)


def new_key(name):
    code, said, errors = run("key", "new", name)
    assert code == 0, errors
    key, entry = re.fullmatch(r"key: (t2r_[\w-]{43})\nentry: (.*)\n", said).groups()
    assert entry.startswith(f"{name} sha256:") and key not in entry
    return key, entry


def test_api_keys(tmp_path, model):
    alice, alices = new_key("alice")
    bob, bobs = new_key("bob")
    keys = tmp_path / "keys"

    def write(text):
        (tmp_path / "next").write_text(text)
        (tmp_path / "next").rename(keys)

    write(f"# who may call\n{alices}  # of the team\n")
    with Process(tmp_path, model, "--api-keys", str(keys)) as server:
        address = server.ready()
        assert "t2r_api_keys 1\n" in metrics_of(server)
        with grpc.insecure_channel(address) as channel:
            for metadata in ((("authorization", f"Bearer {alice}"),), (("authorization", f"bearer {alice}"),),
                             (("x-api-key", alice),)):
                assert generate(channel, metadata)
            for metadata in ((), (("x-api-key", bob),), (("authorization", alice),), (("x-api-key", ""),),
                             (("authorization", f"Basic {alice}"),), (("x-api-key", alice + "x"),)):
                assert code_of(channel, metadata) == grpc.StatusCode.UNAUTHENTICATED
            # Every method but health's, those too that do not exist.
            for method in ("/t2r.v1.Generation/GetModel", "/t2r.v1.Generation/Tokenize", "/no.such/Method"):
                with pytest.raises(grpc.RpcError) as error:
                    channel.unary_unary(method)(b"", timeout=SECONDS)
                assert error.value.code() == grpc.StatusCode.UNAUTHENTICATED
            reflection = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
            with pytest.raises(grpc.RpcError) as error:
                list(reflection(iter([b""]), timeout=SECONDS))
            assert error.value.code() == grpc.StatusCode.UNAUTHENTICATED
            assert channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=SECONDS) == b"\x08\x01"
            assert 't2r_requests_refused_total{code="UNAUTHENTICATED"}' in metrics_of(server)

            write(f"{alices}\n{bobs}\n")
            wait_for_metric(server, "t2r_api_keys 2")
            assert generate(channel, (("x-api-key", bob),))
            write(f"{bobs}\n{bob}\n")  # a key instead of its hash: refused, and not repeated
            wait_for_metric(server, 't2r_reloads_total{result="refused",what="keys"} 1')
            assert generate(channel, (("x-api-key", alice),))
            write("")  # as an editor does before it writes
            wait_for_metric(server, 't2r_reloads_total{result="refused",what="keys"} 2')
            assert generate(channel, (("x-api-key", alice),))
            write(f"{bobs}\n")
            wait_for_metric(server, "t2r_api_keys 1")
            assert code_of(channel, (("x-api-key", alice),)) == grpc.StatusCode.UNAUTHENTICATED

        environment = {name: value for name, value in os.environ.items() if name != "T2R_API_KEY"}
        (tmp_path / "bob").write_text(bob + "\n")
        for flags, variables, code in (((), {}, 1), ((), {"T2R_API_KEY": bob}, 0),
                                       (("--api-key-file", tmp_path / "bob"), {"T2R_API_KEY": alice}, 0)):
            done = subprocess.run([CLIENT, "generate", "--server", address, "--tokens", "5", "-n", "2", "--ids",
                                   *flags], capture_output=True, text=True, timeout=SECONDS,
                                  env=environment | variables)
            assert done.returncode == code, done.stderr
        health = subprocess.run([CLIENT, "health", "--server", address], env=environment, timeout=SECONDS,
                                capture_output=True)
        assert health.returncode == 0
        server.process.terminate()
        said = server.process.communicate(timeout=SECONDS)[1]
    assert "line 2 is not NAME sha256:HEX" in said and bob not in said


def test_names_of_keys():
    for name in ("", "a b", "ü", "x" * 65):
        assert run("key", "new", name)[0] == 2
    assert subprocess.run([BINARY, "key"], capture_output=True).returncode == 2
    assert new_key("a")[0] != new_key("a")[0]
