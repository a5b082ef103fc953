#!/usr/bin/env python3
"""Log-probabilities of an encoder-decoder (Marian) directory, plainly in float64.

  marian.py score DIR SOURCE_IDS TARGET_IDS      natural log p of each target id, a line each
  marian.py greedy DIR N SOURCE_IDS              up to N ids, each with its lead over the runner-up

Ids are comma-separated. The source's closing token is the caller's to write; the decoder's start
token is not: it comes first by itself.
"""

import json
import math
import os
import sys

import numpy as np

import safetensors
from feature_maps import MAP_TENSORS, attention, encoder_attention
from windowed import sizes_of, windowed_attention
from reference import gelu_tanh, layer_norm, log_softmax

ERF = np.frompyfunc(math.erf, 1, 1)


def gelu(x):
    return x * (0.5 * (1 + ERF(x / np.sqrt(2).astype(x.dtype)).astype(x.dtype)))


ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "gelu": gelu,
    "gelu_new": gelu_tanh,
    "swish": lambda x: x / (1 + np.exp(-x)),
    "silu": lambda x: x / (1 + np.exp(-x)),
}


def sinusoids(positions, width):
    """Sines of every frequency, then the cosines: [positions, width]."""
    frequencies = 10000.0 ** (-np.arange(0, width, 2, dtype=np.float64) / width)
    angles = np.arange(positions, dtype=np.float64)[:, None] * frequencies
    return np.concatenate([np.sin(angles), np.cos(angles)[:, : width // 2]], axis=-1)


class MarianReference:
    """A model directory in memory, computing in `dtype`; see reference.Reference."""

    def __init__(self, directory, dtype=np.float64):
        with open(os.path.join(directory, "config.json")) as file:
            self.config = json.load(file)
        if self.config["architectures"] != ["MarianMTModel"]:
            raise ValueError(f"{self.config['architectures']} is not a Marian model")
        tensors = safetensors.read_directory(directory)
        self.tensors = {name: values.astype(dtype) for name, values in tensors.items()}
        self.dtype = dtype
        layers = self.config["decoder_layers"]
        self.types = self.config.get("layer_types") or ["full_attention"] * layers
        self.cross_types = self.config.get("cross_layer_types") or ["full_attention"] * layers
        self.before = self.config.get("normalize_before", False)
        self.activation = ACTIVATIONS[self.config["activation_function"]]

    @property
    def vocab_size(self):
        return self.config.get("decoder_vocab_size") or self.config["vocab_size"]

    @property
    def source_vocab_size(self):
        return self.config["vocab_size"]

    def encode(self, source):
        """The encoder's output, [len(source), d_model]."""
        x = self._embed("encoder", source)
        heads = self.config["encoder_attention_heads"]
        for i in range(self.config["encoder_layers"]):
            layer = f"model.encoder.layers.{i}"

            def attend(h, prefix=layer + ".self_attn"):
                q, k, v = (self._heads(h, f"{prefix}.{part}_proj", heads) for part in "qkv")
                return self._linear(encoder_attention(q, k, v), prefix + ".out_proj")

            x = self._residual(x, layer + ".self_attn_layer_norm", attend)
            x = self._feed_forward(x, layer)
        return self._final_norm(x, "encoder")

    def log_probs(self, source, target, encoded=None):
        """log p(. | source, target[0..i-1]) for i = 0..n: [n + 1, vocabulary]."""
        encoded = self.encode(source) if encoded is None else encoded
        x = self._embed("decoder", [self.config["decoder_start_token_id"]] + list(target))
        heads = self.config["decoder_attention_heads"]
        for i in range(self.config["decoder_layers"]):
            layer = f"model.decoder.layers.{i}"

            def attend(h, prefix=layer + ".self_attn", kind=self.types[i]):
                return self._attention(h, h, prefix, heads, kind, True)

            def cross(h, prefix=layer + ".encoder_attn", kind=self.cross_types[i]):
                return self._attention(h, encoded, prefix, heads, kind, False)

            x = self._residual(x, layer + ".self_attn_layer_norm", attend)
            x = self._residual(x, layer + ".encoder_attn_layer_norm", cross)
            x = self._feed_forward(x, layer)
        x = self._final_norm(x, "decoder")
        tied = self.config.get("tie_word_embeddings", True)
        logits = x @ (self._table("decoder") if tied else self.tensors["lm_head.weight"]).T
        if "final_logits_bias" in self.tensors:
            logits = logits + self.tensors["final_logits_bias"]
        return log_softmax(logits)

    def score(self, source, target):
        """log p(target[i] | source, target[0..i-1]): [len(target)]."""
        rows = self.log_probs(source, target[:-1])
        return rows[np.arange(len(target)), np.asarray(target, dtype=int)]

    def greedy(self, source, count):
        """Up to `count` ids, the end of sequence left out; and each one's lead in log p over the
        runner-up, that of the end included."""
        encoded = self.encode(source)
        ids, leads = [], []
        while len(ids) < count:
            last = self.log_probs(source, ids, encoded)[-1]
            second, first = np.sort(last)[-2:]
            leads.append(first - second)
            if last.argmax() == self.config.get("eos_token_id"):
                break
            ids.append(int(last.argmax()))
        return ids, leads

    def _table(self, side):
        names = [f"model.{side}.embed_tokens.weight"]
        if self.config.get("share_encoder_decoder_embeddings", True):
            names = ["model.shared.weight", "model.encoder.embed_tokens.weight",
                     "model.decoder.embed_tokens.weight"]
        return next(self.tensors[name] for name in names if name in self.tensors)

    def _embed(self, side, ids):
        x = self._table(side)[np.asarray(ids, dtype=int)]
        if self.config.get("scale_embedding", False):
            x = x * self.dtype(math.sqrt(self.config["d_model"]))
        stored = self.tensors.get(f"model.{side}.embed_positions.weight")
        if stored is None:
            stored = sinusoids(len(ids), self.config["d_model"]).astype(self.dtype)
        return x + stored[: len(ids)]

    def _norm(self, x, name):
        eps = self.config.get("layer_norm_eps", 1e-5)
        return layer_norm(x, self.tensors[name + ".weight"], self.tensors[name + ".bias"], eps)

    def _final_norm(self, x, side):
        if self.config.get("add_final_layer_norm", False):
            return self._norm(x, f"model.{side}.layer_norm")
        return x

    def _residual(self, x, norm, part):
        """x + part(norm(x)), or norm(x + part(x)) where the norm comes after."""
        return x + part(self._norm(x, norm)) if self.before else self._norm(x + part(x), norm)

    def _feed_forward(self, x, layer):
        def inner(h):
            return self._linear(self.activation(self._linear(h, layer + ".fc1")), layer + ".fc2")

        return self._residual(x, layer + ".final_layer_norm", inner)

    def _linear(self, x, name):
        return x @ self.tensors[name + ".weight"].T + self.tensors[name + ".bias"]

    def _heads(self, x, name, heads):
        return self._linear(x, name).reshape(len(x), heads, -1)

    def _attention(self, h, memory, prefix, heads, kind, causal):
        q = self._heads(h, prefix + ".q_proj", heads)
        k = self._heads(memory, prefix + ".k_proj", heads)
        v = self._heads(memory, prefix + ".v_proj", heads)
        linear, part = None, {}
        if kind == "linear_attention":
            linear = self.config["linear_attention"]
            for name in (*MAP_TENSORS[linear["feature_map"]], "far_bias", "log_decay"):
                if f"{prefix}.feature_map.{name}" in self.tensors:
                    part[name] = self.tensors[f"{prefix}.feature_map.{name}"]
            layer = int(prefix.split("layers.")[1].split(".")[0])
            sizes = sizes_of(linear, layer, not causal)
            if sizes["window"] or linear["feature_map"] == "codebook":
                y = windowed_attention(q, k, v, lambda x, positions: x, heads, linear, sizes, part,
                                       causal)
                return self._linear(y, prefix + ".out_proj")
        elif kind != "full_attention":
            raise ValueError(f"layer type {kind!r} is not known")
        return self._linear(attention(q, k, v, heads, linear, part, causal), prefix + ".out_proj")


def main(arguments):
    if len(arguments) != 4 or arguments[0] not in ("score", "greedy"):
        print(__doc__, file=sys.stderr)
        return 2
    model = MarianReference(arguments[1])

    def ids(text):
        return [int(part) for part in text.split(",") if part]

    if arguments[0] == "score":
        for value in model.score(ids(arguments[2]), ids(arguments[3])):
            print(f"{value:.9f}")
    else:
        for token, lead in zip(*model.greedy(ids(arguments[3]), int(arguments[2]))):
            print(f"{token} {lead:.6f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
