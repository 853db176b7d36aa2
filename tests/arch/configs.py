"""Tiny configs of any Hugging Face family, their options drawn at random."""

from __future__ import annotations

import random
from typing import Any

GPT2 = {"n_layer": 3, "n_embd": 48, "vocab_size": 101, "n_head": 4, "n_positions": 31}
MPT = {"n_layers": 2, "d_model": 48, "n_heads": 4, "vocab_size": 101, "max_seq_len": 16}


def expert_options(kind: str, rng: random.Random, heads: int, layers: int) -> dict[str, Any]:
    """What the families with experts or latent attention take beside."""
    if kind.startswith("deepseek"):
        return {
            "mlp_bias": False,
            "num_key_value_heads": heads,
            "q_lora_rank": rng.choice([None, 10]),
            "kv_lora_rank": 14,
            "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 6,
            "v_head_dim": rng.choice([5, 8]),
            "first_k_dense_replace": rng.randint(0, layers),
            "n_routed_experts": 8,
            "n_shared_experts": rng.choice([1, 2]),
            "n_group": 1,
            "topk_group": 1,
        }
    if kind in ("mixtral", "gpt_oss"):
        bias = kind == "gpt_oss" and rng.random() < 0.5
        return {"num_local_experts": 5, "attention_bias": bias}
    if kind in ("phimoe", "olmoe", "minimax_m2"):
        return {"num_experts" if kind == "olmoe" else "num_local_experts": 5,
                "lm_head_bias": rng.random() < 0.5}  # fmt: skip
    if kind == "glm4_moe":
        return {"n_routed_experts": 8, "n_shared_experts": 1, "n_group": 1, "topk_group": 1,
                "first_k_dense_replace": rng.randint(0, layers), "use_qk_norm": rng.random() < 0.5,
                "head_dim": 8}  # fmt: skip
    if kind.endswith("_moe"):
        shared = {"shared_expert_intermediate_size": 21} if kind == "qwen2_moe" else {}
        return shared | {
            "num_experts": rng.choice([0, 5]),
            "decoder_sparse_step": rng.choice([1, 2]),
            "mlp_only_layers": rng.choice([[], [0], [1]]),
        }
    return {}


def of_bert(rng: random.Random, common: dict[str, Any]) -> dict[str, Any]:
    del common["num_key_value_heads"]
    common |= {"max_position_embeddings": 31, "tie_word_embeddings": True}
    return common | {"type_vocab_size": rng.choice([1, 2])}


def of_modernbert(rng: random.Random, common: dict[str, Any]) -> dict[str, Any]:
    del common["num_key_value_heads"]
    return common | {"local_attention": 8, "tie_word_embeddings": True}


def of_t5(rng: random.Random, common: dict[str, Any]) -> dict[str, Any]:
    """The other names of the same sizes, and a decoder of its own depth."""
    heads = common["num_attention_heads"]
    return {
        "model_type": common["model_type"],
        "vocab_size": common["vocab_size"],
        **{"d_model": common["hidden_size"], "d_kv": rng.choice([4, 6]), "num_heads": heads},
        **{"d_ff": common["intermediate_size"], "num_layers": rng.randint(1, 3)},
        "num_decoder_layers": rng.randint(1, 3),
        "feed_forward_proj": rng.choice(["relu", "gated-gelu"]),
    }


def of_mamba(rng: random.Random, common: dict[str, Any]) -> dict[str, Any]:
    width = common["hidden_size"]
    found = {name: common[name] for name in ("model_type", "vocab_size", "num_hidden_layers")}
    found |= {"hidden_size": width, "state_size": rng.choice([4, 16]), "expand": 2}
    if common["model_type"] == "mamba2":
        return found | {"head_dim": 4, "num_heads": width // 2, "n_groups": rng.choice([1, 2])}
    return found | {"time_step_rank": rng.choice([3, 5]), "conv_kernel": rng.choice([3, 4])}


def of_hybrid(rng: random.Random, common: dict[str, Any]) -> dict[str, Any]:
    """Layers with attention, with a scan, with both, or that only feed forward."""
    kind, layers, width = (common[k] for k in ("model_type", "num_hidden_layers", "hidden_size"))
    flag = lambda: rng.random() < 0.5  # noqa: E731
    common |= {"num_experts_per_tok": 2, "attention_bias": flag(), "mlp_bias": flag()}
    if kind == "qwen3_next":
        return common | {
            **{"head_dim": rng.choice([4, 8]), "linear_num_key_heads": 2, "linear_key_head_dim": 4},
            **{"linear_num_value_heads": 4, "linear_value_head_dim": rng.choice([4, 6])},
            **{"linear_conv_kernel_dim": rng.choice([3, 4]), "num_experts": rng.choice([0, 5])},
            **{"moe_intermediate_size": 9, "shared_expert_intermediate_size": 21},
            **{"decoder_sparse_step": rng.choice([1, 2]), "mlp_only_layers": rng.choice([[], [0]])},
            "full_attention_interval": rng.choice([2, 4]),
        }
    heads = rng.choice([2, 4])
    if kind == "nemotron_h":
        pattern = "".join(rng.choice("M*-E") for _ in range(layers))
        del common["num_hidden_layers"], common["mlp_bias"]
        return common | {
            **{"hybrid_override_pattern": pattern, "head_dim": 8, "tie_word_embeddings": False},
            **{"mamba_num_heads": heads, "mamba_head_dim": 6, "n_groups": 2, "ssm_state_size": 4},
            **{"use_bias": flag(), "use_conv_bias": flag(), "n_routed_experts": 5},
            **{"moe_intermediate_size": 9, "moe_shared_expert_intermediate_size": 11},
            "moe_latent_size": rng.choice([None, 7]),
        }
    scan: dict[str, Any] = {"mamba_d_state": 4, "mamba_d_conv": rng.choice([3, 4])}
    scan |= {"mamba_expand": 2, "mamba_conv_bias": flag(), "mamba_proj_bias": flag()}
    if kind == "jamba":
        return common | scan | {
            **{"num_experts": rng.choice([1, 5]), "mamba_dt_rank": rng.choice(["auto", 5])},
            **{"attn_layer_period": 3, "attn_layer_offset": 1, "expert_layer_period": 2},
            "expert_layer_offset": rng.choice([0, 1]),
        }  # fmt: skip
    scan |= {"mamba_n_heads": heads, "mamba_n_groups": rng.choice([1, 2])}
    if kind == "falcon_h1":
        inner = rng.choice([None, 8 * heads])
        scan |= {"mamba_d_ssm": inner, "mamba_d_head": (inner or 2 * width) // heads}
        return common | scan | {"mamba_rms_norm": flag(), "projectors_bias": flag()}
    types = [rng.choice(["mamba", "attention"]) for _ in range(layers)]
    return common | scan | {
        **{"layer_types": rng.choice([None, types]), "num_local_experts": rng.choice([0, 5])},
        "shared_intermediate_size": 13,
    }  # fmt: skip


def of_qwen_vl(rng: random.Random, common: dict[str, Any]) -> dict[str, Any]:
    """As its config.json has it: the text's sizes outside, or in their own part."""
    is_second, width = common["model_type"] == "qwen2_vl", common["hidden_size"]
    vision: dict[str, Any] = {"depth": rng.randint(1, 3), "num_heads": 2, "patch_size": 6}
    if is_second:
        vision |= {"embed_dim": 16, "hidden_size": width, "mlp_ratio": rng.choice([2, 4])}
    else:
        vision |= {"hidden_size": 16, "out_hidden_size": width, "intermediate_size": 20}
    text = {key: value for key, value in common.items() if key != "model_type"}
    text |= {
        "tie_word_embeddings": rng.random() < 0.5,
        "model_type": f"{common['model_type']}_text",
    }
    return {
        "model_type": common["model_type"],
        "text_config": text,
        "vision_config": vision,
        "tie_word_embeddings": text["tie_word_embeddings"],
    }


BESIDE = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta"), of_bert),
    "modernbert": of_modernbert,
    **dict.fromkeys(("t5", "mt5"), of_t5),
    **dict.fromkeys(("mamba", "falcon_mamba", "mamba2"), of_mamba),
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl"), of_qwen_vl),
    **dict.fromkeys(
        ("jamba", "qwen3_next", "falcon_h1", "granitemoehybrid", "nemotron_h"), of_hybrid
    ),
}


def random_config(kind: str, rng: random.Random) -> dict[str, Any]:
    """A tiny config of any family, its options drawn at random."""
    heads, head_dim = rng.choice([2, 4, 6]), rng.choice([4, 8])
    flag = lambda: rng.random() < 0.5  # noqa: E731
    layers, width = rng.randint(1, 5), heads * head_dim
    common: dict[str, Any] = {
        "model_type": kind,
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": heads,
        "num_key_value_heads": rng.choice([1, 2, heads]),
        "intermediate_size": rng.randint(5, 90),
        "vocab_size": rng.randint(11, 300),
        "max_position_embeddings": 64,
        "tie_word_embeddings": flag(),
        "pad_token_id": 0,
    }
    if kind == "gpt2":
        inner = {"n_inner": rng.choice([None, 37])}
        return {**GPT2, **inner, "n_layer": layers, "n_embd": width, "n_head": heads} | {
            "model_type": kind
        }
    if kind == "mpt":
        return {**MPT, "n_layers": layers, "d_model": width, "n_heads": heads, "model_type": kind}
    if kind == "bloom":
        keys = ("model_type", "hidden_size", "vocab_size", "pad_token_id")
        return {key: common[key] for key in keys} | {"n_layer": layers, "n_head": heads}
    if kind == "opt":
        bias = {"enable_bias": flag(), "word_embed_proj_dim": width}
        del common["num_key_value_heads"]
        return bias | {"ffn_dim": common.pop("intermediate_size")} | common
    if kind == "falcon":
        is_new, kv_heads = flag(), common.pop("num_key_value_heads")
        del common["intermediate_size"]
        return (
            common
            | {
                "num_kv_heads": kv_heads,
                "new_decoder_architecture": is_new,
                "parallel_attn": is_new or flag(),
                "multi_query": flag(),
                "bias": flag(),
                "num_ln_in_parallel_attn": rng.choice([None, 1, 2]) if is_new else None,
            }
            | ({"ffn_hidden_size": 70} if flag() else {})
        )
    if kind in BESIDE:
        return BESIDE[kind](rng, common)
    options = ("attention_bias", "mlp_bias", "qkv_bias", "use_qkv_bias", "use_parallel_residual")
    common |= {option: flag() for option in options}
    if kind == "gpt_neox":
        del common["num_key_value_heads"]
    if kind in ("gpt_neox", "phi", "phi3", "stablelm", "qwen2", "qwen2_moe", "olmo2", "olmo3"):
        common["partial_rotary_factor"] = 1.0
    elif flag() and kind != "olmoe" and not kind.startswith("deepseek"):
        common["head_dim"] = rng.choice([6, 12])
    experts = {"num_experts_per_tok": 2, "moe_intermediate_size": 9}
    return common | experts | expert_options(kind, rng, heads, layers)
