"""The weights training starts from: a pure function of the seed and each parameter's name."""

from __future__ import annotations

import math

import torch

from whorl.core.digests import digest_bytes
from whorl.model.transformer import Transformer

__all__ = ["initialise"]

EMBEDDING_STD = 0.02
# Scores of normed heads cannot exceed sqrt(head_dim) * HEAD_NORM²: 5.7 for 32 at 1, too little to
# pick one token out of hundreds. At 1.4 copying from the context is learned earlier (docs/log.md,
# 25 November 2026); nanochat and modded-nanogpt sharpen their scores too.
HEAD_NORM = 1.4
HEAD_NORMS = ("q_norm.weight", "k_norm.weight")
ZERO = (
    "o_proj.weight",
    "down_proj.weight",
    "experts.down_proj",
    "lm_head.weight",
    ".bias",
)  # every block starts as the identity


@torch.no_grad()
def initialise(model: Transformer, seed: int) -> None:
    """Fill every parameter in place, on the CPU and then copied: equal on every device.

    Matrices: normal of std 1/sqrt(inputs); what writes into the residual, biases and an untied
    head: zero; embedding: normal of std 0.02; norms: one, those of heads HEAD_NORM.
    """
    offset = 1.0 if model.shape.norm_offset else 0.0
    for name, parameter in model.named_parameters():
        if name.endswith(ZERO):
            parameter.zero_()
        elif parameter.ndim == 1:
            parameter.fill_((HEAD_NORM if name.endswith(HEAD_NORMS) else 1.0) - offset)
        else:
            std = EMBEDDING_STD if name.startswith("embed") else 1 / math.sqrt(parameter.shape[-1])
            own_seed = int(digest_bytes(f"{seed} {name}".encode())[:15], 16)
            generator = torch.Generator().manual_seed(own_seed)
            values = torch.empty(parameter.shape, dtype=torch.float32)
            parameter.copy_(values.normal_(0.0, std, generator=generator))
