"""FLOPs against torch's counter over transformers' modules, pairs and caches by brute force."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from whorl.arch.hf_config import shape_from_config
from whorl.arch.known_models import known_model, known_models
from whorl.arch.layers import layer_matrices, layers_with
from whorl.arch.shape import AttentionShape, Experts, Latent, ModelShape
from whorl.arch.shape_counts import (
    attention_pairs,
    count_shape,
    flops_per_token,
    kv_bytes_per_token,
    training_bytes,
)
from whorl.core.errors import SpecError

SIZES: dict[str, Any] = {
    "num_hidden_layers": 3,
    "hidden_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 60,
    "vocab_size": 101,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
LATENT = {
    "num_key_value_heads": 4,
    "q_lora_rank": 10,
    "kv_lora_rank": 14,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 6,
    "v_head_dim": 8,
    "first_k_dense_replace": 1,
    "n_routed_experts": 6,
    "n_shared_experts": 2,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 9,
    "n_group": 1,
    "topk_group": 1,
}
RUNNABLE = {
    "llama": {},
    "qwen3": {"head_dim": 16},
    "gemma2": {"head_dim": 8, "sliding_window": 1000},
    "mixtral": {"num_local_experts": 5, "num_experts_per_tok": 2},
    "qwen2_moe": {"num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 7}
    | {"shared_expert_intermediate_size": 21, "decoder_sparse_step": 2},
    "deepseek_v3": LATENT,
}


@pytest.mark.parametrize("kind", RUNNABLE)
def test_flops_are_those_torch_counts(kind: str) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.set_num_threads(1)
    sizes, seq_len = SIZES | RUNNABLE[kind], 10
    config = AutoConfig.for_model(kind, **sizes, attn_implementation="eager")
    config._experts_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config).train()
    with FlopCounterMode(display=False) as counter:
        logits = model(input_ids=torch.arange(2 * seq_len).view(2, seq_len), use_cache=False).logits
    shape = shape_from_config({"model_type": kind, **sizes})
    ours = flops_per_token(shape, seq_len, causal=False)
    assert logits.shape == (2, seq_len, 101)
    # rotary angles and, where experts are sorted by a product, small change: none of it ours
    rotary = counter.get_total_flops() / (2 * seq_len) - ours.forward
    assert 0 <= rotary <= 2 * 16, (counter.get_flop_counts()["Global"], ours)


SCAN: dict[str, Any] = {"mamba_d_state": 4, "mamba_expand": 2, "mamba_d_head": 24}
SCAN |= {"mamba_n_heads": 4, "mamba_n_groups": 2}
HYBRIDS: dict[str, dict[str, Any]] = {
    "jamba": {"num_experts": 5, "attn_layer_period": 3, "attn_layer_offset": 1, "mamba_d_state": 4},
    "qwen3_next": {"head_dim": 8, "linear_num_key_heads": 2, "linear_key_head_dim": 4}
    | {"linear_num_value_heads": 4, "linear_value_head_dim": 6, "num_experts": 6}
    | {"num_experts_per_tok": 2, "moe_intermediate_size": 9, "full_attention_interval": 2}
    | {"shared_expert_intermediate_size": 21},
    "falcon_h1": {**SCAN, "mamba_d_ssm": 96},
    "granitemoehybrid": {**SCAN, "layer_types": ["mamba", "attention", "mamba"]}
    | {"num_local_experts": 5, "shared_intermediate_size": 13},
    "nemotron_h": {"layers_block_type": ["mamba", "moe", "attention", "mlp"], "head_dim": 8}
    | {"mamba_num_heads": 4, "mamba_head_dim": 6, "n_groups": 2, "ssm_state_size": 4}
    | {"moe_intermediate_size": 9, "moe_shared_expert_intermediate_size": 11}
    | {"n_routed_experts": 6, "num_experts_per_tok": 2, "moe_latent_size": 7},
}


@pytest.mark.parametrize("kind", HYBRIDS)
def test_products_and_states_of_hybrids_are_those_of_transformers(kind: str) -> None:
    """FLOPs of all plain products as torch counts them, bytes of what a cache holds at its end."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.set_num_threads(1)
    sizes, seq_len = SIZES | HYBRIDS[kind], 12
    config = AutoConfig.for_model(kind, **sizes, attn_implementation="eager")
    config._experts_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        cache = model(input_ids=torch.arange(seq_len)[None], use_cache=True).past_key_values
    counts = counter.get_flop_counts()["Global"]
    products = sum(n for op, n in counts.items() if str(op) in ("aten.mm", "aten.addmm"))
    shape = shape_from_config({"model_type": kind, **sizes})
    ours = flops_per_token(shape, seq_len)
    assert products == seq_len * (ours.blocks + ours.router + ours.head)
    held = 0
    for layer in cache.layers:
        for name in ("conv_states", "recurrent_states"):
            states = getattr(layer, name, None) or {}
            held += sum(state.numel() for state in states.values() if state is not None)
        for name in ("keys", "values"):
            held += value.numel() if (value := getattr(layer, name, None)) is not None else 0
    assert kv_bytes_per_token(shape, 2, seq_len) * seq_len == pytest.approx(2 * held)
    per_head = shape.attention.head_dim * shape.attention.heads
    seeing = layers_with(shape, "attention")
    scans = layers_with(shape, "scan")
    pairs = ours.attention - scans * scan_of(shape)
    assert pairs == pytest.approx(seeing * 4 * per_head * (seq_len + 1) / 2)


class Counted:
    """A number that counts what is done with it and its like."""

    done = 0

    def _one(self, other: object) -> Counted:
        Counted.done += 1
        return self

    __add__ = __radd__ = __sub__ = __mul__ = __rmul__ = _one


def mamba_token(inner: int, state: int) -> None:
    """arXiv 2312.00752, algorithm 2 and equation 2a; exponentials are not counted."""
    one = Counted()
    for _ in range(inner):
        step = one * one  # of the channel: its step times its input
        read: Any = one
        for _ in range(state):
            decay = one * one  # exp(step A)
            kept = decay * one + one * step  # of the state, and B times the input
            read = read + one * kept  # C


def delta_token(inner: int, state: int) -> None:
    """arXiv 2412.06464, equation 10: decayed, its error found, added to, read."""
    one = Counted()
    for _ in range(inner):
        known: Any = one
        for _ in range(state):
            known = known + one * (one * one)  # the key reads what decayed
        error = (one - known) * one
        read: Any = one
        for _ in range(state):
            read = read + one * (one + one * error)


def operations(token: Any, inner: int, state: int) -> int:
    before = Counted.done
    token(inner, state)
    return Counted.done - before


def scan_of(shape: ModelShape) -> float:
    """Operations of one token on each element of the state: what grows with both its sizes."""
    token = delta_token if shape.family == "qwen3_next" else mamba_token
    a, b, c, d = (operations(token, *sizes) for sizes in ((3, 3), (3, 4), (4, 3), (4, 4)))
    mixer = shape.attention.mixer
    assert mixer is not None
    return float(d - c - b + a) * mixer.inner * mixer.state


@pytest.mark.parametrize("window", [None, 1, 3, 7, 8, 50])
@pytest.mark.parametrize("seq_len", [1, 2, 7, 8, 20])
def test_pairs_by_counting_them(seq_len: int, window: int | None) -> None:
    reach = seq_len if window is None else window
    pairs = sum(1 for q in range(seq_len) for k in range(seq_len) if k <= q and k > q - reach)
    assert attention_pairs(seq_len, window) == pairs
    shape = replace(
        known_model("gpt-oss-20b"),
        attention=AttentionShape(
            4, 2, 8, value_dim=5, window=window, windowed=tuple(range(7)) if window else ()
        ),
    )
    windowed = 7 if window else 0
    total = windowed * pairs + (24 - windowed) * attention_pairs(seq_len)
    found = flops_per_token(shape, seq_len).attention
    assert found * seq_len == pytest.approx(4 * (2 * 8 + 2 * 5) * total)


def test_backward_is_twice_forward_and_causal_halves_attention() -> None:
    flops = flops_per_token(known_model("llama-3-8b"), 8192)
    assert flops.training == 3 * flops.forward == flops.forward + flops.backward
    square = flops_per_token(known_model("llama-3-8b"), 8192, causal=False)
    assert flops.attention / square.attention == pytest.approx(0.5, rel=2e-4)
    assert square.blocks == flops.blocks and square.head == flops.head
    # PaLM (arXiv 2204.02311), appendix B: 6N + 12LHQT, N without the input embedding
    counts = count_shape(known_model("llama-3-8b"))
    palm = 6 * (counts.total - counts.embedding) + 12 * 32 * 32 * 128 * 8192
    assert square.training == pytest.approx(palm, rel=1e-4)


def test_prediction_layers_cost_a_layer_the_join_and_the_head() -> None:
    shape = known_model("deepseek-v3")
    one = replace(shape, layers=1, experts=replace(shape.experts, dense=()))
    extra = flops_per_token(replace(shape, predicted_tokens=1), 512).forward
    join = 2 * 2 * 7168 * 7168
    expected = flops_per_token(shape, 512).forward + flops_per_token(one, 512).forward + join
    assert extra == pytest.approx(expected, rel=1e-12)


def test_prediction_layers_hold_a_layer_the_join_and_three_norms() -> None:
    # the tensors of model.layers.61 of DeepSeek-V3: one decoder layer, enorm, hnorm,
    # shared_head.norm and eh_proj [7168, 14336]
    shape = known_model("deepseek-v3")
    fewer = replace(shape, layers=60)
    layer = count_shape(shape).total - count_shape(fewer).total
    other = count_shape(replace(shape, predicted_tokens=2)).other
    assert other == 2 * (layer + 3 * 7168 + 7168 * 14336)


@pytest.mark.parametrize("name", ["llama-3-8b", "gemma-3-1b", "gpt-oss-20b", "deepseek-v2-lite"])
@pytest.mark.parametrize("seq_len", [1, 100, 513, 5000])
def test_cache_by_keeping_every_tensor(name: str, seq_len: int) -> None:
    shape = known_model(name)
    a, kept = shape.attention, 0
    for layer in range(shape.layers):
        tokens = min(seq_len, a.window) if layer < a.window_layers else seq_len
        per_token = a.kv_heads * a.head_dim * 2 if a.latent is None else 512 + 64
        kept += tokens * per_token * 2
    assert kv_bytes_per_token(shape, 2, seq_len) * seq_len == pytest.approx(kept)


def test_training_bytes_of_published_recipes() -> None:
    # ZeRO (arXiv 1910.02054), section 3.1: 16 bytes per parameter, 12 of them the optimiser's
    shape = known_model("gpt2-xl")
    mixed = training_bytes(shape, "adamw", weight_bytes=2, gradient_bytes=2, moment_bytes=4)
    master = 4 * count_shape(shape).total
    assert mixed.total + master == 16 * 1_557_611_200
    muon = training_bytes(shape, "muon")
    assert muon.weights == muon.gradients == 4 * 1_557_611_200
    saved = training_bytes(shape).optimizer_state - muon.optimizer_state
    assert saved == 4 * 48 * 12 * 1600 * 1600  # one moment of each block matrix
    assert training_bytes(shape, "sgd").optimizer_state == 0


@pytest.mark.parametrize("model", known_models().values(), ids=lambda model: model.name)
def test_parts_add_up_to_the_total(model) -> None:
    counts = count_shape(model.shape)
    apart = {"active_experts", "matmul_active", "hidden_matrices"}
    parts = [getattr(counts, f.name) for f in fields(counts) if f.name not in apart]
    assert sum(parts) == counts.total and min(parts) >= 0
    assert counts.active <= counts.total
    # a token meets every matrix but idle experts: the rest are vectors and tables
    head = model.shape.vocab_size * model.shape.width
    assert counts.matmul_active - head <= counts.hidden_matrices <= counts.non_embedding


def test_matrices_of_a_layer() -> None:
    shape = known_model("deepseek-v3")
    names = [m.name for m in layer_matrices(shape, "expert")]
    assert names[:5] == ["q_a_proj", "q_b_proj", "kv_a_proj", "kv_b_proj", "o_proj"]
    routed = [m for m in layer_matrices(shape, "expert") if m.kind == "expert"]
    assert {(m.count, m.active) for m in routed} == {(256, 8)}
    dense = [m for m in layer_matrices(shape, "dense") if m.kind == "ffn"]
    assert [(m.rows, m.columns) for m in dense] == [(18432, 7168), (18432, 7168), (7168, 18432)]


def test_nonsense_is_refused() -> None:
    with pytest.raises(SpecError, match="no experts"):
        layer_matrices(known_model("llama-3-8b"), "expert")
    for seq_len in (0, -1):
        with pytest.raises(SpecError, match="sequence length"):
            flops_per_token(known_model("llama-3-8b"), seq_len)


def test_a_shape_with_every_option_by_hand() -> None:
    shape = ModelShape(
        name="odd",
        layers=2,
        width=10,
        ffn_width=7,
        vocab_size=13,
        attention=AttentionShape(2, 2, 6, 3, Latent(None, 4, 2), qkv_bias=True, sinks=True),
        experts=Experts(3, 2, 5, 2, 4, True, (0,), router_bias=True, score_correction=True),
        gated=False,
        norm="layer",
        norms_per_layer=1,
        embedding_norm=True,
        head_bias=True,
        learned_positions=9,
    )
    counts = count_shape(shape)
    attention = 12 * 10 + (6 * 10 + 6) + 2 * (4 + 3) * 4 + 10 * 6 + 2
    assert counts.attention == 2 * attention
    assert counts.feed_forward == 2 * 7 * 10
    assert (counts.experts, counts.active_experts) == (3 * 2 * 50, 2 * 2 * 50)
    assert (counts.shared_experts, counts.routers) == (2 * 80 + 10, 3 * 10 + 3 + 3)
    assert counts.norms == 2 * (20 + 4) + 20 + 20
    assert (counts.head, counts.embedding, counts.positions) == (13 * 10 + 13, 130, 90)
