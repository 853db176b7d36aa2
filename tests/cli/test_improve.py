"""`whorl improve`: a file that `whorl new` takes, and what became of every opinion."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from whorl.cli.main import build_app
from whorl.core.errors import BusyError, DataError, ResourceError, SpecError

APP, RUN = build_app(), CliRunner()


def opinion(number: int, **said: Any) -> dict[str, Any]:
    told = {"version": 3, "variant": "openvino int8", "contract": "cd" * 16, "caller": "given key"}
    asked = {"messages": [{"role": "user", "content": f"Question {number}?"}], "answer": "No."}
    return {"id": f"chatcmpl-{number:032x}", "model": "mine", **told, **asked, **said}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    (home / ".serving").mkdir(parents=True)
    said = [opinion(number, correction=f"Yes, {number}.") for number in range(30)]
    said += [opinion(30, rating="up"), opinion(31, rating="down")]
    lines = "".join(json.dumps(each) + "\n" for each in said)
    (home / ".serving" / "feedback.jsonl").write_text(lines)
    monkeypatch.chdir(tmp_path)
    return home


def test_corrections_become_a_recipe_of_preferences(home: Path) -> None:
    done = RUN.invoke(APP, ["improve", "mine"])
    assert done.exit_code == 0, done.output
    assert "rated bad without a correction" in done.output and "cdcdcdcd" in done.output
    assert "whorl new mine2 --data mine-feedback.jsonl --base mine" in done.stderr
    assert os.stat("mine-feedback.jsonl").st_mode & 0o077 == 0
    rows = [json.loads(row) for row in Path("mine-feedback.jsonl").read_text().splitlines()]
    assert [row["chosen"][0]["content"] for row in rows if "chosen" in row] == [
        f"Yes, {number}." for number in range(30)
    ]
    raw = RUN.invoke(APP, ["new", "mine2", "--data", "home/.serving/feedback.jsonl"])
    assert isinstance(raw.exception, SpecError) and "whorl improve NAME" in str(raw.exception)
    told = RUN.invoke(APP, ["new", "mine2", "--data", "mine-feedback.jsonl", "--base", "mine"])
    assert told.exit_code == 0, told.output
    recipe = yaml.safe_load(Path("mine2.yaml").read_text())
    assert recipe["train"]["objective"] == "dpo" and recipe["data"][0]["field"] == "chat"


def test_the_next_command_is_one_for_a_shell(home: Path) -> None:
    path = "what was said; of $mine.jsonl"
    done = RUN.invoke(APP, ["improve", "mine", "--to", path])
    command = done.stderr.rstrip("\n").rpartition(", then ")[2]
    asked = ["whorl", "new", "mine2", "--data", path, "--base", "mine"]
    assert shlex.split(command) == asked and os.path.exists(path)


def test_programs_are_told_too(home: Path) -> None:
    done = RUN.invoke(APP, ["improve", "mine@3", "--to", "said.jsonl", "--json"])
    found = json.loads(done.stdout)
    (version,) = found.pop("versions")
    assert version["version"] == 3 and version["opinions"] == 32 and version["corrected"] == 30
    assert sum(found["taken"].values()) == found["rows"] == 31 and found["pairs"] == 30
    assert sum(found["left"].values()) == 1 and found["file"] == "said.jsonl"


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        (["mime"], SpecError, "did you mean mine"),
        (["mine@4"], SpecError, "did you mean mine@3"),
        (["quite-another"], SpecError, "whorl serve"),
        (["mine@x"], SpecError, "NAME@3"),
        (["mine@"], SpecError, "NAME@3"),
        (["mine", "--to", "home"], BusyError, "is a folder"),
        (["mine", "--to", "there.jsonl"], BusyError, "--force"),
        (["mine", "--to", "x" * 300], ResourceError, "too long"),
        (["9" * 300], SpecError, "whorl serve"),
    ],
)
def test_what_cannot_be_is_said(
    home: Path, arguments: list[str], kind: type[Exception], words: str
) -> None:
    Path("there.jsonl").write_text("mine own\n")
    done = RUN.invoke(APP, ["improve", *arguments])
    assert isinstance(done.exception, kind) and words in str(done.exception)
    assert Path("there.jsonl").read_text() == "mine own\n"


def test_where_nothing_can_be_learned_no_file_is_left(home: Path) -> None:
    path = home / ".serving" / "feedback.jsonl"
    path.write_text(json.dumps(opinion(1, rating="down")) + "\n")
    done = RUN.invoke(APP, ["improve", "mine"])
    assert isinstance(done.exception, DataError) and "1 rated bad" in str(done.exception)
    path.unlink()
    done = RUN.invoke(APP, ["improve", "mine"])
    assert isinstance(done.exception, SpecError) and "none in" in str(done.exception)
    assert not Path("mine-feedback.jsonl").exists()
