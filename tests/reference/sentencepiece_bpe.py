"""Encodes text with a SentencePiece BPE `tokenizer.model`, enough to check known values.

Supports what Llama-style models use: identity normalisation, a space before the text, spaces kept,
byte fallback. Reads the protobuf by its wire format; needs no package.
"""

import struct

SPACE = "\u2581"
NORMAL, USER_DEFINED = 1, 4


def _fields(data):
    """(field number, value) of a serialised message; bytes, int, or 4 raw bytes."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        key = varint()
        wire = key & 7
        if wire == 0:
            value = varint()
        elif wire in (1, 5):
            width = 8 if wire == 1 else 4
            value = data[at:at + width]
            at += width
        else:
            length = varint()
            value = data[at:at + length]
            at += length
        yield key >> 3, value


class SentencePieceBpe:
    def __init__(self, path):
        self.scores, self.ids, self.bytes = {}, {}, {}
        with open(path, "rb") as file:
            model = file.read()
        pieces = [value for number, value in _fields(model) if number == 1]
        for index, piece in enumerate(pieces):
            fields = dict(_fields(piece))
            text = fields[1].decode()
            kind = fields.get(3, NORMAL)
            if kind in (NORMAL, USER_DEFINED):
                if SPACE in text.lstrip(SPACE):
                    raise ValueError(f"piece {text!r} crosses words, which is not supported")
                self.ids[text] = index
                self.scores[text] = struct.unpack("<f", fields[2])[0] if 2 in fields else 0.0
            elif text.startswith("<0x"):
                self.bytes[int(text[3:5], 16)] = index
        self.words = {}

    def encode(self, text):
        """Ids without BOS."""
        ids = []
        text = SPACE + text.replace(" ", SPACE)
        begin = 0
        while begin < len(text):
            end = begin + 1
            while end < len(text) and text[end] == SPACE and text[end - 1] == SPACE:
                end += 1
            while end < len(text) and text[end] != SPACE:
                end += 1
            ids += self._word(text[begin:end])
            begin = end
        return ids

    def _word(self, word):
        if word not in self.words:
            self.words[word] = self._merge(list(word))
        return self.words[word]

    def _merge(self, parts):
        while True:
            best = None
            for i in range(len(parts) - 1):
                score = self.scores.get(parts[i] + parts[i + 1])
                if score is not None and (best is None or score > best[0]):
                    best = (score, i)
            if best is None:
                break
            i = best[1]
            parts[i:i + 2] = [parts[i] + parts[i + 1]]
        ids = []
        for part in parts:
            if part in self.ids:
                ids.append(self.ids[part])
            else:
                ids += [self.bytes[byte] for byte in part.encode()]
        return ids
