"""What a verb asks for, and what it leaves alone."""

from __future__ import annotations

import json
import zipfile
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

import whorl
from tests.stages.plan.conftest import machine
from whorl.cli.main import build_app
from whorl.core.digests import digest_value, write_sealed
from whorl.core.errors import WhorlError
from whorl.core.records import Record, RecordKey, RecordStore
from whorl.core.variants import Variant
from whorl.spec.resolved import EvaluateConfig, ServeConfig
from whorl.testing.corpus import tiny_texts
from whorl.verbs import Session

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


@pytest.mark.parametrize(
    ("words", "exit_code", "told"),
    [
        (("explain", "RECIPE", "budget.train_time"), 0, "5"),
        (("explain", "RECIPE", "seed"), 0, "everything random"),
        (("explain", "RECIPE", "train.steps"), 1, "was to be measured"),
        (("doctor", "--json"), 0, '"calibration": null'),
    ],
)
def test_a_command_that_needs_no_measurement_waits_for_none(
    recipe: dict[str, object], words: tuple[str, ...], exit_code: int, told: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps(recipe))
    given = [str(path) if word == "RECIPE" else word for word in words]
    found = CliRunner().invoke(build_app(words[0]), [*given, "--home", str(tmp_path / "runs")])
    if exit_code:
        assert isinstance(found.exception, WhorlError) and told in str(found.exception)
    else:
        assert found.exit_code == 0 and told in found.output, found.output


def test_open_sizes_are_planned(recipe: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(WhorlError, match="measured"):
        whorl.prepare(recipe, home=tmp_path / "runs", workers=1)


@pytest.mark.parametrize("changes", [[], ["model.layers=1", "budget.train_time=9s"]])
def test_explaining_leaves_no_record(
    recipe: dict[str, object],
    changes: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What `show` takes as newest is still what was planned last."""
    monkeypatch.setattr("whorl.launch.calibrate.this_machine", lambda home: machine())
    home = tmp_path / "runs"
    planned = whorl.plan(recipe, home=home)
    considered = Session.open(recipe, overrides=changes, home=home).considered()
    assert RecordStore(home, "mine").newest("plan") == planned
    assert list(RecordStore(home, "mine").all("plan")) == [planned.path]
    after = Session.open(recipe, overrides=changes, home=home).planned
    assert considered is not None and considered.decisions == after.decisions
    assert considered.resolved == after.resolved and considered.reasons == after.reasons


def test_a_release_is_prepared_and_named_in_the_manifest(
    recipe: dict[str, object], tmp_path: Path
) -> None:
    asked = digest_value(["notes", "1.0", None])[:8]
    hand = tmp_path / "runs" / "sources" / "pypi" / f"notes-1.0-{asked}.byhand"
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


def folders_record(home: Path, stage: str, *variants: Variant) -> Record:
    """A record of model folders that hold a card alone."""
    store, key = RecordStore(home, "mine"), RecordKey(stage, {})
    with store.write(key) as writer:
        for variant in variants:
            (writer.path / variant.slug).mkdir()
            write_sealed(writer.path / variant.slug / "whorl.json", {"variant": asdict(variant)})
    return store.published(key)


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        ("auto", {"openvino int8": "auto", "openvino f32": "auto"}),
        ("torch", {"hf f32": "torch", "openvino int8": "auto", "openvino f32": "auto"}),
    ],
)
def test_what_is_served_is_scored_by_the_engine_that_serves_it(
    engine: str,
    expected: dict[str, str],
    recipe: dict[str, object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session = Session.open(recipe, home=tmp_path / "runs")
    int8, f32 = Variant("openvino", "int8"), Variant("openvino", "f32")
    session.records["train"] = folders_record(tmp_path, "train", Variant("hf", "f32"))
    session.records["compress"] = folders_record(tmp_path, "compress", int8, f32)
    session.records["prepare"] = folders_record(tmp_path, "prepare")
    for stage in ("train", "compress"):
        monkeypatch.setattr(Session, stage, lambda self, stage=stage: self.records[stage])
    serve = ServeConfig(engine=engine)
    decisions = SimpleNamespace(evaluate=EvaluateConfig(window=64), serve=serve)
    vars(session)["planned"] = SimpleNamespace(decisions=decisions)
    opened: dict[str, str] = {}

    def note(folder: Path, variant: Variant, name: str, cache: Path) -> SimpleNamespace:
        opened[str(variant)] = name
        factory = SimpleNamespace(name="somebody's")  # of no known version: opened as it is
        return SimpleNamespace(factory=factory, open=lambda setup: None)

    def score(context, config, field, prepared, models, engines, *further) -> Record:  # type: ignore[no-untyped-def]
        _, engine, probe, beside = further
        assert (engine, probe, beside) == (serve.engine, None, {})
        assert next(iter(models)) == session.served(serve)[0]
        for variant, folder in models.items():
            engines(folder, variant)
        return session.records["train"]

    monkeypatch.setattr("whorl.wiring.asked.openable", note)
    monkeypatch.setattr("whorl.stages.evaluate.run.run", score)
    session.evaluate()
    assert opened == expected and list(opened) == list(expected)
