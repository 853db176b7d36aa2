"""Quantities as people write them ("4min", "1%", "2M", "16GiB") and back again."""

from __future__ import annotations

import re

from whorl.core.errors import SpecError

__all__ = [
    "format_bytes",
    "format_count",
    "format_duration",
    "parse_count",
    "parse_duration_s",
    "parse_share",
]

_DURATIONS_S = {
    "ms": 1e-3,
    "s": 1.0,
    "sec": 1.0,
    "min": 60.0,
    "m": 60.0,
    "h": 3600.0,
    "hours": 3600.0,
    "d": 86400.0,
    "days": 86400.0,
}
_COUNTS = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}
_QUANTITY = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z%]*)\s*")


def _split(value: object, key: str, expected: str) -> tuple[float, str]:
    if isinstance(value, int | float) and not isinstance(value, bool):
        number, unit = float(value), ""
    else:
        match = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            raise SpecError(f"{key} cannot be read", found=repr(value), expected=expected)
        number, unit = float(match[1]), match[2].lower()
    if not 0 < number < 1e30:
        raise SpecError(f"{key} is out of range", found=repr(value), expected=expected)
    return number, unit


def parse_duration_s(value: object, key: str = "duration") -> float:
    """Seconds of "4min", "90s", "2h". Raises SpecError on a bare number: it has no unit."""
    expected = 'a number with a unit, such as "90s", "4min" or "2h"'
    number, unit = _split(value, key, expected)
    if unit not in _DURATIONS_S:
        raise SpecError(f"{key} has no known unit", found=repr(value), expected=expected)
    return number * _DURATIONS_S[unit]


def parse_count(value: object, key: str = "count") -> int:
    """A whole number from 1200, "1.2k", "2M", "3B", "1T"."""
    expected = 'a whole number, such as 1200, "2M" or "3B"'
    number, unit = _split(value, key, expected)
    if unit not in _COUNTS or round(number * _COUNTS[unit]) != number * _COUNTS[unit]:
        raise SpecError(f"{key} cannot be read", found=repr(value), expected=expected)
    return round(number * _COUNTS[unit])


def parse_share(value: object, key: str = "share") -> float:
    """A share from "1%" or 0.01. Raises SpecError outside 0..1."""
    expected = 'a share such as "1%" or 0.01'
    if value == 0:
        return 0.0
    number, unit = _split(value, key, expected)
    if unit not in ("", "%"):
        raise SpecError(f"{key} cannot be read", found=repr(value), expected=expected)
    share = number / 100 if unit == "%" else number
    if share > 1:
        raise SpecError(f"{key} is more than 100%", found=repr(value), expected=expected)
    return share


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
