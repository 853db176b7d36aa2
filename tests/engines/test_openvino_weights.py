"""Smaller weights against a simulation in torch, whose rounding is written out here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.engines.conftest import one_thread
from whorl.core.errors import DataError, EngineError, PlanError
from whorl.core.rounding import Rounding
from whorl.engines import openvino_weights
from whorl.engines.openvino_export import compress_folder, export_openvino
from whorl.engines.openvino_graph import OpenvinoGraph
from whorl.engines.openvino_weights import WHOLE, telling_limits
from whorl.model.hf import load_model_folder
from whorl.testing.models import tiny_model_folder

__all__ = ["one_thread"]

IDS = np.random.default_rng(3).integers(0, 512, (1, 40))
TEXTS = np.random.default_rng(4).integers(0, 512, (12, 48)).tolist()
# Of the largest logit: rounding of float16 scales and of sums in another order.
BOUND = 2e-3


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("weights")
    tiny_model_folder(root / "hf", steps=40, width=128, ffn_width=256, head_dim=32)
    export_openvino(root / "hf", root / "f32")
    return root


def rounded(weights: torch.Tensor, bits: int, group: int | None, symmetric: bool) -> torch.Tensor:
    """To the nearest of 2^bits levels of every group, and back; scales are kept in float16."""
    rows = weights.reshape(len(weights), -1, group or weights.shape[1])
    half = 2 ** (bits - 1)
    low, high = rows.amin(2, keepdim=True), rows.amax(2, keepdim=True)
    if symmetric:  # the number of largest magnitude is on the lowest level
        scale, zero = torch.where(-low >= high, -low, -high) / half, torch.zeros(1)
        level = (rows / scale).round().clamp(-half, half - 1)
    else:
        low, high = low.clamp(max=0), high.clamp(min=0)
        scale = (high - low) / (2 * half - 1)
        zero = (-low / scale).round().clamp(0, 2 * half - 1)
        level = (rows / scale + zero).round().clamp(0, 2 * half - 1)
    return ((level - zero) * scale.half().float()).reshape(weights.shape)


def simulated(hf: Path, how: Rounding) -> np.ndarray:
    """Logits of the torch model with rounded matrices; embedding and head always in 8 bits."""
    model, *_ = load_model_folder(hf)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if tensor.ndim < 2:
                continue
            if how.weights == "int8":
                tensor.copy_(rounded(tensor, 8, None, how.is_symmetric))
            elif name.startswith(("embed_tokens", "lm_head")):
                tensor.copy_(rounded(tensor, 8, None, symmetric=False))
            else:
                tensor.copy_(rounded(tensor, 4, how.group_size, how.is_symmetric))
        return np.asarray(model.logits(model(torch.tensor(IDS))).numpy())


@pytest.mark.parametrize(
    "how",
    [
        Rounding("int8"),
        Rounding("int8", is_symmetric=False),
        Rounding("int4", 64),
        Rounding("int4", 32),
        Rounding("int4", 64, is_symmetric=False),
        Rounding("int4", 128, is_symmetric=False),
    ],
    ids=str,
)
def test_variants_equal_their_torch_simulation(
    how: Rounding, folders: Path, tmp_path: Path
) -> None:
    card = compress_folder(folders / "f32", tmp_path / "out", how)
    assert card.variant.weights == how.weights
    expected = simulated(folders / "hf", how)
    whole = OpenvinoGraph(folders / "f32", WHOLE).start().read(IDS)
    largest = np.abs(expected).max()
    found = OpenvinoGraph(tmp_path / "out", WHOLE).start().read(IDS)
    assert np.abs(found - expected).max() <= BOUND * largest
    assert np.abs(found - whole).max() > BOUND * largest  # or the simulation says nothing
    served = OpenvinoGraph(tmp_path / "out", WHOLE | {"DYNAMIC_QUANTIZATION_GROUP_SIZE": 32})
    assert np.abs(served.start().read(IDS) - expected).max() <= 0.1 * largest  # inputs in 8 bits


@pytest.mark.parametrize("method", ["scales", "gptq"])
def test_methods_that_read_text_lose_less(method: Any, folders: Path, tmp_path: Path) -> None:
    """On the texts they read: less distance from the whole model's logits than plain rounding."""
    plain, better = Rounding("int4", 64), Rounding("int4", 64, True, (method,))
    compress_folder(folders / "f32", tmp_path / "plain", plain)
    compress_folder(folders / "f32", tmp_path / "better", better, TEXTS)
    logits = {}
    for name in ("plain", "better", "f32"):
        folder = folders / "f32" if name == "f32" else tmp_path / name
        graph = OpenvinoGraph(folder, WHOLE)
        logits[name] = np.concatenate(
            [graph.start().read(np.array([ids])) for ids in TEXTS], axis=1
        )
    error = {name: float(((logits[name] - logits["f32"]) ** 2).mean()) for name in logits}
    assert 0 < error["better"] < 0.9 * error["plain"]


def test_sensitive_matrices_stay_in_8_bits(folders: Path, tmp_path: Path) -> None:
    sizes = {}
    for share in (1.0, 0.5):
        how = Rounding("int4", 64, True, ("scales",), share)
        card = compress_folder(folders / "f32", tmp_path / str(share), how, TEXTS)
        sizes[share] = card.weight_bytes
    num_weights = sum(
        tensor.numel()
        for name, tensor in load_model_folder(folders / "hf")[0].named_parameters()
        if tensor.ndim > 1 and not name.startswith(("embed", "lm_head"))
    )
    extra = sizes[0.5] - sizes[1.0]
    assert 0.3 * num_weights / 2 < extra < 0.7 * num_weights / 2  # half of them, half a byte more


def test_what_cannot_be_is_refused(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="divisible by 96"):
        compress_folder(folders / "f32", tmp_path / "a", Rounding("int4", 96))
    with pytest.raises(DataError, match="reads training text"):
        compress_folder(folders / "f32", tmp_path / "b", Rounding("int4", 64, True, ("awq",)))


def test_a_cpu_that_computes_something_else_is_noticed(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels that are off by a little, and a cap on the CPU's instructions, by name."""
    right = openvino_weights._read

    def wrong(folder: Path, ids: np.ndarray) -> np.ndarray:
        return right(folder, ids) * (1.01 if folder.name == "out" else 1.0)

    monkeypatch.setattr(openvino_weights, "_read", wrong)
    monkeypatch.setitem(os.environ, "ONEDNN_MAX_CPU_ISA", "SSE41")
    with pytest.raises(EngineError, match=r"does not compute.*ONEDNN_MAX_CPU_ISA=SSE41"):
        compress_folder(folders / "f32", tmp_path / "out", "int8")


def test_what_limits_a_cpu_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    for value, hint in (("AVX2", "unset ONEDNN_MAX_CPU_ISA=AVX2"), (None, "serve the f32")):
        if value:
            monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", value)
        else:
            monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
        with pytest.raises(EngineError, match=hint), telling_limits(tmp_path / "openvino-int8"):
            raise RuntimeError("could not create a primitive")
