"""Imports of models that transformers wrote: served, listed, exported, and refused whole."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.model.gguf_files import gguf_facts, gguf_tensors, text_facts, write_gguf
from tests.model.test_families import CASES, COMMON
from whorl.core.digests import read_sealed
from whorl.core.errors import DataError, EngineError, MissingExtra, RecordError, SpecError
from whorl.core.variants import Variant
from whorl.engines.runtimes import is_installed
from whorl.model.folder import read_card
from whorl.model.hf import load_model_folder
from whorl.stages.improve.registry import list_versions
from whorl.testing.corpus import tiny_tokens
from whorl.testing.models import tiny_model_folder
from whorl.wiring import checks as checks_module
from whorl.wiring.imports import import_model

FAMILIES = {kind: case for case, (kind, _) in reversed(CASES.items())}  # its first case
IDS = 512


def published(
    folder: Path, case: str, dtype: str = "float32", shard: str = "1GB", **more: Any
) -> Any:
    """A random model of transformers with a tokenizer, as others publish it; more: its sizes."""
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, changes = CASES[case]
    torch.manual_seed(len(case))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sizes = COMMON | changes | {"vocab_size": IDS} | more
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0.0, 0.15).add_(1.0 if parameter.ndim == 1 else 0.0)
        model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size=shard)
    tokenizer = tiny_model_folder(folder.parent / "tokenizer", steps=0)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(tokenizer / name, folder / name)
    shutil.rmtree(tokenizer)
    return model


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without OpenVINO, which other tests look at."""
    monkeypatch.setattr(
        checks_module, "is_installed", lambda name: name != "openvino" and is_installed(name)
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "Some_Model-1B"
    published(folder, "qwen3")
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_imported_and_says_what_transformers_says(
    family: str, tmp_path: Path, isolated_home: Path
) -> None:
    model = published(tmp_path / "model", FAMILIES[family], shard="40KB")
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 1
    imported = import_model(str(tmp_path / "model"), home=isolated_home)
    figures = imported.checks["checked"]["transformers"]
    assert figures["golden_tokens"] >= 64 and figures["max_logit_difference"] < 1e-3
    found, shape, _, card = load_model_folder(imported.folder)
    assert shape.family == family and card.variant == Variant("hf", "f32")
    ids = torch.arange(30)[None] + 16
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        assert (found.logits(found(ids)) - expected).abs().max() < 1e-4
    assert dict(card.quality)["runtimes"] == imported.checks["checked"]
    has_openvino = is_installed("openvino")
    if has_openvino:
        where = imported.checks["not_checked"]
        if family in ("llama", "qwen2", "qwen3"):
            assert imported.checks["checked"]["openvino f32"]["golden_tokens"] >= 64
        elif family in ("mixtral", "qwen2_moe", "qwen3_moe", "gemma3_text"):
            assert "exported" in where["openvino"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.usefixtures("quick")
def test_dtypes_are_kept(dtype: str, tmp_path: Path, isolated_home: Path) -> None:
    published(tmp_path / "model", "llama", dtype)
    imported = import_model(str(tmp_path / "model"), home=isolated_home)
    ours = load_file(imported.folder / "model.safetensors")
    theirs = load_file(tmp_path / "model/model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    assert read_card(imported.folder).variant == Variant.of_torch(dtype)


@pytest.mark.usefixtures("quick")
def test_an_import_is_a_version_found_again(source: Path, isolated_home: Path) -> None:
    first = import_model(str(source), home=isolated_home)
    assert first.version.name == "some_model-1b" and first.version.version == 1
    assert first.version.lineage == {"import": first.record.digest}
    written_ns = (first.folder / "whorl.json").stat().st_mtime_ns
    again = import_model(str(source), home=isolated_home)
    assert (again.version, again.checks) == (first.version, first.checks)
    assert (again.folder / "whorl.json").stat().st_mtime_ns == written_ns
    named = import_model(str(source), home=isolated_home, name="mine")
    assert named.version.name == "mine" and len(list_versions(isolated_home)) == 2
    card = read_card(first.folder)
    assert card.lineage["source"] == first.record.inputs["source"]
    assert card.lineage["origin"] == "Some_Model-1B"  # and no path of this machine
    tensors = load_file(source / "model.safetensors")
    tensors["model.norm.weight"][0] += 0.5
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    assert import_model(str(source), home=isolated_home).version.version == 2


@pytest.mark.usefixtures("quick")
def test_whorls_own_folders_keep_their_tokens(tmp_path: Path, isolated_home: Path) -> None:
    folder = tiny_model_folder(tmp_path / "own", steps=5)
    imported = import_model(str(folder), home=isolated_home)
    ours, found = read_card(folder), read_card(imported.folder)
    assert ours.contract_digest == found.contract_digest and ours.shape == found.shape
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(RecordError, match=r"tokenizer\.json"):
        import_model(str(folder), home=isolated_home)


def nothing_is_kept(home: Path) -> bool:
    return not list_versions(home) and not [p for p in home.rglob("*") if p.is_file()]


def test_what_is_not_finite_is_refused_and_nothing_kept(source: Path, isolated_home: Path) -> None:
    tensors = load_file(source / "model.safetensors")
    tensors["model.layers.2.mlp.down_proj.weight"][0, 0] = float("nan")
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RecordError, match=r"layers\.2\.mlp\.down_proj"):
        import_model(str(source), home=isolated_home)
    assert nothing_is_kept(isolated_home)


@pytest.mark.usefixtures("quick")
def test_code_beside_the_weights_is_never_run(
    source: Path, tmp_path: Path, isolated_home: Path
) -> None:
    """Neither by whorl nor by transformers, whether the model or its tokenizer names it."""
    marker = tmp_path / "it was run"
    (source / "evil.py").write_text(f"open({str(marker)!r}, 'w').close()\nclass Evil: ...\n")
    for name, classes in (
        ("config.json", {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}),
        ("tokenizer_config.json", {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}),
    ):
        value = json.loads((source / name).read_text())
        (source / name).write_text(json.dumps(value | {"auto_map": classes}))
    remarks: list[str] = []
    imported = import_model(str(source), home=isolated_home, log=remarks.append)
    assert not marker.exists()
    assert sum("auto_map" in line for line in remarks) == 2
    assert not list(imported.folder.rglob("*.py"))
    assert "auto_map" not in (imported.folder / "config.json").read_text()


@pytest.mark.usefixtures("quick")
def test_a_failed_check_refuses_the_import_and_nothing_is_kept(
    source: Path, isolated_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source as another runtime reads it is another model than the one that was written."""
    from whorl.model import hf

    def wrong(folder: Path, *own: Any) -> Any:
        model, shape = original(folder, *own)
        if folder == source:
            with torch.no_grad():
                model.layers[1].self_attn.q_proj.weight[:16].neg_()
        return model, shape

    original: Callable[..., Any] = hf.load_weights
    monkeypatch.setattr(hf, "load_weights", wrong)
    with pytest.raises(EngineError, match="transformers does not compute"):
        import_model(str(source), home=isolated_home)
    assert nothing_is_kept(isolated_home)


@pytest.mark.usefixtures("quick")
def test_a_chat_that_is_written_otherwise_refuses_the_import(
    source: Path, isolated_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from whorl.codecs.contract import Tokens

    original = Tokens.encode_chat

    def one_id_less(self: Tokens, *arguments: Any, **options: Any) -> Any:
        ids, mask = original(self, *arguments, **options)
        return ids[:-1], mask[:-1]

    monkeypatch.setattr(Tokens, "encode_chat", one_id_less)
    with pytest.raises(EngineError, match=r"chat template.*other ids"):
        import_model(str(source), home=isolated_home)
    assert nothing_is_kept(isolated_home)


@pytest.mark.usefixtures("quick")
def test_a_tokenizer_with_rules_of_its_own_is_kept(source: Path, isolated_home: Path) -> None:
    value = json.loads((source / "tokenizer.json").read_text())
    value["normalizer"] = {"type": "Lowercase"}
    (source / "tokenizer.json").write_text(json.dumps(value))
    imported = import_model(str(source), home=isolated_home)
    assert imported.checks["checked"]["transformers"]["golden_tokens"] >= 64


def test_runtimes_that_are_absent_are_named(
    source: Path, isolated_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks_module, "is_installed", lambda name: False)
    imported = import_model(str(source), home=isolated_home)
    assert imported.checks["checked"] == {}
    assert "pip install" in imported.checks["not_checked"]["transformers"]
    assert "whorl[openvino]" in imported.checks["not_checked"]["openvino"]
    monkeypatch.undo()
    again = import_model(str(source), home=isolated_home)  # installed now: checked now
    assert "transformers" in again.checks["checked"]


# ------------------------------------------------------------------ where models come from


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ("no such thing", SpecError, "there is no"),
        ("pypi:llm/../x", SpecError, "cannot be read"),
        ("empty", SpecError, "not the folder of a model"),
        ("two", SpecError, r"a\.gguf, b\.gguf"),
        ("x.safetensors", SpecError, "not a GGUF file"),
    ],
)
def test_what_cannot_be_found_says_what_can(
    asked: str,
    error: type[Exception],
    message: str,
    tmp_path: Path,
    isolated_home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "two").mkdir()
    for name in ("two/a.gguf", "two/b.gguf", "x.safetensors"):
        (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(error, match=message):
        import_model(asked, home=isolated_home)


@pytest.mark.parametrize("name", ["../evil", "Capital", "", "models", "sources", "a b", "x" * 65])
def test_names_that_are_none_are_refused(name: str, source: Path, isolated_home: Path) -> None:
    with pytest.raises(SpecError, match="name"):
        import_model(str(source), home=isolated_home, name=name)
    assert nothing_is_kept(isolated_home)


@pytest.fixture
def hub(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A client that has one repository; gives what it was asked."""
    import huggingface_hub

    asked: list[dict[str, Any]] = []

    def snapshot_download(name: str, **options: Any) -> str:
        asked.append({"name": name, **options})
        if name != "owner/Model":
            raise huggingface_hub.errors.LocalEntryNotFoundError("offline\nand more")
        folder = tmp_path / "cache/models--owner--Model/snapshots" / ("c" * 40)
        shutil.copytree(source, folder, dirs_exist_ok=True)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return asked


@pytest.mark.usefixtures("quick")
def test_ids_of_the_hub_are_pinned(hub: list[dict[str, Any]], isolated_home: Path) -> None:
    imported = import_model("owner/Model", home=isolated_home, revision="v1.0")
    again = import_model(imported.origin, home=isolated_home)  # what the card says is enough
    assert again.version == imported.version and hub.pop()["revision"] == "c" * 40
    assert imported.version.name == "model"
    assert imported.origin == f"hf:owner/Model@{'c' * 40}"
    assert read_card(imported.folder).lineage["origin"] == imported.origin
    (asked,) = hub
    assert asked["revision"] == "v1.0"
    patterns = asked["allow_patterns"]
    assert not [p for p in patterns if p.endswith((".py", ".bin", ".pt", ".pth"))]
    assert "config.json" in patterns and "model*.safetensors" in patterns and "*" not in patterns


def test_offline_says_what_to_run_by_hand(hub: list[dict[str, Any]], isolated_home: Path) -> None:
    with pytest.raises(DataError, match="offline") as caught:
        import_model("owner/other", home=isolated_home, revision="abc")
    assert "hf download owner/other --revision abc --local-dir DIR" in str(caught.value)
    assert "whorl import DIR" in str(caught.value)


def test_the_hub_without_its_client(isolated_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from whorl.core import errors

    monkeypatch.setattr(errors, "find_spec", lambda name: None if "hub" in name else name)
    with pytest.raises(MissingExtra, match=r"whorl\[hub\]"):
        import_model("owner/Model", home=isolated_home)


def test_a_revision_goes_with_the_hub(source: Path, isolated_home: Path) -> None:
    with pytest.raises(SpecError, match="--revision"):
        import_model(str(source), home=isolated_home, revision="main")


# ------------------------------------------------------------------ GGUF


@pytest.mark.parametrize(
    ("family", "kind"),
    [("llama", "F32"), ("llama", "Q8_0"), ("qwen2", "BF16"), ("qwen3", "Q8_0")],
)
@pytest.mark.usefixtures("quick")
def test_gguf_files_are_imported(
    family: str, kind: str, tmp_path: Path, isolated_home: Path
) -> None:
    model = published(tmp_path / "model", FAMILIES[family], hidden_size=64, intermediate_size=64)
    facts = gguf_facts(model.config) | text_facts(tiny_tokens(IDS))
    path = write_gguf(tmp_path / "My Model.Q8.gguf", facts, gguf_tensors(model), kind)
    imported = import_model(str(path), home=isolated_home)
    assert imported.version.name == "my-model.q8"
    assert imported.checks["checked"]["transformers"]["golden_tokens"] >= 64
    found, shape, tokens, _ = load_model_folder(imported.folder)
    assert shape.family == family
    assert tokens.contract.chat_template == tiny_tokens(IDS).contract.chat_template
    ids = torch.arange(30)[None] + 16
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        difference = (found.float().logits(found(ids)) - expected).abs().max()
    assert difference < {"F32": 1e-4}.get(kind, 1.0)


def test_a_gguf_file_cut_short_is_refused(tmp_path: Path, isolated_home: Path) -> None:
    model = published(tmp_path / "model", "llama")
    facts = gguf_facts(model.config) | text_facts(tiny_tokens(IDS))
    path = write_gguf(tmp_path / "x.gguf", facts, gguf_tensors(model))
    data = path.read_bytes()
    for share in (0.999, 0.5, 0.1, 0.0):
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(DataError, match=r"x\.gguf"):
            import_model(str(path), home=isolated_home)
    assert nothing_is_kept(isolated_home)


@pytest.mark.usefixtures("quick")
def test_sealed_figures_stand_in_the_card(source: Path, isolated_home: Path) -> None:
    imported = import_model(str(source), home=isolated_home)
    value = read_sealed(imported.folder / "whorl.json")
    figures = value["quality"]["runtimes"]["transformers"]
    assert set(figures) == {"golden_tokens", "asked_tokens", "max_logit_difference", "note"}
    imported.record.verify()
