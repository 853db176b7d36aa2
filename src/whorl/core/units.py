"""Quantities as people write them ("4min", "1%", "2M", "16GiB") and back again."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction

from whorl.core.errors import SpecError

__all__ = [
    "LEAST_DURATION_S",
    "MOST_COUNT",
    "MOST_DURATION_S",
    "format_bytes",
    "format_count",
    "format_duration",
    "parse_count",
    "parse_duration_s",
    "parse_length",
    "parse_number",
    "parse_share",
    "shown",
]

MOST_COUNT = 10**18  # of anything that is counted
MOST_NUMBER = 1e30
LEAST_DURATION_S, MOST_DURATION_S = 1e-6, 100 * 365 * 86_400.0
LEAST_EXPONENT, MOST_EXPONENT = -400, 50  # of numbers that are worth reckoning with
SHOWN_CHARACTERS = 80

Units = Mapping[str, Decimal]
_DURATIONS_S: Units = {
    "ms": Decimal("0.001"),
    **dict.fromkeys(("s", "sec"), Decimal(1)),
    **dict.fromkeys(("min", "m"), Decimal(60)),
    **dict.fromkeys(("h", "hours"), Decimal(3600)),
    **dict.fromkeys(("d", "days"), Decimal(86_400)),
}
_NONE: Units = {"": Decimal(1)}
_COUNTS: Units = {
    **_NONE,
    "k": Decimal(10**3),
    "m": Decimal(10**6),
    **dict.fromkeys(("b", "g"), Decimal(10**9)),
    "t": Decimal(10**12),
}
_LENGTHS: Units = {**_NONE, "k": Decimal(2**10), "m": Decimal(2**20), "g": Decimal(2**30)}
_SHARES: Units = {**_NONE, "%": Decimal("0.01")}
_DIGITS = r"[0-9]+(?:_[0-9]+)*"
_QUANTITY = re.compile(
    rf"([+-]?(?:{_DIGITS}(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{{1,6}})?)(?: ?([A-Za-z%]+))?",
    re.ASCII,
)


def shown(value: object) -> str:
    """A value that was found, as an error shows it: on one line, and short whatever it is."""
    try:
        text = repr(value)
    except ValueError:  # Python does not write integers of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]} …"


def _read(
    value: object, key: str, expected: str, units: Units, least: float, most: float
) -> Fraction:
    """The number that was written, in the unit without a name, within its bounds.

    Exact; compared as a float where the bounds are floats, so that 1.01 is not below 1.01.
    """

    def refusal(problem: str) -> SpecError:
        what = f"{key}: {problem}" if key else problem
        return SpecError(what, found=shown(value), expected=expected)

    if isinstance(value, int | float) and not isinstance(value, bool):
        number, unit = Decimal(value), ""
    else:
        match = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            raise refusal("not a number")
        number, unit = Decimal(match[1]), (match[2] or "").lower()
    if unit not in units:
        raise refusal("no known unit" if unit else "no unit")
    if not number.is_finite() or (number != 0 and number.adjusted() > MOST_EXPONENT):
        raise refusal("out of range")
    is_nothing = number == 0 or number.adjusted() < LEAST_EXPONENT  # 0e999999 and 1e-999999 too
    exact = Fraction(0 if is_nothing else number) * Fraction(units[unit])
    if not least <= (float(exact) if isinstance(most, float) else exact) <= most:
        raise refusal("out of range")
    return exact


def parse_duration_s(value: object, key: str = "") -> float:
    """Seconds of "4min", "90s", "2h". Raises SpecError on a bare number: it has no unit."""
    expected = 'a number above 0 with a unit, such as "90s", "4min" or "2h"'
    return float(_read(value, key, expected, _DURATIONS_S, LEAST_DURATION_S, MOST_DURATION_S))


def parse_count(value: object, key: str = "", least: int = 1, most: int = MOST_COUNT) -> int:
    """A whole number from 1200, "1_200", "1.2k", "2M", "3B", "1T": k is 1000. Raises SpecError."""
    example = 'such as 1200, "2M" or "3B"' if most >= 10**9 else ""
    return _whole(value, key, _COUNTS, least, most, example)


def parse_length(value: object, key: str = "", least: int = 1, most: int = MOST_COUNT) -> int:
    """As `parse_count`, of what is a power of two by custom: "8k" are 8192, "1M" are 2**20.

    Lengths of sequences, batches and vocabularies; what is spent or counted is a count.
    """
    example = 'such as 8192 or "8k", which is 8192' if most >= 8192 else ""
    return _whole(value, key, _LENGTHS, least, most, example)


def _whole(value: object, key: str, units: Units, least: int, most: int, example: str) -> int:
    expected = ", ".join(filter(None, (_bounds("a whole number", least, most), example)))
    number = _read(value, key, expected, units, least, most)
    if number.denominator != 1:
        raise SpecError(
            f"{key}: not a whole number" if key else "not a whole number",
            found=shown(value),
            expected=expected,
        )
    return int(number)


def _bounds(kind: str, least: float, most: float) -> str:
    if most in (MOST_COUNT, MOST_NUMBER):
        return f"{kind} of at least {least:g}"
    low, high = (str(end) if isinstance(end, int) else f"{end:.12g}" for end in (least, most))
    return f"{kind} from {low} to {high}"


def parse_number(
    value: object, key: str = "", least: float = 0.0, most: float = MOST_NUMBER
) -> float:
    """A number from 0.02, "2e-5", "1_000.5". least: itself allowed. Raises SpecError."""
    expected = _bounds("a number", least, most)
    return float(_read(value, key, expected, _NONE, least, float(most)))


def parse_share(value: object, key: str = "", least: float = 0.0, most: float = 1.0) -> float:
    """A share from "1%" or 0.01. Raises SpecError outside its bounds."""
    expected = f'a share from {least:g} to {most:g}, such as "1%" or 0.01'
    return float(_read(value, key, expected, _SHARES, least, float(most)))


def format_duration(seconds: float) -> str:
    """ "3:59 min", "12.3 s", "2:05 h"."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)}:{int(seconds % 60):02d} min"
    return f"{int(seconds // 3600)}:{int(seconds % 3600 // 60):02d} h"


def format_bytes(num_bytes: float) -> str:
    """ "1.2 GiB"."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if num_bytes < 1024 or unit == "TiB":
            return f"{num_bytes:.0f} B" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    raise AssertionError


def format_count(number: float) -> str:
    """ "1.23M"."""
    for scale, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= scale:
            return f"{number / scale:.3g}{unit}"
    return f"{number:.3g}"
