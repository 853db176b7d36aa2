"""How far a transcript is from the right one: words in a plain form, and edits between them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from whorl.core.metrics import ACCURACY, WER, Metric

__all__ = ["edits", "graded", "plain_words"]

NOT_SAID = re.compile(r"[^\w\s']|_")


def plain_words(text: str) -> list[str]:
    """Words without case and punctuation: what is heard."""
    return NOT_SAID.sub(" ", text.casefold()).split()


def edits(given: Sequence[str], right: Sequence[str]) -> int:
    """The fewest words to put in, leave out or exchange (Levenshtein)."""
    row = list(range(len(right) + 1))
    for number, word in enumerate(given, 1):
        before, row[0] = row[0], number
        for place, other in enumerate(right, 1):
            cost = before + (word != other)
            before = row[place]
            row[place] = min(cost, row[place] + 1, row[place - 1] + 1)
    return row[-1]


def graded(answer: str, right: str) -> dict[Metric, tuple[float, float]]:
    """Of a transcript: edits over the words that were said, and whether all are right."""
    given, truth = plain_words(answer), plain_words(right)
    found = edits(given, truth)
    return {WER: (float(found), float(len(truth))), ACCURACY: (float(found == 0), 1.0)}
