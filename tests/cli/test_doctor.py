"""`whorl doctor`: every extra that can be installed is listed, beside pyproject.toml."""

from __future__ import annotations

import tomllib
from pathlib import Path

from whorl.cli.doctor import EXTRAS

ROOT = Path(__file__).parents[2]


def test_every_extra_is_listed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert EXTRAS.keys() == project["optional-dependencies"].keys()
