"""`whorl explain` shows values as a recipe would say them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from whorl.cli.main import build_app

RECIPE = """name: mine
data: [{source: notes, field: labels, options: {text: "a: b", classes: "null"}}]
budget: {train_time: 4min}
hardware: {device: h100-sxm}
"""


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data.options", {"text": "a: b", "classes": "null"}),
        ("data", [{"source": "notes", "field": "labels"}]),
        ("evaluate.baselines", True),
        ("evaluate.forgetting", None),
        ("serve.allowed_hosts", []),
        ("budget", {"train_time": "240.0s", "usd": None}),
        ("budget.train_time", "240.0s"),
        ("compress.search_time", "900.0s"),
        ("serve.ttft_p95", None),
    ],
)
def test_a_value_is_yaml(key: str, value: object, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(RECIPE)
    found = CliRunner().invoke(build_app(), ["explain", str(path), key])
    assert found.exit_code == 0, found.output
    (line,) = [line for line in found.output.splitlines() if line.startswith("  recipe    ")]
    told = yaml.safe_load(line.removeprefix("  recipe    ").rpartition("  (")[0])
    if isinstance(value, dict):
        assert {name: told[name] for name in value} == value
    elif key == "data":
        assert {name: told[0][name] for name in value[0]} == value[0]  # type: ignore[index]
    else:
        assert told == value
