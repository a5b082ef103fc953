"""The unconverted stories260K checkpoint, served, gives its known values."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from service import Server, pb, shared

PROMPT = "Once upon a time"
PROMPT_IDS = [1, 403, 407, 261, 378]
GREEDY_IDS = [432, 383, 286, 261, 376, 298, 315, 421, 395, 317, 426, 338]
GREEDY_TEXT = ", there was a little girl named Lily. She"


@pytest.fixture(scope="module", name="server")
def fixture_server():
    # Uncut stories are longer than the 512 positions the model names.
    with Server(shared("stories260K"), "--max-context", "4096", "--max-sessions", "8") as server:
        yield server


def stories(server):
    """The first 150 stories of the validation set as ids, BOS first."""
    with open(shared("tinystories", "valid.txt"), encoding="utf-8") as file:
        texts = [text.strip() for text in file.read().split("<|endoftext|>")]
    return [server.tokenize(text) for text in texts if text][:150]


def mean_loss(server, sequences):
    """Nats a token over all sequences, and how many tokens."""
    with ThreadPoolExecutor(8) as pool:
        scores = [s for result in pool.map(server.score, sequences) for s in result]
    return -sum(scores) / len(scores), len(scores)


def test_tokenizes_the_prompt(server):
    assert server.tokenize(PROMPT) == PROMPT_IDS


def test_newline_is_a_byte_token(server):
    assert 13 in server.tokenize("One day.\nThe end.")


@pytest.mark.parametrize("prompt", [PROMPT, PROMPT_IDS], ids=["text", "ids"])
def test_greedy_text(server, prompt):
    result = server.greedy(prompt, len(GREEDY_IDS))
    assert result.token_ids == GREEDY_IDS
    assert result.text == GREEDY_TEXT
    assert result.reason == pb.FINISH_REASON_LENGTH
    assert result.usage.prompt_tokens == len(PROMPT_IDS)


def test_detokenize_inverts_tokenize(server):
    for text in (PROMPT, "One day.\nThe end.", "caf\u00e9 \u4e2d \U0001f600"):
        tokens = pb.TokenIds(ids=server.tokenize(text))
        assert server.stub.Detokenize(pb.DetokenizeRequest(tokens=tokens)).text == text


def test_score_of_text_is_score_of_its_ids(server):
    response = server.stub.Score(pb.ScoreRequest(text=PROMPT + GREEDY_TEXT))
    ids = PROMPT_IDS + GREEDY_IDS
    assert list(response.tokens.ids) == ids
    assert list(response.logprobs) == server.score(ids)


def test_loss_on_150_stories_cut_to_512(server):
    loss, count = mean_loss(server, [ids[:512] for ids in stories(server)])
    assert count == 55777
    assert loss == pytest.approx(1.40256, abs=1e-5)


def test_loss_on_150_stories_uncut(server):
    loss, count = mean_loss(server, stories(server))
    assert count == 63110
    assert loss == pytest.approx(1.42531, abs=1e-5)


def test_score_agrees_with_the_reference(server):
    from reference import Reference

    reference = Reference(shared("stories260K"))
    for ids in stories(server)[:5]:
        for got, right in zip(server.score(ids[:512]), reference.score(ids[:512])):
            assert got == pytest.approx(right, abs=1e-4)
