"""What a name that is not known may have meant: the same family and number before spelling."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from difflib import SequenceMatcher, get_close_matches
from string import ascii_lowercase

__all__ = ["meant", "nearest"]

# Words of makers and series, which people leave out: they tell no family.
SERIES = re.compile(
    r"^(?:(?:nvidia|geforce|tesla|quadro|rtx|gtx|amd|instinct|radeon|intel|google|apple)[- _]*)+"
)
NUMBER = re.compile(r"\d+(?:\.\d+)?")
SPELT_ALIKE = 0.6
MISTYPED = 0.88  # h1000: h100, but a10g is not a100
MAX_SIGNS = 80  # of a name that are looked at
MAX_COMPARED = 10_000  # names among which the nearest one is looked for


def _parts(name: str) -> tuple[str, str]:
    """ "nvidia rtx a6000" -> ("a", "6000"): the letters before the first number, and the number."""
    text = SERIES.sub("", name.strip()[:MAX_SIGNS])
    found = NUMBER.search(text)
    if found is None:
        return "", ""
    before = text[: found.start()].rstrip("- _")
    return before[len(before.rstrip(ascii_lowercase)) :], found[0]


def nearest(name: str, known: Iterable[str], most: int = 3) -> list[str]:
    """Up to `most` known names that `name` may stand for, the likeliest first.

    A name with a number is only answered by names of the same family and about the same number
    (4080: 4090, not 4060), or of the same number and letters spelt alike; so t4 is not answered by
    tpuv4, a6000 not by a800, a10g not by a100. Names without a number go by spelling.
    """
    name = name.lower()[:MAX_SIGNS]
    letters, number = _parts(name)
    names = {other.lower(): other for other in known}
    if not number:
        near = get_close_matches(name, names, n=most, cutoff=SPELT_ALIKE)
        return [names[other] for other in near]
    found = []
    for other in names:
        family, size = _parts(other)
        same = number == size
        if (same and (not letters or _alike(letters, family) >= SPELT_ALIKE)) or (
            letters == family
            and (
                (len(number) == len(size) and number[0] == size[0])
                or _alike(letters + number, family + size) >= MISTYPED
            )
        ):
            distance = abs(float(number) - float(size)) / (float(number) or 1)
            found.append((not same, distance, -_alike(name, other), other))
    return [names[other] for *_, other in sorted(found)][:most]


def meant(name: str, known: Collection[str]) -> str:
    """The nearest name as a question behind an error; "" if none is near, or there are many."""
    near = nearest(name, known, 1) if len(known) <= MAX_COMPARED else []
    return f"; did you mean {near[0]}?" if near else ""


def _alike(one: str, other: str) -> float:
    return SequenceMatcher(None, one, other).ratio()
