"""Reads and writes safetensors files with numpy alone.

Layout of a file: a little-endian 64-bit length, that many bytes of JSON
{name: {dtype, shape, data_offsets}}, then the data the offsets point into.
Values are widened to float64 on reading; on writing they are rounded to the asked dtype.
"""

import json
import os
import struct

import numpy as np

DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def to_bfloat16_bits(values):
    """The 16-bit patterns of float32 values rounded to nearest, ties to even."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bfloat16_bits(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


def encode(values, dtype):
    """Bytes of `values` in one of DTYPES."""
    if dtype == "bfloat16":
        return to_bfloat16_bits(np.asarray(values, dtype=np.float32)).tobytes()
    if dtype == "float16":
        return np.asarray(values, dtype=np.float16).tobytes()
    if dtype == "float32":
        return np.asarray(values, dtype=np.float32).tobytes()
    raise ValueError(f"dtype {dtype!r} is not one of {sorted(DTYPES)}")


def decode(data, dtype, shape):
    if dtype == "BF16":
        values = from_bfloat16_bits(np.frombuffer(data, dtype=np.uint16))
    elif dtype == "F16":
        values = np.frombuffer(data, dtype=np.float16)
    elif dtype == "F32":
        values = np.frombuffer(data, dtype=np.float32)
    else:
        raise ValueError(f"dtype {dtype} is not supported")
    return values.astype(np.float64).reshape(shape)


def write_file(path, tensors, dtype="float32"):
    """Writes {name: array}; `dtype` is one for all, or {name: dtype}."""
    header, blobs, offset = {}, [], 0
    for name, values in tensors.items():
        kind = dtype[name] if isinstance(dtype, dict) else dtype
        blob = encode(values, kind)
        header[name] = {
            "dtype": DTYPES[kind],
            "shape": list(np.shape(values)),
            "data_offsets": [offset, offset + len(blob)],
        }
        offset += len(blob)
        blobs.append(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        for blob in blobs:
            file.write(blob)


def write_directory(directory, tensors, dtype="float32", shards=1):
    """model.safetensors, or `shards` files and the index that names them."""
    if shards == 1:
        write_file(os.path.join(directory, "model.safetensors"), tensors, dtype)
        return
    names = list(tensors)
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = names[shard::shards]
        write_file(os.path.join(directory, file), {n: tensors[n] for n in part}, dtype)
        weight_map.update({name: file for name in part})
    with open(os.path.join(directory, "model.safetensors.index.json"), "w") as file:
        json.dump({"metadata": {}, "weight_map": weight_map}, file)


def read_file(path):
    """{name: float64 array} of one file."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        data = file.read()
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        tensors[name] = decode(data[begin:end], entry["dtype"], entry["shape"])
    return tensors


def read_directory(directory):
    """All tensors of a model directory, single file or sharded."""
    single = os.path.join(directory, "model.safetensors")
    if os.path.exists(single):
        return read_file(single)
    with open(single + ".index.json") as file:
        files = sorted(set(json.load(file)["weight_map"].values()))
    tensors = {}
    for name in files:
        tensors.update(read_file(os.path.join(directory, name)))
    return tensors
