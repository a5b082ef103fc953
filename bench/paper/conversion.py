"""Tables 1 and 2 of T2R's comparison: what conversion costs in quality, by model, weights and recipe.

A configuration (TOML, keys in docs/conversion.md) names a parent, data, a budget and models. Every model is
trained by t2r-convert from random weights, from the parent's, and from the parent's after attention
transfer, each with the same budget; then it is evaluated, and timed in the engine. A row is stored as
soon as it is whole (WORK/rows.json), and a training that was stopped goes on from its checkpoint, so the
same command again goes on.
"""

import argparse
import hashlib
import json
import pathlib
import re
import resource
import subprocess
import sys
import tomllib

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import serving  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
# How a row's weights came about; the last is the parent itself.
RANDOM, PRETRAINED, TRANSFER = "random", "pretrained", "pretrained, transfer"
AS_IT_IS = "the parent, as it is"


def parse(name):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"examples:\n  bench/paper/{name}\n  bench/paper/{name} --budget-tokens 20000 "
               f"--work /tmp/quick\n  bench/paper/{name} --config FILE.toml --data DIR")
    parser.add_argument("--config", type=pathlib.Path, default=HERE / f"{name}.toml")
    parser.add_argument("--data", type=pathlib.Path,
                        default=serving.ROOT.parent / "shared" / "data",
                        help="what {data} stands for in the configuration")
    parser.add_argument("--budget-tokens", type=int,
                        help="predicted tokens of each row's training (default: the configuration's)")
    parser.add_argument("--build", type=pathlib.Path, default=serving.ROOT / "build" / "release")
    parser.add_argument("--models", metavar="NAME,NAME",
                        help="only these models of the configuration, in a report of their own "
                             "(bench/results/paper-CONFIGURATION-NAME.md, after the last)")
    parser.add_argument("--work", type=pathlib.Path,
                        help="rows and trained models (default: build/paper/NAME of the configuration)")
    arguments = parser.parse_args()
    arguments.work = arguments.work or serving.ROOT / "build" / "paper" / arguments.config.stem
    return arguments


def load(arguments):
    text = arguments.config.read_text(encoding="utf-8").replace("{data}", str(arguments.data))
    config = tomllib.loads(text)
    parent = pathlib.Path(config["parent"])
    if not (parent / "config.json").exists():
        sys.exit(f"{arguments.config.name}: no model in {parent}; set --data or `parent`")
    config["pairs"] = json.loads((parent / "config.json").read_text())["model_type"] == "marian"
    if arguments.models:
        names = arguments.models.split(",")
        config["as_it_is"] = config["model"][0]
        config["model"] = [model for model in config["model"] if model["name"] in names]
        if not config["model"]:
            sys.exit(f"{arguments.config.name}: no model of --models")
        config.pop("ablation", None)
    config["tokens"] = arguments.budget_tokens or config["training"]["tokens"]
    return config


def rows(config):
    """(name, weights, model) of every row, the ablation's with their sizes in the name."""
    first = config.get("as_it_is", config["model"][0])
    found = [(first["name"], AS_IT_IS, first)]
    for model in config["model"]:
        if "swap" not in model:  # which calibrates on the parent's keys
            found.append((model["name"], RANDOM, model))
        found.append((model["name"], PRETRAINED, model))
        if model.get("map", "elu") not in ("elu", "none"):
            found.append((model["name"], TRANSFER, model))
    ablation = config.get("ablation")
    if ablation:
        model = next(m for m in config["model"] if m["name"] == ablation["model"])
        found += [(ablation_name(model, size), PRETRAINED, {**model, "size": size})
                  for size in ablation["sizes"] if size != model["size"]]
    return found


def ablation_name(model, size):
    return model["name"] if size == model["size"] else f"{model['name']}, k {size}"


def swapped(arguments, config, model):
    """The directory of a model that `swap` makes, calibrated, of the parent; made if it is not there."""
    data = config["data"]
    command = [arguments.build / "t2r-convert", "swap", "--model", config["parent"],
               "--feature-map", model["map"], "--calibrate", data["train"], *model["swap"]]
    if model["size"]:
        command += ["--feature-size", model["size"]]
    for key, flag in (("train_target", "--calibrate-target"), ("separator", "--separator")):
        if key in data:
            command += [flag, data[key]]
    command = [str(part) for part in command]
    identity = hashlib.sha256(json.dumps(command).encode()).hexdigest()[:12]
    out = arguments.work / "models" / f"swap-{identity}"
    return out, [*command, "--out", str(out)]


def train_command(arguments, config, weights, model):
    data, training = config["data"], config["training"]
    base = swapped(arguments, config, model)[0] if "swap" in model else config["parent"]
    own = [*model["flags"], "--parent", config["parent"]] if "flags" in model else []
    flags = training.get("flags", [])
    options = dict(zip(flags[::2], flags[1::2])) | dict(zip(own[::2], own[1::2]))
    command = [arguments.build / "t2r-convert", "finetune", "--model", base,
               "--tokens", config["tokens"], "--device", training.get("device", "cpu"),
               *(part for option in options.items() for part in option)]
    for key in ("train", "valid", "train_target", "valid_target", "separator", "valid_documents"):
        if key in data:
            command += ["--" + key.replace("_", "-"), data[key]]
    for key, flag in (("map", "--feature-map"), ("size", "--feature-size"), ("keep", "--keep-full"),
                      ("keep_cross", "--keep-full-cross")):
        if key in model and "swap" not in model:
            command += [flag, model[key]]
    if weights == RANDOM:
        command += ["--random-weights"]
    if weights == TRANSFER:
        command += ["--stage", "transfer,finetune"]
    return [str(part) for part in command]


class Bar:
    """Rows done and the share of the present one: a bar on a terminal, else a line a row."""

    def __init__(self, total):
        self.total, self.done, self.terminal = total, 0, sys.stderr.isatty()

    def show(self, label, share, rest=""):
        if self.terminal:
            full = round(30 * (self.done + share) / self.total)
            text = f"[{'#' * full}{'.' * (30 - full)}] {self.done + 1} of {self.total}  {label}  {rest}"
            print(f"\r{text[:118]}\x1b[K", end="", file=sys.stderr, flush=True)
        elif share == 0:
            print(f"{self.done + 1} of {self.total}: {label}", file=sys.stderr, flush=True)

    def end(self):
        if self.terminal:
            print(file=sys.stderr)


def processor_seconds():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def train(command, log, bar, label):
    """Runs t2r-convert, its lines going to `log`, and after them its processor time."""
    bar.show(label, 0)
    last, before = "", processor_seconds()
    with open(log, "a", encoding="utf-8") as file, subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True) as process:
        try:
            for line in process.stderr:
                file.write(line)
                last = line.strip() or last
                if match := re.match(r"\s*(\d+)%  (.*)", line):
                    bar.show(label, int(match[1]) / 100, match[2])
        except KeyboardInterrupt:
            process.terminate()
            raise
        finally:
            process.wait()
            file.write(f"processor seconds: {processor_seconds() - before:.1f}\n")
    if process.returncode != 0:
        sys.exit(f"\n{label}: t2r-convert failed: {last}\n(its log: {log})")


def training_seconds(log):
    """(elapsed, processor) of a whole training, its part before an interruption included."""
    text = log.read_text(encoding="utf-8")
    tokens, speed = re.findall(r"; \d+ steps, (\d+) tokens, [\d.]+ minutes, (\d+) tokens/s",
                               text)[-1]
    processor = re.findall(r"^processor seconds: ([\d.]+)", text, re.MULTILINE)
    return int(tokens) / int(speed), sum(map(float, processor))


def run(command):
    """A command's output; its progress is not shown, its errors are."""
    done = subprocess.run([str(part) for part in command], check=False, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"\n{command[0]} failed: {done.stderr.strip()}")
    return done.stdout


def evaluate(arguments, config, directory):
    """The test set's figures: nats, and for pairs the metrics and speed of translation."""
    command = [arguments.build / "t2r-convert", "eval", "--model", directory,
               "--device", config["training"].get("device", "cpu")]
    for key, value in (config["test"] | {"separator": config["data"].get("separator")}).items():
        if value:
            command += ["--" + key.replace("_", "-"), value]
    if config["pairs"]:
        command += ["--batch", config["speed"]["sessions"]]
    text = run(command)
    figures = {"nats": float(re.search(r"([\d.]+) nats/token", text)[1])}
    if config["pairs"]:
        for key, name in (("bleu", r"^BLEU"), ("char_bleu", "characters' BLEU"), ("chrf", "chrF"),
                          ("cer", "CER"), ("wer", "WER")):
            figures[key] = float(re.search(rf"{name} ([\d.]+)", text, re.MULTILINE)[1])
        figures["speed"] = float(re.search(r"([\d.]+) tokens/s", text)[1])
    return figures


def decode_speed(arguments, config, directory):
    speed = config["speed"]
    text = run([arguments.build / "t2r-bench-decode", "--model", directory, "--context",
                speed["length"], "--sessions", speed["sessions"], "--steps", 32])
    return float(re.findall(rf"^\s*{speed['length']}\s+{speed['sessions']}\s+[\d.]+\s+(\d+)", text,
                            re.MULTILINE)[-1])


def session_bytes(directory, length):
    """State, float32 keys and values of a session at `length` (of target and, for pairs, source)."""
    config = json.loads((pathlib.Path(directory) / "config.json").read_text())

    def first(*keys, default=None):
        return next((config[key] for key in keys if config.get(key) is not None), default)

    layers = first("num_hidden_layers", "n_layer", "decoder_layers")
    heads = first("num_attention_heads", "n_head", "decoder_attention_heads")
    width = first("head_dim", default=first("hidden_size", "n_embd", "d_model") // heads)
    groups = first("num_key_value_heads", default=heads)
    types = first("layer_types", default=["full_attention"] * layers)
    if config["model_type"] == "marian":
        types = types + first("cross_layer_types", default=["full_attention"] * layers)
    attention = config.get("linear_attention", {})

    def size(key, layer):
        value = attention.get(key, 1 if key == "fold" else 0)
        return value[layer] if isinstance(value, list) else value

    floats = 0
    for i, kind in enumerate(types):
        layer, cross = i % layers, i >= layers
        if kind == "linear_attention":
            floats += size("feature_size", layer) * (width + 1)
            if not cross and size("window", layer):
                kept = size("window", layer) + size("fold", layer) - 1 + size("sinks", layer)
                floats += 2 * kept * width
        else:
            floats += 2 * length * width
    return 4 * groups * floats


def measure_row(arguments, config, row, bar):
    name, weights, model = row
    label = f"{name}, {weights}"
    if weights == AS_IT_IS:
        out, seconds = config["parent"], (0, 0)
        bar.show(label, 0)
    else:
        command = train_command(arguments, config, weights, model)
        identity = hashlib.sha256(json.dumps(command).encode()).hexdigest()[:12]
        out = arguments.work / "models" / identity
        log = out.with_suffix(".log")
        if "swap" in model:
            base, swap = swapped(arguments, config, model)
            if not (base / "config.json").exists():
                run(swap)
        if not (out / "config.json").exists():
            train([*command, "--out", str(out)], log, bar, label)
        seconds = training_seconds(log)
    figures = evaluate(arguments, config, out) | {"seconds": seconds[0], "processor": seconds[1]}
    if not config["pairs"]:
        figures["speed"] = decode_speed(arguments, config, out)
    return figures | {"bytes": session_bytes(out, config["speed"]["length"])}


def measure(arguments, config):
    """{(name, weights): figures}, from the store or measured now."""
    (arguments.work / "models").mkdir(parents=True, exist_ok=True)
    store = arguments.work / "rows.json"
    known = json.loads(store.read_text(encoding="utf-8")) if store.exists() else {}
    wanted = rows(config)
    bar = Bar(len(wanted))
    result = {}
    for row in wanted:
        name, weights, model = row
        key = json.dumps([weights, train_command(arguments, config, weights, model),
                          config["test"], config["speed"]])
        if key not in known:
            known[key] = measure_row(arguments, config, row, bar)
            store.write_text(json.dumps(known, indent=1), encoding="utf-8")
        result[name, weights] = known[key]
        bar.done += 1
    bar.end()
    return result
