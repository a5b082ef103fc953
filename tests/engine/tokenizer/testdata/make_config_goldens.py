"""Makes config_golden.json: what `transformers` reads from a directory's configuration files, and
small.model, a SentencePiece model.

Run by hand with two Pythons, `python make_config_goldens.py FILE` in each and then
`python make_config_goldens.py 4.json 5.json`: transformers 4.46.3 with tokenizers 0.20.3, and
transformers 5.24.0 with tokenizers 0.23.3. Only rows that both give are kept, but for tokenizer.model,
where version 5 adds no BOS unless told and has legacy off unless told: those are version 4's.
"""
import json
import os
import pathlib
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
TEXTS = ["<|im_end|>x [PAD] y", "a <|im_end|> b", "x<tool>y <tool> [PAD]", "<|end|>x the river<unk>",
         "", " Hello", "the river </s> the", "x\n<|im_end|>\ny"]


def token(content, **more):
    return dict(content=content, lstrip=False, rstrip=False, normalized=False, single_word=False,
                special=True) | more


def cases():
    for name in ("gpt2", "llama2", "metaspace"):
        top = max(t["id"] for t in json.loads((HERE / f"{name}.json").read_text())["added_tokens"])
        top = max(top, len(json.loads((HERE / f"{name}.json").read_text())["model"]["vocab"]) - 1) + 1
        word = {"gpt2": "er", "llama2": "er", "metaspace": "\u2581the"}[name]
        decoder = {str(top): token("<|im_end|>"), str(top + 1): token("[PAD]")}
        for case, config, files in (
            ("decoder", {"added_tokens_decoder": decoder}, {}),
            ("gap", {"added_tokens_decoder": {str(top + 9): token("<|im_end|>"),
                                              str(top + 4): token("[PAD]")}}, {}),
            ("flags", {"added_tokens_decoder": {
                str(top): token("<|im_end|>", special=False, rstrip=True, normalized=True),
                str(top + 1): token("[PAD]", lstrip=True)}}, {}),
            ("added", {}, {"added_tokens.json": {"<|im_end|>": top, "[PAD]": top + 1}}),
            ("added_gap", {}, {"added_tokens.json": {"<|im_end|>": top + 9, "[PAD]": top + 3}}),
            ("names", {"pad_token": "[PAD]", "eos_token": "<|im_end|>"}, {}),
            ("lists", {"pad_token": "[PAD]", "additional_special_tokens": ["<|im_end|>", "<tool>"]}, {}),
            ("map", {}, {"special_tokens_map.json": {
                "pad_token": "[PAD]", "eos_token": token("<|im_end|>") | {"special": True},
                "additional_special_tokens": ["<tool>"]}}),
            ("map_and_decoder", {"added_tokens_decoder": decoder},
             {"special_tokens_map.json": {"mask_token": "<tool>"}}),
            ("in_vocabulary", {"eos_token": word}, {}),
        ):
            files = {"tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast"} | config} | files
            yield f"{name}-{case}", f"{name}.json", files
    decoder = {"0": token("<unk>"), "1": token("<s>"), "2": token("</s>"),
               "400": token("<|im_end|>"), "401": token("[PAD]", special=False)}
    for prefix in (None, False):
        for legacy in (None, True, False):
            config = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>",
                      "unk_token": "<unk>"}
            config |= {} if prefix is None else {"add_prefix_space": prefix}
            config |= {} if legacy is None else {"legacy": legacy}
            yield f"model-{prefix}-{legacy}", "small.model", {"tokenizer_config.json": config}
            yield (f"model-{prefix}-{legacy}-decoder", "small.model",
                   {"tokenizer_config.json": config | {"added_tokens_decoder": decoder}})


def train():
    import sentencepiece
    exec((HERE / "make_goldens.py").read_text().split("TEXTS =")[0].split("HERE =")[1].split("\n", 1)[1],
         globals())
    lines = iter(line.replace("\n", " ") for line in CORPUS if line.isascii())  # noqa: F821
    with open(HERE / "small.model", "wb") as out:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=lines, model_writer=out, vocab_size=400, model_type="bpe",
            byte_fallback=True, hard_vocab_limit=False, remove_extra_whitespaces=False,
            normalization_rule_name="identity", allow_whitespace_only_pieces=True)


def run(out):
    from transformers import AutoTokenizer
    if not (HERE / "small.model").exists():
        train()
    result = {}
    for name, source, files in cases():
        with tempfile.TemporaryDirectory() as path:
            directory = pathlib.Path(path)
            target = "tokenizer.model" if source.endswith(".model") else "tokenizer.json"
            (directory / target).write_bytes((HERE / source).read_bytes())
            for file, content in files.items():
                (directory / file).write_text(json.dumps(content, ensure_ascii=False))
            tokenizer = AutoTokenizer.from_pretrained(path)
            rows = []
            for text in TEXTS:
                ids = tokenizer(text)["input_ids"]
                rows.append({"text": text, "ids": ids,
                             "decoded": tokenizer.decode(ids, skip_special_tokens=True)})
            result[name] = {"source": source, "files": files, "eos": tokenizer.eos_token_id,
                            "rows": rows}
    pathlib.Path(out).write_text(json.dumps(result, ensure_ascii=False))


def merge(old, new):
    golden = {}
    for name, case in old.items():
        if not name.startswith("model"):
            case["rows"] = [row for row, other in zip(case["rows"], new[name]["rows"]) if row == other]
            assert case["eos"] == new[name]["eos"] and len(case["rows"]) >= 6, name
        golden[name] = case
    rows = ",\n".join(
        f' "{name}": {{"source": "{case["source"]}", "eos": {json.dumps(case["eos"])},\n'
        f'  "files": {json.dumps(case["files"], ensure_ascii=False)},\n  "rows": [\n'
        + ",\n".join("   " + json.dumps(row, ensure_ascii=False) for row in case["rows"]) + "]}"
        for name, case in golden.items())
    (HERE / "config_golden.json").write_text("{\n" + rows + "\n}\n")


if len(sys.argv) == 3:
    merge(*(json.loads(pathlib.Path(path).read_text()) for path in sys.argv[1:]))
else:
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    run(sys.argv[1])
