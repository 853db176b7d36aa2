"""What a verb asks for, and what it leaves alone."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

import whorl
from whorl.core.errors import WhorlError
from whorl.testing.corpus import tiny_texts

pytest.importorskip("torch", reason="needs the extra train")


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Notes to prepare, on a machine that cannot be measured."""
    (tmp_path / "notes").mkdir()
    for number, text in enumerate(tiny_texts(60)):
        (tmp_path / "notes" / f"{number}.txt").write_text(text)

    def refuse(*args: object, **options: object) -> object:
        raise WhorlError("this machine was to be measured")

    monkeypatch.setattr("whorl.launch.calibrate.this_machine", refuse)
    source = str(tmp_path / "notes")
    return {"name": "mine", "data": [{"source": source}], "budget": {"train_time": "5s"}}


def test_prepare_of_given_sizes_measures_nothing(recipe: dict[str, object], tmp_path: Path) -> None:
    sizes = ["prepare.vocab_size=300", "train.seq_len=64"]
    record = whorl.prepare(recipe, overrides=sizes, home=tmp_path / "runs", workers=1)
    assert record.metrics["used_ids"] <= 300
    assert not (tmp_path / "runs/mine/plan").exists()


def test_open_sizes_are_planned(recipe: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(WhorlError, match="measured"):
        whorl.prepare(recipe, home=tmp_path / "runs", workers=1)


def test_a_release_is_prepared_and_named_in_the_manifest(
    recipe: dict[str, object], tmp_path: Path
) -> None:
    hand = tmp_path / "runs" / "sources" / "pypi" / "notes-1.0.byhand"
    hand.mkdir(parents=True)
    with zipfile.ZipFile(hand / "notes-1.0-py3-none-any.whl", "w") as wheel:
        for path in (tmp_path / "notes").iterdir():
            wheel.write(path, f"notes/{path.name}")
        metadata = "Name: notes\nVersion: 1.0\nLicense-Expression: CC0-1.0\n"
        wheel.writestr("notes-1.0.dist-info/METADATA", metadata)
    recipe["data"] = [{"source": "pypi:notes==1.0/notes/*.txt"}]
    sizes = ["prepare.vocab_size=300", "train.seq_len=64"]
    record = whorl.prepare(recipe, overrides=sizes, home=tmp_path / "runs", workers=1)
    (release,) = record.metrics["releases"]
    assert (release["version"], release["licence"]) == ("1.0", "CC0-1.0")
    assert record.metrics["read_documents"] == 60
