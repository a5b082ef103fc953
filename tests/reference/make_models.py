#!/usr/bin/env python3
"""Writes model directories with random weights, one for each thing an engine can get wrong.

  make_models.py --list              names, a line each
  make_models.py --out DIR [NAME...] writes DIR/NAME for each (default: all)

A directory depends only on its name. Weights are scaled so that the distributions are far from
flat and the attention layers matter. None has a tokenizer: they are served by token ids.
"""

import argparse
import dataclasses
import json
import os
import sys
import zlib
from typing import Optional

import numpy as np

import safetensors
from windowed import SIZES, sizes_of

MAPS = ("t2r", "elu", "rfa", "hedgehog")
NORMALIZERS = ("clamp", "add")
# Families that differ from Llama in little, by the names of their classes.
LLAMA_CLASSES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "mistral": "MistralForCausalLM",
    "phi3": "Phi3ForCausalLM",
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@dataclasses.dataclass(frozen=True)
class Spec:
    name: str
    family: str = "llama"  # llama, qwen2, qwen3, mistral, phi3, gpt_neox or gpt2
    feature_map: Optional[str] = None  # None: every layer is softmax
    normalizer: Optional[str] = "clamp"  # None: left out, and eps with it
    eps: Optional[float] = None  # None: 1e-2 with clamp, 1e-6 with add
    query_scale: Optional[float] = None  # None: head_dim ** -0.5
    # A number, or a list with one a layer: config.json's linear_attention.
    feature_size: object = 24
    window: object = 0
    sinks: object = 0
    fold: object = 1
    rope_features: Optional[bool] = None  # None: as absent
    sink_position: Optional[int] = None
    decay: float = 0.0  # log_decay's standard deviation; 0: there is none
    far: float = 0.0  # added to query_bias or far_bias
    sliding_window: Optional[int] = None  # Mistral, or Qwen2 from layer 1 on
    full_layers: tuple = ()  # of a model with a feature map
    layers: int = 3
    heads: int = 4
    kv_heads: int = 4
    head_dim: int = 16
    hidden: int = 60  # Llama: not heads * head_dim, so that head_dim is needed
    inner: int = 100
    vocab: int = 203
    positions: int = 512
    bias: bool = False  # Llama: attention_bias and mlp_bias
    tied: bool = False
    rope_theta: float = 10000.0
    rope_scaling: Optional[dict] = None
    original_positions: Optional[int] = None  # original_max_position_embeddings
    rope_length: Optional[int] = None
    rotary: Optional[float] = None  # the part of a head that turns
    parallel: bool = True  # GPT-NeoX: use_parallel_residual
    activation: str = "gelu"  # GPT-NeoX
    prefix: str = "transformer."  # GPT-2
    dtype: str = "float32"
    shards: int = 1

    @property
    def d(self):
        return self.hidden // self.heads if self.family in ("gpt2", "gpt_neox") else self.head_dim

    @property
    def groups(self):
        return self.heads if self.family in ("gpt2", "gpt_neox") else self.kv_heads

    @property
    def tolerance(self):
        """How far a float32 engine's log-probabilities may be off, absolute. The features of rfa
        have both signs, so its denominators cancel and lose more."""
        return 3e-4 if self.feature_map == "rfa" else 1e-4


def catalogue():
    specs = []

    def add(name, **fields):
        specs.append(Spec(name=name, **fields))

    gpt2 = {"family": "gpt2", "hidden": 64, "inner": 256}
    for kind in MAPS:
        size = {"elu": 16, "rfa": 128}.get(kind, 24)
        for normalizer in NORMALIZERS:
            fields = {"feature_map": kind, "feature_size": size, "normalizer": normalizer}
            add(f"llama-{kind}-{normalizer}", **fields)
            add(f"gpt2-{kind}-{normalizer}", **fields, **gpt2)
    add("llama-softmax")
    add("gpt2-softmax", **gpt2)

    t2r = {"feature_map": "t2r"}
    mixed = {"full_layers": (1,)}
    gqa = {"heads": 6, "kv_heads": 2}
    add("llama-t2r-gqa", **t2r, **gqa)
    add("llama-t2r-mqa", **t2r, heads=6, kv_heads=1)
    add("llama-softmax-gqa", **gqa)
    add("llama-elu-gqa-mixed", feature_map="elu", feature_size=16, **gqa, **mixed)
    add("llama-hedgehog-gqa", feature_map="hedgehog", **gqa)
    add("llama-rfa-gqa", feature_map="rfa", feature_size=128, **gqa)
    add("llama-t2r-mixed", **t2r, **mixed)
    add("gpt2-t2r-mixed", **t2r, full_layers=(0, 2), layers=4, **gpt2)
    add("llama-t2r-biases", **t2r, bias=True)
    add("llama-softmax-biases", bias=True)
    add("qwen2-t2r-gqa", **t2r, family="qwen2", **gqa)
    add("qwen2-softmax-tied", family="qwen2", tied=True)
    add("qwen3-softmax-gqa", family="qwen3", **gqa)
    add("qwen3-t2r-tied", **t2r, family="qwen3", tied=True, **gqa)
    add("llama-t2r-tied", **t2r, tied=True)
    add("gpt2-t2r-tied", **t2r, tied=True, **gpt2)
    add("gpt2-hedgehog-bare-names", feature_map="hedgehog", prefix="", tied=True, **gpt2)
    add("llama-t2r-query-scale-1", **t2r, query_scale=1.0)
    add("gpt2-t2r-query-scale-2", **t2r, query_scale=2.0, **gpt2)
    add("llama-elu-query-scale", feature_map="elu", feature_size=16, query_scale=0.5)
    add("llama-t2r-rope-llama3", **t2r, rope_scaling=LLAMA3_ROPE)
    add("llama-softmax-rope-llama3", rope_scaling=LLAMA3_ROPE, rope_theta=500000.0, **gqa)
    add("llama-t2r-rope-linear", **t2r, rope_scaling={"rope_type": "linear", "factor": 4.0})
    add("llama-t2r-wide", **t2r, feature_size=40, layers=2, heads=2, kv_heads=2, head_dim=64,
        hidden=128, inner=344, vocab=1031)
    add("llama-t2r-few-features", **t2r, feature_size=7)
    # Folding the map into the projections saves work here (k below head_dim) and not above.
    folds = {**gpt2, "hidden": 96, "inner": 384, "feature_size": 16}
    add("gpt2-t2r-folds", **t2r, **folds)
    for dtype in ("float16", "bfloat16"):
        add(f"llama-t2r-{dtype}", **t2r, **gqa, dtype=dtype)
        add(f"gpt2-t2r-{dtype}", **t2r, **gpt2, dtype=dtype)
        add(f"llama-softmax-{dtype}", dtype=dtype)
        add(f"gpt2-hedgehog-{dtype}", feature_map="hedgehog", **gpt2, dtype=dtype)
        add(f"gpt2-t2r-folds-{dtype}", **t2r, **folds, dtype=dtype)
    for kind in (*MAPS, "codebook", "none"):
        size = {"elu": 16, "rfa": 32, "none": 0}.get(kind, 24)
        window = {"feature_map": kind, "feature_size": size, "window": 20, "sinks": 3}
        decay = 0.05 if kind != "none" else 0.0
        add(f"llama-window-{kind}", **window, **gqa, decay=decay)
        add(f"llama-window-{kind}-plain-fold", **window, fold=16, rope_features=False)
        add(f"gpt2-window-{kind}", **window, fold=8, decay=decay, **gpt2)
    codebook = {"feature_map": "codebook", "feature_size": 24}
    lists = {"window": [9, 0, 33], "sinks": [2, 0, 4], "fold": [1, 1, 5],
             "feature_size": [8, 12, 32]}
    add("llama-codebook-lists", **{**codebook, **lists}, **gqa)
    add("llama-codebook-lists-mixed", **codebook, window=[9, 1, 33], sinks=4, **mixed)
    add("gpt2-codebook-lists", **{**codebook, **lists}, **gpt2)
    add("llama-codebook-alone", **codebook, decay=0.05, **gqa)
    add("llama-codebook-rope-features", **codebook, window=12, fold=12, rope_features=True)
    add("llama-codebook-sink-position", **codebook, window=16, sinks=4, sink_position=24)
    add("llama-t2r-decay", **t2r, decay=0.05, rope_features=False)
    add("mistral-sliding", family="mistral", sliding_window=40, **gqa)
    add("qwen2-sliding", family="qwen2", sliding_window=24)
    neox = {"family": "gpt_neox", "hidden": 64, "inner": 200, "rotary": 0.25, "bias": True}
    # transformers 4.46 wants Phi-3's head_dim to be hidden / heads.
    phi3 = {"family": "phi3", "heads": 6, "kv_heads": 2, "hidden": 96, "rotary": 0.75}
    for family, fields in (("gpt-neox", neox), ("phi3", phi3)):
        for kind in MAPS:
            size = {"elu": 16, "rfa": 128}.get(kind, 24)
            add(f"{family}-{kind}", feature_map=kind, feature_size=size, **fields)
        window = {"window": 20, "sinks": 3, **fields}
        add(f"{family}-window-none", feature_map="none", feature_size=0, **window)
        add(f"{family}-window-elu", feature_map="elu", feature_size=16, decay=0.05, **window)
        add(f"{family}-window-codebook-fold", **codebook, fold=16, sink_position=30, **window)
        add(f"{family}-softmax", **fields)
        add(f"{family}-t2r-mixed-tied-bfloat16", **t2r, **mixed, tied=True, dtype="bfloat16",
            **fields)
    add("gpt-neox-sequential", **{**neox, "rotary": 1.0}, parallel=False, activation="gelu_new")
    add("gpt-neox-no-biases", **{**neox, "bias": False}, parallel=False, activation="relu")
    add("gpt-neox-silu-tied", **neox, activation="silu", tied=True)
    add("phi3-whole-heads", **{**phi3, "rotary": 1.0})
    add("phi3-sliding", sliding_window=40, **phi3)
    yarn = {"rope_type": "yarn", "factor": 4.0}
    dynamic = {"type": "dynamic", "factor": 4.0}
    add("llama-softmax-rope-yarn", rope_scaling=yarn, **gqa)
    add("llama-softmax-rope-yarn-original", rope_scaling={
        **yarn, "original_max_position_embeddings": 128, "beta_fast": 8, "beta_slow": 2,
        "mscale": 1.0, "mscale_all_dim": 0.5, "truncate": False})
    add("llama-codebook-rope-yarn", **codebook, window=12, sinks=2, fold=4, rope_scaling=yarn)
    add("gpt-neox-rope-yarn", **neox, rope_scaling=yarn)
    add("llama-softmax-rope-dynamic", rope_scaling=dynamic)
    add("gpt-neox-rope-dynamic-long", **{**neox, "rotary": 0.5}, rope_scaling=dynamic,
        rope_length=2000)
    pairs_of = {"phi3": 6, "llama": 8}
    for family, fields in (("phi3", phi3), ("llama", {})):
        pairs = pairs_of[family]
        longrope = {"type": "longrope",
                    "short_factor": [1 + 0.05 * i for i in range(pairs)],
                    "long_factor": [1.5 + 0.75 * i for i in range(pairs)]}
        scaled = {"rope_scaling": longrope, "original_positions": 96, **fields}
        add(f"{family}-softmax-rope-longrope", **scaled)
        add(f"{family}-softmax-rope-longrope-short", rope_length=96, **scaled)
        add(f"{family}-t2r-rope-longrope", **t2r, window=30, sinks=2, rope_features=False, **scaled)
    add("llama-t2r-sharded", **t2r, shards=3)
    add("gpt2-softmax-sharded-bfloat16", shards=2, dtype="bfloat16", **gpt2)
    return {spec.name: spec for spec in specs}


@dataclasses.dataclass(frozen=True)
class MarianSpec:
    """An encoder-decoder; the fields that it shares with Spec mean the same."""

    name: str
    feature_map: Optional[str] = None  # None: all attention is softmax
    normalizer: Optional[str] = "clamp"
    feature_size: object = 12
    window: object = 0  # of causal attention, and so are sinks and fold
    sinks: object = 0
    fold: object = 1
    rope_features: Optional[bool] = None
    sink_position: Optional[int] = None
    decay: float = 0.0
    far: float = 0.0
    eps: Optional[float] = None
    query_scale: Optional[float] = None
    full_layers: tuple = ()  # of the decoder's causal attention
    full_cross: tuple = ()  # of its cross attention
    layers: int = 3
    encoder_layers: int = 2
    heads: int = 4
    encoder_heads: int = 2
    hidden: int = 64
    inner: int = 100
    encoder_inner: int = 80
    vocab: int = 103  # the target's
    source_vocab: int = 131  # the same as vocab where embeddings are shared
    positions: int = 150
    activation: str = "swish"
    before: bool = False  # normalize_before, with add_final_layer_norm
    scale: bool = True  # scale_embedding
    learned: bool = False  # positions
    stored: bool = True  # positions in the file
    shared: bool = False  # one table for source and target
    tied: bool = True
    logits_bias: bool = True
    dtype: str = "float32"
    family: str = "marian"

    @property
    def d(self):
        return self.hidden // self.heads

    @property
    def groups(self):
        return self.heads

    @property
    def tolerance(self):
        return 3e-4 if self.feature_map == "rfa" else 1e-4


def marian_catalogue():
    specs = []

    def add(name, **fields):
        specs.append(MarianSpec(name="marian-" + name, **fields))

    one = {"shared": True, "source_vocab": 103}  # vocabulary, as opus-mt's
    t2r = {"feature_map": "t2r"}
    add("softmax", **one)
    add("softmax-before", before=True, tied=False)
    add("softmax-gelu-learned", activation="gelu", learned=True, scale=False)
    add("softmax-relu-computed", activation="relu", stored=False, logits_bias=False, **one)
    add("softmax-gelu-new-computed-before", activation="gelu_new", stored=False, before=True,
        tied=False, **one)
    add("t2r", **t2r, **one)
    add("t2r-before", **t2r, before=True, tied=False)
    # k above what folding saves: the maps stay apart.
    add("t2r-unfolded", **t2r, feature_size=40)
    add("t2r-cross-only", **t2r, full_layers=(0, 1, 2))
    add("t2r-causal-only", **t2r, full_cross=(0, 1, 2), before=True)
    add("t2r-mixed", **t2r, full_layers=(1,), full_cross=(0, 2))
    add("elu", feature_map="elu", feature_size=16, normalizer="add", full_cross=(1,))
    add("rfa", feature_map="rfa", feature_size=64, full_layers=(1,), full_cross=(1,))
    add("hedgehog", feature_map="hedgehog", normalizer="add", before=True, tied=False,
        full_cross=(2,))
    add("codebook", feature_map="codebook", feature_size=20)
    add("codebook-window", feature_map="codebook", feature_size=20, window=9, sinks=2,
        full_cross=(1,))
    add("codebook-cross-only-decay", feature_map="codebook", feature_size=16,
        full_layers=(0, 1, 2), decay=0.05, **one)
    add("t2r-bfloat16", **t2r, dtype="bfloat16", full_layers=(2,), full_cross=(0,))
    add("softmax-float16", dtype="float16", **one)
    return {spec.name: spec for spec in specs}


# One token scored, page and chunk edges (64, 128) from both sides, and several chunks.
SEQUENCE_LENGTHS = (2, 3, 17, 64, 65, 128, 129, 130, 400)


def sequences(spec):
    """Ids to score a model with, one list for each length."""
    random = np.random.default_rng(len(spec.name))
    return [random.integers(0, spec.vocab, size=n).tolist() for n in SEQUENCE_LENGTHS]


# Ids of a source and of a target each: one and the other at page edges, both short, both long.
PAIR_LENGTHS = ((1, 1), (2, 3), (17, 9), (63, 2), (64, 64), (65, 65), (128, 30), (129, 7),
                (5, 140), (150, 150))


def pairs(spec):
    """(source, target) ids to score an encoder-decoder with."""
    random = np.random.default_rng(len(spec.name))
    return [(random.integers(0, spec.source_vocab, size=source).tolist(),
             random.integers(0, spec.vocab, size=target).tolist())
            for source, target in PAIR_LENGTHS]


def linear_config_of(spec):
    """config.json's linear_attention; what the format calls absent is left out."""
    config = {
        "feature_map": spec.feature_map,
        "query_scale": spec.query_scale or spec.d**-0.5,
    }
    if spec.normalizer is not None:
        config["normalizer"] = spec.normalizer
        config["eps"] = spec.eps or (1e-2 if spec.normalizer == "clamp" else 1e-6)
    for key in (*SIZES, "rope_features", "sink_position"):
        if getattr(spec, key) != SIZES.get(key):
            config[key] = getattr(spec, key)
    return config


def marian_config_of(spec):
    def types(full):
        return ["full_attention" if spec.feature_map is None or i in full else "linear_attention"
                for i in range(spec.layers)]

    config = {
        "architectures": ["MarianMTModel"],
        "model_type": "marian",
        "d_model": spec.hidden,
        "encoder_layers": spec.encoder_layers,
        "decoder_layers": spec.layers,
        "encoder_attention_heads": spec.encoder_heads,
        "decoder_attention_heads": spec.heads,
        "encoder_ffn_dim": spec.encoder_inner,
        "decoder_ffn_dim": spec.inner,
        "activation_function": spec.activation,
        "normalize_before": spec.before,
        "add_final_layer_norm": spec.before,
        "scale_embedding": spec.scale,
        "static_position_embeddings": not spec.learned,
        "share_encoder_decoder_embeddings": spec.shared,
        "tie_word_embeddings": spec.tied,
        "max_position_embeddings": spec.positions,
        "vocab_size": spec.source_vocab,
        "decoder_vocab_size": spec.vocab,
        "decoder_start_token_id": spec.vocab - 1,
        "pad_token_id": spec.vocab - 1,
        "eos_token_id": 0,
        "torch_dtype": spec.dtype,
    }
    if spec.feature_map is not None:
        config["layer_types"] = types(spec.full_layers)
        config["cross_layer_types"] = types(spec.full_cross)
        config["linear_attention"] = linear_config_of(spec)
    return config


def config_of(spec):
    if spec.family == "marian":
        return marian_config_of(spec)
    linear = spec.feature_map is not None
    types = [
        "linear_attention" if linear and i not in spec.full_layers else "full_attention"
        for i in range(spec.layers)
    ]
    common = {
        "vocab_size": spec.vocab,
        "tie_word_embeddings": spec.tied,
        "torch_dtype": spec.dtype,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    if linear:
        common["layer_types"] = types
        common["linear_attention"] = linear_config_of(spec)
    if spec.family == "gpt2":
        return {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "n_embd": spec.hidden,
            "n_layer": spec.layers,
            "n_head": spec.heads,
            "n_inner": spec.inner,
            "n_positions": spec.positions,
            "layer_norm_epsilon": 1e-5,
            "activation_function": "gelu_new",
            **common,
        }
    rope = {"max_position_embeddings": spec.positions, "rope_scaling": spec.rope_scaling}
    if spec.original_positions is not None:
        rope["original_max_position_embeddings"] = spec.original_positions
    if spec.rope_length is not None:
        rope["rope_length"] = spec.rope_length
    if spec.family == "gpt_neox":
        return {
            "architectures": ["GPTNeoXForCausalLM"],
            "model_type": "gpt_neox",
            "hidden_size": spec.hidden,
            "intermediate_size": spec.inner,
            "num_hidden_layers": spec.layers,
            "num_attention_heads": spec.heads,
            "layer_norm_eps": 1e-5,
            "rotary_emb_base": spec.rope_theta,
            "rotary_pct": spec.rotary,
            "hidden_act": spec.activation,
            "use_parallel_residual": spec.parallel,
            "attention_bias": spec.bias,
            **rope,
            **common,
        }
    config = {
        "architectures": [LLAMA_CLASSES[spec.family]],
        "model_type": spec.family,
        "hidden_size": spec.hidden,
        "intermediate_size": spec.inner,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads,
        "head_dim": spec.head_dim,
        "rms_norm_eps": 1e-5,
        "rope_theta": spec.rope_theta,
        "hidden_act": "silu",
        **rope,
        **common,
    }
    if spec.rotary is not None:
        config["partial_rotary_factor"] = spec.rotary
    if spec.family == "phi3":
        config["pad_token_id"] = None  # transformers' own would be outside the vocabulary
    if spec.sliding_window is not None or spec.family == "mistral":
        config["sliding_window"] = spec.sliding_window
        if spec.family == "qwen2":
            config.update(use_sliding_window=True, max_window_layers=1)
    if spec.family == "llama":
        config["attention_bias"] = spec.bias
        config["mlp_bias"] = spec.bias
    return config


class Weights:
    """Draws named tensors; standard deviations keep activations of order one."""

    def __init__(self, name):
        self.random = np.random.default_rng(zlib.crc32(name.encode()))
        self.tensors = {}

    def normal(self, name, shape, deviation):
        self.tensors[name] = self.random.normal(size=shape) * deviation

    def norm(self, name, width, bias=False):
        self.tensors[name + ".weight"] = 1 + 0.2 * self.random.normal(size=width)
        if bias:
            self.normal(name + ".bias", width, 0.2)

    def linear(self, name, out, inputs, gain=1.0, bias=False, transposed=False):
        shape = (inputs, out) if transposed else (out, inputs)
        self.normal(name + ".weight", shape, gain * inputs**-0.5)
        if bias:
            self.normal(name + ".bias", out, 0.1)

    def feature_map(self, prefix, spec, layer, cross=False):
        g, d = spec.groups, spec.d
        sizes = sizes_of(linear_config_of(spec), layer, cross)
        k = sizes["feature_size"]
        if spec.decay:
            self.tensors[prefix + ".log_decay"] = -np.abs(self.random.normal(size=g)) * spec.decay
        if spec.feature_map == "codebook":
            self.normal(prefix + ".key_weight", (g, k, d), 1.0)
            self.normal(prefix + ".key_bias", (g, k), 0.5)
            self.normal(prefix + ".query_weight", (g, k, d), 1.0)
            self.normal(prefix + ".query_bias", (spec.heads, k), 0.5)
            self.tensors[prefix + ".query_bias"] += spec.far
            return
        if sizes["window"] and spec.feature_map != "none":
            self.normal(prefix + ".far_bias", (spec.heads,), 0.5)
            # The features of rfa have both signs: they must stay small beside the keys near by.
            self.tensors[prefix + ".far_bias"] += spec.far - (7 if spec.feature_map == "rfa" else 1)
        if spec.feature_map == "t2r":
            self.normal(prefix + ".weight", (g, k, d), d**-0.5 * 1.5)
            self.normal(prefix + ".bias", (g, k), 0.5)
        elif spec.feature_map == "rfa":
            self.normal(prefix + ".projection", (g, k // 2, d), 1.0)
        elif spec.feature_map == "hedgehog":
            self.normal(prefix + ".weight", (g, k // 2, d), d**-0.5 * 1.5)


def make_llama(spec, w):
    q, kv = spec.heads * spec.d, spec.groups * spec.d
    qkv_bias = spec.bias or spec.family == "qwen2"
    # A tied table is also the head, where a deviation of one would make the logits far too large.
    w.normal("model.embed_tokens.weight", (spec.vocab, spec.hidden), 0.3 if spec.tied else 1.0)
    for i in range(spec.layers):
        layer = f"model.layers.{i}"
        w.norm(layer + ".input_layernorm", spec.hidden)
        if spec.family == "phi3":
            w.linear(layer + ".self_attn.qkv_proj", q + 2 * kv, spec.hidden, 1.5)
        else:
            w.linear(layer + ".self_attn.q_proj", q, spec.hidden, 1.5, qkv_bias)
            w.linear(layer + ".self_attn.k_proj", kv, spec.hidden, 1.5, qkv_bias)
            w.linear(layer + ".self_attn.v_proj", kv, spec.hidden, 1.5, qkv_bias)
        w.linear(layer + ".self_attn.o_proj", spec.hidden, q, 1.5, spec.bias)
        if spec.family == "qwen3":
            w.norm(layer + ".self_attn.q_norm", spec.d)
            w.norm(layer + ".self_attn.k_norm", spec.d)
        if spec.feature_map is not None and i not in spec.full_layers:
            w.feature_map(layer + ".self_attn.feature_map", spec, i)
        w.norm(layer + ".post_attention_layernorm", spec.hidden)
        if spec.family == "phi3":
            w.linear(layer + ".mlp.gate_up_proj", 2 * spec.inner, spec.hidden, 1.5)
        else:
            w.linear(layer + ".mlp.gate_proj", spec.inner, spec.hidden, 1.5, spec.bias)
            w.linear(layer + ".mlp.up_proj", spec.inner, spec.hidden, 1.5, spec.bias)
        w.linear(layer + ".mlp.down_proj", spec.hidden, spec.inner, 1.0, spec.bias)
    w.norm("model.norm", spec.hidden)
    if not spec.tied:
        w.linear("lm_head", spec.vocab, spec.hidden, 2.5)


def make_gpt_neox(spec, w):
    width = spec.hidden
    w.normal("gpt_neox.embed_in.weight", (spec.vocab, width), 0.3 if spec.tied else 1.0)
    for i in range(spec.layers):
        layer = f"gpt_neox.layers.{i}"
        w.norm(layer + ".input_layernorm", width, True)
        w.linear(layer + ".attention.query_key_value", 3 * width, width, 1.5, spec.bias)
        w.linear(layer + ".attention.dense", width, width, 1.5, spec.bias)
        if spec.feature_map is not None and i not in spec.full_layers:
            w.feature_map(layer + ".attention.feature_map", spec, i)
        # What older files carry and an engine must ignore.
        w.tensors[layer + ".attention.bias"] = np.tril(np.ones((1, 1, 8, 8)))
        w.tensors[layer + ".attention.masked_bias"] = np.array(-1e4)
        w.tensors[layer + ".attention.rotary_emb.inv_freq"] = np.ones(2)
        w.norm(layer + ".post_attention_layernorm", width, True)
        w.linear(layer + ".mlp.dense_h_to_4h", spec.inner, width, 2.0, True)
        w.linear(layer + ".mlp.dense_4h_to_h", width, spec.inner, 1.5, True)
    w.norm("gpt_neox.final_layer_norm", width, True)
    if not spec.tied:
        w.linear("embed_out", spec.vocab, width, 2.5)


def make_gpt2(spec, w):
    width = spec.hidden
    w.normal(spec.prefix + "wte.weight", (spec.vocab, width), 0.3 if spec.tied else 1.0)
    w.normal(spec.prefix + "wpe.weight", (spec.positions, width), 0.3 if spec.tied else 1.0)
    for i in range(spec.layers):
        layer = f"{spec.prefix}h.{i}"
        w.norm(layer + ".ln_1", width, True)
        w.linear(layer + ".attn.c_attn", 3 * width, width, 1.5, True, True)
        w.linear(layer + ".attn.c_proj", width, width, 1.5, True, True)
        if spec.feature_map is not None and i not in spec.full_layers:
            w.feature_map(layer + ".attn.feature_map", spec, i)
        # What older files carry and an engine must ignore.
        w.tensors[layer + ".attn.bias"] = np.tril(np.ones((1, 1, 8, 8)))
        w.tensors[layer + ".attn.masked_bias"] = np.array(-1e4)
        w.norm(layer + ".ln_2", width, True)
        w.linear(layer + ".mlp.c_fc", spec.inner, width, 2.0, True, True)
        w.linear(layer + ".mlp.c_proj", width, spec.inner, 1.5, True, True)
    w.norm(spec.prefix + "ln_f", width, True)
    if not spec.tied:
        w.linear("lm_head", spec.vocab, width, 2.5)


def make_marian(spec, w):
    def attention(name, linear, layer, cross=False):
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            w.linear(f"{name}.{part}", spec.hidden, spec.hidden, 1.5, True)
        if linear:
            w.feature_map(name + ".feature_map", spec, layer, cross)
        w.norm(name + "_layer_norm", spec.hidden, True)

    # Scaled embeddings come out with the deviation of others.
    deviation = 1 / spec.hidden**0.5 if spec.scale else 1.0
    head = 0.35 if spec.tied else deviation
    if spec.shared:
        w.normal("model.shared.weight", (spec.vocab, spec.hidden), head)
    else:
        w.normal("model.encoder.embed_tokens.weight", (spec.source_vocab, spec.hidden), deviation)
        w.normal("model.decoder.embed_tokens.weight", (spec.vocab, spec.hidden), head)
    linear = spec.feature_map is not None
    for side, layers, inner in (("encoder", spec.encoder_layers, spec.encoder_inner),
                                ("decoder", spec.layers, spec.inner)):
        if spec.stored:
            w.normal(f"model.{side}.embed_positions.weight", (spec.positions, spec.hidden), 0.7)
        for i in range(layers):
            layer = f"model.{side}.layers.{i}"
            decoder = side == "decoder"
            attention(layer + ".self_attn", decoder and linear and i not in spec.full_layers,
                      i)
            if decoder:
                attention(layer + ".encoder_attn", linear and i not in spec.full_cross, i, True)
            w.linear(layer + ".fc1", inner, spec.hidden, 2.0, True)
            w.linear(layer + ".fc2", spec.hidden, inner, 1.5, True)
            w.norm(layer + ".final_layer_norm", spec.hidden, True)
        if spec.before:
            w.norm(f"model.{side}.layer_norm", spec.hidden, True)
    if not spec.tied:
        w.linear("lm_head", spec.vocab, spec.hidden, 2.5)
    if spec.logits_bias:
        w.normal("final_logits_bias", (1, spec.vocab), 0.5)


MAKERS = {"llama": make_llama, "qwen2": make_llama, "qwen3": make_llama, "mistral": make_llama,
          "phi3": make_llama, "gpt_neox": make_gpt_neox, "gpt2": make_gpt2, "marian": make_marian}


def make(spec, directory):
    """Writes the directory (which must not exist) and returns its path."""
    os.makedirs(directory)
    with open(os.path.join(directory, "config.json"), "w") as file:
        json.dump(config_of(spec), file, indent=1)
    weights = Weights(spec.name)
    MAKERS[spec.family](spec, weights)
    safetensors.write_directory(directory, weights.tensors, spec.dtype, getattr(spec, "shards", 1))
    return directory


def main():
    specs = {**catalogue(), **marian_catalogue()}
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--list", action="store_true", help="print the names")
    parser.add_argument("--out", help="directory to write into")
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(specs))
        return 0
    if arguments.out is None:
        parser.error("--out DIR is needed")
    for name in arguments.names or specs:
        if name not in specs:
            parser.error(f"no model {name!r}; --list prints their names")
        print(make(specs[name], os.path.join(arguments.out, name)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
