"""One softmax over a window, the first keys and features that stand for the keys between them, by
its definition (docs/model-format.md): row by row, every sum over the whole history."""

import numpy as np

from feature_maps import feature_map, softmax

SIZES = {"window": 0, "sinks": 0, "fold": 1, "feature_size": 0}


def sizes_of(linear, layer, cross=False):
    """window, sinks, fold and feature_size of a layer; cross attention has no window."""
    sizes = {}
    for key, absent in SIZES.items():
        value = linear.get(key, absent)
        sizes[key] = value[layer] if isinstance(value, list) else value
    if cross or not sizes["window"]:
        sizes.update(window=0, sinks=0, fold=1)
    return sizes


def rope_features(linear):
    return linear.get("rope_features", linear["feature_map"] != "codebook")


def key_features(kind, x, part):
    """f(k) for the rows of x [n, d]: [n, M]."""
    if kind == "none":
        return np.zeros((len(x), 0))
    if kind == "codebook":
        return softmax(x @ part["key_weight"].T + part["key_bias"])
    return feature_map(kind, x, part)


def one_head(q, far_q, sink_q, k, far_k, v, linear, sizes, part, causal):
    """q [n, d] and k [m, d] with their rotations, far_q and far_k as the features see them, sink_q
    [n, d] as the sinks see it; `part` holds the head's tensors. [n, d]."""
    kind, s = linear["feature_map"], linear["query_scale"]
    w, n, c = sizes["window"], sizes["sinks"], sizes["fold"]
    f = key_features(kind, far_k, part)
    decay = float(part.get("log_decay", 0.0))
    out = np.empty((len(q), v.shape[-1]), dtype=v.dtype)
    for i in range(len(q)):
        seen = i + 1 if causal else len(k)
        folded = c * (max(0, i - w + 1) // c) if w else seen
        first = n if w else 0
        near = [j for j in range(seen) if j < first or j >= folded]
        far = np.arange(first, max(first, folded))
        logits = np.array([s * (sink_q[i] if j < n else q[i]) @ k[j] for j in near])
        ages = folded - 1 - far
        held = np.exp(decay * ages)[:, None] * f[far]  # [far, M]
        S, z = held.T @ v[far], held.sum(axis=0)
        high = logits.max() if near else None
        if kind == "codebook":
            u = part["query_weight"] @ (s * far_q[i]) + part["query_bias"]
            if high is None:
                high = u.max()
            phi = np.exp(np.minimum(u - high, 40.0))
        elif kind == "none":
            phi = np.zeros(0)
        else:
            phi = np.exp(part["far_bias"] - high) * feature_map(kind, s * far_q[i][None], part)[0]
        weights = np.exp(logits - high) if near else np.zeros(0)
        numerator = weights @ v[near] if near else 0.0
        out[i] = (numerator + phi @ S) / (weights.sum() + phi @ z)
    return out


def windowed_attention(q, k, v, turn, groups, linear, sizes, tensors, causal=True):
    """All heads: q [n, H, d], k and v [m, G, d] before rotary positions; turn(x, positions) rotates
    rows. `tensors` are the layer's. [n, H * d]."""
    heads = q.shape[1]
    q_hat, k_hat = turn(q, np.arange(len(q))), turn(k, np.arange(len(k)))
    positions = np.arange(len(q))
    sink = linear.get("sink_position")
    sink_q = q_hat if sink is None else turn(q, np.minimum(positions, sink))
    far_q, far_k = (q_hat, k_hat) if rope_features(linear) else (q, k)
    per_head = ("query_bias", "far_bias")
    out = np.empty(q.shape, dtype=q.dtype)
    for head in range(heads):
        g = head // (heads // groups)
        part = {name: tensor[head if name in per_head else g] for name, tensor in tensors.items()}
        out[:, head] = one_head(q_hat[:, head], far_q[:, head], sink_q[:, head], k_hat[:, g],
                                far_k[:, g], v[:, g], linear, sizes, part, causal)
    return out.reshape(len(q), -1)
