"""Low-rank adapters beside frozen linear layers: LoRA (arXiv 2106.09685), DoRA (2402.09353).

Names and formulas are those of PEFT, so that an adapter that is saved can be loaded there.

Axes: N tokens, R rank, O outputs, I inputs; A down and B up, the two matrices, as PEFT calls them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from whorl.model.packed import PackedLinear

__all__ = ["AdaptedLinear", "adapters_off", "dropping"]


@dataclass(frozen=True)
class Mode:
    """How the adapters of this thread's forward compute."""

    on: bool = True
    generators: tuple[torch.Generator, ...] = ()  # of dropout, one a row; none: nothing is dropped


PLAIN = Mode()
MODE = ContextVar("whorl_adapters", default=PLAIN)  # threads share modules, not this


@contextmanager
def adapters_off() -> Iterator[None]:
    """In this thread the frozen weights alone compute."""
    token = MODE.set(Mode(on=False))
    try:
        yield
    finally:
        MODE.reset(token)


@contextmanager
def dropping(seeds: Sequence[int], device: torch.device) -> Iterator[None]:
    """In this thread inputs of adapters are dropped as the seeds of a forward's rows say."""
    generators = tuple(torch.Generator(device).manual_seed(seed) for seed in seeds)
    token = MODE.set(Mode(generators=generators))
    try:
        yield
    finally:
        MODE.reset(token)


class AdaptedLinear(nn.Module):
    """x -> base(x) + scale * B A x; with DoRA the rows of base + scale * B A have learned lengths.

    B begins as zero: nothing is changed at first.
    """

    magnitude: nn.Parameter | None

    def __init__(
        self,
        base: nn.Linear | PackedLinear,
        rank: int,
        alpha: float,
        dropout: float,
        dora: bool,
        generator: torch.Generator,
    ) -> None:
        """generator: of A's first values, on the CPU."""
        super().__init__()
        weight_OI = base.weight.detach()
        rows, columns = weight_OI.shape
        self.base, self.scale, self.dropout = base.requires_grad_(False), alpha / rank, dropout
        first = torch.empty(rank, columns).uniform_(-1, 1, generator=generator) / math.sqrt(columns)
        device = weight_OI.device
        self.lora_A = nn.Parameter(first.to(device))
        self.lora_B = nn.Parameter(torch.zeros(rows, rank, device=device))
        lengths = torch.linalg.vector_norm(weight_OI.float(), dim=1) if dora else None
        self.magnitude = None if lengths is None else nn.Parameter(lengths)

    @property
    def weight(self) -> Tensor:
        """[O, I]: base and adapter as one matrix."""
        base_OI = self.base.weight
        if not MODE.get().on:
            return base_OI
        together = base_OI + (self.scale * (self.lora_B @ self.lora_A)).to(base_OI.dtype)
        return together if self.magnitude is None else together * self._shares()[:, None]

    @property
    def bias(self) -> Tensor | None:
        return self.base.bias

    def forward(self, x: Tensor) -> Tensor:
        mode = MODE.get()
        out: Tensor = self.base(x)
        if not mode.on:
            return out
        if self.dropout and mode.generators:
            x = x * _kept(x, self.dropout, mode.generators)
        low = functional.linear(functional.linear(x, self.lora_A), self.lora_B) * self.scale
        if self.magnitude is None:
            return out + low
        shares = self._shares().to(out.dtype)
        if self.bias is None:
            return (out + low) * shares
        bias = self.bias.to(out.dtype)
        return (out - bias + low) * shares + bias

    def widened(self, x_NI: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and a matrix whose product is what `forward` makes of x, but for the bias.

        For products that are done in pieces, as a head's are: [N, I] and [O, I], or [N, I + R] and
        [O, I + R] where inputs of the adapter are dropped. x: whole rows, one after the other.
        """
        mode = MODE.get()
        if not (mode.on and self.dropout and mode.generators):
            return x_NI, self.weight
        low = functional.linear(x_NI * _kept(x_NI, self.dropout, mode.generators), self.lora_A)
        wide = torch.cat((self.base.weight, self.lora_B), dim=1)
        if self.magnitude is not None:
            wide = wide * self._shares()[:, None]
        return torch.cat((x_NI, (low * self.scale).to(x_NI.dtype)), dim=1), wide

    def _shares(self) -> Tensor:
        """[O]: learned lengths over those the rows have; the latter are constants of a step."""
        with torch.no_grad():
            together = self.base.weight + self.scale * (self.lora_B @ self.lora_A)
            lengths: Tensor = torch.linalg.vector_norm(together, dim=1)
            lengths.masked_fill_(lengths == 0, 1.0)  # a row of zeros stays one
        return cast(Tensor, self.magnitude) / lengths


def _kept(x: Tensor, dropout: float, generators: Sequence[torch.Generator]) -> Tensor:
    """0 or 1 / (1 - dropout) for each element, row by row: no other row decides about it."""
    size = x[0].numel() * len(x) // len(generators)
    rows = [torch.rand(size, generator=item, device=x.device) for item in generators]
    return (torch.stack(rows) >= dropout).view(x.shape).to(x.dtype) / (1 - dropout)
