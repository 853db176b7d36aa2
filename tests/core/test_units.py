from __future__ import annotations

import pytest

from whorl.core.errors import SpecError
from whorl.core.units import (
    format_bytes,
    format_count,
    format_duration,
    parse_count,
    parse_duration_s,
    parse_share,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("4min", 240), ("90s", 90), ("1.5h", 5400), ("250 ms", 0.25), ("2d", 172800)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration_s(text) == seconds


@pytest.mark.parametrize("bad", [4, "4", "4 parsecs", "-3min", "", None, True, "nan s", [], "0s"])
def test_a_duration_needs_a_number_and_a_unit(bad: object) -> None:
    with pytest.raises(SpecError, match=r"budget\.train_time"):
        parse_duration_s(bad, "budget.train_time")


@pytest.mark.parametrize(
    ("text", "count"), [("2M", 2_000_000), (1200, 1200), ("1.2k", 1200), ("3B", 3 * 10**9)]
)
def test_counts(text: object, count: int) -> None:
    assert parse_count(text) == count


@pytest.mark.parametrize("bad", ["2.5", "many", -1, 0, "1e40", "5%", True])
def test_bad_counts(bad: object) -> None:
    with pytest.raises(SpecError):
        parse_count(bad)


def test_shares() -> None:
    assert parse_share("1%") == 0.01
    assert parse_share(0.25) == 0.25
    assert parse_share(0) == 0
    for bad in ("300%", 2, "much"):
        with pytest.raises(SpecError):
            parse_share(bad)


def test_formats_read_well() -> None:
    assert format_duration(239.6) == "3:59 min"
    assert format_duration(7500) == "2:05 h"
    assert format_bytes(1536) == "1.5 KiB"
    assert format_bytes(3 * 2**40) == "3.0 TiB"
    assert format_count(4_200_000) == "4.2M"
