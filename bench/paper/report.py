"""What bench/paper/lm and translit print: tables and plots of the rows that conversion.py measures."""

import pathlib
import subprocess
import sys
import textwrap

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import conversion  # noqa: E402
import plot  # noqa: E402
import serving  # noqa: E402

# What a column of `report` is called, and its digits.
QUALITY = {"nats": ("nats/token", 4), "cer": ("CER", 4), "wer": ("WER", 4), "bleu": ("BLEU", 2),
           "char_bleu": ("characters' BLEU", 2), "chrf": ("chrF", 2)}


def paragraph(text):
    return textwrap.fill(" ".join(text.split()), 110, break_long_words=False, break_on_hyphens=False)


def main_table(config, results, names):
    columns = config["report"]
    header = ["model", "weights", *[QUALITY[key][0] for key in columns], "training s",
              "CPU s", "bytes a session", "tokens/s"]
    lines = []
    for (name, weights), figures in results.items():
        if name in names or weights == conversion.AS_IT_IS:
            lines.append([name, weights, *[serving.number(figures[key], QUALITY[key][1])
                                           for key in columns],
                          serving.number(figures["seconds"] or None),
                          serving.number(figures["processor"] or None),
                          serving.number(figures["bytes"]), serving.number(figures["speed"])])
    return serving.table(header, lines)


def ablation_part(config, results, picture):
    ablation = config.get("ablation")
    if not ablation:
        return ""
    model = next(m for m in config["model"] if m["name"] == ablation["model"])
    key = config["report"][0]
    title, digits = QUALITY[key]
    points = {size: results[conversion.ablation_name(model, size), conversion.PRETRAINED]
              for size in ablation["sizes"]}
    softmax = results["softmax", conversion.PRETRAINED][key]
    table = serving.table(["k", title, "bytes a session", "tokens/s"], [
        [size, serving.number(figures[key], digits), serving.number(figures["bytes"]),
         serving.number(figures["speed"])] for size, figures in points.items()])
    drawn = plot.lines(
        serving.ROOT / "bench" / "results" / f"{picture}-k.svg", f"{model['name']}: features a head",
        "k", title, {
            model["name"]: [(size, figures[key]) for size, figures in points.items()],
            "softmax": [(size, softmax) for size in (min(points), max(points))]}, log_x=True)
    image = f"\n![{title} against k]({picture}-k.svg)\n" if drawn else ""
    return f"""
## {model['name']}: features a head

Pretrained weights, without transfer.
{image}
{table}
"""


def report(arguments, config, results, name):
    key = config["report"][0]
    title = QUALITY[key][0]
    names = [model["name"] for model in config["model"]]
    picture = f"paper-{arguments.config.stem}"
    command = f"bench/paper/{name}"
    if arguments.models:
        picture += f"-{names[-1].lower().replace(' ', '-')}"
        command += f" --models '{arguments.models}'"
    drawn = plot.bars(
        serving.ROOT / "bench" / "results" / f"{picture}.svg", config["title"], title, names,
        {weights: [results.get((model, weights), {}).get(key) for model in names]
         for weights in (conversion.RANDOM, conversion.PRETRAINED, conversion.TRANSFER)})
    image = f"\n![{title} by model]({picture}.svg)\n" if drawn else ""
    speed = config["speed"]
    sides = " of source and of target" if config["pairs"] else ""
    where = ("while it translates the test set" if config["pairs"]
             else f"of the tokens after {speed['length']:,}")
    how = paragraph(f"""Every row was trained on {config["tokens"]:,} predicted tokens with the same options
        (`{" ".join(config["training"].get("flags", []))}`); *transfer* spends a part of them on the
        feature maps alone. A transfer from random weights, and of ELU, which has no map to train, would
        say nothing; what is calibrated is so on the parent's keys.
        Figures are of the test set; bytes a session are at {speed["length"]:,} tokens{sides}
        with float32 keys and values; tokens/s are the engine's, {speed["sessions"]} sessions in total,
        {where}.""")
    serving.write_results(picture, config["title"], f"""
{paragraph(config["intro"])}

{how}
{image}
{main_table(config, results, names)}
{ablation_part(config, results, picture)}""", command=command)


def main(name):
    arguments = conversion.parse(name)
    config = conversion.load(arguments)
    if config["pairs"] != (name == "translit"):
        sys.exit(f"{name}: the parent is {'' if config['pairs'] else 'not '}an encoder-decoder: "
                 f"use bench/paper/{'translit' if config['pairs'] else 'lm'}")
    if not (arguments.build / "build.ninja").exists():
        subprocess.run(["cmake", "--preset", "release", "-B", str(arguments.build)],
                       cwd=serving.ROOT, check=True, stdout=subprocess.DEVNULL)
    serving.build(arguments.build, ["t2r-convert", "t2r-bench-decode"])
    try:
        results = conversion.measure(arguments, config)
    except KeyboardInterrupt:
        sys.exit("\nstopped; the same command goes on from here")
    report(arguments, config, results, name)
