"""Tables of the report: what they say, and what they do not."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from whorl.cli import console
from whorl.cli.console import OUT
from whorl.cli.models import _scores
from whorl.cli.report import print_report, print_scores, print_stage
from whorl.core.records import Record
from whorl.stages.improve.registry import RegisteredScore, Version


@pytest.fixture
def printed() -> Callable[[Callable[[], None]], str]:
    def capture(work: Callable[[], None]) -> str:
        with OUT.capture() as captured:
            work()
        return " ".join(captured.get().split())

    return capture


def score(name: str, value: float, low: float | None, high: float | None) -> dict[str, Any]:
    found = {
        "field": "text",
        "name": name,
        "kind": "model",
        "metric": "bits_per_byte",
        "value": value,
    }
    return {**found, "low": low, "high": high, "num_documents": 1 if low is None else 50}


def test_intervals_are_spoken_of_where_there_are_some(
    printed: Callable[[Callable[[], None]], str],
) -> None:
    many = printed(lambda: print_scores([score("int8", 1.5, 1.4, 1.6)]))
    assert "95% intervals over documents" in many and "1.400 … 1.600" in many
    assert "your model, int8" in many  # known without colours
    one = printed(lambda: print_scores([score("int8", 1.5, None, None)]))
    assert "95% intervals" not in one and "no intervals of so few documents" in one


def test_plan_against_actual_says_what_is_inside(
    printed: Callable[[Callable[[], None]], str],
) -> None:
    row = {"what": "train_s", "predicted": 60.0, "low": 50.0, "high": 70.0, "actual": 65.0}
    report = {"recipe": "mine", "stages": [], "plan_vs_actual": [{**row, "within": True}]}
    text = printed(lambda: print_report(report))
    for part in ("start-up", "steps", "validations", "checkpoints"):
        assert part in text


def test_groups_of_documents_stand_beside_each_other(
    printed: Callable[[Callable[[], None]], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    row: dict[str, Any] = {
        **{"field": "translation", "metric": "chrf", "num_documents": 9},
        **{"low": None, "high": None},
    }
    rows = [
        {**row, "group": group, "name": name, "value": value}
        for group, name, value in (
            ("en>es", "int8", 41.25),
            ("es>en", "int8", 44),
            ("es>en", "copying", 30),
        )
    ]
    monkeypatch.setattr(OUT, "_width", 120)
    text = printed(lambda: print_report({"recipe": "mine", "stages": [], "groups": rows}))
    assert "by part, no intervals of so few documents" in text
    for part in ("en>es", "es>en", "41.2", "44.0", "30.0", "int8", "copying"):
        assert part in text
    sure = [{**row, "low": row["value"] - 2.5, "high": row["value"] + 3} for row in rows]
    text = printed(lambda: print_report({"recipe": "mine", "stages": [], "groups": sure}))
    assert "by part, 95% intervals over documents" in text
    for part in ("41.2 (38.8 … 44.2)", "44.0 (41.5 … 47.0)", "30.0 (27.5 … 33.0)"):
        assert part in text
    rows[2]["num_documents"] = 4  # a slow method, asked a part
    text = printed(lambda: print_report({"recipe": "mine", "stages": [], "groups": rows}))
    assert "44.0 │ 30.0, of 4 │ 9" in text


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("train_tokens", 31829, "31,829"),
        ("train_bytes", 104_200, "101.8 KiB"),
        ("all_text", True, "True"),
        ("releases", [], "none"),
        ("left_out", {}, "none"),
        ("left_out", {"near duplicate": 1200, "too short": 3}, "near duplicate 1,200, too short 3"),
        (
            "sources",
            [
                {"field": "text", "num_rows": 1250, "share": None},
                {"field": "code", "num_rows": 7, "share": 0.25},
            ],
            "field text, num_rows 1,250 field code, num_rows 7, share 0.25",
        ),
        ("parts", [{"name": "int8", "bytes": 2**20}], "name int8, bytes 1.0 MiB"),
        ("epochs_by_source", [1.23456, 2.0], "1.235, 2"),
        ("took_s", 0.0123, "12.3 ms"),
    ],
)
def test_figures_of_a_stage_are_written_for_people(
    printed: Callable[[Callable[[], None]], str],
    monkeypatch: pytest.MonkeyPatch,
    key: str,
    value: object,
    shown: str,
) -> None:
    monkeypatch.setattr(OUT, "_width", 120)
    record = SimpleNamespace(stage="train", metrics={key: value}, path="runs/mine")
    text = printed(lambda: print_stage(cast(Record, record), None))
    assert f"{key} {shown}" in " ".join(text.replace("│", " ").split())


def test_of_prepare_what_is_none_is_not_shown(
    printed: Callable[[Callable[[], None]], str],
) -> None:
    metrics = {"train_rows": 7, "heldout_bytes": 0, "releases": [], "contract": "c102bb"}
    record = SimpleNamespace(stage="prepare", metrics=metrics, path="runs/mine")
    text = printed(lambda: print_stage(cast(Record, record), None))
    assert "train_rows │ 7" in text
    assert not [key for key in metrics if key != "train_rows" and key in text]


def test_variants_of_a_stage_have_their_table(
    printed: Callable[[Callable[[], None]], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OUT, "_width", 120)
    row = {"name": "openvino int8", "field": "code", "bytes": 2**20, "value": 1.25}
    row |= {"increase": 0.0123, "low": 0.01, "high": 0.02, "verdict": "accepted"}
    record = SimpleNamespace(stage="compress", metrics={"variants": [row]}, path="runs/mine")
    text = " ".join(printed(lambda: print_stage(cast(Record, record), None)).split())
    assert "openvino int8 │ code │ 1.0 MiB │ 1.2500 │ +1.23% │ +1.00% … +2.00% │ accepted" in text
    assert "value" not in text


def test_progress_in_bytes_is_readable(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "LINE_EVERY_S", 0.0)
    for unit, shown in (("B", "3.0 MiB of 12.0 MiB"), ("steps", "3,145,728 steps of 12,582,912")):
        progress = console.LineProgress()
        progress.start("work", 12 * 2**20, unit)
        progress.advance(3 * 2**20)
        assert shown in capsys.readouterr().err


def test_models_tell_what_each_score_measures() -> None:
    def one(name: str, field: str, metric: str, value: float) -> RegisteredScore:
        return RegisteredScore(kind="model", name=name, field=field, metric=metric, value=value)

    version = Version(
        name="mine",
        version=1,
        created="2026-12-01T05:00:00+00:00",
        lineage={},
        scores=(
            one("int8", "intents", "accuracy", 0.92),
            one("f32", "intents", "accuracy", 0.93),
            one("int8", "general text", "bits_per_byte", 1.188),
            one("old", "", "accuracy", 1),
        ),
    )
    assert _scores(version).splitlines() == [
        "intents: accuracy",
        "  int8 0.92",
        "  f32 0.93",
        "general text: bits per byte",
        "  int8 1.188",
        "accuracy",
        "  old 1",
    ]


def test_long_names_in_notes_are_folded_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OUT, "_width", 80)
    long = {**score("its base, hf f32", 1.1, 1.0, 1.2), "note": "pypi:" + "x" * 40}
    with OUT.capture() as captured:
        print_scores([long])
    assert "…" not in captured.get().replace(" … ", "") and captured.get().count("x") == 40
