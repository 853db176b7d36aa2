"""The weights training starts from: a pure function of the seed and each parameter's name."""

from __future__ import annotations

import math

import torch

from whorl.core.digests import digest_bytes
from whorl.model.transformer import Transformer

__all__ = ["initialise"]

EMBEDDING_STD = 0.02
ZERO = ("o_proj.weight", "down_proj.weight", "lm_head.weight")  # every block starts as the identity


@torch.no_grad()
def initialise(model: Transformer, seed: int) -> None:
    """Fill every parameter in place, on the CPU and then copied: equal on every device.

    Matrices: normal of std 1/sqrt(inputs); what writes into the residual, and an untied head:
    zero; embedding: normal of std 0.02; norms: one.
    """
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            parameter.fill_(1.0)
        elif name.endswith(ZERO):
            parameter.zero_()
        else:
            std = EMBEDDING_STD if name.startswith("embed") else 1 / math.sqrt(parameter.shape[1])
            own_seed = int(digest_bytes(f"{seed} {name}".encode())[:15], 16)
            generator = torch.Generator().manual_seed(own_seed)
            values = torch.empty(parameter.shape, dtype=torch.float32)
            parameter.copy_(values.normal_(0.0, std, generator=generator))
