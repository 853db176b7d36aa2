"""Exports: what the other program reads says what the model says; written whole or not at all."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from whorl.codecs.contract import Tokens
from whorl.core.errors import EngineError, RecordError, SpecError
from whorl.engines.open import open_engine
from whorl.model.folder import read_card
from whorl.testing.models import tiny_model_folder
from whorl.wiring import exports
from whorl.wiring.exports import export_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("export") / "model", steps=40)


def test_transformers_loads_what_is_written(folder: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    out = tmp_path / "new/place"
    exported = export_model(folder, "hf", out)
    assert exported.checks["checked"]["transformers"]["golden_tokens"] == 2 * 64
    model = AutoModelForCausalLM.from_pretrained(out).eval()
    tokenizer, tokens = AutoTokenizer.from_pretrained(out), Tokens.load(out / "tokens")
    chat = [{"role": "user", "content": "A shell?"}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    assert ids == tokens.encode_chat({"messages": chat}, ask=True)[0].tolist()
    assert GenerationConfig.from_pretrained(out).eos_token_id == [*tokens.contract.stop_ids]
    with torch.no_grad():
        assert model(torch.tensor([ids])).logits.isfinite().all()
    assert read_card(out).quality["runtimes"] == exported.checks["checked"]


@pytest.mark.parametrize("weights", [None, "f32", "int8", "int4"])
def test_openvino_serves_what_is_written(weights: str | None, folder: Path, tmp_path: Path) -> None:
    exported = export_model(folder, "openvino", tmp_path / "out", weights)
    assert exported.card.variant.slug == f"openvino-{weights or 'f32'}"
    (figures,) = exported.checks["checked"].values()
    assert figures["asked_tokens"] == 2 * 64 and figures["golden_tokens"] > 0
    if weights in (None, "f32"):
        assert figures["golden_tokens"] >= 64
    open_engine(tmp_path / "out").close()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("to", ["hf", "openvino"])
@pytest.mark.parametrize("there", ["a file inside", "a file", "a link"])
def test_nothing_is_written_over(to: Any, there: str, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    if there == "a file":
        out.write_text("mine")
    elif there == "a link":
        (tmp_path / "elsewhere").mkdir()
        out.symlink_to(tmp_path / "elsewhere")
    else:
        out.mkdir()
        (out / "mine.txt").write_text("mine")
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    with pytest.raises(RecordError, match="out"):
        export_model(folder, to, out)
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


def test_an_empty_folder_is_filled(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    export_model(folder, "hf", tmp_path / "out")
    assert read_card(tmp_path / "out").shape == read_card(folder).shape


def test_a_failed_check_leaves_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graph that is written is of another model."""
    other = tiny_model_folder(tmp_path / "other", steps=0)
    original = exports.export_openvino
    monkeypatch.setattr(exports, "export_openvino", lambda _, out: original(other, out))
    for weights in ("f32", "int8"):
        with pytest.raises(EngineError):
            export_model(folder, "openvino", tmp_path / "out", weights)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


@pytest.mark.parametrize(("to", "weights"), [("hf", "int8"), ("openvino", "bf16")])
def test_weights_that_are_not_written(to: Any, weights: str, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=weights):
        export_model(folder, to, tmp_path / "out", weights)
    assert not (tmp_path / "out").exists()


def test_a_damaged_folder_is_not_exported(folder: Path, tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"rope_theta": 1.0}))
    with pytest.raises(RecordError, match=r"config\.json"):
        export_model(copy, "hf", tmp_path / "out")


class _FakeLlama:
    """llama_cpp.Llama over what whorl's reader of GGUF gives, with what its users call."""

    scale = 1.0  # of the logits

    def __init__(self, path: str, **options: Any) -> None:
        import tempfile

        from whorl.model.hf import load_model_folder
        from whorl.wiring.imports import read_gguf_folder

        assert options["logits_all"] and not options["verbose"]
        with tempfile.TemporaryDirectory() as scratch:
            read_gguf_folder(Path(path), Path(scratch) / "read")
            self.model, _, self.tokens, _ = load_model_folder(Path(scratch) / "read")
        self.ids: list[int] = []
        self.calls = 0

    def reset(self) -> None:
        self.ids = []

    def eval(self, ids: list[int]) -> None:
        self.ids += ids
        self.calls += 1

    @property
    def scores(self) -> Any:
        with torch.no_grad():
            return self.scale * self.model.logits(self.model(torch.tensor([self.ids])))[0].numpy()

    def tokenize(self, text: bytes, add_bos: bool, special: bool) -> list[int]:
        assert add_bos and not special
        return self.tokens.encode_prompt(text.decode())


def _install_llama_cpp(monkeypatch: pytest.MonkeyPatch, scale: float) -> None:
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    module = ModuleType("llama_cpp")
    module.__spec__ = ModuleSpec("llama_cpp", None)
    fake = type("Llama", (_FakeLlama,), {"scale": scale})
    module.Llama = fake  # type: ignore[attr-defined]
    module.GGML_TYPE_F32 = 0  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "llama_cpp", module)


@pytest.mark.parametrize("weights", [None, "f16", "q8_0"])
def test_gguf_files_say_what_the_model_says(
    weights: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _install_llama_cpp(monkeypatch, 1.0)
    folder = tiny_model_folder(tmp_path / "model", steps=40, family="llama")
    exported = export_model(folder, "gguf", tmp_path / "out", weights)
    assert exported.card.variant.slug == f"gguf-{weights or 'f32'}"
    checked = exported.checks["checked"]
    assert list(checked) == ["whorl", "transformers", "llama.cpp"]
    assert "not the GGUF file" not in checked["transformers"]["note"]
    assert checked["transformers"]["golden_tokens"] == 2 * 64
    assert checked["llama.cpp"]["golden_tokens"] == 2 * 64
    if weights is None:
        assert checked["whorl"]["max_logit_difference"] == 0.0
    assert read_card(tmp_path / "out").quality["runtimes"] == checked


def test_a_runtime_that_knows_less_is_told(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers does not read the size of Qwen 3's heads from GGUF, and takes its own."""
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    checked = export_model(folder, "gguf", tmp_path / "out", "f32").checks
    assert "not the GGUF file" in checked["checked"]["transformers"]["note"]
    assert checked["checked"]["whorl"]["golden_tokens"] == 2 * 64
    assert "pip install llama-cpp-python" in checked["not_checked"]["llama.cpp"]


def test_llama_cpp_that_says_something_else_is_noticed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _install_llama_cpp(monkeypatch, 1.1)
    with pytest.raises(EngineError, match=r"llama\.cpp does not compute"):
        export_model(folder, "gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("weights", [None, "f16", "bf16", "q8_0"])
def test_llama_cpp_itself_says_what_the_model_says(
    weights: str | None, family: str, tmp_path: Path
) -> None:
    """Of f32 to rounding; of others as far as its rounded inputs let it."""
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    folder = tiny_model_folder(tmp_path / "model", steps=40, family=family)
    found = export_model(folder, "gguf", tmp_path / "out", weights).checks["checked"]["llama.cpp"]
    if weights is None:
        assert found["golden_tokens"] == 2 * 64 and found["max_logit_difference"] < 2e-4
    else:
        assert "of the best next tokens are the model's" in found["note"]
        assert found["golden_tokens"] > 0
