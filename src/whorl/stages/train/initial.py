"""The weights training starts from: drawn, a pure function of the seed and each parameter's name,
or those of a base.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch

from whorl.arch.shape import ModelShape
from whorl.core.digests import digest_bytes
from whorl.core.errors import RecordError
from whorl.model.blocks.attention import Attention
from whorl.model.blocks.experts import MixtureOfExperts
from whorl.model.blocks.feed_forward import FeedForward
from whorl.model.blocks.norm import RmsNorm
from whorl.model.hf import load_model_folder
from whorl.model.transformer import Transformer

__all__ = ["base_model", "initial_model", "initialise"]

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


OURS = (Attention, FeedForward, MixtureOfExperts, RmsNorm)


def initial_model(shape: ModelShape, seed: int) -> Transformer:
    """A model to be trained; what a package's block draws itself comes from the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Transformer(shape)
    initialise(model, seed)
    return model


def base_model(folder: Path, shape: ModelShape) -> Transformer:
    """The model of a folder in float32, every file of it verified, ready to be trained.

    Its weights are copied: those in the file stay as they are, and in memory of one's own they lie
    as the kernels like them. Raises RecordError if the folder is damaged or of another shape.
    """
    model, found, _, _ = load_model_folder(folder, own=torch.float32)
    if found != shape:
        raise RecordError(f"{folder} is of another shape than planned", found=found, expected=shape)
    return model.train()


@torch.no_grad()
def initialise(model: Transformer, seed: int) -> None:
    """Fill parameters in place, on the CPU and then copied: equal on every device. Those that a
    package's block has of its own, outside attention and the like of ours, keep their values.

    Matrices: normal of std 1/sqrt(inputs); what writes into the residual, biases and an untied
    head: zero; embedding: normal of std 0.02; norms: one, those of heads HEAD_NORM.
    """
    offset = 1.0 if model.shape.norm_offset else 0.0
    kept = _set_by_packages(model)
    for name, parameter in model.named_parameters():
        if name in kept:
            continue
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


def _set_by_packages(model: Transformer) -> set[str]:
    """Names of parameters of layers that are in none of our modules."""
    of_layers = {f"layers.{name}" for name, _ in model.layers.named_parameters()}
    of_ours = {
        f"{prefix}.{name}"
        for prefix, module in model.named_modules()
        if isinstance(module, OURS)
        for name, _ in module.named_parameters()
    }
    return of_layers - of_ours
