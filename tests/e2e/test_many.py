"""Many fields in one recipe: codecs that are called alike, each field's task, each field apart."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.stages.plan.conftest import machine
from whorl.codecs.contract import Tokens
from whorl.codecs.parts import decode_parts
from whorl.core.errors import SpecError
from whorl.core.heldout import HeldoutDocuments
from whorl.core.intervals import paired_interval
from whorl.core.metrics import find_metric
from whorl.core.ports import QualityMeasure
from whorl.core.rows import RowSet
from whorl.testing.corpus import tiny_texts
from whorl.testing.worlds import FakeEnvironment
from whorl.verbs import Session

pytest.importorskip("torch", reason="needs the extra train")
pytest.importorskip("sklearn", reason="needs the extra train")

SHARES = {"text": 0.3, "labels": 0.2, "table": 0.2, "episodes": 0.1, "triples": 0.1, "digits": 0.1}
STEPS, SEQ_LEN, ROWS = 60, 96, 12


def write_all(folder: Path) -> dict[str, str]:
    """field -> its source: data that a small model learns in no time."""
    rng = random.Random(0)
    (folder / "notes.txt").write_text("\n\n".join(tiny_texts(300)))
    reviews = ["text,label"]
    for number in range(400):
        word, label = rng.choice([("good", "glad"), ("bad", "sad")])
        reviews.append(f"{number} it was {word} {rng.choice(['indeed', 'again'])} {number},{label}")
    (folder / "reviews.csv").write_text("\n".join(reviews))
    rows = ["size,colour,class"]
    for number in range(400):
        big = rng.random() < 0.5
        rows.append(f"{number % 50 + 100 * big},{rng.choice(['red', 'blue'])},{'ab'[big]}")
    (folder / "rows.csv").write_text("\n".join(rows))
    episodes = []
    for number in range(200):
        world, seen, done = FakeEnvironment(), [], []
        seen.append({**world.reset(number), "day": str(number % 40)})
        for _ in range(world.length):
            done.append(world.lamp)
            seen.append({**world.step(world.lamp).observation, "day": str(number % 40)})
        episodes.append(json.dumps({"observations": seen, "actions": done}))
    (folder / "corridor.jsonl").write_text("\n".join(episodes))
    facts = [
        f"p{n}\t{'likes' if k else 'knows'}\tp{(n + k + 1) % 30}" for n in range(30) for k in (0, 1)
    ]
    (folder / "facts.tsv").write_text("\n".join(facts))
    files = {"text": "notes.txt", "labels": "reviews.csv", "table": "rows.csv",
             "episodes": "corridor.jsonl", "triples": "facts.tsv"}  # fmt: skip
    return {
        **{name: str(folder / file) for name, file in files.items()},
        "digits": "sklearn:digits",
    }


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    folder = tmp_path_factory.mktemp("many")
    options = {"labels": {"copies": "2"}, "table": {"copies": "2"}, "triples": {"copies": "4"}}
    recipe: dict[str, Any] = {
        "name": "many",
        "data": [
            {"source": source, "field": field, "share": SHARES[field],
             "options": options.get(field, {})}
            for field, source in write_all(folder).items()
        ],
        "prepare": {"vocab_size": 900},
        "model": {"layers": 2, "width": 48, "heads": 3, "kv_heads": 3, "head_dim": 16},
        "train": {"seq_len": SEQ_LEN, "batch_tokens": ROWS * SEQ_LEN, "steps": STEPS, "threads": 1,
                  "learning_rate": 0.02, "embedding_learning_rate": 0.02, "max_repeats": 1000},
        "evaluate": {"apart": True, "max_bytes": 20_000},
        "compress": "none",
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("whorl.launch.calibrate.this_machine", lambda home: machine())
        yield Session.open(recipe, home=folder / "home", workers=1)


def test_codecs_that_are_called_alike_are_told_apart_and_text_is_shared(session: Session) -> None:
    contract = json.loads(session.prepare().file("tokens/contract.json").read_bytes())
    names = [codec["name"] for codec in contract["codecs"]]
    assert names[0] == "text" and set(names[1:]) == {
        *("labels.label", "table.label", "digits.label", "table.row", "episodes.row"),
        *("action", "entity", "relation", "image"),
    }
    tokens = Tokens.load(session.prepare().folder("tokens"))
    labels = {name: tokens.of_field(name).codec("label").labels for name in  # type: ignore[attr-defined]
              ("labels", "table", "digits")}  # fmt: skip
    assert labels["labels"] == ("glad", "sad") and labels["table"] == ("a", "b")
    assert len(labels["digits"]) == 10


def test_every_fields_documents_are_of_its_own_codecs(session: Session) -> None:
    documents = HeldoutDocuments.open(session.prepare())
    tokens = Tokens.load(session.prepare().folder("tokens"))
    expected = {"text": {"text"}, "labels": {"text", "label"}, "table": {"row", "label"},
                "episodes": {"row", "action"}, "triples": {"entity", "relation"},
                "digits": {"image", "label"}}  # fmt: skip
    for name, codecs in expected.items():
        mine, view = documents.of_field(name), tokens.of_field(name)
        for number in range(len(mine)):
            parts = decode_parts(view, mine.ids(number))
            assert {part.codec for part in parts} - {"special"} <= codecs
            assert view.encode_parts(parts) == mine.ids(number).tolist()


def test_each_field_is_asked_its_own_and_beside_a_model_of_it_alone(session: Session) -> None:
    record = session.evaluate()
    told = json.loads(record.file("scores.json").read_bytes())
    found = {(row["field"], row["kind"], row["name"]): row for row in told["scores"]}
    metrics = {row["field"]: row["metric"] for row in told["scores"]}
    assert metrics == {
        **{"text": "bits_per_byte", "labels": "accuracy", "labels/f1": "f1", "table": "accuracy"},
        **{"episodes": "accuracy", "triples": "mrr", "triples/hits_at_10": "hits_at_10"},
        "digits": "accuracy",
    }
    for field in ("labels", "table", "episodes"):
        assert found[field, "model", "hf f32"]["value"] > 0.8, field
    for field in metrics:
        alone = found[field, "alone", "alone, hf f32"]
        assert alone["note"].endswith("tokens of this field alone")
    measures = json.loads(record.file("per_document.json").read_bytes())
    for pair in (p for p in told["comparisons"] if p["second"] == "alone, hf f32"):
        of = measures[pair["field"]]
        metric, names = find_metric(of["metric"]), tuple(of["documents"])
        both = [
            QualityMeasure(
                metric, names, np.array(of["numerators"][name]), np.array(of["denominator"])
            )
            for name in (pair["first"], pair["second"])
        ]
        assert pair["difference"] == pytest.approx(both[0].value - both[1].value)
        assert paired_interval(*both).value == pytest.approx(pair["difference"])


def test_alone_means_as_much_compute_and_as_many_ids(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    from whorl.wiring import apart

    session.train()
    rows, opened = RowSet.open(session.prepare()), list[Any]()
    monkeypatch.setattr(apart.RowSet, "open", lambda record: opened.append(record) or rows)
    recipes = apart.recipes_of(session)
    assert len(opened) == 1 < len(recipes)
    drawn = np.concatenate([rows.rows_of_step(step, ROWS, seed=0) for step in range(STEPS)])
    contract = json.loads(session.prepare().file("tokens/contract.json").read_bytes())
    sizes = {codec["name"]: codec["id_end"] - codec["id_start"] for codec in contract["codecs"]}
    for source in rows.index.sources:
        mine = (drawn >= source.first_row) & (drawn < source.first_row + source.num_rows)
        recipe = recipes[source.field].recipe
        seen = recipe.train.steps * (recipe.train.batch_tokens // SEQ_LEN)  # type: ignore[operator]
        assert abs(seen - mine.sum()) <= max(1, 0.5 * recipe.train.batch_tokens / SEQ_LEN)  # type: ignore[operator]
        assert recipe.name == f"many.{source.field}" and len(recipe.data) == 1
        assert recipe.data[0].share is None and recipe.model.width == 48
    assert recipes["table"].recipe.prepare.vocab_size == 16 + sum(
        sizes[name] for name in ("table.row", "table.label")
    )


def test_the_report_sets_both_side_by_side(
    session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    from whorl.cli.report import print_report
    from whorl.stages.improve.report import build_report

    report = build_report("many", {"evaluate": session.evaluate()}, {})
    rows = {row["field"]: row for row in report["together"]}
    assert set(SHARES) <= set(rows)
    for row in rows.values():
        assert row["difference"] == pytest.approx(row["together"] - row["alone"])
        assert row["low"] is None or row["low"] <= row["difference"] <= row["high"]  # type: ignore[operator]
    print_report(report)  # type: ignore[arg-type]
    assert "one model of all fields, and one of each" in capsys.readouterr().out


def test_without_shares_nothing_is_equal(session: Session) -> None:
    recipe = session.loaded.recipe.model_dump(mode="json", exclude_unset=True)
    for entry in recipe["data"]:
        del entry["share"]
    recipe["data"] = recipe["data"][2:5]
    recipe["train"]["steps"] = 2
    other = Session.open(recipe, home=session.home, workers=1)
    with pytest.raises(SpecError, match="shares"):
        other.evaluate()


def test_every_field_is_served_by_its_own_names(session: Session) -> None:
    report = session.serve().metrics
    assert {row["field"] for row in report["completions"]} == set(SHARES)
