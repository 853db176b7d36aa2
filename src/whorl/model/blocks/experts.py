"""A mixture of experts: each token passes through the few that its router prefers.

Sources: Switch (arXiv 2101.03961), Mixtral (2401.04088), shared experts of DeepSeekMoE (2401.06066)
and Qwen2-MoE (2407.10671). Dropless: an expert takes every token that chose it.

Axes: B rows, T tokens of a row, D width, M tokens of all rows, E experts, A active experts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from whorl.arch.shape import ModelShape
from whorl.model.blocks.feed_forward import FeedForward, gated
from whorl.model.blocks.norm import RmsNorm
from whorl.model.padding import pad_rows

__all__ = ["MixtureOfExperts"]


class Stacked(nn.Module):
    """All experts' weights: gate and up [E, 2 * inner, D], down [E, D, inner]."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        experts = shape.experts
        assert experts is not None
        self.activation = shape.activation
        self.gate_up_proj = nn.Parameter(torch.empty(experts.count, 2 * experts.width, shape.width))
        self.down_proj = nn.Parameter(torch.empty(experts.count, shape.width, experts.width))
        nn.init.normal_(self.gate_up_proj, std=shape.width**-0.5)
        nn.init.normal_(self.down_proj, std=experts.width**-0.5)

    def forward(self, y_MD: Tensor, chosen_MA: Tensor, share_MA: Tensor) -> Tensor:
        out_MD = torch.zeros_like(y_MD)
        weights = zip(self.gate_up_proj, self.down_proj, strict=True)
        for expert, (gate_up, down) in enumerate(weights):
            token, place = torch.nonzero(chosen_MA == expert, as_tuple=True)
            inner = gated(functional.linear(pad_rows(y_MD[token]), gate_up), self.activation)
            part = functional.linear(inner, down)[: len(token)] * share_MA[token, place, None]
            out_MD = out_MD.index_add(0, token, part.to(out_MD.dtype))
        return out_MD


class MixtureOfExperts(nn.Module):
    """x + the chosen experts' outputs of norm(x), weighted by their shares."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        experts = shape.experts
        assert experts is not None
        self.active, self.normalise = experts.active, experts.normalise
        self.gate = nn.Linear(shape.width, experts.count, bias=False)
        self.experts = Stacked(shape)
        inner = experts.shared * (experts.shared_width or experts.width)
        self.shared_expert = FeedForward(shape, inner) if inner else None
        gates = inner and experts.shared_gate
        self.shared_expert_gate = nn.Linear(shape.width, 1, bias=False) if gates else None

    def forward(self, x_BTD: Tensor, norms: tuple[RmsNorm, RmsNorm | None]) -> Tensor:
        """norms: of the input, and of the output before it is added."""
        y_MD = norms[0](x_BTD).flatten(0, 1)
        out_MD = self.experts(y_MD, *self.choice(y_MD))
        if self.shared_expert is not None:
            shared_MD = self.shared_expert.down_proj(self.shared_expert.hidden(y_MD))
            if self.shared_expert_gate is not None:
                shared_MD = functional.sigmoid(self.shared_expert_gate(y_MD)) * shared_MD
            out_MD = out_MD + shared_MD
        out_BTD: Tensor = out_MD.view(x_BTD.shape)
        return x_BTD + (out_BTD if norms[1] is None else norms[1](out_BTD))

    def choice(self, y_MD: Tensor) -> tuple[Tensor, Tensor]:
        """(experts [M, A], their shares [M, A]) of each token; softmax in float32."""
        scores = functional.softmax(self.gate(y_MD), dim=-1, dtype=torch.float32)
        share_MA, chosen_MA = scores.topk(self.active, dim=-1)
        if self.normalise:
            share_MA = share_MA / share_MA.sum(dim=-1, keepdim=True)
        return chosen_MA, share_MA.to(y_MD.dtype)
