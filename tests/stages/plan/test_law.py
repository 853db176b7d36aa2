"""The law: its shape, its intervals, and the runs it was fitted on."""

from __future__ import annotations

import csv
import math
from importlib import resources

import numpy as np
import pytest

from whorl.stages.plan.law import CONSTANTS, Law, LawPoint, bits_per_byte, shipped_law

POINT = LawPoint(parameters=800_000, trained_bytes=9e6, unique_bytes=29e6, xz_bits_per_byte=1.4)


def changed(**values: float) -> LawPoint:
    return POINT.model_copy(update=values)


def shipped_runs() -> list[dict[str, str]]:
    file = resources.files("whorl.stages.plan") / "published" / "whorl_runs.csv"
    return list(csv.DictReader(file.read_text("utf-8").splitlines()))


def test_more_of_anything_good_is_better() -> None:
    law = shipped_law()
    value = law.value(POINT)
    assert law.value(changed(parameters=1_600_000)) < value
    assert law.value(changed(trained_bytes=18e6)) < value
    assert law.value(changed(xz_bits_per_byte=2.0)) > value
    assert law.value(changed(unique_bytes=3e6)) > value  # three passes instead of new text


def test_unique_text_beyond_what_is_read_changes_nothing() -> None:
    law = shipped_law()
    assert law.value(changed(unique_bytes=1e9)) == pytest.approx(law.value(POINT), rel=1e-12)


def test_the_formula_term_by_term() -> None:
    """Against the terms written out for one run with one and a half repetitions."""
    names = {"log_e": math.log(0.5), "log_k": math.log(1.1), "size": 0.05, "data": 0.25}
    names |= {"both": 0.04, "gamma": 1.1, "log_r": math.log(4.0)}
    names |= {"log_o": math.log(0.02), "power": 1.5, "log_s": math.log(0.3)}
    constants = np.array([names[name] for name in CONSTANTS])
    repeated = 1.5
    effective = 2.0 * (1 + 4.0 * (1 - math.exp(-repeated / 4.0)))
    learned = 1.1 * 3.0**-0.05 * (effective + 0.3) ** -(0.25 + 0.04 * math.log(3.0))
    expected = (2.1 / 1.4) ** 1.1 * (0.5 + learned + 0.02 * repeated**1.5)
    assert bits_per_byte(constants, 3e6, 5e6, 2e6, 2.1) == pytest.approx(expected, rel=1e-9)


def test_passes_over_small_data_have_a_best_number() -> None:
    """Our runs on 33 thousand tokens: four passes beat two and six."""
    law = shipped_law()
    small = [
        law.value(changed(parameters=107_072, unique_bytes=1e5, trained_bytes=1e5 * passes))
        for passes in range(1, 17)
    ]
    assert 2 <= 1 + small.index(min(small)) <= 6
    assert small[-1] > 1.2 * min(small)


def test_intervals_widen_away_from_the_runs() -> None:
    law = shipped_law()
    near = law.predict(POINT)
    far = law.predict(changed(parameters=800_000_000, trained_bytes=9e9, unique_bytes=9e9))
    assert near.low is not None and near.high is not None and near.value is not None
    assert far.low is not None and far.high is not None
    assert near.low < near.value < near.high
    assert far.high / far.low > near.high / near.low
    assert "octaves" in far.note and "octaves" not in near.note


def test_runs_lie_within_their_intervals() -> None:
    """The 90% intervals hold at least 80% of the runs that were scored as evaluate does."""
    law = shipped_law()
    inside = []
    for row in shipped_runs():
        if not row["bpb"]:
            continue
        rate = float(row["bytes_per_token"])
        point = LawPoint(
            parameters=int(row["parameters"]),
            trained_bytes=float(row["trained_tokens"]) * rate,
            unique_bytes=float(row["unique_tokens"]) * rate,
            xz_bits_per_byte=float(row["xz_bits_per_byte"]),
        )
        found = law.predict(point)
        assert found.low is not None and found.high is not None
        inside.append(found.low <= float(row["bpb"]) <= found.high)
    assert inside and sum(map(bool, inside)) >= 0.8 * len(inside)


def test_the_shipped_law_says_how_good_it_is() -> None:
    law = shipped_law()
    assert isinstance(law, Law) and len(law.digest) == 32
    assert law.num_runs == len(shipped_runs())
    assert len(law.constants) == len(CONSTANTS)
    assert len(law.bootstrap) >= 100
    assert 0 < law.leave_one_size_out < 0.15
