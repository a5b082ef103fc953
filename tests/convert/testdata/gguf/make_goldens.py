"""Makes blocks.json: random blocks of every tensor type that is read, and the float32 values that
the Python package `gguf` dequantises them to.

Run by hand where `pip install gguf` (0.19.0 was used) works; the tests only read its result.
"""
import json
import pathlib

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K")
# Where a block has halves: scales and minima. Random bits there would mostly be huge or no numbers.
HALVES = {"F16": (0,), "Q8_0": (0,), "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2),
          "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}
BLOCKS = {1: 24, 32: 3, 256: 2}


def blocks_of(name, random):
    values, size = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
    count = BLOCKS[values]
    if name in ("F32", "BF16"):
        floats = (random.standard_normal(count) * 10.0 ** random.integers(-30, 30, count))
        bits = floats.astype(np.float32).view(np.uint32)
        return bits if name == "F32" else (bits >> 16).astype(np.uint16)
    blocks = random.integers(0, 256, (count, size), dtype=np.uint8)
    for at in HALVES[name]:
        # The first of all is subnormal, the others are of either sign.
        halves = (random.standard_normal(count) * 0.05).astype(np.float16)
        halves[0] = np.float16(3e-6)
        blocks[:, at:at + 2] = halves.view(np.uint8).reshape(count, 2)
    return blocks


def main():
    random = np.random.default_rng(1)
    goldens = {}
    for name in TYPES:
        data = np.ascontiguousarray(blocks_of(name, random)).view(np.uint8).reshape(1, -1)
        values = np.ascontiguousarray(dequantize(data, GGMLQuantizationType[name]))
        assert values.dtype == np.float32 and np.isfinite(values).all()
        goldens[name] = {"blocks": data.tobytes().hex(),
                         "values": values.astype("<f4").tobytes().hex()}
    path = pathlib.Path(__file__).with_name("blocks.json")
    path.write_text(json.dumps(goldens, indent=1) + "\n")


main()
