"""Adapters: PEFT's losses, gradients and files; packed bases; merged, they say the same.

Axes: A down and B up, the two matrices of an adapter.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.stages.train.teaching import in_transformers, random_model
from tests.stages.train.work import VOCAB_SIZE, config
from whorl.core.errors import DivergedError, SpecError
from whorl.model.adapters import AdaptedLinear, adapters_off, dropping
from whorl.model.attend import Segments
from whorl.model.packed import NF4_LEVELS, PackedLinear
from whorl.model.transformer import Transformer
from whorl.spec.train_keys import LoraKeys
from whorl.stages.train.adapting import add_adapters, merge, save_adapter
from whorl.stages.train.batch import Batch, MicroBatch
from whorl.stages.train.trainer import Trainer

IDS = torch.randint(10, VOCAB_SIZE, (3, 24), generator=torch.Generator().manual_seed(1))


def batch(micro_batch_rows: int = 3) -> Batch:
    micros = [
        MicroBatch(
            IDS[begin : begin + micro_batch_rows, :-1],
            IDS[begin : begin + micro_batch_rows, 1:],
            Segments(),
            np.arange(3)[begin : begin + micro_batch_rows],
        )
        for begin in range(0, 3, micro_batch_rows)
    ]
    return Batch(3 * 23, tuple(micros))


def adapted(keys: LoraKeys, **changes: Any) -> Transformer:
    """With adapters that have learned something."""
    model = random_model(0, **changes)
    add_adapters(model, keys, seed=3)
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("lora_B"):
                parameter.normal_(0.0, 0.05)
            if name.endswith("magnitude"):
                parameter.mul_(torch.rand_like(parameter) + 0.5)
    return model


def weights_of_base(model: Transformer) -> Transformer:
    """The frozen weights as a plain model."""
    plain = Transformer(model.shape)
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            module, _, part = name.rpartition(".")
            found = model.get_submodule(module)
            found = found.base if isinstance(found, AdaptedLinear) else found
            parameter.copy_(getattr(found, part))
    return plain


@pytest.mark.parametrize(
    "keys",
    [
        LoraKeys(rank=4, alpha=8),
        LoraKeys(rank=4, alpha=8, dora=True),
        LoraKeys(rank=2, alpha=6, targets=("q_proj", "down_proj")),
        LoraKeys(rank=4, alpha=8, dora=True, base="nf4"),
        LoraKeys(rank=4, alpha=8, last_layers=1),
    ],
    ids=["lora", "dora", "targets", "nf4", "last layer"],
)
def test_adapters_are_peft_s(keys: LoraKeys, tmp_path: Path) -> None:
    """The saved files in PEFT, over the same base: loss and every gradient to 1e-4."""
    from peft import PeftModel

    model = adapted(keys)
    trainer = Trainer(model, config(lora=keys.model_dump()))
    save_adapter(tmp_path / "adapter", trainer.named, model, keys)
    with warnings.catch_warnings(action="ignore"):
        theirs = PeftModel.from_pretrained(
            in_transformers(weights_of_base(model)), tmp_path / "adapter", is_trainable=True
        )
    loss = theirs(input_ids=IDS, labels=IDS).loss
    loss.backward()
    found = trainer.gradients(batch(), 3 * 23)
    assert found == pytest.approx(float(loss.detach()), rel=1e-5)
    named = {n: p.grad for n, p in theirs.named_parameters() if p.requires_grad}
    assert len(named) == len(trainer.named)
    for name, parameter in trainer.named.items():
        module, _, part = name.rpartition(".")
        middle = "lora_magnitude_vector" if part == "magnitude" else part
        gradient = named[f"base_model.model.model.{module}.{middle}.default.weight"]
        assert parameter.grad is not None
        assert (parameter.grad - gradient).norm() < 1e-4 * gradient.norm(), name


def test_a_new_adapter_changes_nothing_and_only_it_trains() -> None:
    plain, model = random_model(0), random_model(0)
    names = add_adapters(model, LoraKeys(rank=4, dora=True), seed=0)
    assert len(names) == 2 * 7
    assert torch.allclose(model(IDS), plain(IDS), atol=1e-5)
    trainer = Trainer(model, config(lora={"rank": 4, "dora": True}, optimizer="adamw"))
    frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    assert frozen.keys() >= {
        "embed_tokens.weight",
        "norm.weight",
        "layers.1.mlp.up_proj.base.weight",
    }
    for step in range(3):
        trainer.step(step, batch())
    assert all(torch.equal(p, frozen[n]) for n, p in model.named_parameters() if n in frozen)
    assert not torch.allclose(model(IDS), plain(IDS), atol=1e-3)
    with adapters_off():
        assert torch.allclose(model(IDS), weights_of_base(model)(IDS), atol=1e-4)


@pytest.mark.parametrize("base", ["none", "int8", "nf4"])
@pytest.mark.parametrize("dora", [False, True])
def test_merged_says_the_same(base: str, dora: bool) -> None:
    """Plain weights, by the names of a model that never had adapters."""
    keys = LoraKeys(rank=4, dora=dora, base=base, targets=("q_proj", "up_proj", "o_proj"))  # type: ignore[arg-type]
    model = adapted(keys)
    with torch.no_grad():
        before = model.logits(model(IDS))
    check = merge(model, IDS.numpy())
    assert check.changed_share > 0.99 and check.equal_tokens == check.golden_tokens == 3 * 32
    assert {n: p.shape for n, p in model.named_parameters()} == {
        n: p.shape for n, p in random_model().named_parameters()
    }
    model.join_products(True)
    theirs = in_transformers(model)
    with torch.no_grad():
        logits = theirs(input_ids=IDS).logits
    assert (logits - before).abs().max() < 1e-4 * before.abs().max()


def test_merging_that_changes_nothing_is_refused() -> None:
    model = random_model(0)
    add_adapters(model, LoraKeys(rank=4), seed=0)
    with pytest.raises(DivergedError, match="merging the adapters changed nothing"):
        merge(model, IDS.numpy())


def test_merging_that_goes_wrong_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapted(LoraKeys(rank=4))
    right = AdaptedLinear.weight.fget  # type: ignore[attr-defined]
    monkeypatch.setattr(AdaptedLinear, "weight", property(lambda self: right(self) * 1.01))
    with pytest.raises(DivergedError, match="the merged model says something else"):
        merge(model, IDS.numpy())


def test_an_untied_head_can_have_an_adapter() -> None:
    keys = LoraKeys(rank=4, targets=("lm_head", "v_proj"))
    model = adapted(keys, tied_embeddings=False)
    trainer = Trainer(model, config(lora=keys.model_dump()))
    trainer.gradients(batch(), 3 * 23)
    grads = {name: p.grad for name, p in trainer.named.items()}
    assert all(g is not None and g.abs().sum() > 0 for g in grads.values()) and len(grads) == 6
    assert merge(model, IDS.numpy()).equal_tokens == 3 * 32


@pytest.mark.parametrize("wrong", ["lm_head", "query"])
def test_unknown_targets_are_refused(wrong: str) -> None:
    """The head is tied to the embedding here."""
    with pytest.raises(
        SpecError, match=rf"no linear layer.*{wrong}.*expected: all, or some of.*q_pr"
    ):
        add_adapters(random_model(), LoraKeys(targets=("q_proj", wrong)), seed=0)


def test_dropout_is_of_the_row_not_of_the_split() -> None:
    """The same gradient however rows are split and lanes scheduled; another in another step."""
    keys = {"rank": 4, "dropout": 0.5}

    def gradient(rows: int, lanes: int, step: int) -> torch.Tensor:
        trainer = Trainer(adapted(LoraKeys(**keys)), config(lora=keys, lanes=lanes, threads=lanes))  # type: ignore[arg-type]
        trainer.gradients(batch(rows), 3 * 23, step)
        return torch.cat([p.grad.flatten() for p in trainer.parameters])  # type: ignore[union-attr]

    first = gradient(3, 1, 0)
    for rows, lanes in ((1, 1), (2, 1), (1, 3)):
        assert (gradient(rows, lanes, 0) - first).norm() < 1e-4 * first.norm()
    assert (gradient(3, 1, 1) - first).norm() > 0.05 * first.norm()
    layer = adapted(LoraKeys(**keys)).get_submodule("layers.0.mlp.down_proj")  # type: ignore[arg-type]
    x = torch.randn(1, 3, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        with dropping(range(4000), torch.device("cpu")):
            many = layer(x.expand(4000, -1, -1)).mean(0)
        low = layer(x)[0] - layer.base(x)[0]  # type: ignore[operator]
    assert (many - layer(x)[0]).norm() < 0.05 * low.norm()


@pytest.mark.parametrize(("dora", "objective"), [(False, "sft"), (True, "sft"), (False, "dpo")])
def test_dropout_of_the_head_s_adapter(dora: bool, objective: str) -> None:
    """Whole logits by PEFT's formula, with the very elements that are dropped; then autograd."""
    keys = LoraKeys(rank=4, dropout=0.5, targets=("lm_head",), dora=dora)
    model = adapted(keys, tied_embeddings=False)
    head = model.get_submodule("lm_head")
    assert isinstance(head, AdaptedLinear)
    ids, targets, seeds = IDS[:, :-1], IDS[:, 1:], (7, 8, 9)
    trained = torch.arange(23) >= 5  # of each row

    def read(logits: torch.Tensor, places: slice) -> torch.Tensor:
        wanted = targets[:, trained].flatten()[places]
        return nn.functional.cross_entropy(logits, wanted, reduction="none")

    with dropping(seeds, torch.device("cpu")):
        if objective == "dpo":  # reads a value of each trained token
            found = model.values(ids, trained.expand(3, -1), read).sum()
        else:
            found = model.nats(ids, targets.where(trained, -1))
    mine = torch.autograd.grad(found, [head.lora_A, head.lora_B])
    hidden = model(ids).detach()
    draws = [torch.rand(23 * 32, generator=torch.Generator().manual_seed(s)) for s in seeds]
    kept = (torch.stack(draws).view(3, 23, 32) >= 0.5) * 2.0
    weight, low = head.base.weight, (hidden * kept) @ head.lora_A.T @ head.lora_B.T
    logits = hidden @ weight.T + keys.alpha / keys.rank * low
    if dora:
        together = weight + keys.alpha / keys.rank * head.lora_B @ head.lora_A
        assert head.magnitude is not None
        logits = logits * head.magnitude / together.detach().norm(dim=1)
    wanted = targets[:, trained].flatten()
    loss = nn.functional.cross_entropy(logits[:, trained].flatten(0, 1), wanted, reduction="sum")
    assert float(found.detach()) == pytest.approx(float(loss.detach()), rel=1e-5)
    for one, other in zip(mine, torch.autograd.grad(loss, [head.lora_A, head.lora_B]), strict=True):
        assert (one - other).norm() < 1e-4 * other.norm() > 0
    whole = model.nats(ids, targets.where(trained, -1))
    assert abs(float(whole.detach()) - float(loss.detach())) > 0.1


def test_levels_are_quantiles_of_the_normal_distribution() -> None:
    """As bitsandbytes makes them: 8 above zero, 7 below, from the tail 1 - offset on."""
    norm = pytest.importorskip("scipy.stats").norm
    offset = (1 - 1 / 30 + 1 - 1 / 32) / 2
    above = norm.ppf(np.linspace(offset, 0.5, 9)[:-1])
    below = -norm.ppf(np.linspace(offset, 0.5, 8)[:-1])
    levels = np.sort(np.concatenate((above, [0.0], below)))
    assert np.abs(levels / np.abs(levels).max() - np.array(NF4_LEVELS)).max() < 2e-4


@pytest.mark.parametrize(("base", "share"), [("int8", 0.5 / 127), ("nf4", (1 - 0.6961928) / 2)])
def test_packed_layers_are_near(base: str, share: float) -> None:
    """Each element within half a gap of its scale; a product and its gradient are those of the
    weight it says it has; odd sizes fill the last block."""
    torch.manual_seed(0)
    for rows, columns in ((48, 64), (5, 31)):
        linear = nn.Linear(columns, rows)
        packed = PackedLinear(linear, base)  # type: ignore[arg-type]
        error = (packed.weight - linear.weight).abs()
        if base == "int8":
            largest = linear.weight.abs().amax(1, keepdim=True).expand_as(error)
        else:
            flat = torch.zeros(-(-rows * columns // 64) * 64)
            flat[: rows * columns] = linear.weight.detach().abs().flatten()
            blocks = flat.view(-1, 64).amax(1, keepdim=True).expand(-1, 64)
            largest = blocks.flatten()[: rows * columns].view(rows, columns)
        assert (error <= share * largest * 1.0001).all()
        assert error.max() > 0.3 * share * largest.max()
        x = torch.randn(7, columns, requires_grad=True)
        out = packed(x)
        assert torch.allclose(out, x @ packed.weight.T + linear.bias, atol=1e-5)
        (found,) = torch.autograd.grad(out.square().sum(), x)
        (wanted,) = torch.autograd.grad((x @ packed.weight.T + linear.bias).square().sum(), x)
        assert torch.allclose(found, wanted, atol=1e-3)
        held = sum(t.numel() * t.element_size() for t in (packed.packed, packed.scales))
        assert held <= 4 * rows * columns / (3.5 if base == "int8" else 5.5) + 4 * 64


def test_rows_of_zeros_stay_so_with_dora() -> None:
    linear = nn.Linear(8, 4, bias=False)
    nn.init.zeros_(linear.weight)
    layer = AdaptedLinear(linear, 2, 4.0, 0.0, True, torch.Generator())
    assert torch.equal(layer(torch.ones(1, 8)), torch.zeros(1, 4))


def test_zero_weights_can_be_packed() -> None:
    linear = nn.Linear(64, 4)
    nn.init.zeros_(linear.weight)
    for base in ("int8", "nf4"):
        assert torch.equal(PackedLinear(linear, base).weight, linear.weight)  # type: ignore[arg-type]
