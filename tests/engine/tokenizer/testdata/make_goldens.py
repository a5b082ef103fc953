"""Makes the small tokenizers of this folder and golden.json, the answers of HF's `tokenizers`.

Run by hand where `pip install tokenizers` (0.21.0 was used) works; the tests only read its results.
"""
import json
import pathlib

from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers,
                        pre_tokenizers, processors, trainers)

HERE = pathlib.Path(__file__).parent
CORPUS = [
    "The miller walked to the river and the river walked to the sea.",
    "She said that they'll meet there again, and that he'd be late; it's 10 past 1234567.",
    "Wherever there is water there are wheels, and wherever wheels are, there is bread.",
    "Über den Fluß führt eine Brücke. Où est la rivière? Ça va, merci.",
    "for (int i = 0; i < 10; ++i) {\n    total += values[i];\n}\n\n",
    "река течёт к морю, река течёт", "東京へ行く。東京は大きい。",
] * 4
TEXTS = [
    "", " ", "  ", "\n", "\n\n", "\t x", "Hello", " Hello  world", "The river walked to the sea.",
    "they'll THEY'LL it's He'D", "1234567 12 1", "x1y22z333", "Über Brücke", "e\u0301te\u0301",
    "река течёт", "東京へ", "🙂 👩‍👩‍👧", "a\u00a0b\u2003c\u3000d", "line one\r\nline two \n  three   ",
    "<s>", "text <s> text", "<pad>word", "a  <mask>  b", "fox foxes (fox) fox", "<|end|><|end|>",
    "Привет <|end|> мир", "½²³ ⅷ ①", "tab\tand\u0085next", "    indented\n\n\n", "\u2581 under",
    "don't<|end|> stop", "ﬁ Å \u212b", "\u1e9b\u0323 \uac00\u1100\u1161\u11a8", "...!!!???",
    " \u00e9\u0327\u0301", "the the  the   the", "\x00\x01", "a\u0301\u0327b", "नमस्ते दुनिया",
]
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace("{1,3}", "")


def byte_level(pre, normalizer=None, **model):
    tokenizer = Tokenizer(models.BPE(**model))
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=340, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def byte_fallback(pre, normalizer, decoder, fuse):
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=fuse))
    if normalizer:
        tokenizer.normalizer = normalizer
    if pre:
        tokenizer.pre_tokenizer = pre
    tokenizer.decoder = decoder
    names = ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=420, show_progress=False, special_tokens=names,
                                  max_token_length=8)
    tokenizer.train_from_iterator([line for line in CORPUS if line.isascii()], trainer)
    text = json.loads(tokenizer.to_str())
    text["added_tokens"] = [t for t in text["added_tokens"] if not t["content"].startswith("<0x")]
    return Tokenizer.from_str(json.dumps(text))


def template(tokenizer, bos, eos=None):
    single = f"{bos} $A" + (f" {eos}" if eos else "")
    tokens = [(t, tokenizer.token_to_id(t)) for t in (bos, eos) if t]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=tokens)


def make():
    def split(pattern, **options):
        return pre_tokenizers.Split(Regex(pattern), **options)

    bl = pre_tokenizers.ByteLevel
    result = {}
    t = byte_level(bl(add_prefix_space=False))
    t.add_special_tokens(["<|end|>"])
    result["gpt2"] = t
    t = byte_level(pre_tokenizers.Sequence([split(LLAMA3, behavior="isolated"),
                                            bl(add_prefix_space=False, use_regex=False)]),
                   ignore_merges=True)
    t.add_special_tokens(["<s>", "<|end|>"])
    template(t, "<s>")
    result["llama3"] = t
    t = byte_level(pre_tokenizers.Sequence([split(QWEN2, behavior="isolated"),
                                            bl(add_prefix_space=False, use_regex=False)]),
                   normalizers.NFC())
    t.add_special_tokens(["<|end|>"])
    result["qwen2"] = t
    t = byte_level(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                            bl(add_prefix_space=False)]))
    t.add_tokens([AddedToken("<mask>", lstrip=True, rstrip=True),
                  AddedToken("fox", single_word=True), AddedToken("<pad>", rstrip=True)])
    t.add_special_tokens(["<|end|>"])
    result["smollm"] = t
    t = byte_level(pre_tokenizers.Sequence([
        pre_tokenizers.Punctuation("merged_with_previous"), bl(add_prefix_space=True),
        split("[0-9]", behavior="merged_with_next"), split("t", behavior="contiguous")]))
    t.add_special_tokens(["<s>", "<|end|>"])
    template(t, "<s>", "<|end|>")
    result["mixed"] = t
    strip = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                               decoders.Strip(" ", 1, 0)])
    t = byte_fallback(None, normalizers.Sequence([normalizers.Prepend("▁"),
                                                  normalizers.Replace(" ", "▁")]), strip, True)
    template(t, "<s>")
    result["llama2"] = t
    t = byte_fallback(pre_tokenizers.Metaspace(prepend_scheme="first"), None,
                      decoders.Metaspace(prepend_scheme="first"), False)
    template(t, "<s>", "</s>")
    result["metaspace"] = t
    return result


def main():
    golden = {}
    for name, tokenizer in make().items():
        content = json.loads(tokenizer.to_str())
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
        (HERE / f"{name}.json").write_text(text + "\n")
        golden[name] = []
        for line in TEXTS:
            ids = tokenizer.encode(line).ids
            golden[name].append({"text": line, "ids": ids,
                                 "plain": tokenizer.encode(line, add_special_tokens=False).ids,
                                 "decoded": tokenizer.decode(ids)})
    rows = ",\n".join(
        f' "{name}": [\n' + ",\n".join("  " + json.dumps(row, ensure_ascii=False) for row in rows)
        + "\n ]" for name, rows in golden.items())
    (HERE / "golden.json").write_text("{\n" + rows + "\n}\n")


main()
