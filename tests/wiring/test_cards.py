"""What a served model says it was taught: read from the record of its data, field by field."""

from __future__ import annotations

import json
from collections.abc import Callable
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
from whorl.fields.teachers import Shown
from whorl.stages.serve.card import ModelCard, TaskCard
from whorl.stages.serve.tasks import tasks_of
from whorl.testing.worlds import FakeEnvironment
from whorl.wiring import cards
from whorl.wiring.cards import plays_of, tasks_asked


def _lines(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def _source(path: str, field: Any, **options: str) -> Source:
    return Source(path, field.name, options=options_of(field, options))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def prepared(home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Record]:
    """Of three fields."""
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
    rows = {
        "labels": (mails, labels.FIELD, {"copies": "1"}),
        "translation": (pairs, translation.FIELD, {"heldout": "0.3"}),
        "interactions": (films, interactions.FIELD, {"window": "5"}),
    }
    return {
        name: prepare(
            home,
            _source(_lines(folder / f"{name}.jsonl", some), field, **options),
            fields={name: field},
            vocab_size=320,
            seq_len=64,
        )
        for name, (some, field, options) in rows.items()
    }


def asked(home: Path, record: Record) -> tuple[TaskCard, str]:
    """(what is told of the one field, the name of its task)."""
    tokens = Tokens.load(record.folder("tokens"))
    (task,) = tasks_asked(home, {"prepare": record.digest}, tokens)
    card = ModelCard(name="m", contract_digest="", context_tokens=64, tasks=(task,))
    (told,) = tasks_of(tokens, card)
    return task, told["task"]


def test_each_field_says_what_is_asked_and_shows_held_out_questions(
    home: Path, prepared: dict[str, Record]
) -> None:
    (mails, is_labels), (pairs, is_translation), (films, is_films) = (
        asked(home, prepared[name]) for name in ("labels", "translation", "interactions")
    )
    assert is_labels == "text-classification" and is_translation == "translation"
    assert is_films == "recommendation"
    assert (mails.field, mails.asked, mails.answer) == ("labels", ("text",), "label")
    assert (pairs.field, pairs.asked, pairs.answer) == ("translation", ("text",), "text")
    assert (films.field, films.asked, films.answer) == ("interactions", ("item",), "item")
    for example in mails.examples:
        text, number = example.asked[0].text.rsplit(" at ", 1)
        assert example.answer == ["ham", "spam"][int(number) % 2] and len(example.asked) == 1
        assert text == ["see you", "cheap pills"][int(number) % 2]
    assert {example.answer for example in mails.examples} == {"ham", "spam"}
    told = {"en > de\nthe house": "das Haus", "de > en\ndas Haus": "the house"}
    for example in pairs.examples:
        question, _, number = example.asked[0].text.rpartition(" ")
        assert example.answer == f"{told[question]} {number}"
    assert {each.asked[0].text[:7] for each in pairs.examples} == {"en > de", "de > en"}
    for example in films.examples:
        shown = [int(part.text.removeprefix("film ")) for part in example.asked]
        assert len(shown) == 4  # the window's, less the answer
        assert example.answer == f"film {(shown[-1] + 1) % 9}"
    assert films.options["window"] == "5" and films.options["seed"] == "0"
    assert all(len(each.examples) == 6 for each in (mails, pairs, films))


def test_a_folder_that_came_alone_says_what_its_codecs_do(
    home: Path, prepared: dict[str, Record], tmp_path: Path
) -> None:
    record = prepared["labels"]
    tokens = Tokens.load(record.folder("tokens"))
    for lineage in ({}, {"prepare": "../" + record.digest}, {"prepare": "0" * 32}):
        assert tasks_asked(home, lineage, tokens) == ()
    assert tasks_asked(tmp_path, {"prepare": record.digest}, tokens) == ()


def test_a_damaged_record_is_told_and_the_model_served_without_it(
    prepared: dict[str, Record],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    hear: Callable[..., None],
) -> None:
    hear(cards.LOG)
    record = prepared["labels"]
    folder = tmp_path / "m" / "prepare" / record.digest
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    tokens = Tokens.load(record.folder("tokens"))
    assert tasks_asked(tmp_path, {"prepare": record.digest}, tokens) == ()
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


def test_a_name_of_a_file_is_no_world(home: Path, tmp_path: Path) -> None:
    """Demonstrations of somebody's own are of no environment, whatever their file is called."""
    shown = [
        {"observation": {"lamp": f"{n % 4}", "day": n}, "action": "go", "episode": n}
        for n in range(40)
    ]
    source = _source(_lines(tmp_path / "play#1.jsonl", shown), episodes.FIELD, heldout="0.3")
    record = prepare(
        home, source, fields={"episodes": episodes.FIELD}, vocab_size=128, seq_len=64, workers=1
    )
    tokens = Tokens.load(record.folder("tokens"))
    (card,) = tasks_asked(home, {"prepare": record.digest}, tokens)
    assert card.worlds == () and plays_of([card]) == {}


def _shown(world: Any, teacher: str, seed: int, astray: float) -> Any:
    seen = world.reset(seed)
    for _ in range(3):
        yield Shown({**seen, "seed": float(seed)}, world.lamp)  # no two episodes are equal
        seen = world.step(world.lamp).observation
