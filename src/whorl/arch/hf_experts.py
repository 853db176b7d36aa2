"""How each family of Hugging Face spells its mixture of experts."""

from __future__ import annotations

from dataclasses import replace

from whorl.arch.config_reader import ConfigReader
from whorl.arch.shape import Experts

__all__ = [
    "deepseek_experts",
    "gpt_oss_experts",
    "minimax_experts",
    "mixtral_experts",
    "olmoe_experts",
    "qwen_experts",
]


def mixtral_experts(c: ConfigReader, layers: int) -> Experts:
    return Experts(
        count=c.whole("num_local_experts", "num_experts"),
        active=c.whole("num_experts_per_tok", "experts_per_token"),
        width=c.whole("intermediate_size"),
    )


def gpt_oss_experts(c: ConfigReader, layers: int) -> Experts:
    experts = mixtral_experts(c, layers)
    return Experts(experts.count, experts.active, experts.width, router_bias=True)


def qwen_experts(c: ConfigReader, layers: int) -> Experts | None:
    count = c.whole("num_experts", "num_local_experts", least=0)
    step = c.whole("decoder_sparse_step", default=1)
    dense = c.whole_numbers("mlp_only_layers")
    sparse = [n for n in range(layers) if n not in dense and (n + 1) % step == 0]
    if not count or not sparse:
        return None
    shared_width = c.optional("shared_expert_intermediate_size")
    return Experts(
        count=count,
        active=c.whole("num_experts_per_tok"),
        width=c.whole("moe_intermediate_size"),
        shared=0 if shared_width is None else 1,
        shared_width=shared_width,
        shared_gate=shared_width is not None,
        dense=tuple(n for n in range(layers) if n not in sparse),
        normalise=c.flag("norm_topk_prob", False),
    )


def deepseek_experts(c: ConfigReader, layers: int) -> Experts | None:
    count = c.optional("n_routed_experts", "num_local_experts")
    dense = c.whole("first_k_dense_replace", default=0, least=0)
    if count is None or dense >= layers:
        return None
    return Experts(
        count=count,
        active=c.whole("num_experts_per_tok"),
        width=c.whole("moe_intermediate_size"),
        shared=c.whole("n_shared_experts", default=0, least=0),
        dense=tuple(range(dense)),
        score_correction=c.values.get("topk_method", "noaux_tc") == "noaux_tc"
        and c.values.get("model_type") != "deepseek_v2",
    )


def olmoe_experts(c: ConfigReader, layers: int) -> Experts:
    experts = mixtral_experts(c, layers)
    return replace(experts, normalise=c.flag("norm_topk_prob", False))


def minimax_experts(c: ConfigReader, layers: int) -> Experts:
    return replace(mixtral_experts(c, layers), score_correction=True)
