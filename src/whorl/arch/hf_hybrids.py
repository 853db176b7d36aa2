"""Models that mix tokens by a scan in all or some of their layers: the mixers of Mamba and its kin,
and of each layer of a hybrid what it is made of. Counted from their configs as transformers builds
them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from whorl.arch.config_reader import ConfigReader
from whorl.arch.shape import Experts, Mixer
from whorl.core.errors import SpecError

__all__ = [
    "blocks_of",
    "delta_net",
    "every_layer_both",
    "falcon_h1_mixer",
    "granite_experts",
    "granite_mixer",
    "granite_others",
    "jamba_experts",
    "jamba_mixer",
    "jamba_parts",
    "mamba_mixer",
    "nemotron_experts",
    "nemotron_mixer",
    "nemotron_parts",
    "parts_by_types",
]

KINDS = {  # words of layer_types, letters of hybrid_override_pattern
    **dict.fromkeys(("mamba", "linear_attention", "M"), "scan"),
    **dict.fromkeys(("attention", "full_attention", "*"), "attention"),
    **dict.fromkeys(("mlp", "-"), "dense"),
    **dict.fromkeys(("moe", "E"), "expert"),
}
MIXING = ("attention", "scan")
MOST_LAYERS = 10_000
DELTA_FLOPS = 7.0  # of a state's element: decayed, read for the error, added to, read: 2412.06464


def _mamba(
    c: ConfigReader, inner: int, rank: int, conv: int, *, biased: bool = False, normed: bool = False
) -> Mixer:
    """Mamba (arXiv 2312.00752). normed: steps and both inputs of the state have norms (Jamba)."""
    width, state = c.whole("hidden_size"), c.whole("state_size", "mamba_d_state", default=16)
    matrices = (
        ("in_proj", 2 * inner, width),
        ("x_proj", rank + 2 * state, inner),
        ("dt_proj", inner, rank),
        ("out_proj", width, inner),
    )
    conv_bias = inner * c.flag("mamba_conv_bias", c.flag("use_conv_bias", True))
    # convolution and its bias, bias of the steps, A and D
    others = inner * conv + conv_bias + inner + inner * state + inner
    others += biased * (2 * inner + width) + normed * (rank + 2 * state)
    return Mixer(inner, state, matrices, others, inner * conv)


def _mamba_2(
    c: ConfigReader, inner: int, heads: int, groups: int, state: int, *,
    conv: int, normed: bool = True, biases: tuple[bool, bool, bool] = (True, False, False),
) -> Mixer:  # fmt: skip
    """Mamba 2 (arXiv 2405.21060). biases: of the convolution, of what leads in, and out."""
    width, turned = c.whole("hidden_size"), inner + 2 * groups * state
    first = inner + turned + heads
    others = turned * (conv + biases[0]) + 3 * heads + normed * inner
    others += biases[1] * first + biases[2] * width
    matrices = (("in_proj", first, width), ("out_proj", width, inner))
    return Mixer(inner, state, matrices, others, turned * conv)


def _rank(c: ConfigReader, key: str) -> int:
    is_open = c.values.get(key, "auto") == "auto"
    return math.ceil(c.whole("hidden_size") / 16) if is_open else c.whole(key)


def mamba_mixer(c: ConfigReader) -> Mixer:
    """Of the layers of mamba, falcon_mamba and mamba2."""
    width, conv = c.whole("hidden_size"), c.whole("conv_kernel", default=4)
    if c.values.get("model_type") == "mamba2":
        inner, groups = c.whole("expand", default=2) * width, c.whole("n_groups", default=8)
        heads = c.optional("num_heads") or inner // c.whole("head_dim", default=64)
        return _mamba_2(c, inner, heads, groups, c.whole("state_size"), conv=conv)
    inner = c.optional("intermediate_size") or c.whole("expand", default=2) * width
    return _mamba(c, inner, _rank(c, "time_step_rank"), conv)


def jamba_mixer(c: ConfigReader) -> Mixer:
    inner = c.whole("mamba_expand", default=2) * c.whole("hidden_size")
    biased = c.flag("mamba_proj_bias", False)
    rank, conv = _rank(c, "mamba_dt_rank"), c.whole("mamba_d_conv", default=4)
    return _mamba(c, inner, rank, conv, biased=biased, normed=True)


def falcon_h1_mixer(c: ConfigReader) -> Mixer:
    return _named(
        c,
        _falcon_inner(c),
        normed=c.flag("mamba_rms_norm", False),
        bias_out=c.flag("projectors_bias", False),
    )


def _falcon_inner(c: ConfigReader) -> int:
    """Without the key transformers' own 1024; of a null so many times the width."""
    if "mamba_d_ssm" not in c.values:
        return 1024
    wide = c.whole("mamba_expand", default=2) * c.whole("hidden_size")
    return c.optional("mamba_d_ssm") or wide


def granite_mixer(c: ConfigReader) -> Mixer:
    inner = c.whole("mamba_expand", default=2) * c.whole("hidden_size")
    return _named(c, inner, normed=True, bias_out=c.flag("mamba_proj_bias", False))


def _named(c: ConfigReader, inner: int, *, normed: bool, bias_out: bool) -> Mixer:
    """By the keys that Falcon-H1 and Granite share."""
    return _mamba_2(
        c,
        inner,
        c.whole("mamba_n_heads", default=128),
        c.whole("mamba_n_groups", default=1),
        c.whole("mamba_d_state", default=256),
        conv=c.whole("mamba_d_conv", default=4),
        normed=normed,
        biases=(c.flag("mamba_conv_bias", True), c.flag("mamba_proj_bias", False), bias_out),
    )


def nemotron_mixer(c: ConfigReader) -> Mixer:
    heads, both = c.whole("mamba_num_heads", default=128), c.flag("use_bias", False)
    is_wide = c.values.get("mamba_ssm_cache_dtype", "float32") == "float32"
    found = _mamba_2(
        c,
        heads * c.whole("mamba_head_dim", default=64),
        heads,
        c.whole("n_groups", "mamba_n_groups", default=8),
        c.whole("ssm_state_size", default=128),
        conv=c.whole("conv_kernel", "mamba_d_conv", default=4),
        biases=(c.flag("use_conv_bias", c.flag("mamba_conv_bias", True)), both, both),
    )
    return replace(found, state_bytes=4.0 if is_wide else 2.0)


def delta_net(c: ConfigReader) -> Mixer:
    """Qwen3-Next's gated DeltaNet (arXiv 2412.06464): a matrix of keys and values for each head."""
    heads, state = c.whole("linear_num_value_heads"), c.whole("linear_key_head_dim")
    value, width = c.whole("linear_value_head_dim"), c.whole("hidden_size")
    keys, inner = c.whole("linear_num_key_heads") * state, heads * value
    turned, conv = 2 * keys + inner, c.whole("linear_conv_kernel_dim", default=4)
    matrices = (
        ("in_proj_qkvz", 2 * keys + 2 * inner, width),
        ("in_proj_ba", 2 * heads, width),
        ("out_proj", width, inner),
    )
    others = turned * conv + 2 * heads + value
    return Mixer(inner, state, matrices, others, turned * conv, DELTA_FLOPS)


def _kinds(c: ConfigReader, key: str, listed: Iterable[object]) -> list[str]:
    found = [str(item) for item in listed]
    if unknown := sorted({item for item in found if item not in KINDS})[:3]:
        raise SpecError(f"{c.where}: {key}", found=unknown, expected=", ".join(KINDS))
    return [KINDS[item] for item in found]


def _fed(mixing: Iterable[str], experts: Experts | None) -> tuple[str, ...]:
    """Layers that mix tokens and then feed forward."""
    dense = () if experts is None else experts.dense
    is_dense = experts is None
    return tuple(
        f"{part}+{'dense' if is_dense or layer in dense else 'expert'}"
        for layer, part in enumerate(mixing)
    )


def parts_by_types(c: ConfigReader, layers: int, experts: Experts | None) -> tuple[str, ...]:
    """Qwen3-Next and Granite: by layer_types; else each fourth layer, or none, has attention."""
    key = "layer_types" if "layer_types" in c.values else "layers_block_type"
    types = c.sequence(key)
    if not types:
        period = c.whole("full_attention_interval", default=4)
        if c.values.get("model_type") == "granitemoehybrid":
            period = layers + 1
        types = ["mamba" if (layer + 1) % period else "attention" for layer in range(layers)]
    mixing = _kinds(c, key, types)
    if fed := {word for word, part in zip(types, mixing, strict=True) if part not in MIXING}:
        mixed = "layers that mix tokens: " + ", ".join(w for w in KINDS if KINDS[w] in MIXING)
        raise SpecError(f"{c.where}: {key}", found=sorted(map(str, fed)), expected=mixed)
    return _fed(mixing, experts)


def every_layer_both(c: ConfigReader, layers: int, experts: Experts | None) -> tuple[str, ...]:
    """Falcon-H1: attention and a scan read the same input, side by side."""
    return _fed(["attention+scan"] * layers, experts)


def jamba_parts(c: ConfigReader, layers: int, experts: Experts | None) -> tuple[str, ...]:
    period = c.whole("attn_layer_period", default=8)
    offset = c.whole("attn_layer_offset", default=4, least=0)
    mixing = ("attention" if n % period == offset else "scan" for n in range(layers))
    return _fed(mixing, experts)


def jamba_experts(c: ConfigReader, layers: int) -> Experts | None:
    count = c.whole("num_experts", "num_local_experts", default=16)
    period = c.whole("expert_layer_period", default=2)
    offset = c.whole("expert_layer_offset", default=1, least=0)
    dense = tuple(n for n in range(layers) if n % period != offset)
    if count == 1 or len(dense) == layers:
        return None
    active = c.whole("num_experts_per_tok", default=2)
    return Experts(count, active, c.whole("intermediate_size"), dense=dense, normalise=False)


def granite_experts(c: ConfigReader, layers: int) -> Experts | None:
    """Beside the experts stands a block that every token passes; without any, it is the layer's."""
    count = c.whole("num_local_experts", default=8, least=0)
    if not count:
        return None
    return Experts(
        count,
        c.whole("num_experts_per_tok", default=2),
        c.whole("intermediate_size"),
        shared=1,
        shared_width=c.whole("shared_intermediate_size", default=1024),
    )


def granite_others(c: ConfigReader) -> dict[str, Any]:
    return {"ffn_width": c.whole("shared_intermediate_size", default=1024)}


def blocks_of(c: ConfigReader) -> list[str]:
    """Nemotron-H: a layer is one block, of a pattern such as "M-M*" or of a list."""
    key = "hybrid_override_pattern"
    listed: Iterable[object] = c.sequence("layers_block_type") or c.sequence("layer_types")
    pattern = c.values.get(key)
    if not listed:
        if not isinstance(pattern, str) or not pattern:
            raise SpecError(f"{c.where}: {key}", found=repr(pattern)[:60], expected="such as M-M*-")
        listed = pattern
    found = _kinds(c, key, listed)
    if len(found) > MOST_LAYERS:
        raise SpecError(f"{c.where}: {key}", found=f"{len(found):,} layers")
    return found


def nemotron_parts(c: ConfigReader, layers: int, experts: Experts | None) -> tuple[str, ...]:
    return tuple(blocks_of(c))


def nemotron_experts(c: ConfigReader, layers: int) -> Experts | None:
    dense = tuple(n for n, part in enumerate(blocks_of(c)) if part != "expert")
    if len(dense) == layers:
        return None
    found = Experts(
        c.whole("n_routed_experts", "num_local_experts", default=8),
        c.whole("num_experts_per_tok", default=2),
        c.whole("moe_intermediate_size"),
        shared=1,
        shared_width=c.whole("moe_shared_expert_intermediate_size"),
        dense=dense,
        score_correction=True,
    )
    return replace(found, latent=c.optional("moe_latent_size"))
