"""Ids to the parts they are made of, the inverse of `Tokens.encode_parts`, and to words."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from whorl.codecs.contract import SPECIAL_CODEC, TEXT, CodecEntry, Tokens
from whorl.core.errors import DataError
from whorl.core.ports import Part, TokenSpace

__all__ = ["SPECIAL_CODEC", "answer_in_words", "decode_parts", "in_words", "token_space"]

SPECIAL_OWNER = -1


def decode_parts(tokens: Tokens, ids: Sequence[int] | NDArray[np.integer]) -> list[Part]:
    """Runs of one codec's ids as parts, cut into values where each value has as many ids.

    The last value of a run may have fewer. A special id, or one that nothing uses, is its own part.
    Encoded again they give the same ids, unless a codec decodes to what it encodes otherwise.
    Raises DataError if a codec cannot decode its run.
    """
    parts: list[Part] = []
    for entry, run in _runs(tokens, ids):
        if entry is None:
            parts += [
                Part(SPECIAL_CODEC, tokens.special_texts.get(i, f"<|unused_{i}|>")) for i in run
            ]
            continue
        codec, local = tokens.codecs[entry.name], [i - entry.id_start for i in run]
        length = codec.value_ids or len(local)
        parts += [
            Part(tokens.own_name(entry.name), codec.decode(local[at : at + length]))
            for at in range(0, len(local), length)
        ]
    return parts


def _runs(
    tokens: Tokens, ids: Sequence[int] | NDArray[np.integer]
) -> Iterator[tuple[CodecEntry | None, list[int]]]:
    """Ids of one codec in a row, with its entry; of special ids and unused ones None."""
    given = np.asarray(ids, np.int64)
    owner = np.full(len(given), SPECIAL_OWNER)
    for number, entry in enumerate(tokens.contract.codecs):
        owner[(given >= entry.id_start) & (given < entry.id_end)] = number
    owner[np.isin(given, list(tokens.special_texts))] = SPECIAL_OWNER
    edges = [0, *(np.flatnonzero(np.diff(owner)) + 1).tolist(), len(given)]
    for begin, end in itertools.pairwise(edges):
        if begin < end:
            number = int(owner[begin])
            known = None if number == SPECIAL_OWNER else tokens.contract.codecs[number]
            yield known, given[begin:end].tolist()


# ------------------------------------------------------------------ for a person


def in_words(tokens: Tokens, ids: Sequence[int] | NDArray[np.integer]) -> str:
    """Ids as a person reads them: text as it is, of every other codec what its run is in words;
    special ids are not told. Never raises on an id."""
    found = ""
    for entry, run in _runs(tokens, ids):
        if entry is None:
            continue
        local = [number - entry.id_start for number in run]
        words = tokens.decode(run) if entry.name == TEXT else _told(tokens, entry.name, local)
        apart = " " if found and words and not (found[-1].isspace() or words[0].isspace()) else ""
        found += apart + words
    return found


def answer_in_words(tokens: Tokens, text: str) -> str:
    """The same of a decoded answer, in which ids that are no text stand as `<|name_7|>`."""
    for name, codec in tokens.codecs.items():
        one = rf"<\|{re.escape(name)}_(\d{{1,9}})\|>"

        def words(run: re.Match[str], name: str = name, num: int = codec.num_ids) -> str:
            local = [int(digits) for digits in re.findall(r"_(\d+)\|>", run[0])]
            return _told(tokens, name, local) if max(local) < num else run[0]

        text = re.sub(f"(?:{one})+", words, text)
    return text


def _told(tokens: Tokens, name: str, local: list[int]) -> str:
    """What a codec's `shown` says of a run of its ids; without one its values, or how many ids."""
    codec = tokens.codecs[name]
    if shown := getattr(codec, "shown", None):
        return str(shown(local))
    length = codec.value_ids or len(local)
    try:
        values = [codec.decode(local[at : at + length]) for at in range(0, len(local), length)]
        whole = [
            value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            for value in values
        ]
    except (DataError, IndexError, TypeError, ValueError):  # no value, or none that is words
        return f"[{len(local)} ids of {name}]"
    return ", ".join(whole)


def token_space(tokens: Tokens) -> TokenSpace:
    """What a task is told of a contract."""
    ranges = {
        tokens.own_name(entry.name): range(entry.id_start, entry.id_end)
        for entry in tokens.contract.codecs
    }
    return TokenSpace(ranges, tokens.encode_parts)
