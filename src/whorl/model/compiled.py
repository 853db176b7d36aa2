"""What surrounds attention in a block, as two functions that torch.compile makes fast on a CPU.

Plain formulas of weights and activations, shared by all layers: one compilation each for a shape.
Compiling needs a C++ compiler. Without gradients blocks run as they are written.
Axes: B rows, T tokens of a row, D width, H query heads, K key/value heads, N head_dim, O heads
of attention's result side by side, F inner width of the MLP.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from whorl.model.fused import wide

__all__ = ["Around", "after_attention", "before_attention", "compiled_around", "has_compiler"]

VECTOR_BITS = {"AVX512": 512, "AVX2": 256}  # of torch's CPU capability


@dataclass(frozen=True)
class Around:
    """`before_attention` and `after_attention`, or what computes the same."""

    before: Callable[..., tuple[Tensor, Tensor, Tensor]]
    after: Callable[..., Tensor]


def before_attention(
    x_BTD: Tensor,
    norm_D: Tensor,
    weights: tuple[Tensor, Tensor, Tensor],
    head_norms: tuple[Tensor, Tensor] | None,
    rotary: tuple[Tensor, Tensor],
    eps: float,
    head_dim: int,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries [B, T, H, N], keys and values [B, T, K, N], in dtype, of a block's input.

    weights: of queries, keys and values. rotary: cos and sin, each [B, T, 1, N/2].
    """
    joined = _normed_linear(x_BTD, norm_D, weights, eps)
    apart = joined.view(*joined.shape[:2], -1, head_dim)
    counts = [len(weight) // head_dim for weight in weights]
    query, key, value = torch.split(apart, counts, dim=2)
    query_norm, key_norm = (None, None) if head_norms is None else head_norms
    return (
        _turned(query, query_norm, rotary, eps).to(dtype),
        _turned(key, key_norm, rotary, eps).to(dtype),
        value.to(dtype),
    )


def after_attention(
    x_BTD: Tensor,
    inner_BTO: Tensor,
    out_DO: Tensor,
    norm_D: Tensor,
    weights: tuple[Tensor, Tensor],
    down_DF: Tensor,
    eps: float,
) -> Tensor:
    """x + out(inner), and on it x + mlp(norm(x)). weights: of gate and up."""
    x_BTD = x_BTD + functional.linear(inner_BTO, out_DO.to(x_BTD.dtype))
    gate, up = _normed_linear(x_BTD, norm_D, weights, eps).chunk(2, dim=-1)
    return x_BTD + functional.linear(functional.silu(gate) * up, down_DF.to(x_BTD.dtype))


def compiled_around() -> Around:
    """Both compiled, for the shapes they are called with; what was compiled before is forgotten."""
    import torch._inductor.config as inductor

    # torch loads setuptools, which refuses a process that has loaded Python's own distutils
    os.environ.setdefault("SETUPTOOLS_USE_DISTUTILS", "stdlib")
    torch.compiler.reset()  # torch keeps but a few shapes of one function
    bits = VECTOR_BITS.get(torch.backends.cpu.get_cpu_capability())
    if bits is not None:  # torch knows already: or half of the time goes into finding out
        inductor.cpp.simdlen, inductor.cpp.vec_isa_ok = bits, True
        inductor.cpp.march = ""  # only those instructions: what is kept may move to another CPU
    inductor.compile_threads = 1  # or processes stay that wait for more to compile
    # Without fullgraph: it makes a call that torch happens not to compile end the training, as seen
    # once after 366 steps of two lanes (30 November 2026); a test looks for breaks in the graphs.
    return Around(
        torch.compile(before_attention, dynamic=False),
        torch.compile(after_attention, dynamic=False),
    )


def has_compiler() -> bool:
    """Whether there is a C++ compiler, by the name torch looks for."""
    return shutil.which(os.environ.get("CXX", "g++")) is not None


def _normed_linear(x: Tensor, norm: Tensor, weights: tuple[Tensor, ...], eps: float) -> Tensor:
    normed = (_unit(wide(x), eps) * norm).to(x.dtype)
    return functional.linear(normed, torch.cat(weights).to(x.dtype))


def _turned(x: Tensor, norm: Tensor | None, rotary: tuple[Tensor, Tensor], eps: float) -> Tensor:
    x = wide(x)
    if norm is not None:
        x = _unit(x, eps) * norm
    first, second = x.chunk(2, dim=-1)
    cos, sin = rotary
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def _unit(x: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
