"""What a served model says it was taught: read from the record of its data, field by field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.stages.prepare.support import prepare
from whorl.codecs.contract import Tokens
from whorl.core.environments import PlayTask
from whorl.core.ports import Source
from whorl.core.records import Record
from whorl.fields import episodes, interactions, labels, translation
from whorl.fields.base import options_of
from whorl.stages.serve.card import ModelCard
from whorl.stages.serve.tasks import tasks_of
from whorl.testing.worlds import FakeEnvironment
from whorl.wiring.asked import plays_of, tasks_asked


def _lines(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def _source(path: str, field: Any, **options: str) -> Source:
    return Source(path, field.name, options=options_of(field, options))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def prepared(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Record:
    """Of three fields that share the codec of text, or have their own."""
    folder = tmp_path_factory.mktemp("data")
    mails = [
        {"text": f"{'cheap pills' if n % 2 else 'see you'} at {n}", "label": ["ham", "spam"][n % 2]}
        for n in range(40)
    ]
    pairs = [{"en": f"the house {n}", "de": f"das Haus {n}"} for n in range(40)]
    films = [
        {"user": user, "item": f"film {(user + n) % 9}", "timestamp": n}
        for user in range(12)
        for n in range(6)
    ]
    return prepare(
        home,
        _source(_lines(folder / "mails.jsonl", mails), labels.FIELD, copies="1"),
        _source(_lines(folder / "pairs.jsonl", pairs), translation.FIELD, heldout="0.3"),
        _source(_lines(folder / "films.jsonl", films), interactions.FIELD, window="5"),
        fields={each.name: each for each in (labels.FIELD, translation.FIELD, interactions.FIELD)},
        vocab_size=800,
        seq_len=64,
    )


def test_each_field_says_what_is_asked_and_shows_held_out_questions(
    home: Path, prepared: Record
) -> None:
    tokens = Tokens.load(prepared.folder("tokens"))
    mails, pairs, films = tasks_asked(home, {"prepare": prepared.digest}, tokens)
    assert (mails.field, mails.asked, mails.answer) == ("labels", ("text",), "label")
    assert (pairs.field, pairs.asked, pairs.answer) == ("translation", ("text",), "text")
    assert (films.field, films.asked, films.answer) == ("interactions", ("item",), "item")
    for example in mails.examples:
        text, number = example.asked[0].text.rsplit(" at ", 1)
        assert example.answer == ["ham", "spam"][int(number) % 2] and len(example.asked) == 1
        assert text == ["see you", "cheap pills"][int(number) % 2]
    told = {"en > de\nthe house": "das Haus", "de > en\ndas Haus": "the house"}
    for example in pairs.examples:
        question, _, number = example.asked[0].text.rpartition(" ")
        assert example.answer == f"{told[question]} {number}"
    for example in films.examples:
        shown = [int(part.text.removeprefix("film ")) for part in example.asked]
        assert len(shown) == 4  # the window's, less the answer
        assert example.answer == f"film {(shown[-1] + 1) % 9}"
    assert films.options["window"] == "5" and films.options["seed"] == "0"
    assert all(len(each.examples) == 6 for each in (mails, pairs, films))
    card = ModelCard(name="m", contract_digest="", context_tokens=64, tasks=(mails, pairs, films))
    names = ["text-classification", "translation", "recommendation"]
    assert [each["task"] for each in tasks_of(tokens, card)] == names


def test_a_folder_that_came_alone_says_what_its_codecs_do(
    home: Path, prepared: Record, tmp_path: Path
) -> None:
    tokens = Tokens.load(prepared.folder("tokens"))
    for lineage in ({}, {"prepare": "../" + prepared.digest}, {"prepare": "0" * 32}):
        assert tasks_asked(home, lineage, tokens) == ()
    assert tasks_asked(tmp_path, {"prepare": prepared.digest}, tokens) == ()


def test_a_damaged_record_is_told_and_the_model_served_without_it(
    home: Path, prepared: Record, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "m" / "prepare" / prepared.digest
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    tokens = Tokens.load(prepared.folder("tokens"))
    assert tasks_asked(tmp_path, {"prepare": prepared.digest}, tokens) == ()
    assert "what this model was taught is not told" in caplog.text


def test_worlds_are_told_by_name_and_opened_by_their_field(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class World(FakeEnvironment):
        total, has_ended, has_succeeded = 0.0, False, True

    opened: list[str] = []

    def open_world(name: str) -> World:
        opened.append(name)
        return World()

    monkeypatch.setattr(episodes.worlds, "open_world", open_world)
    monkeypatch.setattr(episodes.worlds, "identity_of", lambda name: name)
    monkeypatch.setattr(episodes, "demonstration", _shown)
    source = Source(
        "gymnasium:corridor",
        "episodes",
        options=options_of(episodes.FIELD, {"episodes": "8", "asked": "3"}),
    )
    record = prepare(
        home, source, fields={"episodes": episodes.FIELD}, vocab_size=64, seq_len=64, workers=1
    )
    tokens = Tokens.load(record.folder("tokens"))
    tasks = tasks_asked(home, {"prepare": record.digest}, tokens)
    (card,) = tasks
    assert card.worlds == ("gymnasium:corridor",)
    assert (card.asked, card.answer) == (("row",), "action")
    (task,) = plays_of(tasks).values()
    assert isinstance(task, PlayTask)
    found = task.open_world("gymnasium:corridor#7")
    assert found is not None and found[1] == 7 and opened[-1] == "corridor"


def _shown(world: Any, teacher: str, seed: int) -> Any:
    seen = world.reset(seed)
    for _ in range(3):
        yield {**seen, "seed": float(seed)}, world.lamp  # no two episodes are equal
        seen = world.step(world.lamp).observation
