"""Where each field stands: the page is made of its rows, and judged by their figures alone."""

from __future__ import annotations

import json
from typing import Any

import field_table
import pytest
from field_table import PAGE, ROWS, judge, new_rows, page_of, table_of, updated

from whorl.core.metrics import find_metric

RUN = {"machine": "A", "busy": False, "day": "2026-12-02", "minutes": 7.6}


def row(value: float | None = 0.5, bar: float | None = 0.5, **more: Any) -> dict[str, Any]:
    return {
        "field": "tables",
        "recipe": "mine",
        "section": "tables",
        "metric": "accuracy",
        "report": {"field": "table", "metric": "accuracy"},
        "higher_is_better": True,
        "decimals": 3,
        "score": None if value is None else {"value": value},
        "beside": [],
        "published": [],
        "bar": bar,
        "aim": None,
        **RUN,
        **more,
    }


def beside(value: float, **more: Any) -> dict[str, Any]:
    return {"beside": [{"name": "trees", "method": "trees", "value": value, **more}]}


def score(field: str, name: str, value: float, metric: str = "accuracy") -> dict[str, Any]:
    kind = {"field": field, "metric": metric, "name": name, "num_documents": 20}
    return {**kind, "value": value, "low": value - 0.1, "high": value + 0.1}


def test_page_and_rows_belong_together() -> None:
    page, rows = PAGE.read_text("utf-8"), json.loads(ROWS.read_text("utf-8"))
    assert page_of(page, rows) == page
    for each in rows:
        asked = each["report"]
        if asked and asked["metric"] != "*":
            higher = find_metric(asked["metric"]).higher_is_better
            assert each["higher_is_better"] is (higher and not asked.get("missed", False))
        assert asked or each["command"].split()[1].startswith("benchmarks/")
    with pytest.raises(ValueError, match="no table"):
        page_of("# Fields\n", rows)


LOWER = {"higher_is_better": False}


@pytest.mark.parametrize(
    ("given", "verdict"),
    [
        (row(0.5, 0.5), "**yes**"),  # reached exactly
        (row(0.499, 0.5), "no, by .001"),
        (row(0.5, 0.5, **LOWER), "**yes**"),
        (row(0.501, 0.5, **LOWER), "no, by .001"),
        (row(0.5, 0.5, **beside(0.5)), "**yes**"),  # as good is not better
        (row(0.5, 0.5, **beside(0.501)), "**yes**, below trees"),
        (row(0.5, 0.5, **beside(0.501), **LOWER), "**yes**"),
        (row(0.5, 0.5, **beside(0.499), **LOWER), "**yes**, below trees"),
        (row(0.4, 0.5, **beside(0.401)), "**no, loses**"),
        (row(0.4, 0.5, **beside(0.4)), "no, by .100"),
        (row(0.4, None, **beside(0.401)), "**loses**"),
        (row(0.4, None, **beside(0.4)), ""),
        (row(0.4, None, **beside(1.0, rival=False)), ""),  # who taught
        (row(0.6, 0.5, aim=0.6), "**yes**, the aim too"),
        (row(0.599, 0.5, aim=0.6), "**yes**"),
        (row(0.6, 0.5, published=[{"name": "P", "value": 0.6}]), "**yes**"),
        (row(0.6, 0.5, published=[{"name": "P", "value": 0.61}]), "**yes**, likely below P"),
        (row(0.83, 0.12, above_first=True, **beside(0.71, rival=False), **LOWER), "**yes**"),
        (row(0.84, 0.12, above_first=True, **beside(0.71, rival=False), **LOWER), "no, by .010"),
        (row(None, None), "not known"),
    ],
)
def test_verdict_at_its_borders(given: dict[str, Any], verdict: str) -> None:
    assert judge(given) == verdict


def test_report_fills_a_row() -> None:
    """The served variant's figures, those of methods by how their names begin, and a better one."""
    scores = [
        score("table", "openvino int8", 0.8),
        score("table", "openvino f32", 0.99),
        score("table", "trees 1.2", 0.7),
        score("table", "worse", 0.6),
        score("table/f1", "openvino int8", 0.1, "f1"),
        score("table", "best", 0.9),
    ]
    found = updated(row(0.3, 0.8, **beside(0.2)), {"recipe": "mine", "scores": scores}, RUN)
    assert found["score"] == {"value": 0.8, "low": 0.7, "high": 0.9}
    assert [(each["name"], each["value"]) for each in found["beside"]] == [
        ("trees", 0.7),
        ("best", 0.9),
    ]
    assert table_of([found]).splitlines()[-1] == (
        "| tables | [mine](#tables) | accuracy | .800 [.700, .900] | trees .700 [.600, .800]; "
        "best .900 [.800, 1.000] | .8 | **yes**, below best | A, 2 Dec, 8 min |"
    )
    with pytest.raises(ValueError, match="no int8 score"):
        updated(row(), {"recipe": "mine", "scores": scores[1:]}, RUN)


def test_who_is_better_joins_also_below_a_teacher_and_minutes_are_of_all() -> None:
    scores = [score("table", "x int8", 0.5), score("table", "bot", 1.0), score("table", "new", 0.8)]
    taught = {"beside": [{"name": "bot", "method": "bot", "value": 0.9, "rival": False}]}
    given = row(0.3, 0.5, **taught, minutes_note="of training")
    found = updated(given, {"recipe": "mine", "scores": scores}, RUN)
    assert [each["name"] for each in found["beside"]] == ["bot", "new"]
    assert judge(found) == "**yes**, below new"
    assert table_of([found]).endswith("| A, 2 Dec, 8 min |\n")


def test_groups_and_misses_are_found() -> None:
    groups = [
        score("table", "x int8", 0.2) | {"group": "a"},
        score("table", "x int8", 0.3) | {"group": "b"},
    ]
    wanted = {"field": "table", "metric": "accuracy"}
    report = {"recipe": "mine", "groups": groups, "scores": [score("table", "x int8", 0.85)]}
    assert updated(row(report=wanted | {"group": "b"}), report, RUN)["score"]["value"] == 0.3
    assert updated(row(report=wanted | {"missed": True}), report, RUN)["score"] == {
        "value": 3,
        "of": 20,
    }


def test_several_fields_become_rows_beside_their_own_models() -> None:
    """As reports of several fields have them: a field's own model has a variant of int8 too."""
    alone = "alone, openvino int8"
    scores = [
        score("images", "openvino int8", 0.8),
        score("images", alone, 0.9),
        score("images", "alone, openvino f32", 0.95),
        score("images/f1", "openvino int8", 0.1, "f1"),
        score("speech", alone, 0.2, "wer"),
        score("speech", "openvino int8", 0.3, "wer"),
    ]
    report = {"recipe": "mine", "scores": scores}
    waiting = row(None, None, report={"field": "*", "metric": "*"})
    found = new_rows([waiting], report, RUN)
    assert [each["metric"] for each in found] == ["images, accuracy", "speech, wer"]
    assert [each["score"]["value"] for each in found] == [0.8, 0.3]
    assert [[other["value"] for other in each["beside"]] for each in found] == [[0.9], [0.2]]
    assert [judge(each) for each in found] == ["**loses**", "**loses**"]
    scores[1]["value"], scores[4]["value"] = 0.7, 0.4  # run again
    again = new_rows(found, report, RUN)
    assert [judge(each) for each in again] == ["", ""] and again[1]["beside"][0]["value"] == 0.4


def test_command_writes_both_files(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, page = tmp_path / "fields.json", tmp_path / "fields.md"
    rows.write_text(json.dumps([row(0.3)]))
    page.write_text(f"above\n{field_table.BEGIN}{field_table.END}below\n")
    record = {"record": str(tmp_path), "wall_s": 120.0}
    report = {"recipe": "mine", "scores": [score("table", "x int8", 0.8)], "stages": [record] * 2}
    monkeypatch.setattr(field_table, "ROWS", rows)
    monkeypatch.setattr(field_table, "PAGE", page)
    monkeypatch.setattr(field_table, "report_of", {"mine": report}.__getitem__)
    monkeypatch.setattr("sys.argv", ["field_table.py", "mine", "--machine", "S", "--busy"])
    field_table.main()
    (made,) = json.loads(rows.read_text())
    assert (made["machine"], made["busy"], made["minutes"]) == ("S", True, 4.0)
    text = page.read_text()
    assert text == page_of(text, [made]) and text.startswith("above\n") and "| .800 [" in text
    assert "- | tables" in capsys.readouterr().out
