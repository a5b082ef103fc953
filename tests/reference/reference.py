#!/usr/bin/env python3
"""Log-probabilities of a model directory, computed plainly in float64 from the definitions.

  reference.py score DIR ID...      natural log p(id[i+1] | id[0..i]), a line each
  reference.py greedy DIR N ID...   the N ids that follow, each with its lead over the runner-up

It shares no code with the engine: it is what the service's suites compare against.
"""

import json
import math
import os
import sys

import numpy as np

import safetensors
from feature_maps import MAP_TENSORS, attention
from windowed import rope_features, sizes_of, windowed_attention


def log_softmax(x):
    shifted = x - x.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def rope_part(config):
    """The part of a head that rotary positions turn."""
    inner = config.get("rope_parameters") or config.get("rope_scaling") or {}
    absent = 0.25 if config["architectures"][0] == "GPTNeoXForCausalLM" else 1.0
    beside = config.get("rotary_pct", config.get("partial_rotary_factor", absent))
    return inner.get("partial_rotary_factor", beside)


def rope_frequencies(config, head_dim):
    """The angle by which a position turns each pair, scaling applied [r / 2], and what turned
    vectors are multiplied by; r is how many values of a head turn."""
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = config.get("rope_theta", config.get("rotary_emb_base", 10000.0))
    theta = scaling.get("rope_theta", theta)
    dim = int(head_dim * rope_part(config))
    exponents = np.arange(0, dim, 2, dtype=np.float64) / dim
    frequencies = theta**-exponents
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    phi3 = config["architectures"][0] == "Phi3ForCausalLM"
    if phi3 and kind in ("su", "yarn"):
        kind = "longrope"
    positions = config.get("max_position_embeddings", 4096 if phi3 else 2048)
    context = config.get("original_max_position_embeddings",
                         scaling.get("original_max_position_embeddings",
                                     4096 if phi3 else positions))
    if kind == "default":
        return frequencies, 1.0
    if kind == "linear":
        return frequencies / scaling["factor"], 1.0
    if kind == "dynamic":
        stretch = max(config.get("rope_length", positions), positions) / positions
        factor = scaling["factor"]
        theta *= (factor * stretch - (factor - 1)) ** (dim / (dim - 2))
        return theta**-exponents, 1.0
    factor = scaling.get("factor", positions / context)
    if kind == "longrope":
        length = config.get("rope_length", max(positions, context * factor))
        divisors = np.array(scaling["long_factor" if length > context else "short_factor"])
        scale = np.sqrt(1 + np.log(max(factor, 1.0)) / np.log(context))
        return frequencies / divisors, scaling.get("attention_factor", scale)
    if kind == "yarn":
        def pair(turns):  # that makes so many turns over the context
            return dim * np.log(context / (turns * 2 * np.pi)) / (2 * np.log(theta))

        low = pair(scaling.get("beta_fast") or 32)
        high = pair(scaling.get("beta_slow") or 1)
        if scaling.get("truncate", True):
            low, high = np.floor(low), np.ceil(high)
        low, high = max(low, 0), min(high, dim - 1)
        if low == high:
            high += 0.001
        slowed = np.clip((np.arange(dim // 2) - low) / (high - low), 0, 1)

        def scale_of(m):
            return 0.1 * m * np.log(max(factor, 1.0)) + 1

        scale = scale_of(1)
        if scaling.get("mscale") and scaling.get("mscale_all_dim"):
            scale = scale_of(scaling["mscale"]) / scale_of(scaling["mscale_all_dim"])
        return (slowed * frequencies / factor + (1 - slowed) * frequencies,
                scaling.get("attention_factor", scale))
    if kind != "llama3":
        raise ValueError(f"rope_scaling of type {kind!r} is not known")
    # Llama 3.1: wavelengths longer than context / low are stretched by the factor, those shorter
    # than context / high are kept, and between them the two are interpolated.
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    wavelength = 2 * np.pi / frequencies
    blend = np.clip((context / wavelength - low) / (high - low), 0, 1)
    return blend * frequencies + (1 - blend) * frequencies / scaling["factor"], 1.0


def rotate(x, rope, positions):
    """RoPE on x [n, heads, d] at the positions [n] by rope_frequencies: of each head the first r
    values, halves paired (i, i + r/2)."""
    frequencies, scale = rope
    angles = np.asarray(positions, dtype=np.float64)[:, None] * frequencies
    cos = (scale * np.cos(angles))[:, None].astype(x.dtype)
    sin = (scale * np.sin(angles))[:, None].astype(x.dtype)
    half = len(frequencies)
    a, b = x[..., :half], x[..., half:2 * half]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin, x[..., 2 * half:]], axis=-1)


def rms_norm(x, weight, eps):
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps) * weight


def layer_norm(x, weight, bias, eps):
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + eps) * weight + bias


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def gelu(x):
    return 0.5 * x * (1 + np.array([math.erf(v / math.sqrt(2)) for v in x.flat],
                                   dtype=x.dtype).reshape(x.shape))


ACTIVATIONS = {
    "gelu": gelu,
    "gelu_new": gelu_tanh,
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
}


class Reference:
    """A model directory in memory. `dtype` is the type it computes in; float32 shows how far a
    plain single-precision implementation strays from float64 on the same weights."""

    def __init__(self, directory, dtype=np.float64):
        with open(os.path.join(directory, "config.json")) as file:
            self.config = json.load(file)
        tensors = safetensors.read_directory(directory)
        self.tensors = {name: values.astype(dtype) for name, values in tensors.items()}
        self.architecture = self.config["architectures"][0]
        self.gpt2 = self.architecture == "GPT2LMHeadModel"
        if self.architecture not in ("GPT2LMHeadModel", "GPTNeoXForCausalLM", "LlamaForCausalLM",
                                     "Qwen2ForCausalLM", "Qwen3ForCausalLM", "MistralForCausalLM",
                                     "Phi3ForCausalLM"):
            raise ValueError(f"architecture {self.architecture} is not known")
        layers = self.config["n_layer" if self.gpt2 else "num_hidden_layers"]
        self.layer_types = self.config.get("layer_types") or self._sliding_types(layers)
        self.layers = layers

    def _sliding_types(self, layers):
        """What a file without layer_types means: full, but where HF's sliding windows are on."""
        first = layers
        if self.architecture == "MistralForCausalLM" and self.config["sliding_window"]:
            first = 0
        if self.architecture == "Phi3ForCausalLM":
            window = self.config.get("sliding_window")
            if window and window < self.config["max_position_embeddings"]:
                first = 0
        if self.config.get("use_sliding_window"):
            first = self.config["max_window_layers"]
        return ["full_attention" if i < first else "sliding_attention" for i in range(layers)]

    @property
    def vocab_size(self):
        return self.config["vocab_size"]

    def log_probs(self, ids):
        """log p(. | ids[0..i]) for every i: [n, vocabulary]."""
        networks = {"GPT2LMHeadModel": self._gpt2, "GPTNeoXForCausalLM": self._gpt_neox}
        return log_softmax(networks.get(self.architecture, self._llama)(ids))

    def score(self, ids):
        """log p(ids[i+1] | ids[0..i]): [n - 1]."""
        return self.log_probs(ids)[np.arange(len(ids) - 1), np.asarray(ids[1:], dtype=int)]

    def greedy(self, ids, count):
        """The `count` ids that follow, and each one's lead in log p over the runner-up."""
        ids, leads = list(ids), []
        for _ in range(count):
            last = self.log_probs(ids)[-1]
            second, first = np.sort(last)[-2:]
            ids.append(int(last.argmax()))
            leads.append(first - second)
        return ids[len(ids) - count:], leads

    def _linear(self, x, name, bias=True):
        """x W^T (+ b, where the file has one and `bias` allows it), W stored [out, in]."""
        out = x @ self.tensors[name + ".weight"].T
        if bias and name + ".bias" in self.tensors:
            out = out + self.tensors[name + ".bias"]
        return out

    def _attention(self, layer, q, k, v, groups, prefix, turn=lambda x, positions: x):
        """q, k before rotary positions, which turn(x, positions) gives them."""
        everywhere = np.arange(len(q))
        kind = self.layer_types[layer]
        if kind == "sliding_attention":
            sliding = {"feature_map": "none", "query_scale": q.shape[-1] ** -0.5,
                       "window": self.config["sliding_window"], "rope_features": True}
            return windowed_attention(q, k, v, turn, groups, sliding, sizes_of(sliding, layer), {})
        if kind == "full_attention":
            return attention(turn(q, everywhere), turn(k, everywhere), v, groups, None, {})
        if kind != "linear_attention":
            raise ValueError(f"layer type {kind!r} is not known")
        linear, part = self.config["linear_attention"], {}
        for name in (*MAP_TENSORS[linear["feature_map"]], "far_bias", "log_decay"):
            if f"{prefix}.feature_map.{name}" in self.tensors:
                part[name] = self.tensors[f"{prefix}.feature_map.{name}"]
        sizes = sizes_of(linear, layer)
        if sizes["window"] or linear["feature_map"] == "codebook":
            return windowed_attention(q, k, v, turn, groups, linear, sizes, part)
        if rope_features(linear):
            q, k = turn(q, everywhere), turn(k, everywhere)
        return attention(q, k, v, groups, linear, part)

    def _llama(self, ids):
        config, n = self.config, len(ids)
        heads = config["num_attention_heads"]
        groups = config.get("num_key_value_heads", heads)
        d = config.get("head_dim") or config["hidden_size"] // heads
        eps = config.get("rms_norm_eps", 1e-5 if self.architecture == "Phi3ForCausalLM" else 1e-6)
        rope = rope_frequencies(config, d)
        x = self.tensors["model.embed_tokens.weight"][np.asarray(ids, dtype=int)]
        for i in range(self.layers):
            layer = f"model.layers.{i}"
            h = rms_norm(x, self.tensors[layer + ".input_layernorm.weight"], eps)
            if self.architecture == "Phi3ForCausalLM":
                qkv = self._linear(h, layer + ".self_attn.qkv_proj").reshape(n, heads + 2 * groups, d)
                q, k, v = np.split(qkv, [heads, heads + groups], axis=1)
            else:
                q = self._linear(h, layer + ".self_attn.q_proj").reshape(n, heads, d)
                k = self._linear(h, layer + ".self_attn.k_proj").reshape(n, groups, d)
                v = self._linear(h, layer + ".self_attn.v_proj").reshape(n, groups, d)
            if self.architecture == "Qwen3ForCausalLM":
                q = rms_norm(q, self.tensors[layer + ".self_attn.q_norm.weight"], eps)
                k = rms_norm(k, self.tensors[layer + ".self_attn.k_norm.weight"], eps)
            y = self._attention(i, q, k, v, groups, layer + ".self_attn",
                                lambda rows, positions: rotate(rows, rope, positions))
            x = x + self._linear(y, layer + ".self_attn.o_proj")
            h = rms_norm(x, self.tensors[layer + ".post_attention_layernorm.weight"], eps)
            if self.architecture == "Phi3ForCausalLM":
                gate, up = np.split(self._linear(h, layer + ".mlp.gate_up_proj"), 2, axis=-1)
            else:
                gate = self._linear(h, layer + ".mlp.gate_proj")
                up = self._linear(h, layer + ".mlp.up_proj")
            x = x + self._linear(gate / (1 + np.exp(-gate)) * up, layer + ".mlp.down_proj")
        x = rms_norm(x, self.tensors["model.norm.weight"], eps)
        tied = config.get("tie_word_embeddings", False)
        head = "model.embed_tokens.weight" if tied else "lm_head.weight"
        return x @ self.tensors[head].T

    def _gpt_neox(self, ids):
        config, n = self.config, len(ids)
        heads, width = config["num_attention_heads"], config["hidden_size"]
        d = width // heads
        eps = config.get("layer_norm_eps", 1e-5)
        rope = rope_frequencies(config, d)
        act = ACTIVATIONS[config.get("hidden_act", "gelu")]

        def norm(x, name):
            return layer_norm(x, self.tensors[name + ".weight"], self.tensors[name + ".bias"], eps)

        def feed_forward(x, layer):
            h = self._linear(norm(x, layer + ".post_attention_layernorm"),
                             layer + ".mlp.dense_h_to_4h")
            return self._linear(act(h), layer + ".mlp.dense_4h_to_h")

        x = self.tensors["gpt_neox.embed_in.weight"][np.asarray(ids, dtype=int)]
        for i in range(self.layers):
            layer = f"gpt_neox.layers.{i}"
            qkv = self._linear(norm(x, layer + ".input_layernorm"),
                               layer + ".attention.query_key_value").reshape(n, heads, 3, d)
            y = self._attention(i, qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], heads,
                                layer + ".attention",
                                lambda rows, positions: rotate(rows, rope, positions))
            y = self._linear(y, layer + ".attention.dense")
            if config.get("use_parallel_residual", True):
                x = x + y + feed_forward(x, layer)
            else:
                x = x + y
                x = x + feed_forward(x, layer)
        x = norm(x, "gpt_neox.final_layer_norm")
        tied = config.get("tie_word_embeddings", False)
        return x @ self.tensors["gpt_neox.embed_in.weight" if tied else "embed_out.weight"].T

    def _gpt2(self, ids):
        config, n = self.config, len(ids)
        heads, width = config["n_head"], config["n_embd"]
        eps = config.get("layer_norm_epsilon", 1e-5)
        root = "transformer." if "transformer.wte.weight" in self.tensors else ""

        def conv1d(x, name):  # stored [in, out]
            return x @ self.tensors[name + ".weight"] + self.tensors[name + ".bias"]

        def norm(x, name):
            return layer_norm(x, self.tensors[name + ".weight"], self.tensors[name + ".bias"], eps)

        x = self.tensors[root + "wte.weight"][np.asarray(ids, dtype=int)]
        x = x + self.tensors[root + "wpe.weight"][:n]
        for i in range(self.layers):
            layer = f"{root}h.{i}"
            parts = np.split(conv1d(norm(x, layer + ".ln_1"), layer + ".attn.c_attn"), 3, axis=-1)
            q, k, v = (part.reshape(n, heads, width // heads) for part in parts)
            y = self._attention(i, q, k, v, heads, layer + ".attn")
            x = x + conv1d(y, layer + ".attn.c_proj")
            inner = gelu_tanh(conv1d(norm(x, layer + ".ln_2"), layer + ".mlp.c_fc"))
            x = x + conv1d(inner, layer + ".mlp.c_proj")
        x = norm(x, root + "ln_f")
        tied = config.get("tie_word_embeddings", True)
        return x @ self.tensors[root + "wte.weight" if tied else "lm_head.weight"].T


def main(arguments):
    if len(arguments) < 3 or arguments[0] not in ("score", "greedy"):
        print(__doc__, file=sys.stderr)
        return 2
    model = Reference(arguments[1])
    if arguments[0] == "score":
        for value in model.score([int(a) for a in arguments[2:]]):
            print(f"{value:.9f}")
    else:
        ids, leads = model.greedy([int(a) for a in arguments[3:]], int(arguments[2]))
        for token, lead in zip(ids, leads):
            print(f"{token} {lead:.6f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
