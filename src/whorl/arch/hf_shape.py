"""Builds a shape from one config and what its model_type decides."""

from __future__ import annotations

from typing import Any

from whorl.arch.activations import activation_of
from whorl.arch.config_reader import ConfigReader
from whorl.arch.hf_families import FAMILIES, ConfigFamily, Flag
from whorl.arch.hf_rope import read_rope
from whorl.arch.shape import AttentionShape, Latent, ModelShape
from whorl.core.errors import SpecError

__all__ = ["shape_of_family"]

LAYER_TYPES = ("full_attention", "sliding_attention")
MOST_LAYERS = 10_000
OF_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_decoder_layers", "num_layers")
DEFAULT_EPS = 1e-6


def shape_of_family(model_type: str, c: ConfigReader, name: str) -> ModelShape:
    """The shape of a config whose model_type is in FAMILIES. Raises SpecError on bad sizes."""
    family = FAMILIES[model_type]
    for key, value in family.fixed.items():
        c.must_be(key, value)
    layers = family.count(c) or c.whole(*OF_LAYERS, most=MOST_LAYERS)
    width = c.whole("hidden_size", "n_embd", "d_model", "n_embed")
    read_attention = _latent_attention if family.latent else _attention
    experts = family.experts(c, layers)
    sizes: dict[str, Any] = {
        "name": name,
        "family": model_type,
        "layers": layers,
        "width": width,
        "ffn_width": _ffn_width(family, c, width),
        "vocab_size": c.whole("vocab_size", default=family.defaults.get("vocab_size")),
        "attention": read_attention(family, c, width, layers),
        "experts": experts,
        "parts": () if family.parts is None else family.parts(c, layers, experts),
        "gated": family.gated,
        "activation": _activation(family, c),
        "ffn_bias": _flag(family.ffn_bias, c),
        "norm": family.norm,
        "norm_eps": c.number("rms_norm_eps", "layer_norm_eps") or DEFAULT_EPS,
        "norms_per_layer": family.norms_per_layer,
        "rope": read_rope(c, family.rope_theta),
        "tied_embeddings": c.flag("tie_word_embeddings", family.tied),
        "max_seq_len": c.whole(
            "max_position_embeddings", "n_positions", "max_seq_len", "seq_length", default=0
        ),
    }
    return ModelShape(**(sizes | family.others(c)))


def _activation(family: ConfigFamily, c: ConfigReader) -> str:
    stated = c.values.get("hidden_activation") or c.values.get("hidden_act")
    return family.activation if stated is None else activation_of(str(stated))


def _flag(flag: Flag, c: ConfigReader) -> bool:
    return flag if isinstance(flag, bool) else c.flag(*flag)


def _ffn_width(family: ConfigFamily, c: ConfigReader, width: int) -> int:
    if family.mixer is not None and family.parts is None:
        return 0
    multiple = c.optional("expansion_ratio") or family.ffn_multiple
    default = None if multiple is None else multiple * width
    return c.whole(
        "intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "d_ff", default=default
    )


def _attention(family: ConfigFamily, c: ConfigReader, width: int, layers: int) -> AttentionShape:
    mixer = None if family.mixer is None else family.mixer(c)
    if family.parts is None and mixer is not None:
        return AttentionShape(1, 1, width, mixer=mixer)
    heads = _heads(family, c)
    head_dim = c.optional("head_dim", "d_kv") or family.head_dim
    if head_dim is None and width % heads:
        raise SpecError(
            f"{c.where}: hidden size {width} is not divisible by {heads} attention heads",
            do="correct one of the two, or state head_dim",
        )
    window, windowed = _window(family, c, layers)
    is_normed = c.values.get("model_type") != "glm4_moe"  # its configuration's own default
    scalar = c.number("query_pre_attn_scalar") or family.query_scalar
    return AttentionShape(
        heads=heads,
        kv_heads=_kv_heads(family, c, heads),
        head_dim=head_dim or width // heads,
        qkv_bias=_flag(family.qkv_bias, c),
        output_bias=_flag(family.output_bias, c),
        qk_norm=family.qk_norm if c.flag("use_qk_norm", is_normed) else "none",
        sinks=family.sinks,
        window=window,
        windowed=windowed,
        query_scale=scalar**-0.5 if scalar else None,
        softcap=c.number("attn_logit_softcapping"),
        mixer=mixer,
        output_gate=family.output_gate,
    )


def _latent_attention(
    family: ConfigFamily, c: ConfigReader, width: int, layers: int
) -> AttentionShape:
    heads, rope = _heads(family, c), c.whole("qk_rope_head_dim")
    return AttentionShape(
        heads=heads,
        kv_heads=heads,
        head_dim=c.whole("qk_nope_head_dim") + rope,
        value_dim=c.whole("v_head_dim"),
        latent=Latent(c.optional("q_lora_rank"), c.whole("kv_lora_rank"), rope),
        qkv_bias=_flag(family.qkv_bias, c),
        output_bias=_flag(family.output_bias, c),
    )


def _heads(family: ConfigFamily, c: ConfigReader) -> int:
    default = family.defaults.get("num_attention_heads")
    return c.whole("num_attention_heads", "n_head", "n_heads", "num_heads", default=default)


def _kv_heads(family: ConfigFamily, c: ConfigReader, heads: int) -> int:
    """As many as heads when the config says null, or nothing and the family has no default."""
    if c.values.get("model_type") == "falcon" and not c.flag("new_decoder_architecture", False):
        return 1 if c.flag("multi_query", True) else heads
    if not family.grouped:
        c.must_be("num_key_value_heads", heads)
        return heads
    is_stated = "num_key_value_heads" in c.values
    default = heads if is_stated else family.defaults.get("num_key_value_heads", heads)
    return c.whole("num_key_value_heads", "num_kv_heads", default=default)


def _window(
    family: ConfigFamily, c: ConfigReader, layers: int
) -> tuple[int | None, tuple[int, ...]]:
    """(tokens, layers that use it); a list of layer types decides over the family's pattern."""
    types = c.sequence("layer_types") if family.parts is None else []
    if types and (len(types) != layers or any(kind not in LAYER_TYPES for kind in types)):
        raise SpecError(
            f"{c.where}: layer_types",
            found=f"{len(types)} of {sorted({str(kind) for kind in types})}"[:120],
            expected=f"{layers} of {' or '.join(LAYER_TYPES)}",
        )
    is_stated = "sliding_window" in c.values
    window = c.optional("sliding_window", least=0)
    if not is_stated:
        window = family.defaults.get("sliding_window")
    listed = tuple(layer for layer, kind in enumerate(types) if kind == "sliding_attention")
    windowed = listed if types else family.windowed(c, layers)
    return (window, windowed) if window and windowed else (None, ())
