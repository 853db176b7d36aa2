"""Recipes that start from a model of transformers: imported once, gone on from, measured."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.stages.plan.conftest import keep_calibration
from tests.wiring.test_imports import quick, source
from whorl.core.context import NoProgress
from whorl.core.errors import GateError, SpecError
from whorl.core.heldout import HeldoutDocuments
from whorl.core.records import Record
from whorl.core.variants import Variant
from whorl.engines import open as opening
from whorl.model.families import family_of
from whorl.model.folder import read_card
from whorl.model.hf_source import WEIGHTS, open_hf_source
from whorl.spec.load import parse_recipe
from whorl.spec.recipe import PruneSpec
from whorl.spec.train_keys import TrainSpec
from whorl.stages.plan.given import Rehearsal
from whorl.stages.train.initial import base_model
from whorl.testing.corpus import tiny_texts
from whorl.verbs import Session
from whorl.wiring import asked, bases, checks, imports
from whorl.wiring.bases import find_base, planned_base, pruned_base
from whorl.wiring.checks import only_vetted
from whorl.wiring.forgetting import check_forgetting
from whorl.wiring.imports import import_model

__all__ = ["quick", "source"]  # fixtures of tests.wiring.test_imports

pytestmark = pytest.mark.usefixtures("quick", "one_thread")


@pytest.fixture
def taught(source: Path, tmp_path: Path, isolated_home: Path, monkeypatch: Any) -> Any:
    """A session of a recipe that starts from the source; its step is rehearsed on paper."""
    keep_calibration(isolated_home)
    monkeypatch.setattr(
        bases, "rehearsal_of", lambda *load: Rehearsal(step_s=0.1, peak_bytes=2**28, took_s=1.0)
    )
    (tmp_path / "notes").mkdir()
    for number, text in enumerate(tiny_texts(40)):
        (tmp_path / "notes" / f"{number}.txt").write_text(text)

    def opened(*overrides: str, base: str = str(source), home: Path = isolated_home) -> Session:
        value = {
            "name": "mine",
            "data": [{"source": str(tmp_path / "notes")}],
            "model": {"base": base},
            "train": {"steps": 12, "seq_len": 32, "learning_rate": 2e-3, "threads": 1},
            "prepare": {"heldout_share": 0.3},
            "compress": "none",
            "evaluate": {"baselines": False},
        }
        return Session.open(value, overrides=overrides, home=home, workers=1)

    return opened


def transformers_nats(folder: Path, heldout: HeldoutDocuments) -> float:
    """Mean nats per id of the held-out documents, by transformers itself."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    nats, count = 0.0, 0
    with torch.no_grad():
        for number in range(len(heldout)):
            ids = torch.from_numpy(np.asarray(heldout.ids(number), np.int64))[:32]
            logits = model(input_ids=ids[None]).logits[0, :-1]
            nats += float(torch.nn.functional.cross_entropy(logits, ids[1:], reduction="sum"))
            count += len(ids) - 1
    return nats / count


def test_training_goes_on_from_the_base(taught: Any, source: Path, isolated_home: Path) -> None:
    session: Session = taught()
    record = session.train()
    prepared = session.records["prepare"]
    base = find_base(str(source), home=isolated_home, recipe_name="mine", folder=source)
    imported = Record.load(next((isolated_home / "some_model-1b/import").glob("[0-9a-f]*")))
    assert record.inputs == {"prepare": prepared.digest, "base": imported.digest}
    assert base.record == imported
    lineage = read_card(record.folder("model")).lineage
    assert lineage["base"] == imported.digest
    assert prepared.metrics["contract"] == base.card.contract_digest
    assert prepared.inputs["tokens"] == base.card.contract_digest
    assert session.planned.decisions.shape == base.shape
    heldout = HeldoutDocuments.open(prepared)
    before = transformers_nats(source, heldout)
    after = transformers_nats(record.folder("model"), heldout)
    assert after < 0.9 * before
    said = [json.loads(line) for line in record.file("loss.jsonl").read_text().splitlines()]
    first = next(line["loss"] for line in said if "loss" in line)  # the base's own comes before
    assert first == pytest.approx(before, rel=0.1)  # of other rows of the same kind


def test_training_begins_with_the_bases_weights(taught: Any, source: Path) -> None:
    tensors = {
        name: tensor.to(torch.bfloat16) for name, tensor in load_file(source / WEIGHTS).items()
    }
    save_file(tensors, source / WEIGHTS, metadata={"format": "pt"})
    base = taught().base
    model = base_model(base.folder, base.shape)
    ours = family_of(base.shape).to_disk(dict(model.named_parameters()))
    assert ours.keys() == tensors.keys() and model.training
    assert all(torch.equal(ours[name], tensors[name].float()) for name in tensors)
    assert all(p.requires_grad and p.dtype == torch.float32 for p in model.parameters())


def test_a_base_is_imported_once_and_found_by_its_name(
    taught: Any, source: Path, isolated_home: Path, monkeypatch: Any
) -> None:
    taught().base.record  # noqa: B018
    again = find_base(str(source), home=isolated_home, recipe_name="other", folder=source)

    def refuse(*args: Any, **options: Any) -> None:
        raise AssertionError("imported again")

    monkeypatch.setattr(bases, "import_looked", refuse)
    for name in (str(source), "some_model-1b", "some_model-1b@1", source.name):
        found = find_base(name, home=isolated_home, recipe_name="other", folder=source.parent)
        assert found.record == again.record and found.digest == again.digest


def test_planning_with_a_base_imports_nothing(taught: Any, isolated_home: Path) -> None:
    session = taught()
    assert session.plan().inputs["base"] == session.base.digest
    assert not list(isolated_home.glob("*/import"))


def test_a_pruned_base_is_imported_too(source: Path, isolated_home: Path) -> None:
    base = find_base(str(source), home=isolated_home, recipe_name="mine", folder=source)
    left = pruned_base(base, PruneSpec(ffn=0.25), lambda record: record)
    for found in (base, left):
        planned = planned_base(found, TrainSpec(), isolated_home, NoProgress())
        assert planned.left_bytes == bases.IMPORT_LEAVES_BYTES
    again = base.record
    here = find_base(str(source), home=isolated_home, recipe_name="mine", folder=source)
    left = pruned_base(here, PruneSpec(ffn=0.25), lambda record: record)
    assert again and planned_base(left, TrainSpec(), isolated_home, NoProgress()).left_bytes == 0


def test_a_trained_model_is_a_base_but_never_its_own(taught: Any, isolated_home: Path) -> None:
    record = taught().train()
    options = {"home": isolated_home, "folder": isolated_home}
    base = find_base("mine", recipe_name="next", **options)
    assert base.record == record and base.digest == record.digest
    with pytest.raises(SpecError, match="no model to start from"):
        find_base("mine", recipe_name="mine", **options)


def test_a_recipe_called_like_its_base_keeps_its_name(
    taught: Any, source: Path, isolated_home: Path
) -> None:
    session = Session.open(
        parse_recipe(taught().loaded.recipe.model_dump(mode="json") | {"name": "some_model-1b"}),
        home=isolated_home,
    )
    assert session.base is not None
    assert session.base.record.path.parent.parent.name == "some_model-1b-base"


def test_a_trained_models_name_is_not_taken_unasked(
    taught: Any, source: Path, isolated_home: Path
) -> None:
    taught().train()
    shutil.copytree(source, source.parent / "mine")
    with pytest.raises(SpecError, match="mine is a model that was trained here"):
        import_model(str(source.parent / "mine"), home=isolated_home)
    named = import_model(str(source.parent / "mine"), home=isolated_home, name="mine")
    assert named.version.name == "mine"


def test_the_base_of_another_shape_is_refused(taught: Any, source: Path) -> None:
    from dataclasses import replace

    from whorl.core.errors import RecordError

    base = taught().base
    with pytest.raises(RecordError, match="another shape than planned"):
        base_model(base.folder, replace(base.shape, max_seq_len=17))


def test_what_is_forgotten_is_measured_and_gated(taught: Any, isolated_home: Path) -> None:
    session = taught("train.learning_rate=3e-2", "evaluate.max_forgetting=1%")
    record = session.evaluate()
    told = record.metrics["forgetting"]
    assert told["passages"] == 20 and told["left_out"] == 0
    assert told["after"] > told["before"] and told["rise"] > 0.01
    assert told["rise"] == pytest.approx(told["after"] / told["before"] - 1)
    written = json.loads(record.file("scores.json").read_bytes())
    rows = [score for score in written["scores"] if score["field"] == "general text"]
    assert [(row["kind"], row["value"]) for row in rows] == [
        ("model", told["after"]),
        ("baseline", told["before"]),
    ]
    with pytest.raises(GateError, match="mine has forgotten too much"):
        session.improve()
    allowed = parse_recipe(session.loaded.recipe.model_dump(mode="json") | {"evaluate": {}})
    check_forgetting(allowed.recipe, record)


def scores_of(session: Session) -> bytes:
    return session.evaluate().file("scores.json").read_bytes()


def test_nothing_is_exported_twice_and_scores_are_the_same(
    taught: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    """The base's export of its import is asked, and what compress exported of the trained model."""
    monkeypatch.setattr(checks, "is_installed", lambda name: name == "openvino")
    keep_calibration(tmp_path / "plain")
    compressed = "compress.formats=[int8]", "compress.max_bpb_increase=1"
    with monkeypatch.context() as patched:
        patched.setattr(
            asked, "_exported", lambda model, there: (model, Variant("openvino", "f32"))
        )
        patched.setattr(asked, "open_keeping", lambda found, setup, *kept: found.open(setup))
        patched.setattr(opening, "keep_export", lambda made, card, folder: None)
        plain = taught(*compressed, home=tmp_path / "plain")
        expected = scores_of(plain)
        assert len(list((plain.home / ".engines").iterdir())) == 2  # of the trained one, and base

    def refuse(*args: Any) -> None:
        raise AssertionError("exported again")

    monkeypatch.setattr(opening, "export_openvino", refuse)
    session = taught(*compressed)
    assert scores_of(session) == expected
    values = {
        row["name"]: row["value"]
        for row in json.loads(expected)["scores"]
        if row["field"] == "general text"
    }
    assert len(values) == 4 and values["hf f32"] == values["openvino f32"]


def test_others_see_no_file_that_was_not_vetted(source: Path) -> None:
    (source / "adapter_config.json").write_text('{"base_model_name_or_path": "/etc"}')
    for name in ("pytorch_model.bin", "modeling_evil.py", "adapter_model.bin", "vocab.json"):
        (source / name).write_bytes(b"\x80\x04evil")
    vetted = open_hf_source(source).files
    with only_vetted(source) as folder:
        assert sorted(path.name for path in folder.iterdir()) == sorted(vetted)
        assert folder.resolve() != source.resolve() and folder.name == source.name
        assert all((folder / name).read_bytes() == (source / name).read_bytes() for name in vetted)
    assert not folder.exists()
    gguf = source / "model.gguf"
    gguf.write_bytes(b"GGUF")
    with only_vetted(gguf) as file:
        assert [path.name for path in file.parent.iterdir()] == ["model.gguf"]


def test_transformers_is_handed_the_vetted_files_alone(
    source: Path, isolated_home: Path, monkeypatch: Any
) -> None:
    """An adapter beside the weights would be loaded over them, by whoever is given the folder."""
    from whorl.wiring import checks

    seen: list[set[str]] = []
    opened = checks.transformers_runtime

    def watched(folder: Path, card: Any) -> Any:
        seen.append({path.name for path in folder.iterdir()})
        return opened(folder, card)

    monkeypatch.setattr(checks, "transformers_runtime", watched)
    (source / "adapter_config.json").write_text("{}")
    imported = import_model(str(source), home=isolated_home)
    assert imported.checks["checked"]["transformers"]["golden_tokens"] >= 64
    assert seen == [set(open_hf_source(source).files)]


def test_a_model_too_large_for_the_machine_is_told(
    source: Path, isolated_home: Path, monkeypatch: Any
) -> None:
    facts = imports.machine_facts()
    small = facts.model_copy(update={"memory_bytes": 10_000})
    monkeypatch.setattr(imports, "machine_facts", lambda: small)
    lines: list[str] = []
    import_model(str(source), home=isolated_home, log=lines.append)
    assert any(line.startswith("warning: ") and "this machine has" in line for line in lines)


def test_a_pruned_base_learns_from_the_whole_one(
    taught: Any, source: Path, isolated_home: Path
) -> None:
    """Half of its layers and a quarter of its channels, taught by the base itself."""
    session: Session = taught(
        "model.prune={layers: 0.5, ffn: 0.25}",
        "train.objective=distil",
        f"train.distil={{teacher: {source}, top_k: 16}}",
    )
    whole = find_base(str(source), home=isolated_home, recipe_name="mine", folder=source)
    record = session.train()
    pruned = session.records["prune"]
    assert record.inputs["base"] == pruned.digest and pruned.inputs["base"] == whole.record.digest
    shape = read_card(record.folder("model")).shape
    assert shape.layers == whole.shape.layers // 2
    assert shape.ffn_width == whole.shape.ffn_width * 3 // 4
    assert read_card(pruned.folder("model")).shape == shape == session.planned.decisions.shape
    assert len(pruned.metrics["layers_gone"]) == whole.shape.layers - shape.layers
    heldout = HeldoutDocuments.open(session.records["prepare"])
    left = transformers_nats(pruned.folder("model"), heldout)
    assert transformers_nats(record.folder("model"), heldout) < left
    again: Session = taught("model.prune={layers: 0.5}")
    assert again.base is not None and again.base.digest != session.base.digest  # type: ignore[union-attr]
    assert again.base.whole is not None and again.base.whole.digest == whole.digest
