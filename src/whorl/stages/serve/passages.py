"""Held-out documents cut in the middle: the model goes on from there, beside what really follows.

Which documents and where they are cut depends on their tokens alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.codecs.contract import Tokens, is_of_files
from whorl.core.heldout import HeldoutDocuments
from whorl.stages.serve.exercise import ServedAnswer

__all__ = ["Passage", "continue_passages", "cut_place", "last_lines", "passages_of"]

NUM_PASSAGES = 3
PROMPT_TOKENS, TRUTH_TOKENS = 96, 64
MIN_TOKENS = 16  # of a document: with fewer there is little to go on from
FULL_TOKENS = 4 * PROMPT_TOKENS + 2  # with what starts and ends it: prompt and truth are whole
SHOWN_LINES = 6
CHARACTER_TOKENS = 4  # a UTF-8 character has at most four bytes, a token at least one

Complete = Callable[[Sequence[int], int, int], ServedAnswer]  # prompt ids, most tokens, number


@dataclass(frozen=True)
class Passage:
    """The tokens before and after one place of a document."""

    document: str
    prompt_ids: tuple[int, ...]
    truth_ids: tuple[int, ...]


def passages_of(documents: HeldoutDocuments, tokens: Tokens) -> list[Passage]:
    """A few documents of text, long ones first, else in the order in which they are scored."""
    is_text = [
        number
        for number in documents.shuffled()
        if documents.num_bytes(number) and not _holds_files(documents.ids(number), tokens)
    ]
    lengths = {number: len(documents.ids(number)) for number in is_text}
    usable = [number for number in is_text if lengths[number] >= MIN_TOKENS]
    usable.sort(key=lambda number: lengths[number] < FULL_TOKENS)
    passages = []
    for number in usable[:NUM_PASSAGES]:
        ids = [int(token) for token in documents.ids(number)]
        end = tokens.contract.end_ids
        if end and tuple(ids[-len(end) :]) == end:
            del ids[-len(end) :]
        cut = cut_place(ids, tokens)
        before, after = ids[max(0, cut - PROMPT_TOKENS) : cut], ids[cut : cut + TRUTH_TOKENS]
        passages.append(Passage(documents.names[number], tuple(before), tuple(after)))
    return passages


def _holds_files(ids: NDArray[np.integer[Any]], tokens: Tokens) -> bool:
    """Whether some of it is an image or a sound."""
    ranges = [
        (entry.id_start, entry.id_end)
        for entry in tokens.contract.codecs
        if is_of_files(tokens.codecs[entry.name])
    ]
    return any(bool(((ids >= start) & (ids < end)).any()) for start, end in ranges)


def cut_place(ids: Sequence[int], tokens: Tokens) -> int:
    """How many ids stand before the cut: after the line end nearest to the middle.

    If the middle half has no token that ends a line, the nearest place between two characters.
    """
    middle = len(ids) // 2
    places = range(max(1, len(ids) // 4), max(1, len(ids) - len(ids) // 4) + 1)
    nearest = sorted(places, key=lambda place: (abs(place - middle), place))
    for place in nearest:
        if tokens.decode(ids[max(0, place - CHARACTER_TOKENS) : place]).endswith("\n"):
            return place
    for place in nearest:
        before = ids[max(0, place - CHARACTER_TOKENS) : place]
        after = ids[place : place + CHARACTER_TOKENS]
        if tokens.decode(before) + tokens.decode(after) == tokens.decode([*before, *after]):
            return place
    return middle


def continue_passages(
    passages: Sequence[Passage],
    tokens: Tokens,
    context_tokens: int,
    max_tokens: int,
    complete: Complete,
) -> list[dict[str, str]]:
    """What `complete` answers to each, beside as many tokens of the document itself.

    Of a short context each takes half.
    """
    max_tokens = max(1, min(max_tokens, TRUTH_TOKENS, context_tokens // 2))
    room = min(PROMPT_TOKENS, context_tokens - max_tokens)
    found = []
    for number, passage in enumerate(passages):
        prompt = _from_a_character(passage.prompt_ids[-room:], tokens)
        answer = complete(prompt, max_tokens, number)
        found.append(
            {
                "document": passage.document,
                "prompt": last_lines(tokens.decode(prompt)),
                "completion": answer.text,
                "truth": tokens.decode(passage.truth_ids[: answer.num_tokens]),
            }
        )
    return found


def last_lines(text: str, num_lines: int = SHOWN_LINES) -> str:
    """The end of a text: so many lines, the last of them perhaps without its end."""
    lines = text.split("\n")
    return "\n".join(lines[-num_lines - (lines[-1] == "") :])


def _from_a_character(ids: Sequence[int], tokens: Tokens) -> Sequence[int]:
    """Without what is left of a character that began before."""
    for first in range(min(CHARACTER_TOKENS, len(ids))):
        if not tokens.decode(ids[first : first + CHARACTER_TOKENS]).startswith("\ufffd"):
            return ids[first:]
    return ids
