"""The programs of bench/front-end under a short round of `t2r bench`. T2R_BUILD: where they lie."""

import os
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench"))
import serving  # noqa: E402

BUILD = pathlib.Path(os.environ["T2R_BUILD"])
REQUESTS, TOKENS = 6, 20


def short_round(address):
    row, = serving.json_lines([BUILD / "t2r", "bench", "--server", address, "--json", "--sessions", 3,
                               "--requests", REQUESTS, "--prompt-tokens", 2, "--output-tokens", TOKENS,
                               "--max-seconds", 60])
    assert row["errors"] == {} and row["completed"] == REQUESTS
    assert row["tokens"] == REQUESTS * TOKENS
    return row["messages"]


@pytest.mark.parametrize("tokens", [1, 7, 64])
def test_raw_stream(tokens):
    command = [BUILD / "t2r-bench-raw-stream", "--tokens-a-message", tokens]
    with serving.listening(command) as (addresses, _):
        assert short_round(addresses["grpc"]) == REQUESTS * -(-TOKENS // tokens)


@pytest.mark.parametrize("flags", [[], ["--one-token"]])
def test_null_server(flags):
    with serving.server(BUILD, ROOT / "models" / "demo", "--max-sessions", "2",
                        program=("t2r-bench-null-server", *flags)) as address:
        messages = short_round(address)
    if flags:
        assert messages == REQUESTS * TOKENS
    assert REQUESTS <= messages <= REQUESTS * TOKENS
