"""The feed-forward block, gated (arXiv 2002.05202) or plain.

Axes: B rows, T tokens of a row, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torch.nn import functional

from whorl.arch.activations import ACTIVATIONS
from whorl.arch.shape import ModelShape
from whorl.model.blocks.linear import add_linear, is_fused, normed_products
from whorl.model.blocks.norm import RmsNorm
from whorl.model.fused import gated_silu

__all__ = ["FeedForward"]


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    name: partial(getattr(functional, item.function), **item.options)
    for name, item in ACTIVATIONS.items()
}


class FeedForward(nn.Module):
    """x + down(act(gate(y)) * up(y)), or x + down(act(up(y))), of y = norm(x)."""

    def __init__(self, shape: ModelShape, inner: int) -> None:
        super().__init__()
        self.activation = shape.activation
        self.joined = True  # False: each projection is called, as wrapped ones must be
        width, bias = shape.width, shape.ffn_bias
        self.gate_proj = nn.Linear(width, inner, bias=bias) if shape.gated else None
        self.up_proj = nn.Linear(width, inner, bias=bias)
        self.down_proj = nn.Linear(inner, width, bias=bias)

    def forward(self, x_BTD: Tensor, norms: tuple[RmsNorm, RmsNorm | None]) -> Tensor:
        """norms: of the input, and of the output before it is added."""
        if self.gate_proj is not None and is_fused(norms[0], self.joined):
            joined = normed_products(x_BTD, norms[0], (self.gate_proj, self.up_proj))
            hidden = gated(joined, self.activation)
        else:
            hidden = self.hidden(norms[0](x_BTD))
        return add_linear(x_BTD, hidden, self.down_proj, norms[1], self.joined)

    def hidden(self, y_BTD: Tensor) -> Tensor:
        """What down_proj is given, of a normed input."""
        up: Tensor = self.up_proj(y_BTD)
        act = FUNCTIONS[self.activation]
        return act(up) if self.gate_proj is None else act(self.gate_proj(y_BTD)) * up


def gated(joined: Tensor, activation: str) -> Tensor:
    """act(gate) * up, of [..., gate then up]."""
    if activation == "silu":
        return gated_silu(joined)
    gate, up = joined.chunk(2, dim=-1)
    return FUNCTIONS[activation](gate) * up
