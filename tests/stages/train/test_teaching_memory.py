"""What teaching a base keeps in memory, as the system counts it, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import weakref
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from tests.stages.train.teaching import random_model
from whorl.core.memory import c_library, peak_resident_bytes
from whorl.model.hf import save_model_folder
from whorl.model.packed import PackedLinear
from whorl.spec.train_keys import LoraKeys
from whorl.stages.train.adapting import add_adapters
from whorl.testing.corpus import tiny_texts, tiny_tokens

MIB = 2**20
BEGIN = """
import sys
from pathlib import Path
import numpy as np, torch
from whorl.core.memory import c_library, peak_resident_bytes, restart_peak
from whorl.model.adapters import AdaptedLinear
from whorl.model.folder import read_card
from whorl.spec.resolved import TrainConfig
from whorl.spec.train_keys import LoraKeys
from whorl.stages.train.adapting import add_adapters, merge
from whorl.stages.train.initial import base_model
from whorl.stages.train.process import M_MMAP_THRESHOLD, training_process

folder = Path(sys.argv[1])
shape = read_card(folder).shape
config = TrainConfig(seq_len=8, batch_tokens=8, micro_batch_rows=1, steps=1, threads=1,
    learning_rate=1e-3, embedding_learning_rate=1e-3)
"""
LOAD = """
with training_process(config):
    before = peak_resident_bytes()
    model = base_model(folder, shape)
    print(peak_resident_bytes() - before)
    assert "torch._dynamo" not in sys.modules
"""
MERGE = """
with training_process(config), torch.no_grad():
    c_library().mallopt(M_MMAP_THRESHOLD, 2**16)  # what is let go is gone: no pool of freed pieces
    model = base_model(folder, shape)
    add_adapters(model, LoraKeys(rank=2), 0)
    for layer in model.modules():
        if isinstance(layer, AdaptedLinear):
            layer.lora_B.normal_(0, 0.02)
    merge(model, np.full((1, 20), 12))  # what libraries load for their first product
    model = base_model(folder, shape)
    add_adapters(model, LoraKeys(rank=2), 0)
    for layer in model.modules():
        if isinstance(layer, AdaptedLinear):
            layer.lora_B.normal_(0, 0.02)
    restart_peak()
    before = peak_resident_bytes()
    merge(model, np.full((8, 256), 12))
    print(peak_resident_bytes() - before)
"""


def grown_bytes(script: str, folder: Path) -> int:
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + script, str(folder)],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


def saved(folder: Path, **sizes: int) -> int:
    """A model folder of about those sizes; gives the bytes of its weights."""
    tokens = tiny_tokens(sizes.get("vocab_size", 300), tiny_texts(20))
    sizes["vocab_size"] = tokens.contract.vocab_size
    model = random_model(0, **sizes)
    weights = dict(model.named_parameters())
    save_model_folder(folder, weights, model.shape, tokens, {})
    return sum(weight.nbytes for weight in weights.values())


pytestmark = pytest.mark.skipif(
    c_library() is None or not peak_resident_bytes(), reason="needs Linux's /proc and glibc"
)


def test_a_base_is_read_without_a_second_copy(tmp_path: Path) -> None:
    """Its file is mapped: pages that were copied are let go again. Nor is torch's compiler loaded,
    which takes 70 MiB."""
    weights = saved(tmp_path / "base", layers=4, width=512, ffn_width=3000)
    assert weights > 60 * MIB
    assert grown_bytes(LOAD, tmp_path / "base") < 1.4 * weights


def test_adapters_are_merged_one_at_a_time_and_logits_compared_row_by_row(tmp_path: Path) -> None:
    """All weights a second time would be 80 MiB; all logits of 8 x 256 tokens 25 MiB, thrice."""
    folder = tmp_path / "base"
    weights = saved(folder, layers=4, width=512, ffn_width=3000, vocab_size=3000)
    largest = 4 * 512 * 3000
    activations = 4 * 8 * 256 * (3 * 3000 + 6 * 512)
    assert grown_bytes(MERGE, folder) < 3 * largest + activations + 30 * MIB < weights + activations


def test_a_layer_that_was_packed_is_gone_before_the_next_one(monkeypatch: Any) -> None:
    model = random_model(0)
    layers = [weakref.ref(m) for m in model.modules() if isinstance(m, nn.Linear)]
    alive: list[int] = []
    pack = PackedLinear.__init__

    def counted(self: PackedLinear, *given: Any) -> None:
        alive.append(sum(layer() is not None for layer in layers))
        pack(self, *given)

    monkeypatch.setattr(PackedLinear, "__init__", counted)
    add_adapters(model, LoraKeys(rank=2, base="nf4"), seed=0)
    assert len(alive) == len(layers) == 14
    assert [most - least for most, least in pairwise(alive[1:])] == [1] * 12
