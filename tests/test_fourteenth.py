"""docs/fields.md, word for word: a field that is not among the thirteen, in its own package."""

from __future__ import annotations

import random
import re
import tomllib
from collections import Counter
from pathlib import Path

import pytest
import yaml

from tests.outside import install
from tests.policy.conftest import ROOT
from tests.stages.plan.conftest import machine
from whorl.core.errors import SpecError
from whorl.core.ports import Source
from whorl.fields.base import find_field, options_of
from whorl.verbs import Session

pytest.importorskip("torch", reason="needs the extra train")

BLOCK = re.compile(r'^```\w+ title="([^"]+)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)
FILES: dict[str, str] = dict(BLOCK.findall((ROOT / "docs/fields.md").read_text("utf-8")))
GROUPS = tomllib.loads(FILES["pyproject.toml"])["project"]["entry-points"]


def tune(number: int, rng: random.Random) -> str:
    """Mostly on in the same direction: what comes next depends on two notes, not on one."""
    scale = ["C", "D", "E", "F", "G", "A", "B", "c"]
    at, way, notes = rng.randrange(8), rng.choice([1, -1]), []
    for _ in range(24):
        notes.append(scale[at])
        way = -way if rng.random() < 0.1 or not 0 <= at + way < 8 else way
        at = min(7, max(0, at + way))
    first, second = " ".join(notes[:12]), " ".join(notes[12:])
    return f"X:{number}\nT:tune {number}\nM:3/4\nK:C\n{first} |\n{second}\n\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The page's package as pip leaves it, and tunes."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    install(tmp_path, GROUPS, "tunes")
    monkeypatch.syspath_prepend(str(tmp_path))
    rng = random.Random(0)
    (tmp_path / "tunes").mkdir()
    for book in range(3):
        tunes = "".join(tune(1000 * book + n, rng) for n in range(100))
        (tmp_path / "tunes" / f"book{book}.abc").write_text("% a book\n\n" + tunes)
    return tmp_path


def test_without_the_package_nobody_knows_the_field() -> None:
    with pytest.raises(SpecError, match="there is no field tunes"):
        find_field("tunes")


def test_odd_tunes_are_refused_with_their_reason(folder: Path) -> None:
    odd = "X:1\nM:3/4\nK:C\nC D |\n\nX:2\nK:C\nCDEFGABcCDEFGABc\n\nno tune\n"
    (folder / "tunes/odd.abc").write_text(odd)
    field = find_field("tunes")
    source = Source(str(folder / "tunes"), "tunes", options=options_of(field, {}))
    reasons: Counter[str] = Counter()

    def reject(reason: str) -> None:
        reasons[reason] += 1

    documents = [d for i in field.items(source) for d in field.read(source, i, reject)]
    assert len(documents) == 300 and reasons == {"tune without metre, key or notes": 2}
    assert documents[0].parts[0].value == "3/4 C" and not documents[0].parts[0].trained


def test_the_page_s_recipe_learns_what_two_notes_say(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("whorl.launch.calibrate.this_machine", lambda home: machine())
    recipe = yaml.safe_load(FILES["tunes.yaml"])
    recipe["data"][0]["source"] = str(folder / "tunes/*.abc")
    recipe["train"] |= {"seq_len": 128, "batch_tokens": 1024, "steps": 80, "threads": 1}
    recipe |= {"compress": "none"}
    session = Session.open(recipe, overrides=[], home=folder / "home", workers=1)
    scores = session.evaluate().metrics["scores"]
    assert scores["tunes"]["hf f32"] > scores["tunes"]["what follows a note"] + 0.1
    assert scores["tunes/hits_at_10"].keys() == {"hf f32", "what follows a note"}
