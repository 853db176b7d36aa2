"""Optimisers against torch's own, the schedule and the initial weights."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import nn

from tests.stages.train.work import config, tiny_shape
from whorl.arch.shape import ModelShape
from whorl.arch.shape_counts import MATRIX_MOMENTS
from whorl.core.errors import RecordError
from whorl.model.blocks.attention import Attention
from whorl.model.blocks.norm import RmsNorm
from whorl.model.transformer import Transformer
from whorl.stages.train.initial import initial_model, initialise
from whorl.stages.train.optimizers.groups import Groups, check_state
from whorl.stages.train.optimizers.muon import POLAR_EXPRESS, Muon, orthogonalise
from whorl.stages.train.optimizers.registry import find_optimizer
from whorl.stages.train.parallel.alone import Alone
from whorl.stages.train.ports import Optimizer
from whorl.stages.train.schedule import learning_rate_share


def parameters(*shapes: tuple[int, ...]) -> dict[str, nn.Parameter]:
    torch.manual_seed(1)
    return {f"layers.{i}.w": nn.Parameter(torch.randn(shape)) for i, shape in enumerate(shapes)}


def give_gradients(*sets: dict[str, nn.Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for group in zip(*(named.values() for named in sets), strict=True):
        gradient = torch.randn(group[0].shape, generator=generator)
        for parameter in group:
            parameter.grad = gradient.clone()


def move(optimizer: Optimizer, share: float, parts: int = 1) -> None:
    for work in optimizer.work(share, parts):
        work()


def test_muon_equals_torch() -> None:
    ours = parameters((24, 24), (24, 64), (64, 24), (64, 24))
    theirs = copy.deepcopy(ours)
    coefficients = (3.4445, -4.775, 2.0315)
    muon = Muon(ours, 0.1, 0.3, momentum=0.9, coefficients=(coefficients,) * 5, margin=1.0)
    reference = torch.optim.Muon(
        theirs.values(),
        lr=0.1,
        weight_decay=0.3,
        momentum=0.9,
        ns_coefficients=coefficients,
        adjust_lr_fn="original",
    )
    start = copy.deepcopy(ours)
    for seed in range(4):
        give_gradients(ours, theirs, seed=seed)
        move(muon, 1.0)
        reference.step()
    for name in ours:
        moved = (theirs[name] - start[name]).norm()
        assert (ours[name] - theirs[name]).norm() < 0.02 * moved  # bf16 inside


@pytest.mark.parametrize("parts", [2, 3, 9])
def test_muon_in_parts_is_muon(parts: int) -> None:
    whole, apart = (parameters((24, 24), (24, 64), (64, 24), (64, 24)) for _ in range(2))
    first, second = Muon(whole, 0.1, 0.3), Muon(apart, 0.1, 0.3)
    for seed in range(3):
        give_gradients(whole, apart, seed=seed)
        move(first, 1.0)
        move(second, 1.0, parts)
    for name in whole:
        torch.testing.assert_close(whole[name], apart[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_orthogonalise_is_near_the_polar_factor(dtype: torch.dtype) -> None:
    """Errors of the published coefficients: singular values within 0.85 .. 1.15."""
    generator = torch.Generator().manual_seed(2)
    for shape in ((64, 20, 48), (8, 60, 128)):
        matrices = torch.randn(shape, generator=generator).double()
        left, _, right = torch.linalg.svd(matrices, full_matrices=False)
        polar = left @ right
        found = orthogonalise(matrices, dtype=dtype)
        error = (found - polar).flatten(1).norm(dim=1) / polar.flatten(1).norm(dim=1)
        values = torch.linalg.svdvals(found)
        assert error.max() < 0.12 and values.max() < 1.16 and values.min() > 0.84


def test_orthogonalise_converges_with_the_plain_iteration() -> None:
    matrices = torch.randn(5, 20, 48, generator=torch.Generator().manual_seed(2)).double()
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    steps = (*POLAR_EXPRESS, *[(1.875, -1.25, 0.375)] * 6)
    found = orthogonalise(matrices, steps, dtype=torch.float64)
    torch.testing.assert_close(found, left @ right, rtol=0, atol=1e-9)


def test_orthogonalise_of_zero_and_of_rank_one_is_finite() -> None:
    matrices = torch.zeros(2, 8, 8)
    matrices[1, 0, 0] = 3.0
    found = orthogonalise(matrices)
    assert torch.equal(found[0], matrices[0])
    assert found.isfinite().all() and found[1, 0, 0] == pytest.approx(1.0, abs=0.16)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_adamw_equals_torch_without_fusing(optimizer: str) -> None:
    torch.manual_seed(3)
    model = Transformer(tiny_shape(tied_embeddings=False))
    other = copy.deepcopy(model)
    settings = config(optimizer=optimizer, weight_decay=0.1)
    optimizers = Groups(dict(model.named_parameters()), settings)
    named, reference = dict(other.named_parameters()), []
    for name, parameter in named.items():
        rate, decay = settings.embedding_learning_rate, 0.0
        if parameter.ndim == 1:
            rate = settings.norm_learning_rate
        elif name.startswith("lm_head"):
            rate = settings.head_learning_rate
        elif name.startswith("layers."):
            if optimizer == "muon":
                continue
            rate, decay = settings.learning_rate, 0.1
        reference.append({"params": [parameter], "lr": 0.5 * rate, "weight_decay": decay})
    adamw = torch.optim.AdamW(reference, betas=(0.9, 0.95), eps=1e-10, foreach=False, fused=False)
    for seed in range(4):
        give_gradients(dict(model.named_parameters()), named, seed=seed)
        move(optimizers, 0.5)
        adamw.step()
    for group in reference:
        (theirs,) = group["params"]
        (name,) = (name for name, parameter in named.items() if parameter is theirs)
        torch.testing.assert_close(dict(model.named_parameters())[name], theirs)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_state_goes_on_bit_for_bit(optimizer: str) -> None:
    torch.manual_seed(4)
    first = Transformer(tiny_shape())
    settings = config(optimizer=optimizer)
    before = Groups(dict(first.named_parameters()), settings)
    for seed in range(3):
        give_gradients(dict(first.named_parameters()), seed=seed)
        move(before, 1.0)
    second = copy.deepcopy(first)
    after = Groups(dict(second.named_parameters()), settings)
    Alone().fill(after.state(), {name: t.clone() for name, t in before.state().items()})
    for seed in range(3, 6):
        give_gradients(dict(first.named_parameters()), dict(second.named_parameters()), seed=seed)
        move(before, 0.7)
        move(after, 0.7)
    pairs = itertools.chain(
        zip(first.parameters(), second.parameters(), strict=True),
        ((before.state()[name], after.state()[name]) for name in before.state()),
    )
    assert all(torch.equal(left, right) for left, right in pairs)


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_moments_are_as_many_as_the_planner_counts(name: str) -> None:
    named = parameters((24, 24), (24, 64))
    kind = find_optimizer(name)
    state = kind.of(named, config(optimizer=name)).state()
    elements = sum(tensor.numel() for tensor in state.values() if tensor.ndim)
    assert elements == kind.matrix_moments * sum(p.numel() for p in named.values())
    assert kind.matrix_moments == MATRIX_MOMENTS[name]


def test_experts_move_as_matrices_of_their_own() -> None:
    """A stack of matrices moves as each of them alone."""
    stacked, alone = parameters((3, 16, 24)), parameters((16, 24), (16, 24), (16, 24))
    with torch.no_grad():
        for number, single in enumerate(alone.values()):
            single.copy_(stacked["layers.0.w"][number])
    first, second = Muon(stacked, 0.1, 0.3), Muon(alone, 0.1, 0.3)
    for seed in range(3):
        give_gradients(stacked, seed=seed)
        for number, single in enumerate(alone.values()):
            single.grad = stacked["layers.0.w"].grad[number].clone()  # type: ignore[index]
        move(first, 1.0)
        move(second, 1.0)
    for number, single in enumerate(alone.values()):
        torch.testing.assert_close(stacked["layers.0.w"][number], single)


def test_foreign_state_is_refused() -> None:
    model = Transformer(tiny_shape())
    optimizers = Groups(dict(model.named_parameters()), config())
    with pytest.raises(RecordError, match="other optimisers"):
        check_state(optimizers.state(), {"adamw.step.x": torch.zeros(())})


def test_schedule() -> None:
    settings = config(steps=10, warmup_steps=2, decay_steps=4, final_learning_rate_share=0.2)
    shares = [learning_rate_share(step, settings) for step in range(10)]
    assert shares == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4])
    constant = config(steps=5, warmup_steps=0, decay_steps=0)
    assert [learning_rate_share(step, constant) for step in range(5)] == [1.0] * 5


class Gain(nn.Module):
    """Attention of ours, and values of its own: set, drawn, and of torch's layers."""

    def __init__(self, shape: ModelShape, layer: int) -> None:
        super().__init__()
        self.norm, self.attention = RmsNorm(shape.width, shape), Attention(shape, layer)
        self.gain = nn.Parameter(torch.full((shape.width,), 0.25))
        self.mix = nn.Linear(shape.width, shape.width)
        nn.init.eye_(self.mix.weight)
        self.drawn = nn.Parameter(torch.randn(3, 4))


def test_values_that_a_package_s_block_sets_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whorl.model.transformer._block_of", lambda name: Gain)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, again, other = (initial_model(tiny_shape(), seed) for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), before)  # which nothing else is drawn from
    for block in first.layers:
        assert torch.equal(block.gain, torch.full_like(block.gain, 0.25))
        assert torch.equal(block.mix.weight, torch.eye(block.mix.weight.shape[0]))
    torch.manual_seed(1)
    same = zip(first.named_parameters(), again.named_parameters(), strict=True)
    assert all(torch.equal(a, b) for (_, a), (_, b) in same)
    assert not torch.equal(first.layers[0].drawn, other.layers[0].drawn)
    assert not first.layers[0].attention.o_proj.weight.any()  # ours, as in every model
    query = first.layers[0].attention.q_proj.weight
    assert float(query.detach().std()) == pytest.approx(32**-0.5, rel=0.1)


def test_initial_weights_depend_on_seed_and_name_alone() -> None:
    small, large = Transformer(tiny_shape()), Transformer(tiny_shape(layers=3))
    torch.manual_seed(0)
    initialise(small, 5)
    torch.manual_seed(1)
    initialise(large, 5)
    for name, parameter in small.named_parameters():
        assert torch.equal(parameter, dict(large.named_parameters())[name]), name
    initialise(large, 6)
    assert not torch.equal(small.embed_tokens.weight, large.embed_tokens.weight)
    query = dict(small.named_parameters())["layers.0.self_attn.q_proj.weight"]
    assert float(query.detach().std()) == pytest.approx(32**-0.5, rel=0.1)
    ids = torch.arange(20)[None]
    plain = small.embed_tokens(ids)
    blocks = small(ids) / small.norm(plain)
    torch.testing.assert_close(blocks, torch.ones_like(blocks))  # every block is the identity
