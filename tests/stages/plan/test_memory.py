"""Memory: activations against autograd's own list, refusals that say what fits."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import accumulate

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from whorl.arch.dense import dense_shape
from whorl.arch.shape import ModelShape
from whorl.arch.shape_counts import training_bytes
from whorl.core.errors import PlanError
from whorl.launch.rehearsal import rehearsed_step
from whorl.model.attend import Short, attention_of, segments_of
from whorl.model.transformer import Transformer
from whorl.spec.resolved import TrainConfig
from whorl.stages.plan.hardware import Precision
from whorl.stages.plan.memory import (
    _mask_bytes,
    check_memory,
    peak_memory,
    saved_activation_bytes,
)
from whorl.stages.plan.step_time import Load

GIB = 2**30


def dense(**changes: object) -> ModelShape:
    sizes: dict[str, object] = {
        "layers": 2,
        "width": 64,
        "heads": 4,
        "kv_heads": 4,
        "head_dim": 16,
        "ffn_width": 160,
        "vocab_size": 300,
        "max_seq_len": 48,
    }
    return dense_shape(**(sizes | changes))  # type: ignore[arg-type]


def saved_bytes(load: Load) -> int:
    """Bytes of distinct storages that autograd saves, weights and tables excluded."""
    model = Transformer(load.shape)
    fixed = [*model.parameters(), *model.buffers()]
    known = {tensor.untyped_storage().data_ptr() for tensor in fixed}
    found: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            found[storage.data_ptr()] = storage  # kept alive: addresses stay distinct
        return tensor

    starts = torch.zeros(load.rows, load.seq_len, dtype=torch.bool)
    if load.mixed_share:
        borders = load.seq_len // 3
        if load.longest_document is not None:
            borders = torch.arange(load.longest_document, load.seq_len, load.longest_document)
        starts[0 if load.mixed_share == 1 else 1 :, borders] = True
    if load.precision == "bf16" and load.attention_dtype == "fp32":
        model.attend_in(torch.float32)
    ids = torch.zeros(load.rows, load.seq_len, dtype=torch.long)
    segments = segments_of(starts)
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=load.precision == "bf16"),
    ):
        loss = model.nats(ids, ids.clone(), segments)
    assert loss.requires_grad
    return sum(storage.nbytes() for storage in found.values())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"layers": 5},
        {"kv_heads": 2},
        {"family": "llama"},
        {"family": "llama", "kv_heads": 2, "tied_embeddings": False},
        {"ffn_width": 224, "head_dim": 32},
    ],
)
def test_activations_are_what_autograd_saves(changes: dict[str, object]) -> None:
    load = Load(dense(**changes), seq_len=48, rows=3)
    assert saved_activation_bytes(load) == saved_bytes(load)


@pytest.mark.parametrize("changes", [{}, {"kv_heads": 2}, {"family": "llama", "kv_heads": 1}])
@pytest.mark.parametrize("mixed_share", [0.5, 1.0])
def test_activations_of_mixed_rows(changes: dict[str, object], mixed_share: float) -> None:
    load = Load(dense(**changes), seq_len=48, rows=3, mixed_share=mixed_share)
    assert saved_activation_bytes(load) == saved_bytes(load)


@pytest.mark.parametrize("changes", [{}, {"kv_heads": 2}, {"family": "llama", "kv_heads": 1}])
@pytest.mark.parametrize("mixed_share", [0.5, 1.0])
def test_activations_of_short_documents(changes: dict[str, object], mixed_share: float) -> None:
    """Rows that are attended in blocks keep each key and value twice."""
    shape = dense(max_seq_len=128, **changes)
    load = Load(shape, seq_len=128, rows=3, mixed_share=mixed_share, longest_document=30)
    masked = 3 if mixed_share == 1 else 2
    unused = 4 * masked * 128 * (128 - 64)  # of a whole mask, which is planned
    assert saved_activation_bytes(load) - unused == saved_bytes(load)


@pytest.mark.parametrize("row_tokens, longest", [(128, 30), (512, 33), (128, 33), (128, None)])
def test_a_mask_is_no_larger_than_planned(row_tokens: int, longest: int | None) -> None:
    load = Load(dense(max_seq_len=512), row_tokens, 3, mixed_share=1.0, longest_document=longest)
    starts = torch.zeros(3, row_tokens, dtype=torch.bool)
    starts[:, :: longest or 60] = True
    attend = attention_of(segments_of(starts), row_tokens)
    assert isinstance(attend, Short)
    attend(*(torch.zeros(3, 1, row_tokens, 8) for _ in range(3)), None, None)
    (mask,) = attend._masks.values()
    planned = _mask_bytes(load)
    assert mask.nbytes == planned if load.masked_keys == row_tokens else mask.nbytes < planned


@pytest.mark.parametrize("family", ["qwen3", "llama"])
@pytest.mark.parametrize("mixed_share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("attention", ["fp32", "bf16"])
def test_activations_in_bfloat16(family: str, mixed_share: float, attention: Precision) -> None:
    wide = dense(width=128, head_dim=32, kv_heads=2, family=family)
    load = Load(wide, 48, 8, precision="bf16", attention_dtype=attention, mixed_share=mixed_share)
    assert saved_activation_bytes(load) == pytest.approx(saved_bytes(load), rel=0.08)


def test_more_of_anything_needs_more() -> None:
    small = peak_memory(Load(dense(), seq_len=48, rows=2), 10**8).total
    larger = [
        Load(dense(layers=3), seq_len=48, rows=2),
        Load(dense(width=128), seq_len=48, rows=2),
        Load(dense(vocab_size=900), seq_len=48, rows=2),
        Load(dense(), seq_len=48, rows=3),
    ]
    assert all(peak_memory(load, 10**8).total > small for load in larger)
    adamw = Load(dense(), seq_len=48, rows=2, optimizer="adamw")
    muon = peak_memory(Load(dense(), seq_len=48, rows=2), 10**8)
    assert peak_memory(adamw, 10**8).optimizer > muon.optimizer


def test_lanes_have_memory_of_their_own() -> None:
    one = peak_memory(Load(dense(), seq_len=48, rows=2, micro_batches=2), 10**8)
    two = peak_memory(Load(dense(), seq_len=48, rows=2, micro_batches=2, lanes=2), 10**8)
    assert two.activations == 2 * one.activations and two.working >= one.working
    assert one.gradients == two.gradients  # of the micro-batch before; of the step
    idle = Load(dense(), seq_len=48, rows=2, micro_batches=2, lanes=8)
    assert peak_memory(idle, 10**8) == two
    more = Load(dense(), seq_len=48, rows=2, micro_batches=12, lanes=2)
    assert peak_memory(more, 10**8).gradients == 4 * two.gradients


def test_tensors_of_a_step() -> None:
    """Tensors alive at once while a step runs, against what is planned without the allocator."""
    load = Load(dense(layers=6, vocab_size=500), seq_len=48, rows=3, micro_batches=4)
    config = TrainConfig(
        seq_len=load.seq_len,
        batch_tokens=load.tokens * load.micro_batches,
        micro_batch_rows=load.rows,
        steps=1,
        learning_rate=0.01,
        embedding_learning_rate=0.01,
        threads=1,
    )
    step = rehearsed_step(load.shape, config)
    step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as measured:
        step()
    allocated = [
        event.nbytes()
        for event in measured.profiler.kineto_results.events()
        if event.name() == "[memory]"
    ]
    highest = max(accumulate(allocated))
    peak = peak_memory(load, 0)
    resting = peak.weights + peak.optimizer + training_bytes(load.shape).gradients
    planned = peak.total - peak.allocator - resting
    assert planned == pytest.approx(highest, rel=0.1)


def test_refusal_says_what_fits() -> None:
    large = dense(layers=24, width=2048, heads=16, kv_heads=16, head_dim=128)
    load = Load(large, seq_len=1024, rows=16)
    with pytest.raises(PlanError) as caught:
        check_memory(load, 300 * 2**20, 6 * GIB, margin=1.2)
    assert "6.0 GiB" in str(caught.value)
    suggestions = dict(
        item.strip().removeprefix("or ").split(" ")[0].split("=")
        for item in (caught.value.do or "").split(";")
    )
    assert {"model.layers", "model.width"} <= suggestions.keys()
    fewer = replace(large, layers=int(suggestions["model.layers"]))
    peak = check_memory(Load(fewer, 1024, 16), 300 * 2**20, 6 * GIB, margin=1.2)
    assert peak.total * 1.2 <= 6 * GIB
    one_more = replace(fewer, layers=fewer.layers + 1)
    with pytest.raises(PlanError):
        check_memory(Load(one_more, 1024, 16), 300 * 2**20, 6 * GIB, margin=1.2)


def test_no_row_is_advised_that_the_data_cannot_fill() -> None:
    """Where halving the rows fits at 16,384 tokens of them, but there are only 5,000."""
    load = Load(dense(layers=8, width=512), seq_len=2**19, rows=1)

    def advised(longest: float) -> list[int]:
        with pytest.raises(PlanError) as caught:
            check_memory(load, 300 * 2**20, 2 * GIB, margin=1.2, longest=longest)
        words = (caught.value.do or "").split()
        return [int(word.split("=")[1]) for word in words if word.startswith("train.seq_len=")]

    (free,) = advised(math.inf)
    assert free > 5000
    (bounded,) = advised(5000)
    assert 0 < bounded <= 5000
