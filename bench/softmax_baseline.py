#!/usr/bin/env python3
"""Decode speed of softmax attention in PyTorch, random weights in a known shape; a JSON line a row.

Two engines: `torch`, a Llama of a few lines over a key/value cache of fixed size, with
scaled_dot_product_attention; and `transformers`' own, where it is installed. Rows that do not fit
the device say so; `fit` is the largest number of sessions whose cache does.
"""

import argparse
import importlib.util
import json
import sys
import time

# As bench/shapes.h: hidden, layers, heads, key/value heads, head size, feed-forward, vocabulary.
SHAPES = {
    "smollm2-135m": (576, 30, 9, 3, 64, 1536, 49152),
    "llama-3.2-1b": (2048, 16, 32, 8, 64, 8192, 128256),
    "tiny": (64, 2, 4, 2, 16, 172, 512),
}


def integers(text):
    return [int(part) for part in text.split(",")]


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--shape", choices=SHAPES, default="smollm2-135m")
    parser.add_argument("--batches", type=integers, default=[1, 32, 256])
    parser.add_argument("--contexts", type=integers, default=[512, 4096, 16384])
    parser.add_argument("--seconds", type=float, default=0.5, help="of a row")
    parser.add_argument("--limit", type=float, default=120, help="seconds in all")
    return parser.parse_args()


class Llama:
    """One decode step over a cache that is full up to the last position."""

    def __init__(self, torch, shape, device):
        hidden, layers, heads, groups, size, inner, vocabulary = shape
        self.torch, self.heads, self.groups, self.size = torch, heads, groups, size

        def weight(outputs, inputs):
            return torch.randn(outputs, inputs, device=device, dtype=torch.bfloat16) * 0.02

        self.embedding = weight(vocabulary, hidden)
        self.layers = [{"qkv": weight((heads + 2 * groups) * size, hidden),
                        "out": weight(hidden, heads * size),
                        "gate_up": weight(2 * inner, hidden), "down": weight(hidden, inner)}
                       for _ in range(layers)]
        self.norm = torch.ones(hidden, device=device, dtype=torch.bfloat16)

    def normed(self, x):
        scale = (x.float().pow(2).mean(-1, keepdim=True) + 1e-5).rsqrt()
        return (x.float() * scale).to(x.dtype) * self.norm

    def cache(self, batch, context, device):
        return [self.torch.zeros(2, batch, self.groups, context, self.size, device=device,
                                 dtype=self.torch.bfloat16) for _ in self.layers]

    def step(self, tokens, cache, cos, sin):
        torch, functional = self.torch, self.torch.nn.functional
        batch = tokens.shape[0]
        x = self.embedding[tokens]
        for layer, kept in zip(self.layers, cache):
            qkv = (self.normed(x) @ layer["qkv"].T).view(batch, -1, self.size)
            turned = qkv[:, :self.heads + self.groups]
            low, high = turned.chunk(2, -1)
            turned = torch.cat((low * cos - high * sin, high * cos + low * sin), -1)
            q = turned[:, :self.heads].unsqueeze(2)
            kept[0, :, :, -1] = turned[:, self.heads:]
            kept[1, :, :, -1] = qkv[:, self.heads + self.groups:]
            # A group's queries as rows of one attention: the keys are read once.
            q = q.view(batch, self.groups, self.heads // self.groups, self.size)
            mixed = functional.scaled_dot_product_attention(q, kept[0], kept[1])
            x = x + mixed.reshape(batch, -1) @ layer["out"].T
            gate, up = (self.normed(x) @ layer["gate_up"].T).chunk(2, -1)
            x = x + (functional.silu(gate) * up) @ layer["down"].T
        return (self.normed(x) @ self.embedding.T).argmax(-1)


def timed(torch, device, seconds, step):
    """Seconds of a step."""
    def wait():
        if device == "cuda":
            torch.cuda.synchronize()

    for _ in range(3):
        step()
    wait()
    steps, start = 0, time.perf_counter()
    while steps < 2 or time.perf_counter() - start < seconds:
        step()
        wait()
        steps += 1
    return (time.perf_counter() - start) / steps


def plain(torch, device, options):
    shape = SHAPES[options.shape]
    model = Llama(torch, shape, device)

    def row(batch, context):
        cache = model.cache(batch, context, device)
        angles = torch.arange(shape[4] // 2, device=device) * 0.1
        cos, sin = angles.cos().bfloat16(), angles.sin().bfloat16()
        tokens = torch.zeros(batch, dtype=torch.long, device=device)
        with torch.inference_mode():
            return timed(torch, device, options.seconds,
                         lambda: model.step(tokens, cache, cos, sin))

    return row


def transformers_model(torch, device, options):
    import transformers
    hidden, layers, heads, groups, size, inner, vocabulary = SHAPES[options.shape]
    config = transformers.LlamaConfig(
        hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=groups, head_dim=size, intermediate_size=inner, vocab_size=vocabulary,
        max_position_embeddings=max(options.contexts) + 1024, tie_word_embeddings=True)
    model = transformers.LlamaForCausalLM(config).to(device, torch.bfloat16).eval()

    def row(batch, context):
        tokens = torch.zeros(batch, 1, dtype=torch.long, device=device)
        cache = transformers.DynamicCache()
        for layer in range(layers):
            kept = torch.zeros(batch, groups, context - 1, size, device=device, dtype=torch.bfloat16)
            cache.update(kept, kept.clone(), layer)

        def step():
            out = model(tokens, past_key_values=cache, use_cache=True)
            out.logits[:, -1].argmax(-1)
            cache.crop(context - 1)

        with torch.inference_mode():
            return timed(torch, device, options.seconds, step)

    return row


def fit(torch, shape, context):
    """Sessions whose cache fits what is free beside the weights."""
    _, layers, _, groups, size, _, _ = shape
    free, _ = torch.cuda.mem_get_info()
    return free // (layers * 2 * groups * size * 2 * context)


def main():
    if importlib.util.find_spec("torch") is None:
        sys.exit("softmax_baseline: torch is not installed here")
    import torch
    options = parse()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    end = time.monotonic() + options.limit
    engines = {"torch": plain}
    if importlib.util.find_spec("transformers") is not None:
        engines["transformers"] = transformers_model
    for engine, make in engines.items():
        row = make(torch, device, options)
        for context in options.contexts:
            if device == "cuda" and engine == "torch":
                print(json.dumps({"engine": engine, "position": context, "sessions": 0,
                                  "fit": fit(torch, SHAPES[options.shape], context)}), flush=True)
            for batch in options.batches:
                if time.monotonic() > end:
                    return
                found = {"engine": engine, "position": context, "sessions": batch}
                try:
                    found["step_s"] = row(batch, context)
                except torch.cuda.OutOfMemoryError:
                    found["error"] = "out of memory"
                print(json.dumps(found), flush=True)
                if device == "cuda":
                    torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
