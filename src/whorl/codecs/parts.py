"""Ids to the parts they are made of: the inverse of `Tokens.encode_parts`."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from whorl.codecs.contract import SPECIAL_CODEC, Tokens, is_of_files
from whorl.core.ports import Part, TokenSpace

__all__ = ["SPECIAL_CODEC", "decode_parts", "in_words", "token_space"]

SPECIAL_OWNER = -1


def decode_parts(tokens: Tokens, ids: Sequence[int] | NDArray[np.integer]) -> list[Part]:
    """Runs of one codec's ids as parts, cut into values where each value has as many ids.

    The last value of a run may have fewer. A special id, or one that nothing uses, is its own part.
    Encoded again they give the same ids, unless a codec decodes to what it encodes otherwise.
    Raises DataError if a codec cannot decode its run.
    """
    given = np.asarray(ids, np.int64)
    owner = np.full(len(given), SPECIAL_OWNER)
    for number, entry in enumerate(tokens.contract.codecs):
        owner[(given >= entry.id_start) & (given < entry.id_end)] = number
    owner[np.isin(given, list(tokens.special_texts))] = SPECIAL_OWNER
    edges = [0, *(np.flatnonzero(np.diff(owner)) + 1).tolist(), len(given)]
    parts: list[Part] = []
    for begin, end in itertools.pairwise(edges):
        run = given[begin:end].tolist()
        if not run:
            continue
        if owner[begin] == SPECIAL_OWNER:
            parts += [
                Part(SPECIAL_CODEC, tokens.special_texts.get(i, f"<|unused_{i}|>")) for i in run
            ]
            continue
        entry = tokens.contract.codecs[owner[begin]]
        codec, local = tokens.codecs[entry.name], [i - entry.id_start for i in run]
        length = codec.value_ids or len(local)
        parts += [
            Part(tokens.own_name(entry.name), codec.decode(local[at : at + length]))
            for at in range(0, len(local), length)
        ]
    return parts


def in_words(tokens: Tokens, text: str) -> str:
    """A decoded text for a person: in place of the ids of an image or a sound what it is."""
    for name, codec in tokens.codecs.items():
        shown = getattr(codec, "shown", None)
        if is_of_files(codec) and shown is not None:
            one = rf"<\|{re.escape(name)}_\d+\|>"
            text = re.sub(
                f"(?:{one})+",
                lambda run, shown=shown: f"[{shown(run[0].count('<|'))}]",  # type: ignore[misc]
                text,
            )
    return text


def token_space(tokens: Tokens) -> TokenSpace:
    """What a task is told of a contract."""
    ranges = {
        tokens.own_name(entry.name): range(entry.id_start, entry.id_end)
        for entry in tokens.contract.codecs
    }
    return TokenSpace(ranges, tokens.encode_parts)
