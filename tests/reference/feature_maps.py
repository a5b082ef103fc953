"""Feature maps and attention by their quadratic definitions (docs/model-format.md)."""

import numpy as np


def softmax(x):
    e = x - x.max(axis=-1, keepdims=True)
    np.exp(e, out=e)
    e /= e.sum(axis=-1, keepdims=True)
    return e


def feature_map(kind, x, tensors):
    """phi(x) for the rows of x [n, d]; `tensors` holds one key/value head's part of the map."""
    if kind == "t2r":
        return np.maximum(x @ tensors["weight"].T + tensors["bias"], 0)
    if kind == "elu":
        return np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))
    if kind == "rfa":
        unit = x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
        angles = unit @ tensors["projection"].T
        half = angles.shape[-1]
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1) / np.sqrt(half)
    if kind == "hedgehog":
        scores = x @ tensors["weight"].T
        return np.concatenate([softmax(scores), softmax(-scores)], axis=-1)
    raise ValueError(f"feature map {kind!r} is not known")


MAP_TENSORS = {
    "t2r": ("weight", "bias"),
    "elu": (),
    "rfa": ("projection",),
    "hedgehog": ("weight",),
    "codebook": ("key_weight", "key_bias", "query_weight", "query_bias"),
    "none": (),
}


def linear_attention(q, k, v, linear, tensors, causal=True):
    """One query head: q [n, d], k, v [m, d] (m = n if causal) and config.json's linear_attention."""
    kind = linear["feature_map"]
    phi_q = feature_map(kind, q * linear["query_scale"], tensors)
    phi_k = feature_map(kind, k, tensors)
    weights = phi_q @ phi_k.T
    if causal:
        weights = np.tril(weights)
    if "log_decay" in tensors:
        ages = (np.arange(len(q)) if causal else np.full(len(q), len(k) - 1))[:, None]
        weights *= np.exp(tensors["log_decay"] * np.maximum(ages - np.arange(len(k)), 0))
    denominator = weights.sum(axis=-1, keepdims=True)
    if linear["normalizer"] == "clamp":
        denominator = np.maximum(denominator, linear["eps"])
    elif linear["normalizer"] == "add":
        denominator = denominator + linear["eps"]
    else:
        raise ValueError(f"normalizer {linear['normalizer']!r} is not known")
    return (weights @ v) / denominator


def full_attention(q, k, v, causal=True):
    scores = q @ k.T / np.sqrt(q.shape[-1])
    if causal:
        scores[np.triu_indices(len(q), 1)] = -np.inf
    return softmax(scores) @ v


def encoder_attention(q, k, v):
    """Softmax attention of every row to every row: q, k, v [n, H, d]; [n, H * d]."""
    return attention(q, k, v, q.shape[1], None, {}, causal=False)


def attention(q, k, v, groups, linear, tensors, causal=True):
    """All heads: q [n, H, d], k and v [m, G, d]; `linear` is None for softmax; [n, H * d]. Causal:
    row i attends to rows 0..i (m = n); otherwise to all m."""
    n, heads, d = q.shape
    out = np.empty((n, heads, d), dtype=q.dtype)
    for head in range(heads):
        group = head // (heads // groups)
        if linear is None:
            out[:, head] = full_attention(q[:, head], k[:, group], v[:, group], causal)
        else:
            part = {name: tensor[group] for name, tensor in tensors.items()}
            out[:, head] = linear_attention(
                q[:, head], k[:, group], v[:, group], linear, part, causal)
    return out.reshape(n, heads * d)
