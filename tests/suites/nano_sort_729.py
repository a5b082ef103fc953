"""gpt-nano-sort, served, sorts all 729 sequences of six digits through Generate."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from service import Server, pb, shared


@pytest.fixture(scope="module", name="server")
def fixture_server():
    with Server(shared("gpt-nano-sort"), "--max-sessions", "16") as server:
        yield server


def test_sorts_every_input(server):
    inputs = list(itertools.product(range(3), repeat=6))
    assert len(inputs) == 729
    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(lambda digits: server.greedy(digits, 6), inputs))
    wrong = [digits for digits, result in zip(inputs, results)
             if result.token_ids != sorted(digits)]
    assert not wrong


def test_a_seventh_token_does_not_fit(server):
    """Six ids and seven more need 12 positions; the model learned 11."""
    with pytest.raises(grpc.RpcError) as error:
        server.greedy([0, 1, 2, 0, 1, 2], 7)
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "11" in error.value.details()


def test_has_no_text(server):
    """The directory has no tokenizer: ids work, text is refused by name."""
    assert not server.stub.GetModel(pb.GetModelRequest()).has_tokenizer
    with pytest.raises(grpc.RpcError) as error:
        server.greedy("012", 6)
    assert "tokenizer" in error.value.details()
