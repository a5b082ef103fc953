"""Model directories with a wrong key or tensor: the server ends with one line that names it."""

import json
import os

import numpy as np
import pytest

import make_models
import safetensors
from server_process import start_error

MODEL = {"feature_size": 8, "window": 9, "sinks": 2, "fold": 4, "decay": 0.05, "normalizer": None,
         "layers": 2, "vocab": 50}
CODEBOOK = make_models.Spec(name="codebook", feature_map="codebook", **MODEL)
TRANSLATOR = make_models.MarianSpec(name="translator", feature_map="codebook", layers=2, feature_size=8)


def config_error(tmp_path, spec, change):
    """What is said of the spec's directory after `change` of its config.json."""
    directory = make_models.make(spec, tmp_path / "model")
    config = make_models.config_of(spec)
    change(config)
    with open(os.path.join(directory, "config.json"), "w", encoding="utf-8") as file:
        json.dump(config, file)
    return start_error(directory)


@pytest.mark.parametrize("keys, said", [
    ({"feature_map": "cosine"}, 'feature_map is "cosine"; supported are t2r, '),
    ({"feature_map": ["codebook", "t2r"]}, "feature_map is an array"),
    ({"feature_map": None}, "feature_map is missing"),
    ({"feature_map": "none", "feature_size": 8}, "feature_size is 8"),
    ({"feature_map": "none", "feature_size": 0, "window": [9, 0]}, "feature_map is \"none\""),
    ({"feature_map": "t2r", "window": [9, 0]}, "normalizer is missing"),
    ({"feature_map": "t2r", "window": [9, 0], "normalizer": "clamp"}, "eps is missing"),
    ({"feature_map": "elu", "feature_size": 8}, "feature_size is 8; elu needs the head_dim, 16"),
    ({"feature_map": "hedgehog", "feature_size": [8, 7]}, "feature_size is 7"),
    ({"window": -1}, "window is -1"),
    ({"window": 2.5}, "window is 2.5"),
    ({"window": True}, "window is true"),
    ({"window": "9"}, 'window is "9"'),
    ({"window": {"0": 9}}, "window is an object"),
    ({"window": 1 << 40}, f"window is {1 << 40}"),
    ({"window": [9]}, "window must be a number, or an array with one entry for each of the 2 layers"),
    ({"window": [9, 9, 9]}, "window must be a number, or an array"),
    ({"window": [9, -1]}, "window[1] must be an integer from 0 to "),
    ({"window": [9, None]}, "window[1] must be an integer"),
    ({"window": 0}, "sinks needs a window in layer 0"),
    ({"window": [9, 0], "sinks": [2, 2]}, "sinks needs a window in layer 1"),
    ({"window": [9, 0], "fold": [4, 4]}, "fold needs a window in layer 1"),
    ({"sinks": -2}, "sinks is -2"),
    ({"sinks": [2]}, "sinks must be a number, or an array"),
    ({"sinks": [-2, 2]}, "sinks[0] must be an integer"),
    ({"fold": 0}, "fold is 0"),
    ({"fold": []}, "fold must be a number, or an array"),
    ({"fold": [1, 0]}, "fold[1] must be an integer from 1 to "),
    ({"feature_size": 0}, "feature_size is 0"),
    ({"feature_size": [8, 0]}, "feature_size[1] must be an integer from 1 to "),
    ({"feature_size": [8, 8, 8]}, "feature_size must be a number, or an array"),
    ({"sink_position": -2}, "sink_position is -2"),
    ({"sink_position": 1.5}, "sink_position is 1.5"),
    ({"rope_features": "false"}, 'rope_features is "false"'),
    ({"rope_features": 0}, "rope_features is 0"),
    ({"query_scale": None}, "query_scale is missing"),
    ({"query_scale": "0.25"}, 'query_scale is "0.25"'),
    ({"windows": 9}, "windows is not a key"),
])
def test_wrong_keys_of_linear_attention(tmp_path, keys, said):
    error = config_error(tmp_path, CODEBOOK, lambda config: config["linear_attention"].update(keys))
    assert "config.json: linear_attention." + said in error


@pytest.mark.parametrize("spec, keys, said", [
    (CODEBOOK, {"layer_types": ["linear_attention"]}, "layer_types must be an array"),
    (CODEBOOK, {"layer_types": ["linear_attention", "linear"]}, 'layer_types[1] is "linear"'),
    (CODEBOOK, {"layer_types": "linear_attention"}, "layer_types must be an array"),
    (CODEBOOK, {"linear_attention": None}, "linear_attention is missing"),
    (CODEBOOK, {"linear_attention": [{}, {}]}, "linear_attention must be an object"),
    (TRANSLATOR, {"cross_layer_types": ["linear_attention"]}, "cross_layer_types must be an array"),
    (TRANSLATOR, {"cross_layer_types": ["full_attention", 1]}, "cross_layer_types[1] must be a string"),
    (TRANSLATOR, {"linear_attention": {"feature_map": "none", "window": 9, "query_scale": 1.0}},
     'linear_attention.feature_map is "none"'),
])
def test_wrong_keys_of_layers(tmp_path, spec, keys, said):
    assert "config.json: " + said in config_error(tmp_path, spec, lambda config: config.update(keys))


@pytest.mark.parametrize("kind", ["codebook", "t2r", "elu", "rfa", "hedgehog"])
def test_wrong_tensors_of_maps(tmp_path, kind):
    fields = {**MODEL, "feature_size": 16 if kind == "elu" else MODEL["feature_size"]}
    directory = make_models.make(make_models.Spec(name="m", feature_map=kind, **fields), tmp_path / "model")
    tensors = safetensors.read_directory(directory)
    names = [name for name in tensors if name.startswith("model.layers.1.self_attn.feature_map.")]
    assert len(names) == {"codebook": 5, "t2r": 4, "elu": 2}.get(kind, 3)

    def said_of(name, values):
        changed = {**tensors, name: values}
        safetensors.write_directory(directory, {n: v for n, v in changed.items() if v is not None})
        return start_error(directory)

    for name in names:
        shape = list(tensors[name].shape)
        for axis in range(len(shape)):
            wider = np.concatenate([tensors[name], tensors[name].take([0], axis)], axis)
            said = said_of(name, wider)
            assert f"{name} has shape {list(wider.shape)}; the configuration needs {shape}" in said
        if not name.endswith("log_decay"):  # which may be left out
            assert f"{name} of shape {shape} is missing" in said_of(name, None)
        assert f"{name} of shape {shape} is damaged" in said_of(name, np.full(shape, np.nan))
    decay = "model.layers.1.self_attn.feature_map.log_decay"
    assert f"{decay} holds 0.5" in said_of(decay, np.array([-1, 0, 0.5, 0]))
