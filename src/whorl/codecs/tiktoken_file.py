"""A tiktoken file (a line of base64 and rank per token) as a tokenizer.json of the same ids."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping

from whorl.codecs.tokenizer import TextCodec, byte_of_char
from whorl.core.errors import RecordError

__all__ = ["read_tiktoken"]

POSSESSIVE = re.compile(r"\{\d+(,\d*)?\}\+")  # which `tokenizers` reads as a repeated repetition


def read_tiktoken(
    data: bytes, pattern: str, special: Mapping[str, int], name: str = "text"
) -> TextCodec:
    """A codec of the file's content; the file itself holds neither pattern nor special tokens.

    Any two neighbours whose join is a token are merged, the lowest rank first, as tiktoken does.
    Raises RecordError on another file, or a pattern that the two libraries read differently.
    """
    if POSSESSIVE.search(pattern):
        raise RecordError(
            "the pattern means something else to another library",
            found="a possessive {…}+",
            do="leave out that +: nothing but speed depends on it",
        )
    ranks = _ranks(data)
    chars = {byte: char for char, byte in byte_of_char().items()}

    def written(token: bytes) -> str:
        return "".join(chars[byte] for byte in token)

    by_rank = sorted(ranks, key=ranks.__getitem__)
    merges = [
        [written(token[:at]), written(token[at:])]
        for token in by_rank
        for at in range(1, len(token))
        if token[:at] in ranks and token[at:] in ranks
    ]
    byte_level = {"add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    split = {"pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    vocab = {**{written(token): ranks[token] for token in by_rank}, **special}
    value = {
        "version": "1.0",
        "added_tokens": [
            {"id": number, "content": text, **plain, "special": True}
            for text, number in sorted(special.items(), key=lambda pair: pair[1])
        ],
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Split", **split}, {"type": "ByteLevel", **byte_level}],
        },
        "decoder": {"type": "ByteLevel", **byte_level},
        "model": {"type": "BPE", "ignore_merges": True, "vocab": vocab, "merges": merges},
    }
    return TextCodec(json.dumps(value, ensure_ascii=False).encode(), name)


def _ranks(data: bytes) -> dict[bytes, int]:
    try:
        lines = [line.split() for line in data.splitlines() if line.strip()]
        ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in lines}
        if len(ranks) != len(lines) or len(set(ranks.values())) != len(lines):
            raise ValueError("a token or a rank comes twice")
        if missing := {bytes([byte]) for byte in range(256)} - ranks.keys():
            raise ValueError(f"{len(missing)} bytes have no token")
    except ValueError as error:
        raise RecordError("this is not a tiktoken file", found=error) from error
    return ranks
