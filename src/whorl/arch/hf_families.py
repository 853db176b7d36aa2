"""How each Hugging Face model_type spells its sizes, and what its code fixes by itself.

Facts read from the modelling and configuration code of transformers 5 (and, for internlm and
kimi_k2, of the model repositories); a test compares every family with that code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from whorl.arch.config_reader import ConfigReader
from whorl.arch.hf_beside import (
    bert_others,
    mllama_others,
    modernbert_others,
    qwen_vl_others,
    t5_others,
)
from whorl.arch.hf_experts import (
    deepseek_experts,
    gpt_oss_experts,
    minimax_experts,
    mixtral_experts,
    olmoe_experts,
    qwen_experts,
)
from whorl.arch.hf_hybrids import (
    blocks_of,
    delta_net,
    every_layer_both,
    falcon_h1_mixer,
    granite_experts,
    granite_mixer,
    granite_others,
    jamba_experts,
    jamba_mixer,
    jamba_parts,
    mamba_mixer,
    nemotron_experts,
    nemotron_mixer,
    nemotron_parts,
    parts_by_types,
)
from whorl.arch.hf_rope import windowed_rope
from whorl.arch.shape import Experts, Mixer, Norm

__all__ = ["FAMILIES", "ConfigFamily", "Flag"]

Flag = bool | tuple[str, bool]  # fixed by the code, or (key, its default)
WINDOW_PATTERN_KEYS = ("sliding_window_pattern", "_sliding_window_pattern")


Layers = tuple[int, ...]


def no_window(c: ConfigReader, layers: int) -> Layers:
    return ()


def all_layers(c: ConfigReader, layers: int) -> Layers:
    return tuple(range(layers))


def all_but_every(period: int) -> Callable[[ConfigReader, int], Layers]:
    """Each period-th layer sees everything; a config may state another period."""

    def windowed(c: ConfigReader, layers: int) -> Layers:
        stated = c.whole(*WINDOW_PATTERN_KEYS, default=period)
        return tuple(layer for layer in range(layers) if (layer + 1) % stated)

    return windowed


def last_layers(c: ConfigReader, layers: int) -> Layers:
    """Qwen: layers from max_window_layers on, when windows are switched on."""
    if not c.flag("use_sliding_window", False):
        return ()
    return tuple(range(c.whole("max_window_layers", default=28, least=0), layers))


def all_if_used(c: ConfigReader, layers: int) -> Layers:
    return tuple(range(layers)) if c.flag("use_sliding_window", False) else ()


def early_even_layers(c: ConfigReader, layers: int) -> Layers:
    """Qwen2-MoE: every second layer before max_window_layers."""
    if not c.flag("use_sliding_window", False):
        return ()
    return tuple(range(0, min(layers, c.whole("max_window_layers", default=28, least=0)), 2))


def local_layers(c: ConfigReader, layers: int) -> Layers:
    """ModernBERT: each third layer sees everything, the first among them."""
    period = c.whole("global_attn_every_n_layers", default=3)
    return tuple(layer for layer in range(layers) if layer % period)


def no_experts(c: ConfigReader, layers: int) -> Experts | None:
    return None


@dataclass(frozen=True)
class ConfigFamily:
    """What a model_type's code decides; the sizes come from the config."""

    qkv_bias: Flag = False
    output_bias: Flag = False
    ffn_bias: Flag = False
    gated: bool = True
    norm: Norm = "rms"
    norms_per_layer: int = 2
    qk_norm: Literal["none", "head", "width"] = "none"
    tied: bool = False  # when the config does not say
    head_dim: int | None = None  # when the config does not say; None: width / heads
    query_scalar: int | None = None  # scores are divided by its root, when the config does not say
    ffn_multiple: int | None = None  # of the width, when the config gives no inner size
    activation: str = "silu"  # when the config does not say
    rope_theta: float = 10_000.0  # when the config does not say
    latent: bool = False
    sinks: bool = False
    grouped: bool = True  # keys and values may have fewer heads than queries
    windowed: Callable[[ConfigReader, int], Layers] = no_window
    experts: Callable[[ConfigReader, int], Experts | None] = no_experts
    defaults: Mapping[str, int] = field(default_factory=dict)  # of keys that configs leave out
    fixed: Mapping[str, object] = field(default_factory=dict)  # variants that are refused
    # in place of attention, without a feed-forward block; with `parts` in the layers that say so
    mixer: Callable[[ConfigReader], Mixer] | None = None
    parts: Callable[[ConfigReader, int, Experts | None], tuple[str, ...]] | None = None
    count: Callable[[ConfigReader], int | None] = lambda c: None  # layers, if not stated plainly
    output_gate: bool = False
    others: Callable[[ConfigReader], dict[str, Any]] = lambda c: {}  # further fields of ModelShape


def gemma3_others(c: ConfigReader) -> dict[str, Any]:
    c.must_be("use_bidirectional_attention", False)
    return {
        "norm_offset": True,
        "embedding_scale": c.whole("hidden_size") ** 0.5,
        "windowed_rope": windowed_rope(c, "rope_local_base_freq", 10_000.0),
        "logit_softcap": c.number("final_logit_softcapping"),
    }


def gpt2_others(c: ConfigReader) -> dict[str, Any]:
    return {"learned_positions": c.whole("n_positions", "n_ctx")}


def opt_others(c: ConfigReader) -> dict[str, Any]:
    c.must_be("word_embed_proj_dim", c.values.get("hidden_size"))
    positions = c.whole("max_position_embeddings")
    return {"learned_positions": positions + 2}  # OPT's table starts at 2


def mpt_others(c: ConfigReader) -> dict[str, Any]:
    attention = c.section("attn_config")
    attention.must_be("qk_ln", False)
    attention.must_be("attn_type", "multihead_attention")
    is_learned = c.flag("learned_pos_emb", True) and not attention.flag("alibi", True)
    return {"learned_positions": c.whole("max_seq_len") if is_learned else 0}


def falcon_others(c: ConfigReader) -> dict[str, Any]:
    is_new = c.flag("new_decoder_architecture", False)
    is_split = is_new and c.optional("num_ln_in_parallel_attn") != 1
    one_norm = c.flag("parallel_attn", True) and not is_split
    return {"norms_per_layer": 1 if one_norm else 2}


def stablelm_others(c: ConfigReader) -> dict[str, Any]:
    return {"norms_per_layer": 1 if c.flag("use_parallel_residual", False) else 2}


LLAMA_BIAS = ("attention_bias", False)
BIASED = ConfigFamily(qkv_bias=LLAMA_BIAS, output_bias=LLAMA_BIAS)
LLAMA = replace(BIASED, ffn_bias=("mlp_bias", False))
QWEN3 = replace(BIASED, qk_norm="head", head_dim=128, windowed=last_layers)
GEMMA = replace(BIASED, tied=True, head_dim=256)
GEMMA2 = replace(
    GEMMA, norms_per_layer=4, windowed=all_but_every(2), defaults={"sliding_window": 4096}
)
DEEPSEEK = replace(
    BIASED, latent=True, experts=deepseek_experts, fixed={"moe_layer_freq": 1, "mlp_bias": False}
)
GPT_OSS_BIAS = ("attention_bias", True)
GPT = ConfigFamily(
    True, True, True, gated=False, norm="layer", tied=True, ffn_multiple=4, grouped=False
)
BERT = replace(GPT, activation="gelu", ffn_multiple=None, others=bert_others)
MAMBA = ConfigFamily(tied=True, gated=False, norms_per_layer=1, mixer=mamba_mixer)
OPT_BIAS = ("enable_bias", True)
BIAS = ("bias", False)

FAMILIES: dict[str, ConfigFamily] = {
    "llama": LLAMA,
    "granite": LLAMA,
    "smollm3": replace(LLAMA, tied=True, fixed={"use_sliding_window": False}),
    "mistral": ConfigFamily(
        windowed=all_layers, defaults={"num_key_value_heads": 8, "sliding_window": 4096}
    ),
    "mixtral": ConfigFamily(
        windowed=all_layers, experts=mixtral_experts, defaults={"num_key_value_heads": 8}
    ),
    "qwen2": ConfigFamily(qkv_bias=True, windowed=last_layers),
    "qwen2_moe": ConfigFamily(("qkv_bias", True), windowed=early_even_layers, experts=qwen_experts),
    "qwen3": QWEN3,
    "qwen3_moe": replace(QWEN3, head_dim=None, windowed=all_if_used, experts=qwen_experts),
    "gemma": GEMMA,
    "gemma2": GEMMA2,
    "gemma3_text": replace(
        GEMMA2,
        qk_norm="head",
        activation="gelu_tanh",
        rope_theta=1_000_000.0,
        query_scalar=256,
        windowed=all_but_every(6),
        others=gemma3_others,
        defaults={
            "vocab_size": 262_208,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "sliding_window": 4096,
        },
    ),
    "deepseek_v2": DEEPSEEK,
    "deepseek_v3": DEEPSEEK,
    "kimi_k2": DEEPSEEK,
    "gpt_oss": ConfigFamily(
        qkv_bias=GPT_OSS_BIAS,
        output_bias=GPT_OSS_BIAS,
        ffn_bias=True,
        head_dim=64,
        sinks=True,
        windowed=all_but_every(2),
        experts=gpt_oss_experts,
        defaults={"num_key_value_heads": 8, "sliding_window": 128},
    ),
    "gpt2": replace(GPT, others=gpt2_others, fixed={"add_cross_attention": False}),
    "gpt_neox": replace(
        GPT, qkv_bias=GPT_OSS_BIAS, output_bias=GPT_OSS_BIAS, tied=False, ffn_multiple=None
    ),
    "opt": replace(
        GPT,
        qkv_bias=OPT_BIAS,
        output_bias=OPT_BIAS,
        ffn_bias=OPT_BIAS,
        ffn_multiple=None,
        fixed={
            "do_layer_norm_before": True,
            "_remove_final_layer_norm": False,
            "layer_norm_elementwise_affine": True,
        },
        others=opt_others,
    ),
    "bloom": replace(GPT, others=lambda c: {"embedding_norm": True}),
    "mpt": ConfigFamily(
        gated=False,
        norm="layer_no_bias",
        tied=True,
        ffn_multiple=4,
        grouped=False,
        fixed={"no_bias": True},
        others=mpt_others,
    ),
    "falcon": replace(
        GPT, grouped=True, qkv_bias=BIAS, output_bias=BIAS, ffn_bias=BIAS, others=falcon_others
    ),
    "phi": replace(
        GPT,
        tied=False,
        ffn_multiple=None,
        grouped=True,
        norms_per_layer=1,
        fixed={"qk_layernorm": False},
        others=lambda c: {"head_bias": True},
    ),
    "phi3": ConfigFamily(windowed=all_layers),
    "olmo2": replace(BIASED, qk_norm="width"),
    "olmo3": replace(
        BIASED, qk_norm="width", windowed=all_but_every(4), defaults={"sliding_window": 4096}
    ),
    "stablelm": ConfigFamily(
        qkv_bias=("use_qkv_bias", False),
        norm="layer",
        fixed={"qk_layernorm": False},
        others=stablelm_others,
    ),
    "nemotron": replace(LLAMA, gated=False, norm="layer"),
    "mamba2": replace(MAMBA, tied=False),
    "bert": BERT,
    "roberta": BERT,
    "xlm-roberta": BERT,
    "modernbert": ConfigFamily(
        norm="layer_no_bias",
        tied=True,
        activation="gelu",
        grouped=False,
        windowed=local_layers,
        defaults={"sliding_window": 128},
        others=modernbert_others,
    ),
    **dict.fromkeys(
        ("t5", "mt5"), ConfigFamily(tied=True, activation="relu", grouped=False, others=t5_others)
    ),
    **dict.fromkeys(
        ("mamba", "falcon_mamba"),
        MAMBA,
    ),
    **dict.fromkeys(
        ("qwen2_vl", "qwen2_vl_text", "qwen2_5_vl", "qwen2_5_vl_text"),
        ConfigFamily(qkv_bias=True, windowed=last_layers, others=qwen_vl_others),
    ),
    "mllama_text_model": ConfigFamily(others=mllama_others),
    "olmoe": replace(BIASED, qk_norm="width", experts=olmoe_experts),
    "phimoe": replace(
        BIASED,
        norm="layer",
        experts=mixtral_experts,
        others=lambda c: {"head_bias": c.flag("lm_head_bias", False)},
    ),
    "glm4_moe": ConfigFamily(qkv_bias=LLAMA_BIAS, qk_norm="head", experts=deepseek_experts),
    "minimax_m2": ConfigFamily(qk_norm="width", head_dim=128, experts=minimax_experts),
    "jamba": ConfigFamily(
        mixer=jamba_mixer,
        parts=jamba_parts,
        experts=jamba_experts,
        defaults={"num_key_value_heads": 8},
    ),
    "qwen3_next": replace(
        BIASED,
        qk_norm="head",
        head_dim=256,
        mixer=delta_net,
        parts=parts_by_types,
        output_gate=True,
        experts=qwen_experts,
        others=lambda c: {"norm_offset": True},
        defaults={"num_key_value_heads": 2},
    ),
    "falcon_h1": replace(
        LLAMA,
        mixer=falcon_h1_mixer,
        parts=every_layer_both,
        defaults={"num_key_value_heads": 8},
    ),
    "granitemoehybrid": replace(
        BIASED,
        mixer=granite_mixer,
        parts=parts_by_types,
        experts=granite_experts,
        others=granite_others,
    ),
    "nemotron_h": ConfigFamily(
        gated=False,
        activation="relu2",
        norms_per_layer=1,
        head_dim=128,
        mixer=nemotron_mixer,
        parts=nemotron_parts,
        count=lambda c: len(blocks_of(c)),
        experts=nemotron_experts,
        defaults={"num_key_value_heads": 8},
        fixed={"tie_word_embeddings": False, "mlp_bias": False},
    ),
    "internlm": ConfigFamily(qkv_bias=BIAS, output_bias=BIAS),
    "internlm2": ConfigFamily(qkv_bias=BIAS, output_bias=BIAS),
}
