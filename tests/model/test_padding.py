"""Products whose rows change in number from step to step meet few shapes: oneDNN keeps each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from whorl.arch.shape import Experts
from whorl.model.blocks.experts import MixtureOfExperts
from whorl.model.blocks.norm import RmsNorm
from whorl.model.head import head_loss, head_values
from whorl.testing.models import tiny_shape

TOKENS, WIDTH, VOCAB = 150, 32, 64


class Products(TorchDispatchMode):
    """The shapes of every matrix product, backward passes' too."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: set[tuple[torch.Size, ...]] = set()

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if op.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm):
            self.shapes.add(tuple(each.shape for each in args if isinstance(each, torch.Tensor)))
        return op(*args, **(kwargs or {}))


def loss(count: int) -> torch.Tensor:
    targets = torch.full((TOKENS,), -1)
    targets[torch.randperm(TOKENS)[:count]] = 1
    return head_loss(rows(TOKENS), weight(), targets)


def values(count: int) -> torch.Tensor:
    return head_values(rows(count), weight(), lambda logits, _: logits.logsumexp(1)).sum()


def rows(count: int) -> torch.Tensor:
    return torch.randn(count, WIDTH, dtype=torch.bfloat16, requires_grad=True)


def weight() -> torch.Tensor:
    return torch.randn(VOCAB, WIDTH, requires_grad=True)


@pytest.mark.parametrize("value", [loss, values])
def test_the_head_s_products_have_few_shapes(value: Callable[[int], torch.Tensor]) -> None:
    torch.manual_seed(0)
    with Products() as products:
        for count in range(1, TOKENS, 3):
            value(count).backward()
    assert 3 <= len(products.shapes) <= 3 * -(-TOKENS // 32)


def test_the_experts_products_have_few_shapes() -> None:
    torch.manual_seed(0)
    shape = replace(tiny_shape(), experts=Experts(count=4, active=2, width=16))
    block, norm = MixtureOfExperts(shape), RmsNorm(shape.width, shape)
    with Products() as products:
        for _ in range(20):
            block(torch.randn(2, 50, shape.width), (norm, None)).sum().backward()
    router, of_one_number = 3, 6  # products, backward ones too
    assert of_one_number < len(products.shapes) <= router + of_one_number * -(-100 // 32)
