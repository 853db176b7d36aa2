"""Frozen linear layers kept in fewer bits, and made fp32 for one product at a time.

int8: each row of a weight is whole numbers times its largest magnitude / 127. nf4: blocks of 64
elements, each one of 16 levels times the block's largest magnitude (QLoRA, arXiv 2305.14314).

Axes: O outputs, I inputs.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional

from whorl.arch.adapter_cost import NF4_BLOCK
from whorl.model.fused import product_dtype

__all__ = ["NF4_LEVELS", "PackedLinear"]

INT8_LEVELS = 127
# Quantiles of the normal distribution, scaled to [-1, 1]: appendix E of QLoRA.
NF4_LEVELS = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)


class PackedLinear(nn.Module):
    """In place of a frozen nn.Linear; its weight takes a quarter (int8) or a seventh (nf4)."""

    packed: Tensor
    scales: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear, base: Literal["int8", "nf4"]) -> None:
        super().__init__()
        self.base, self.size = base, tuple(linear.weight.shape)
        pack = _int8 if base == "int8" else _nf4
        packed, scales = pack(linear.weight.detach())
        self.register_buffer("packed", packed)
        self.register_buffer("scales", scales)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())

    @property
    def weight(self) -> Tensor:
        """[O, I] in fp32, made anew."""
        if self.base == "int8":
            return self.packed * self.scales
        levels = torch.tensor(NF4_LEVELS, device=self.packed.device)
        pairs = torch.stack((self.packed >> 4, self.packed & 15), dim=-1)
        blocks = levels[pairs.long()].view(-1, NF4_BLOCK) * self.scales
        return blocks.flatten()[: self.size[0] * self.size[1]].view(self.size)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = _Product.apply(x, self, product_dtype(x))  # type: ignore[no-untyped-call]
        return out if self.bias is None else out + self.bias.to(out.dtype)


class _Product(Function):
    """x W', which keeps no W for its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: PackedLinear, dtype: torch.dtype) -> Tensor:
        ctx.layer, ctx.x_dtype = layer, x.dtype
        with torch.autocast(x.device.type, enabled=False):
            return functional.linear(x.to(dtype), layer.weight.to(dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        found = gradient @ ctx.layer.weight.to(gradient.dtype)
        return found.to(ctx.x_dtype), None, None


def _int8(weight_OI: Tensor) -> tuple[Tensor, Tensor]:
    """(int8 [O, I], scales [O, 1])."""
    scales = weight_OI.float().abs().amax(dim=1, keepdim=True) / INT8_LEVELS
    whole = torch.round(weight_OI / scales.clamp(min=torch.finfo(torch.float32).tiny))
    return whole.to(torch.int8), scales


def _nf4(weight_OI: Tensor) -> tuple[Tensor, Tensor]:
    """(two levels a byte, the first in the high bits; scales [blocks, 1])."""
    flat = weight_OI.float().flatten()
    blocks = functional.pad(flat, (0, -len(flat) % NF4_BLOCK)).view(-1, NF4_BLOCK)
    scales = blocks.abs().amax(dim=1, keepdim=True)
    levels = torch.tensor(NF4_LEVELS, device=flat.device)
    between = (levels[1:] + levels[:-1]) / 2
    unit = blocks / scales.clamp(min=torch.finfo(torch.float32).tiny)
    numbers = torch.bucketize(unit, between).to(torch.uint8).view(-1, 2)
    return numbers[:, 0] << 4 | numbers[:, 1], scales
