"""The chunked loss against the cross-entropy of full logits.

Axes: N tokens, D width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from whorl.model.head import chunk_tokens, head_loss


def make(dtype: torch.dtype, untrained: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(50, 12, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(33, 12, generator=generator).to(dtype).requires_grad_()
    targets = torch.randint(0, 33, (50,), generator=generator)
    targets[torch.randperm(50, generator=generator)[:untrained]] = -1
    return hidden, weight, targets


@pytest.mark.parametrize("chunk", [1, 7, 50, 1000])
@pytest.mark.parametrize("untrained", [0, 20, 50])
def test_equals_full_logits(chunk: int, untrained: int) -> None:
    hidden, weight, targets = make(torch.float64, untrained)
    expected = functional.cross_entropy(
        hidden @ weight.T, targets, ignore_index=-1, reduction="sum"
    )
    wanted = torch.autograd.grad(0.25 * expected, (hidden, weight), retain_graph=True)
    total = head_loss(hidden, weight, targets, chunk)
    found = torch.autograd.grad(0.25 * total, (hidden, weight))
    torch.testing.assert_close(total, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-12)


def test_without_gradient_it_is_the_same_loss() -> None:
    hidden, weight, targets = make(torch.float32, 9)
    with torch.no_grad():
        total = head_loss(hidden, weight, targets, 7)
    expected = functional.cross_entropy(
        hidden @ weight.T, targets, ignore_index=-1, reduction="sum"
    )
    assert not total.requires_grad
    torch.testing.assert_close(total.float(), expected.detach())


def test_bf16_hidden_states_keep_a_float32_softmax() -> None:
    hidden, weight, targets = make(torch.float32)
    expected = functional.cross_entropy(hidden @ weight.T, targets, reduction="sum")
    wanted = torch.autograd.grad(expected, (hidden, weight))
    half = hidden.detach().bfloat16().requires_grad_()
    total = head_loss(half, weight, targets, 16)
    found = torch.autograd.grad(total, (half, weight))
    assert found[0].dtype == torch.bfloat16 and found[1].dtype == torch.float32
    assert total.dtype == torch.float64 and abs(float((total / expected).detach()) - 1) < 5e-3
    for ours, exact in zip(found, wanted, strict=True):
        assert (ours.float() - exact).norm() < 0.02 * exact.norm()


class LargestTensor(TorchDispatchMode):
    """Remembers the most elements any operation returned."""

    elements = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = function(*args, **(kwargs or {}))
        self.elements = max(self.elements, out.numel() if isinstance(out, torch.Tensor) else 0)
        return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_full_logits_are_never_stored(dtype: torch.dtype) -> None:
    tokens, width, vocab_size = 4096, 8, 2000
    hidden = torch.randn(tokens, width).to(dtype).requires_grad_()
    weight = torch.randn(vocab_size, width).requires_grad_()
    targets = torch.randint(0, vocab_size, (tokens,))
    targets[::3] = -1
    with LargestTensor() as largest:
        torch.autograd.grad(head_loss(hidden, weight, targets), (hidden, weight))
    assert largest.elements == chunk_tokens(vocab_size) * vocab_size
    assert largest.elements < 0.3 * tokens * vocab_size
