"""Small models for make_models to write, drawn so that any two choices that the format allows together
meet in one of them (a pairwise covering set)."""

import collections
import itertools
import random

from make_models import MarianSpec, Spec

LAYERS = 3
# One feature_size and sizes by layer; 0: left out. Without a window the denominators of rfa need many.
FEATURE_SIZES = {
    "codebook": (20, [20, 8, 26]),
    "none": (0, None),
    "t2r": (20, [20, 8, 26]),
    "elu": (0, [16, 16, 16]),
    "rfa": (128, [128, 96, 112]),
    "hedgehog": (20, [20, 8, 26]),
}
# The choices of each field of Spec or MarianSpec; "sized" says whether feature_size is a list. Entries
# of lists that are no sizes need a full layer there.
CAUSAL = {
    "family": ["llama", "qwen2", "qwen3", "mistral", "phi3", "gpt_neox", "gpt2"],
    "kv_heads": [4, 2, 1],
    "full_layers": [(), (1,), (0, 2)],
    "feature_map": list(FEATURE_SIZES),
    "sized": ["one", "by layer"],
    "window": [0, 8, [16, 1, 7], [9, 0, 14], [5, -1, 200]],
    "sinks": [0, 3, [2, 0, 5], [1, "full", 40]],
    "fold": [1, 8, 24, [1, 1, 5], [8, 0.5, 3]],
    "rope_features": [None, True, False],
    "sink_position": [None, 0, 20, 1000000],
    "rope_scaling": [None, {"rope_type": "yarn", "factor": 4.0}],
    "decay": [0.0, 0.05, 2.0],
    # So far that some centroids are above the bound of e^40 beside the keys near by.
    "far": [0.0, 43.0],
    "normalizer": ["clamp", "add", None],
    "query_scale": [None, 0.5],
    "dtype": ["float32", "bfloat16", "float16"],
    "tied": [False, True],
}
TRANSLATORS = {
    "full_layers": [(), (1,), (0, 1, 2)],
    "full_cross": [(), (0, 2), (0, 1, 2)],
    "feature_map": CAUSAL["feature_map"],
    "sized": ["one", "by layer"],
    "window": [0, 8, [9, 0, 14]],
    "sinks": [0, 3],
    "fold": [1, 5],
    "rope_features": [None, True, False],
    "decay": [0.0, 0.05],
    "normalizer": ["clamp", "add", None],
}
FAMILIES = {
    "gpt2": {"hidden": 64, "inner": 96},
    "gpt_neox": {"hidden": 64, "inner": 96, "rotary": 0.25, "bias": True},
    "phi3": {"rotary": 0.75},
}


def sizes_allowed(choice, causal):
    """Whether window, sinks and fold are those of the `causal` linear layers."""
    some_window = False
    for layer in causal:
        window, sinks, fold = (choice[key][layer] if isinstance(choice[key], list) else choice[key]
                               for key in ("window", "sinks", "fold"))
        if window == -1 or sinks == "full" or fold == 0.5:
            return False
        some_window = some_window or window > 0
        # One number is that of the layers with a window, an entry of a list needs it.
        if not window and (isinstance(choice["sinks"], list) and sinks > 0 or
                           isinstance(choice["fold"], list) and fold > 1):
            return False
    return some_window or [choice[key] for key in ("window", "sinks", "fold")] == [0, 0, 1]


def map_allowed(choice, causal, cross):
    """Whether the linear layers, of causal and of cross attention, can have the feature map."""
    kind, window = choice["feature_map"], choice["window"]
    windows = [bool(window[i] if isinstance(window, list) else window) for i in causal]
    only_windows = all(windows) and not cross
    if kind == "none" and not (only_windows and choice["sized"] == "one" and not choice["decay"]):
        return False
    if choice["normalizer"] is None and not (only_windows or kind == "codebook"):
        return False
    # The denominators of rfa cancel where the far part outweighs the rest.
    return not choice.get("far") or any(windows) and kind != "rfa"


def allowed(choice):
    """Whether the format has such a model."""
    causal = [i for i in range(LAYERS) if i not in choice["full_layers"]]
    cross = [i for i in range(LAYERS) if i not in choice.get("full_cross", range(LAYERS))]
    if not (causal or cross) or not sizes_allowed(choice, causal) or not map_allowed(choice, causal, cross):
        return False
    family = choice.get("family")
    if family in ("gpt2", "gpt_neox") and choice["kv_heads"] != 4:
        return False
    if family == "gpt2" and (choice["sink_position"], choice["rope_scaling"]) != (None, None):
        return False
    return family != "phi3" or choice["rope_scaling"] is None


def covering(factors, drawn=6000):
    """Of `drawn` allowed choices, as many as have all pairs of choices that occur in them."""
    draw, pool, bits = random.Random(1), [], itertools.count()
    bit_of = collections.defaultdict(lambda: 1 << next(bits))  # by pair
    while len(pool) < drawn:
        numbers = [draw.randrange(len(choices)) for choices in factors.values()]
        choice = {key: choices[number] for (key, choices), number in zip(factors.items(), numbers)}
        if allowed(choice):
            pool.append((choice, sum(map(bit_of.__getitem__, itertools.combinations(enumerate(numbers), 2)))))
    missing = (1 << len(bit_of)) - 1
    while missing:
        choice, pairs = max(pool, key=lambda one: (one[1] & missing).bit_count())
        missing &= ~pairs
        yield choice


def spec_of(number, choice):
    fields = {key: value for key, value in choice.items() if key != "sized"}
    family, kind = choice.get("family", "marian"), choice["feature_map"]
    fields["feature_size"] = FEATURE_SIZES[kind][choice["sized"] == "by layer"]
    fields["name"] = f"drawn-{family.replace('_', '-')}-{kind}-{number:02}"
    if family == "marian":
        return MarianSpec(**fields)
    if family == "mistral" and not choice["full_layers"]:
        fields["sliding_window"] = 6  # which the linear layers' own windows replace
    return Spec(vocab=101, positions=400, **fields, **FAMILIES.get(family, {}))


def catalogue():
    specs = [spec_of(*one) for one in enumerate(covering(CAUSAL))]
    return {spec.name: spec for spec in specs}


def marian_catalogue():
    specs = [spec_of(*one) for one in enumerate(covering(TRANSLATORS))]
    return {spec.name: spec for spec in specs}
