"""Every recipe that ships, and every recipe printed in the docs, loads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.policy.conftest import ROOT, report
from whorl.core.errors import SpecError, WhorlError
from whorl.spec.load import load_recipe

YAML_BLOCK = re.compile(r"^```yaml\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHIPPED = (
    "chat-python.yaml",
    "digits.yaml",
    "intents.yaml",
    "mine-chat.yaml",
    "python-stdlib.yaml",
)


def load_error(path: Path) -> str | None:
    """Why a recipe does not load; None when it does."""
    try:
        load_recipe(path)
    except WhorlError as error:
        return f"{path.name}: {error}"
    return None


def recipes_in(markdown: str) -> list[str]:
    """The YAML blocks of a page that are recipes (they have a name and data)."""
    blocks = YAML_BLOCK.findall(markdown)
    return [text for text in blocks if re.search(r"^name:", text, re.M) and "data:" in text]


def test_every_recipe_loads() -> None:
    paths = sorted((ROOT / "recipes").rglob("*.y*ml"))
    assert set(SHIPPED) <= {path.name for path in paths}
    offenders = [error for path in paths if (error := load_error(path))]
    assert not offenders, report(offenders)


def test_docs_recipes_load(tmp_path: Path) -> None:
    offenders = []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for number, text in enumerate(recipes_in(page.read_text("utf-8")), 1):
            path = tmp_path / f"{page.stem}-{number}.yaml"
            path.write_text(text)
            offenders += [error] if (error := load_error(path)) else []
    assert not offenders, report(offenders)


def test_planted_violation_is_found(tmp_path: Path) -> None:
    page = "text\n```yaml\nname: x\ndata: [{source: stdlib, field: code}]\ntrian: {}\n```\n"
    path = tmp_path / "planted.yaml"
    path.write_text(recipes_in(page)[0])
    with pytest.raises(SpecError, match="trian"):
        load_recipe(path)
    assert "trian" in (load_error(path) or "")
    assert recipes_in("```yaml\nkey: 1\n```\n") == []
