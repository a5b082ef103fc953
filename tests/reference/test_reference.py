"""Holds the reference itself to known values and to the definitions in another form."""

import itertools
import json
import os

import numpy as np
import pytest

import beam_search
import drawn_models
import make_models
import safetensors
from feature_maps import MAP_TENSORS, attention, feature_map
from marian import MarianReference
from reference import Reference, rotate
from sentencepiece_bpe import SentencePieceBpe
from windowed import key_features, windowed_attention

SHARED = os.environ.get("T2R_DATA", "")
SPECS = make_models.catalogue()
MARIAN = make_models.marian_catalogue()
DRAWN = {**drawn_models.catalogue(), **drawn_models.marian_catalogue()}


def shared(*parts):
    path = os.path.join(SHARED, *parts)
    if not SHARED or not os.path.exists(path):
        pytest.skip(f"{'/'.join(parts)} is not in T2R_DATA")
    return path


def test_bfloat16_round_trip_is_exact():
    bits = np.arange(1 << 16, dtype=np.uint16)
    values = safetensors.from_bfloat16_bits(bits)
    finite = np.isfinite(values)
    assert (safetensors.to_bfloat16_bits(values[finite]) == bits[finite]).all()


def test_bfloat16_rounds_to_nearest_even():
    # One and its neighbours 2^-7 apart: a tie goes to the even mantissa, anything else to the nearer.
    ulp = 2.0**-7
    values = [1 + ulp / 2, 1 + 3 * ulp / 2, 1 + 0.51 * ulp, 1 + 0.49 * ulp]
    rounded = safetensors.from_bfloat16_bits(safetensors.to_bfloat16_bits(np.array(values)))
    assert rounded.tolist() == [1, 1 + 2 * ulp, 1 + ulp, 1]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_sharded_directory_reads_as_one(tmp_path, dtype):
    random = np.random.default_rng(7)
    tensors = {f"t{i}": random.normal(size=(i + 1, 3)) for i in range(7)}
    for shards in (1, 3):
        directory = tmp_path / str(shards)
        directory.mkdir()
        safetensors.write_directory(directory, tensors, dtype, shards)
    one, many = (safetensors.read_directory(tmp_path / name) for name in ("1", "3"))
    assert sorted(one) == sorted(many) == sorted(tensors)
    for name, values in tensors.items():
        assert (one[name] == many[name]).all()
        assert np.abs(one[name] - values).max() < {"float32": 1e-6, "float16": 4e-3}.get(dtype, 4e-2)


def recurrent_attention(q, k, v, linear, tensors):
    """The same layer as an RNN: S and z grow token by token. q [n, H, d], k and v [n, G, d]."""
    n, heads, d = q.shape
    groups = k.shape[1]
    out = np.empty((n, heads, d))
    for head in range(heads):
        group = head * groups // heads
        part = {name: tensor[group] for name, tensor in tensors.items()}
        state = norm = 0
        for t in range(n):
            phi_k = feature_map(linear["feature_map"], k[t:t + 1, group], part)[0]
            phi_q = feature_map(linear["feature_map"], q[t:t + 1, head] * linear["query_scale"], part)[0]
            state = state + np.outer(phi_k, v[t, group])
            norm = norm + phi_k
            den = phi_q @ norm
            den = den + linear["eps"] if linear["normalizer"] == "add" else max(den, linear["eps"])
            out[t, head] = phi_q @ state / den
    return out.reshape(n, heads * d)


@pytest.mark.parametrize("kind", make_models.MAPS)
@pytest.mark.parametrize("normalizer", make_models.NORMALIZERS)
def test_quadratic_form_equals_recurrence(kind, normalizer):
    random = np.random.default_rng(3)
    n, heads, groups, d, k = 37, 4, 2, 8, 8
    q, keys, v = (random.normal(size=(n, h, d)) for h in (heads, groups, groups))
    shapes = {"weight": (groups, k if kind == "t2r" else k // 2, d), "bias": (groups, k),
              "projection": (groups, k // 2, d)}
    tensors = {name: random.normal(size=shapes[name]) for name in MAP_TENSORS[kind]}
    linear = {"feature_map": kind, "normalizer": normalizer, "eps": 0.05, "query_scale": 0.35}
    quadratic = attention(q, keys, v, groups, linear, tensors)
    recurrent = recurrent_attention(q, keys, v, linear, tensors)
    assert np.linalg.norm(quadratic - recurrent) <= 1e-10 * np.linalg.norm(recurrent)


def recurrent_window(q, k, v, turn, groups, linear, sizes, tensors):
    """The same layer as an RNN: a buffer of keys, and S and z that take in the oldest `fold` of them
    before the row whose window leaves them behind. q [n, H, d], k and v [n, G, d]."""
    kind, s = linear["feature_map"], linear["query_scale"]
    window, sinks, fold = sizes["window"], sizes["sinks"], sizes["fold"]
    n, heads, d = q.shape
    out = np.empty((n, heads, d))
    for head in range(heads):
        group = head * k.shape[1] // heads
        part = {name: tensor[head if name in ("query_bias", "far_bias") else group]
                for name, tensor in tensors.items()}
        decay = np.exp(part["log_decay"])
        kept, near, state, mass = [], [], 0.0, 0.0
        for t in range(n):
            if len(near) == window + fold - 1:
                for held in near[:fold]:
                    state, mass = state * decay, mass * decay
                    if held is not None:
                        state, mass = state + np.outer(held[1], held[2]), mass + held[1]
                near = near[fold:]
            key = turn(k[t:t + 1], np.array([t]))[0, group]
            query = turn(q[t:t + 1], np.array([t]))[0, head]
            at_sinks = turn(q[t:t + 1], np.array([min(t, linear["sink_position"])]))[0, head]
            far_key, far_query = (key, query) if linear["rope_features"] else (k[t, group], q[t, head])
            feature = key_features(kind, far_key[None], part)[0]
            # A sink has its place among the nearest keys, but is never folded.
            if t < sinks:
                kept.append((key, v[t, group]))
            near.append(None if t < sinks else (key, feature, v[t, group]))
            held = [one for one in near if one is not None]
            logits = [s * at_sinks @ one[0] for one in kept] + [s * query @ one[0] for one in held]
            values = [one[1] for one in kept] + [one[2] for one in held]
            if kind == "codebook":
                phi = np.exp(np.minimum(part["query_weight"] @ (s * far_query) + part["query_bias"],
                                        max(logits) + 40))
            elif kind == "none":
                phi = np.zeros(0)
            else:
                phi = np.exp(part["far_bias"]) * feature_map(kind, s * far_query[None], part)[0]
            weights = np.exp(logits)
            numerator, denominator = weights @ np.array(values), weights.sum()
            if np.ndim(mass):
                numerator, denominator = numerator + phi @ state, denominator + phi @ mass
            out[t, head] = numerator / denominator
    return out.reshape(n, heads * d)


@pytest.mark.parametrize("kind", (*make_models.MAPS, "codebook", "none"))
@pytest.mark.parametrize("sizes", [(1, 0, 1), (5, 3, 1), (4, 9, 6), (7, 2, 7), (64, 1, 3)])
@pytest.mark.parametrize("rope_features", [True, False])
def test_window_by_its_definition_equals_recurrence(kind, sizes, rope_features):
    random = np.random.default_rng(3)
    n, heads, groups, d, features = 30, 4, 2, 8, 6
    q, keys, v = (random.normal(size=(n, h, d)) for h in (heads, groups, groups))
    shapes = {"weight": (groups, features, d), "bias": (groups, features), "projection": (groups, features, d),
              "key_weight": (groups, features, d), "key_bias": (groups, features),
              "query_weight": (groups, features, d), "query_bias": (heads, features)}
    tensors = {name: random.normal(size=shapes[name]) for name in MAP_TENSORS[kind]}
    tensors["log_decay"] = -np.abs(random.normal(size=groups)) * 0.3
    if kind in make_models.MAPS:
        tensors["far_bias"] = random.normal(size=heads) - 4
    if kind == "codebook":
        tensors["query_bias"] += 40  # some centroids beyond the bound of e^40
    linear = {"feature_map": kind, "query_scale": 0.35, "rope_features": rope_features,
              "sink_position": 13}
    sizes = dict(zip(("window", "sinks", "fold"), sizes))

    def turn(x, positions):
        return rotate(x, (10000.0 ** -np.linspace(0, 1, d // 2), 1.0), positions)

    expected = recurrent_window(q, keys, v, turn, groups, linear, sizes, tensors)
    defined = windowed_attention(q, keys, v, turn, groups, linear, sizes, tensors)
    assert np.linalg.norm(defined - expected) <= 1e-10 * np.linalg.norm(expected)


@pytest.mark.parametrize("name", SPECS)
def test_random_models_are_worth_comparing(tmp_path, name):
    """Neither flat nor certain, moved by their context, and within reach of float32."""
    spec = SPECS[name]
    directory = make_models.make(spec, tmp_path / name)
    model = Reference(directory)
    random = np.random.default_rng(11)
    ids = random.integers(0, spec.vocab, size=96).tolist()
    log_probs = model.log_probs(ids)
    entropy = -(np.exp(log_probs) * log_probs).sum(axis=-1).mean()
    assert 1 < entropy < 0.8 * np.log(spec.vocab)
    shuffled = random.permutation(ids[:-1]).tolist() + ids[-1:]
    assert np.abs(model.log_probs(shuffled)[-1] - log_probs[-1]).mean() > 0.05
    single = Reference(directory, np.float32)
    for scored in make_models.sequences(spec):
        assert np.abs(single.score(scored) - model.score(scored)).max() < spec.tolerance / 2


@pytest.mark.parametrize("name", MARIAN)
def test_random_encoder_decoders_are_worth_comparing(tmp_path, name):
    """As above; what counts as context is the source and the target so far."""
    spec = MARIAN[name]
    directory = make_models.make(spec, tmp_path / name)
    model = MarianReference(directory)
    random = np.random.default_rng(11)
    source = random.integers(0, spec.source_vocab, size=60).tolist()
    target = random.integers(0, spec.vocab, size=60).tolist()
    log_probs = model.log_probs(source, target)
    entropy = -(np.exp(log_probs) * log_probs).sum(axis=-1).mean()
    assert 1 < entropy < 0.8 * np.log(spec.vocab)
    for other in ((random.permutation(source).tolist(), target),
                  (source, random.permutation(target[:-1]).tolist() + target[-1:])):
        assert np.abs(model.log_probs(*other)[-1] - log_probs[-1]).mean() > 0.02
    single = MarianReference(directory, np.float32)
    for pair in make_models.pairs(spec):
        assert np.abs(single.score(*pair) - model.score(*pair)).max() < spec.tolerance / 2


@pytest.mark.parametrize("name", DRAWN)
def test_drawn_models_are_within_reach_of_float32(tmp_path, name):
    spec = DRAWN[name]
    directory = make_models.make(spec, tmp_path / name)
    random = np.random.default_rng(11)
    target = random.integers(0, spec.vocab, size=120).tolist()
    if spec.family == "marian":
        kind, ids = MarianReference, (random.integers(0, spec.source_vocab, size=40).tolist(), target)
    else:
        kind, ids = Reference, (target,)
    exact = kind(directory).score(*ids)
    assert np.abs(kind(directory, np.float32).score(*ids) - exact).max() < spec.tolerance / 2


def test_known_greedy_of_stories260k():
    model = Reference(shared("stories260K"))
    tokenizer = SentencePieceBpe(shared("stories260K", "tokenizer.model"))
    prompt = [1] + tokenizer.encode("Once upon a time")
    assert prompt == [1, 403, 407, 261, 378]
    ids, _ = model.greedy(prompt, 12)
    assert ids == [432, 383, 286, 261, 376, 298, 315, 421, 395, 317, 426, 338]


def test_known_loss_of_stories260k():
    model = Reference(shared("stories260K"))
    tokenizer = SentencePieceBpe(shared("stories260K", "tokenizer.model"))
    with open(shared("tinystories", "valid.txt"), encoding="utf-8") as file:
        stories = [story.strip() for story in file.read().split("<|endoftext|>")]
    stories = [story for story in stories if story][:150]
    total, count = 0.0, 0
    for story in stories:
        scores = model.score(([1] + tokenizer.encode(story))[:512])
        total -= scores.sum()
        count += len(scores)
    assert count == 55777
    assert total / count == pytest.approx(1.40256, abs=5e-6)


def test_known_transliteration_of_aren():
    model = MarianReference(shared("aren"))
    with open(shared("aren", "vocab.json"), encoding="utf-8") as file:
        source = json.load(file)
    with open(shared("aren", "target_vocab.json"), encoding="utf-8") as file:
        target = {number: piece for piece, number in json.load(file).items()}
    word = "\u0622\u062a\u0632\u0645\u0648\u0646"
    ids, _ = model.greedy([source[letter] for letter in word], 32)
    assert "".join(target[number] for number in ids) == "atzmon"


def test_gpt_nano_sort_sorts_every_input():
    model = Reference(shared("gpt-nano-sort"))
    for digits in itertools.product(range(3), repeat=6):
        ordered = sorted(digits)
        chosen = model.log_probs(list(digits) + ordered[:5])[5:].argmax(axis=-1)
        assert chosen.tolist() == ordered, digits


def architecture_goldens():
    path = os.path.join(os.path.dirname(os.path.abspath(beam_search.__file__)),
                        "architectures_golden.json")
    with open(path) as file:
        return json.load(file)["cases"]


@pytest.mark.parametrize("name", architecture_goldens())
def test_architectures_are_what_transformers_computes(tmp_path, name):
    golden = architecture_goldens()[name]
    ids = [(i * i * 7 + i * 13 + 3) % 203 for i in range(len(golden) + 1)]
    model = Reference(make_models.make(SPECS[name], tmp_path / name))
    # transformers computes norms and rotary positions in float32.
    assert np.abs(model.score(ids) - golden).max() < 1e-4


def beam_goldens():
    path = os.path.join(os.path.dirname(os.path.abspath(beam_search.__file__)), "beams_golden.json")
    with open(path) as file:
        return json.load(file)["cases"]


@pytest.mark.parametrize("name", sorted({case["model"] for case in beam_goldens()}))
def test_beam_search_gives_what_transformers_gives(tmp_path, name):
    specs = {**SPECS, **make_models.marian_catalogue()}
    directory = make_models.make(specs[name], tmp_path / name) if name in specs else shared(name)
    marian = name.startswith("marian")
    reference, known = (MarianReference if marian else Reference)(directory), {}

    def next_log_probs(prompt, ids):
        if (prompt, ids) not in known:
            rows = (reference.log_probs(prompt, ids) if marian else
                    reference.log_probs(prompt + ids))
            known[prompt, ids] = rows[-1]
        return known[prompt, ids]

    for case in beam_goldens():
        if case["model"] != name:
            continue
        beams = beam_search.Beams(case["count"], case["length_penalty"], case["num_return"],
                                  case["early_stopping"])
        prompt = tuple(case["prompt"])
        result = beam_search.search(lambda ids: next_log_probs(prompt, tuple(ids)), beams,
                                    case["max_tokens"], case["eos"])
        assert [ids for _, ids in result.hypotheses] == [h["ids"] for h in case["hypotheses"]], beams
        for (score, ids), golden in zip(result.hypotheses, case["hypotheses"]):
            # transformers sums float32 values.
            bound = 1e-5 * len(ids) * len(ids) ** -min(case["length_penalty"], 1)
            assert abs(score - golden["score"]) <= bound, beams


def test_beam_search_passes_suppressed_ids_over():
    def next_log_probs(ids):
        return np.log([0.1, 0.05, 0.05, 0.8])

    result = beam_search.search(next_log_probs, beam_search.Beams(2, num_return=2), 3, [2], [3])
    assert [ids for _, ids in result.hypotheses] == [[0, 0, 0], [0, 0, 1]]
