"""Exported graphs against transformers, for every shape of model; equal input, equal bytes."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from whorl.core.errors import EngineError, PlanError, RecordError
from whorl.engines import openvino_export
from whorl.engines.openvino_core import openvino_core
from whorl.engines.openvino_export import MODEL, compress_folder, export_openvino
from whorl.engines.quiet import silence_telemetry
from whorl.model.cached import ExportedDecoder
from whorl.model.hf import load_model_folder, save_model_folder
from whorl.testing.corpus import tiny_tokens
from whorl.testing.models import tiny_model, tiny_model_folder, tiny_shape

SHAPES: dict[str, dict[str, Any]] = {
    "qwen3": {},
    "llama": {"family": "llama", "tied_embeddings": False},
    "one_kv_head": {"head_dim": 32, "kv_heads": 1, "rope_theta": 500.0, "norm_eps": 1e-5},
    "no_groups": {"family": "llama", "kv_heads": 4, "layers": 1},
}


def run_graph(folder: Path, pieces: list[np.ndarray], past_mask: np.ndarray) -> np.ndarray:
    """Logits of pieces [rows, tokens] fed one after the other through the graph's state."""
    options = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
    request = openvino_core().compile_model(folder / MODEL, "CPU", options).create_infer_request()
    outputs, end = [], 0
    for piece in pieces:
        begin, end = end, end + piece.shape[1]
        mask = past_mask[:, :end]
        positions = np.maximum(mask.cumsum(axis=1) - 1, 0)[:, begin:end]
        request.infer(
            {
                "input_ids": piece,
                "attention_mask": mask,
                "position_ids": positions,
                "beam_idx": np.arange(len(piece), dtype=np.int32),
            }
        )
        outputs.append(request.get_tensor("logits").data.copy())
    return np.concatenate(outputs, axis=1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_saved_in_16_bits_is_exported(dtype: torch.dtype, tmp_path: Path) -> None:
    shape = tiny_shape()
    weights = {name: value.to(dtype) for name, value in tiny_model(shape).state_dict().items()}
    save_model_folder(tmp_path / "hf", weights, shape, tiny_tokens(512), {"prepare": "0" * 32})
    card = export_openvino(tmp_path / "hf", tmp_path / "f32")
    assert str(card.variant) == "openvino f32"
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32).eval()
    ids = np.random.default_rng(0).integers(0, 512, (2, 20))
    with torch.no_grad():
        expected = theirs(torch.from_numpy(ids)).logits.numpy()
    found = run_graph(tmp_path / "f32", [ids], np.ones_like(ids))
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_a_failed_conversion_silences_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenVINO's converter sets the level of all logging; a server's warnings were lost after."""
    import openvino

    root, levels = logging.getLogger(), list[int]()
    before = root.level, list(root.filters), list(root.handlers)
    convert = openvino.convert_model

    def fails(traced: object) -> object:
        try:
            return convert(str(tmp_path / "nothing.onnx"))
        finally:
            levels.append(root.level)

    monkeypatch.setattr(openvino, "convert_model", fails)
    tiny_model_folder(tmp_path / "hf", steps=0, layers=1)
    with pytest.raises(Exception, match=r"nothing\.onnx|not"):
        export_openvino(tmp_path / "hf", tmp_path / "f32")
    assert levels == [logging.ERROR] != [before[0]]
    assert (root.level, root.filters, root.handlers) == before


@pytest.mark.parametrize("shape", SHAPES)
def test_graph_computes_what_transformers_computes(shape: str, tmp_path: Path) -> None:
    tiny_model_folder(tmp_path / "hf", steps=0, **SHAPES[shape])
    export_openvino(tmp_path / "hf", tmp_path / "f32")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    ids = np.random.default_rng(0).integers(0, 512, (3, 40))
    mask = np.ones_like(ids)
    mask[1, :7] = 0  # a row with padding on its left
    with torch.no_grad():
        expected = theirs(
            torch.tensor(ids),
            attention_mask=torch.tensor(mask),
            position_ids=torch.tensor(np.maximum(mask.cumsum(axis=1) - 1, 0)),
        ).logits.numpy()
    cuts = ([40], [25, 15], [1] * 40, [39, 1])
    for sizes in cuts:
        found = run_graph(tmp_path / "f32", np.split(ids, np.cumsum(sizes)[:-1], axis=1), mask)
        kept = mask.astype(bool)
        np.testing.assert_allclose(found[kept], expected[kept], atol=5e-5, rtol=1e-4)


def test_weights_take_the_bytes_they_should(tmp_path: Path) -> None:
    tiny_model_folder(tmp_path / "hf", steps=0, width=128, ffn_width=256, head_dim=32)
    export_openvino(tmp_path / "hf", tmp_path / "f32")
    num_weights = sum(p.numel() for p in load_model_folder(tmp_path / "hf")[0].parameters())
    sizes = {}
    for name in ("int8", "int4"):
        compress_folder(tmp_path / "f32", tmp_path / name, name)  # type: ignore[arg-type]
        sizes[name] = (tmp_path / name / "openvino_model.bin").stat().st_size / num_weights
    whole = (tmp_path / "f32/openvino_model.bin").stat().st_size / num_weights
    assert 4.0 < whole < 4.6  # tied embeddings are stored once; tables of positions besides
    assert 1.0 < sizes["int8"] < 1.5 and sizes["int4"] < sizes["int8"]


def test_equal_models_export_to_equal_bytes(tmp_path: Path) -> None:
    """Within one process: OpenVINO's counters give operations other names each time."""
    tiny_model_folder(tmp_path / "hf", steps=0)
    contents = []
    for number in range(2):
        export_openvino(tmp_path / "hf", tmp_path / f"f32-{number}")
        compress_folder(tmp_path / f"f32-{number}", tmp_path / f"int8-{number}", "int8")
        files = [
            path
            for kind in ("f32", "int8")
            for path in sorted((tmp_path / f"{kind}-{number}").rglob("*"))
            if path.is_file()
        ]
        contents.append([path.read_bytes() for path in files])
    assert contents[0] == contents[1] and len(contents[0]) > 10


def test_wrong_graph_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A conversion that forgets the positions must not pass."""
    tiny_model_folder(tmp_path / "hf", steps=0)
    right = ExportedDecoder.forward

    def wrong(self, input_ids, attention_mask, position_ids, past):
        return right(self, input_ids, attention_mask, position_ids * 0, past)

    monkeypatch.setattr(ExportedDecoder, "forward", wrong)
    with pytest.raises(EngineError, match="does not compute what the model computes"):
        export_openvino(tmp_path / "hf", tmp_path / "f32")
    with pytest.raises(RecordError):  # and the folder was not sealed
        compress_folder(tmp_path / "f32", tmp_path / "int8", "int8")


def test_folders_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    tiny_model_folder(tmp_path / "hf", steps=0, ffn_width=96)
    with pytest.raises(RecordError, match="cannot be compressed"):
        compress_folder(tmp_path / "hf", tmp_path / "int8", "int8")
    export_openvino(tmp_path / "hf", tmp_path / "f32")
    with pytest.raises(RecordError, match="not empty"):
        export_openvino(tmp_path / "hf", tmp_path / "f32")
    with pytest.raises(PlanError, match="divisible by 64"):
        compress_folder(tmp_path / "f32", tmp_path / "int4", "int4")


def test_telemetry_sends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even for a user who agreed to it before: no message, no file, no thread."""
    (tmp_path / "intel").mkdir()
    (tmp_path / "intel/openvino_telemetry").write_text("1")
    monkeypatch.setenv("HOME", str(tmp_path))
    silence_telemetry()
    from openvino_telemetry import Telemetry

    telemetry = Telemetry("whorl-test", "1", tid="G-0", backend="ga4", enable_opt_in_dialog=False)
    telemetry.send_event("category", "action", "label", force_send=True)
    telemetry.start_session("category")
    assert telemetry.sender.queue_size == 0 and not telemetry.sender.executor._threads
    assert [path.name for path in (tmp_path / "intel").iterdir()] == ["openvino_telemetry"]
    monkeypatch.setitem(sys.modules, "openvino_telemetry.utils.opt_in_checker", None)
    silence_telemetry()  # where it is not installed
    assert openvino_export.EXPORT_VERSION >= 1


ENGINE = """
import sys
from pathlib import Path
from whorl.engines.open import open_engine
from whorl.engines.setup import EngineSetup
engine = open_engine(Path(sys.argv[1]), name="openvino", setup=EngineSetup(2))
engine.close()
loaded = [name for name in sys.modules if name.startswith(("openvino_telemetry", "openvino.tools"))]
import openvino
print(loaded, openvino.convert_model.__name__, hasattr(openvino, "nothing_of_this_name"))
"""


def test_an_engine_reports_to_nobody_and_the_converter_comes_when_it_is_used(
    folders: Path, tmp_path: Path
) -> None:
    """The packages leave a number of who reports in the home, and report unless CI is set."""
    env = {key: value for key, value in os.environ.items() if key not in ("CI", "TF_BUILD")}
    done = subprocess.run(
        [sys.executable, "-c", ENGINE, str(folders / "f32")],
        capture_output=True,
        text=True,
        timeout=120,
        env=env | {"HOME": str(tmp_path)},
    )
    assert (done.returncode, done.stdout) == (0, "[] convert_model False\n"), done.stderr
    assert list(tmp_path.iterdir()) == []
