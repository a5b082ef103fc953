"""Encoder-decoders through the service: known error rates of aren, target prefixes, refusals."""

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

import make_models
from service import CALL_SECONDS, Server, collect, pb, shared

STREAMS = 64


def edits(a, b):
    """Levenshtein distance."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (x != y))
    return row[-1]


@pytest.fixture(scope="module")
def aren():
    with Server(shared("aren"), "--max-sessions", str(STREAMS)) as server:
        yield server


@pytest.fixture(scope="module")
def pairs():
    with open(shared("ar2en", "test.tsv"), encoding="utf-8") as file:
        return [line.rstrip("\n").split("\t") for line in file]


def translate(server, *arguments, text=""):
    """Runs `t2r translate`."""
    return subprocess.run([os.environ["T2R_CLIENT"], "translate", "--server", server.address,
                           *arguments],
                          input=text, capture_output=True, text=True, timeout=CALL_SECONDS,
                          check=False)


def test_known_error_rates(aren, pairs):
    with ThreadPoolExecutor(STREAMS) as pool:
        results = list(pool.map(lambda pair: aren.greedy(pair[0], 0), pairs))
    # The command gives the same, in order.
    done = translate(aren, "--column", "1", "--streams", "100", shared("ar2en", "test.tsv"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [result.text for result in results]
    wrong = errors = letters = 0
    for (_, expected), result in zip(pairs, results):
        assert result.reason == pb.FINISH_REASON_EOS
        errors += edits(result.text, expected)
        letters += len(expected)
        wrong += result.text != expected
    assert len(pairs) == 1590
    assert errors / letters == pytest.approx(0.2259, abs=5e-5)
    assert wrong / len(pairs) == pytest.approx(0.7792, abs=5e-5)


def test_default_is_greedy(aren):
    result = aren.generate("\u0622\u062a\u0632\u0645\u0648\u0646", 0)
    assert result.text == "atzmon"
    # Six letters in, the start token; six and the end out.
    assert result.usage.prompt_tokens == 7
    assert len(result.token_ids) == 7


def test_prefix_and_what_follows_make_the_target(aren, pairs):
    for source, _ in pairs[:40]:
        whole = aren.greedy(source, 0)
        for cut in range(len(whole.token_ids)):
            rest = aren.greedy(
                source, 0, target_prefix_tokens=pb.TokenIds(ids=whole.token_ids[:cut]))
            assert rest.token_ids == whole.token_ids[cut:]
        middle = len(whole.text) // 2
        rest = aren.greedy(source, 0, target_prefix_text=whole.text[:middle])
        assert whole.text[:middle] + rest.text == whole.text
    # Another beginning than the model's own, too.
    assert aren.greedy(pairs[0][0], 0, target_prefix_text="x").text[:1] != "x"
    assert aren.greedy(pairs[0][0], 0, target_prefix_text="").text == aren.greedy(
        pairs[0][0], 0).text


def test_score_of_a_translation(aren):
    source = "\u0622\u062a\u0632\u0645\u0648\u0646"
    result = aren.greedy(source, 0, logprobs=1)
    by_text = aren.stub.Score(pb.ScoreRequest(source_text=source, text=result.text),
                              timeout=CALL_SECONDS)
    assert list(by_text.tokens.ids) == result.token_ids  # the end included
    assert list(by_text.logprobs) == result.logprobs
    source_ids = aren.tokenize(source)
    assert aren.score(result.token_ids, source=source_ids) == result.logprobs
    assert aren.score(result.token_ids[:1], source=source_ids) == result.logprobs[:1]
    target = aren.stub.Tokenize(pb.TokenizeRequest(text=result.text, target=True),
                                timeout=CALL_SECONDS)
    assert list(target.tokens.ids) == result.token_ids
    back = aren.stub.Detokenize(pb.DetokenizeRequest(tokens=target.tokens), timeout=CALL_SECONDS)
    assert back.text == result.text


def test_command_keeps_lines_and_names_the_one_refused(aren):
    word = "\u0622\u062a\u0632\u0645\u0648\u0646"
    done = translate(aren, text=f"{word}\n\n{word}\r\n  \n")
    assert (done.returncode, done.stdout) == (0, "atzmon\n\natzmon\n\n")
    done = translate(aren, "--target-prefix", "at", "--json", text=word)
    answer = json.loads(done.stdout)
    assert (answer["line"], answer["source"], answer["text"]) == (1, word, "atzmon")
    assert (len(answer["token_ids"]), answer["reason"]) == (5, "eos")
    done = translate(aren, "--streams", "1", text=f"{word}\n{word * 100}\n{word}\n")
    assert (done.returncode, done.stdout) == (1, "atzmon\n")
    assert "line 2" in done.stderr and "limit of 256" in done.stderr


def test_model_tells_its_kind_and_limits(aren):
    model = aren.stub.GetModel(pb.GetModelRequest(), timeout=CALL_SECONDS)
    assert model.encoder_decoder
    assert model.architecture == "marian"
    assert (model.vocab_size, model.source_vocab_size) == (43, 51)
    assert model.encoder_layers == 6
    assert list(model.cross_layer_types) == ["full_attention"] * 6
    assert model.decoder_start_token_id == 1
    assert model.limits.max_source_tokens == 256
    assert model.limits.max_positions == 256
    # Keys and values of 6 layers of width 32.
    assert model.source_kv_bytes_per_position == 6 * 2 * 32 * 4


def refusal(call, *arguments):
    with pytest.raises(grpc.RpcError) as error:
        response = call(*arguments, timeout=CALL_SECONDS)
        if hasattr(response, "__next__"):
            list(response)
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    return error.value.details()


def test_refusals_name_field_and_limit(aren):
    ids = pb.TokenIds
    generate, score = aren.stub.Generate, aren.stub.Score
    assert refusal(generate, pb.GenerateRequest()).startswith("prompt: not set")
    assert refusal(generate, pb.GenerateRequest(text="")).startswith("text: empty")
    assert "tokens: id 51 is outside the vocabulary of 51" in refusal(
        generate, pb.GenerateRequest(tokens=ids(ids=[51])))
    assert "target_prefix_tokens: id 43 is outside the vocabulary of 43" in refusal(
        generate, pb.GenerateRequest(text="\u0622", target_prefix_tokens=ids(ids=[43])))
    said = refusal(generate, pb.GenerateRequest(tokens=ids(ids=[4] * 257)))
    assert "source has 257 tokens, more than the limit of 256" in said
    assert "256" in refusal(generate, pb.GenerateRequest(text="\u0622" * 300))
    said = refusal(generate, pb.GenerateRequest(
        text="\u0622", max_tokens=200, target_prefix_tokens=ids(ids=[4] * 60)))
    assert "target of 61 tokens and max_tokens of 200 need 260 positions, more than the 256" in said
    said = refusal(score, pb.ScoreRequest(text="a"))
    assert said.startswith("source: not set")
    assert refusal(score, pb.ScoreRequest(source_text="\u0622")).startswith("target: not set")
    assert "source_tokens" in refusal(
        score, pb.ScoreRequest(text="a", source_tokens=ids(ids=[51])))


def test_other_models_refuse_the_fields(tmp_path):
    name = "llama-t2r-clamp"
    directory = make_models.make(make_models.catalogue()[name], tmp_path / name)
    ids = pb.TokenIds(ids=[1, 2])
    with Server(directory) as server:
        assert refusal(server.stub.Generate, pb.GenerateRequest(
            tokens=ids, target_prefix_tokens=ids)).startswith("target_prefix")
        assert refusal(server.stub.Score, pb.ScoreRequest(
            tokens=ids, source_tokens=ids)).startswith("source")
        model = server.stub.GetModel(pb.GetModelRequest(), timeout=CALL_SECONDS)
        assert not model.encoder_decoder
        assert model.limits.max_source_tokens == 0


@pytest.mark.parametrize("name", ["marian-softmax", "marian-t2r"])
def test_greedy_alone_and_in_a_crowd(tmp_path, name):
    """The same bits whatever runs beside it; the whole state of a linear model is fixed-size."""
    spec = make_models.marian_catalogue()[name]
    directory = make_models.make(spec, tmp_path / name)
    sources = [source for source, _ in make_models.pairs(spec)]
    fields = {"logprobs": 1, "ignore_eos": True}
    with Server(directory, "--max-sessions", "32") as server:
        alone = [server.greedy(source, 20, **fields) for source in sources]
        greedy = pb.Sampling(temperature=0)
        calls = [server.start(source, 20, greedy, **fields) for source in 3 * sources]
        crowd = [collect(call) for call in calls]
        model = server.stub.GetModel(pb.GetModelRequest(), timeout=CALL_SECONDS)
    for i, result in enumerate(crowd):
        expected = alone[i % len(sources)]
        assert result.token_ids == expected.token_ids
        assert result.logprobs == expected.logprobs
    cross = spec.heads * spec.feature_size * (spec.d + 1) * 4
    linear = name == "marian-t2r"
    assert model.state_bytes_per_session == (2 * spec.layers * cross if linear else 0)
    assert (model.source_kv_bytes_per_position == 0) == linear
