"""What a name that is not known may have meant: the same family and number before spelling."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches

__all__ = ["nearest"]

# Words of makers and series, which people leave out: they tell no family.
SERIES = re.compile(
    r"^(?:(?:nvidia|geforce|tesla|quadro|rtx|gtx|amd|instinct|radeon|intel|google|apple)[- _]*)+"
)
SPELT_ALIKE = 0.6
MISTYPED = 0.88  # h1000: h100, but a10g is not a100


def _parts(name: str) -> tuple[str, str]:
    """ "NVIDIA RTX A6000" -> ("a", "6000"): the letters before the first number, and the number."""
    found = re.search(r"([a-z]*)[- _]*(\d+(?:\.\d+)?)", SERIES.sub("", name.lower().strip()))
    return (found[1], found[2]) if found else ("", "")


def nearest(name: str, known: Iterable[str], most: int = 3) -> list[str]:
    """Up to `most` known names that `name` may stand for, the likeliest first.

    A name with a number is only answered by names of the same family and about the same number
    (4080: 4090, not 4060), or of the same number and letters spelt alike; so t4 is not answered by
    tpuv4, a6000 not by a800, a10g not by a100. Names without a number go by spelling.
    """
    letters, number = _parts(name)
    names = dict.fromkeys(known)
    if not number:
        return get_close_matches(name.lower(), names, n=most, cutoff=SPELT_ALIKE)
    found = []
    for other in names:
        family, size = _parts(other)
        same = number == size
        near = len(number) == len(size) and number[0] == size[0]
        alike = SequenceMatcher(None, letters, family).ratio() >= SPELT_ALIKE
        spelt = SequenceMatcher(None, name.lower(), other).ratio()
        typed = SequenceMatcher(None, letters + number, family + size).ratio()
        mistyped = letters == family and typed >= MISTYPED
        if (letters == family and near) or (same and (alike or not letters)) or mistyped:
            distance = abs(float(number) - float(size)) / float(number or 1)
            found.append((not same, distance, -spelt, other))
    return [other for *_, other in sorted(found)][:most]
