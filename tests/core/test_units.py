from __future__ import annotations

import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whorl.core.errors import SpecError
from whorl.core.units import (
    format_bytes,
    format_count,
    format_duration,
    parse_count,
    parse_duration_s,
    parse_length,
    parse_number,
    parse_share,
    shown,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("4min", 240), ("90s", 90), ("1.5h", 5400), ("250 ms", 0.25), ("2d", 172800)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration_s(text) == seconds


@pytest.mark.parametrize(
    "bad", [4, "4", "4 parsecs", "-3min", "", None, True, "nan s", [], "0s", "1e40d", "٤min"]
)
def test_a_duration_needs_a_number_and_a_unit(bad: object) -> None:
    with pytest.raises(SpecError, match=r"budget\.train_time"):
        parse_duration_s(bad, "budget.train_time")


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("2M", 2_000_000),
        (1200, 1200),
        ("1.2k", 1200),
        ("3B", 3 * 10**9),
        ("1_000", 1000),
        ("1e3", 1000),
        ("1.005M", 1_005_000),  # in floating point a hair less
        (8.0, 8),
    ],
)
def test_counts(text: object, count: int) -> None:
    assert parse_count(text) == count


BAD_COUNTS: list[object] = [
    *("2.5", "many", -1, 0, "1e40", "1e400", "5%", True, "8 ", "1,024", "", "١٢", "0x1f", "1_"),
    *(None, float("nan"), float("inf"), 10**5000, "9" * 5000, "1e99999999", []),
]


@pytest.mark.parametrize("bad", BAD_COUNTS, ids=map(str, range(len(BAD_COUNTS))))
def test_bad_counts(bad: object) -> None:
    with pytest.raises(SpecError) as caught:
        parse_count(bad, "train.steps")
    assert caught.value.what.startswith("train.steps: ")
    assert caught.value.found is not None and caught.value.expected is not None
    assert len(str(caught.value)) < 300


# By hand from docs/decisions/014-suffixes.md.
@pytest.mark.parametrize(
    ("text", "length", "count"),
    [
        ("8k", 8192, 8000),
        ("32K", 32768, 32000),
        ("1M", 1048576, 1000000),
        ("0.5M", 524288, 500000),
        ("8192", 8192, 8192),
        ("1G", 1073741824, 1000000000),
    ],
)
def test_a_suffix_is_a_power_of_two_for_lengths_alone(text: str, length: int, count: int) -> None:
    assert parse_length(text) == length
    assert parse_count(text) == count


@given(
    st.fractions(0, 10**6, max_denominator=1000).map(lambda f: Fraction(round(f * 1000), 1000)),
    st.sampled_from(["", "k", "M"]),
)
def test_counts_are_exact(number: Fraction, unit: str) -> None:
    scale = {"": 1, "k": 1000, "M": 10**6}[unit]
    text = f"{number.numerator / number.denominator:.3f}{unit}"
    exact = number * scale
    if exact.denominator == 1 and exact >= 1:
        assert parse_count(text) == exact
    else:
        with pytest.raises(SpecError):
            parse_count(text)


def test_huge_exponents_take_no_time() -> None:
    start_s = time.process_time()
    for text in ("0e999999", "1e-999999", "-0e-999999"):
        assert parse_number(text) == 0
    for text in ("1e999999", "1e-999999", "0e999999"):
        with pytest.raises(SpecError):
            parse_count(text)
    assert time.process_time() - start_s < 0.5


def test_bounds_are_told_as_they_may_be_written() -> None:
    with pytest.raises(SpecError, match="from 3 to 1099511627776,"):
        parse_length("x", least=3, most=2**40)
    with pytest.raises(SpecError, match="from 1e-12 to 1000000"):
        parse_number("x", least=1e-12, most=1e6)


def test_bounds_are_inside() -> None:
    for least in (1.01, 0.1, 1e-6, 1e-12):
        assert parse_number(least, least=least) == least == parse_number(repr(least), least=least)
        assert parse_number(str(least), most=least) == least
    assert parse_count(10**18) == 10**18


def test_numbers_and_shares() -> None:
    assert parse_number("2e-5") == 2e-5 == parse_number(2e-5)
    assert parse_number(".02") == 0.02
    assert parse_share("1%") == 0.01
    assert parse_share(0.25) == 0.25
    assert parse_share(0) == 0
    for bad in ("300%", 2, "much", -0.1, float("nan"), True, None):
        with pytest.raises(SpecError):
            parse_share(bad)


@given(st.floats(0, 1e29))
def test_a_number_is_the_one_that_was_written(number: float) -> None:
    assert parse_number(repr(number)) == number == parse_number(number)


@given(st.integers() | st.text() | st.floats() | st.binary() | st.lists(st.integers()))
def test_what_was_found_is_shown_on_one_short_line(value: object) -> None:
    assert len(shown(value)) < 90 and len(shown(value).splitlines()) == 1


def test_formats_read_well() -> None:
    assert format_duration(239.6) == "3:59 min"
    assert format_duration(7500) == "2:05 h"
    assert format_bytes(1536) == "1.5 KiB"
    assert format_bytes(3 * 2**40) == "3.0 TiB"
    assert format_count(4_200_000) == "4.2M"
