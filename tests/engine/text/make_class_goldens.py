"""Makes class_golden.json: which code points the classes of HF's `tokenizers` hold.

Run by hand where `pip install tokenizers` (0.23.3 was used) works. A class is a list of run lengths
from U+0000 on, outside and inside in turn, over the code points that Unicode 14 assigns (others count
as the run they lie in): what Python 3.11's unicodedata and PCRE2 10.42 know.
"""
import json
import pathlib
import unicodedata

from tokenizers import Regex, pre_tokenizers

assert unicodedata.unidata_version == "14.0.0"
POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
TEXT = "".join(map(chr, POINTS))
ONIGURUMA = [r"\w", r"\W", r"\s", r"\d", r"\h", r"\p{Punct}", r"\p{Word}", r"\p{Han}", r"\p{Latin}",
             r"\p{Common}", r"\p{^Alpha}", r"[\w&&[^\d]]", r"[^\S\n]", r"[^(\s|[.,!?…。，、।۔،])]"] + [
                 f"[[:{name}:]]" for name in ("alpha", "alnum", "upper", "lower", "punct", "cntrl",
                                              "graph", "print", "blank", "word", "^space")]


def removed(pre_tokenizer):
    """The code points that are in no piece."""
    inside, end = set(), 0
    for _, (begin, stop) in pre_tokenizer.pre_tokenize_str(TEXT):
        inside.update(POINTS[end:begin])
        end = stop
    return inside | set(POINTS[end:])


def runs(inside):
    lengths, state, begin = [], False, 0
    for point in POINTS:
        if unicodedata.category(chr(point)) != "Cn" and (point in inside) != state:
            lengths.append(point - begin)
            state, begin = not state, point
    return lengths


def main():
    golden = {pattern: runs(removed(pre_tokenizers.Split(Regex(pattern), "removed")))
              for pattern in ONIGURUMA}
    words = pre_tokenizers.Whitespace()
    pieces = [len(words.pre_tokenize_str(f"a{chr(c)}a")) for c in POINTS]
    golden["Whitespace: word"] = runs({c for c, n in zip(POINTS, pieces) if n == 1})
    golden["Whitespace: space"] = runs({c for c, n in zip(POINTS, pieces) if n == 2})
    golden["Punctuation"] = runs(removed(pre_tokenizers.Punctuation("removed")))
    golden["WhitespaceSplit"] = runs(removed(pre_tokenizers.WhitespaceSplit()))
    digits = pre_tokenizers.Digits(individual_digits=False)
    golden["Digits"] = runs({c for c in POINTS if len(digits.pre_tokenize_str(f"a{chr(c)}a")) == 3})
    golden["assigned"] = [n for n in assigned()]
    rows = ",\n".join(f" {json.dumps(name, ensure_ascii=False)}: "
                      + json.dumps(lengths, separators=(",", ":")) for name, lengths in golden.items())
    (pathlib.Path(__file__).parent / "class_golden.json").write_text("{\n" + rows + "\n}\n")


def assigned():
    state, begin = False, 0
    for point in range(0x110000):
        if (unicodedata.category(chr(point)) not in ("Cn", "Cs")) != state:
            yield point - begin
            state, begin = not state, point


main()
