"""The transformer against transformers' Qwen3 and Llama, and segments against rows alone."""

from __future__ import annotations

import pytest
import torch

from whorl.arch.architecture import Architecture
from whorl.model.fused import attention_heads, gated_silu, normed_linear, unit_rms
from whorl.model.transformer import Segments, Transformer, segments_of


def small(family: str = "qwen3", **changes: object) -> Architecture:
    sizes: dict[str, object] = {
        "family": family,
        "layers": 2,
        "width": 24,
        "heads": 4,
        "kv_heads": 2,
        "head_dim": 8,
        "ffn_width": 40,
        "vocab_size": 61,
        "max_seq_len": 64,
    }
    return Architecture.model_validate(sizes | changes)


def random_model(architecture: Architecture, seed: int = 0) -> Transformer:
    torch.manual_seed(seed)
    model = Transformer(architecture)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.2).add_(1.0 if parameter.ndim == 1 else 0.0)
    return model


def reference(model: Transformer) -> torch.nn.Module:
    import transformers

    a = model.architecture
    sizes = {
        "hidden_size": a.width,
        "intermediate_size": a.ffn_width,
        "num_hidden_layers": a.layers,
        "num_attention_heads": a.heads,
        "num_key_value_heads": a.kv_heads,
        "head_dim": a.head_dim,
        "vocab_size": a.vocab_size,
        "max_position_embeddings": a.max_seq_len,
        "rms_norm_eps": a.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": a.rope_theta},
        "tie_word_embeddings": a.tied_embeddings,
    }
    if a.family == "qwen3":
        theirs = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**sizes))
    else:
        theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes))
    state = {
        name if name.startswith("lm_head") else f"model.{name}": tensor
        for name, tensor in model.state_dict().items()
    }
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert not unexpected
    assert missing == (["lm_head.weight"] if a.tied_embeddings else [])
    theirs.tie_weights()
    return theirs.eval()


@pytest.mark.parametrize("family", ["qwen3", "llama"])
@pytest.mark.parametrize("tied", [True, False])
def test_logits_equal_transformers(family: str, tied: bool) -> None:
    model = random_model(small(family, tied_embeddings=tied, rope_theta=1000.0))
    theirs = reference(model)
    ids = torch.randint(0, 61, (3, 50), generator=torch.Generator().manual_seed(1))
    ours = model.logits(model(ids))  # with gradients: the hand-written backward's forward
    with torch.no_grad():
        expected = theirs(input_ids=ids).logits
        plain = model.logits(model(ids))
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(plain, expected, rtol=1e-4, atol=1e-4)


def test_gradients_equal_transformers() -> None:
    model = random_model(small())
    theirs = reference(model)
    ids = torch.randint(0, 61, (2, 30), generator=torch.Generator().manual_seed(2))
    for logits in (model.logits(model(ids)), theirs(input_ids=ids).logits):
        torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()
        ).backward()
    expected = dict(theirs.named_parameters())
    for name, parameter in model.named_parameters():
        other = expected[name if name.startswith("lm_head") else f"model.{name}"]
        torch.testing.assert_close(parameter.grad, other.grad, rtol=2e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_segments_are_as_if_alone(family: str) -> None:
    model = random_model(small(family)).double()
    lengths = [[40], [7, 1, 32], [20, 20]]  # a plainly causal row first, then masked ones
    ids = torch.randint(0, 61, (3, 40), generator=torch.Generator().manual_seed(3))
    starts = torch.zeros(3, 40, dtype=torch.bool)
    for row, parts in enumerate(lengths):
        for part in range(len(parts)):
            starts[row, sum(parts[:part])] = True
    segments = segments_of(starts, torch.float64)
    assert segments.causal_rows == 1
    together = model(ids, segments)
    for row, parts in enumerate(lengths):
        begin = 0
        for length in parts:
            alone = model(ids[row : row + 1, begin : begin + length])[0]
            assert (together[row, begin : begin + length] - alone).abs().max() < 1e-12
            begin += length


def test_one_segment_needs_no_mask() -> None:
    starts = torch.zeros(2, 9, dtype=torch.bool)
    assert segments_of(starts) == Segments()


def test_fused_gradients_are_right() -> None:
    generator = torch.Generator().manual_seed(4)

    def random(*shape: int) -> torch.Tensor:
        values = torch.randn(shape, generator=generator, dtype=torch.float64)
        return values.requires_grad_()

    check = torch.autograd.gradcheck
    assert check(lambda x: unit_rms(x, 1e-3), (random(3, 5, 8),))
    assert check(gated_silu, (random(3, 5, 8),))
    assert check(
        lambda x, norm, first, second: normed_linear(x, norm, (first, second), 1e-3),
        (random(2, 3, 4), random(4), random(5, 4), random(2, 4)),
    )
    angles = torch.randn(5, 1, 2, generator=generator, dtype=torch.float64)
    turns = angles.cos(), angles.sin()
    joined, norm = random(2, 5, (3 + 2 * 1) * 4), random(4, 4)
    assert check(lambda x, norm: attention_heads(x, (3, 1), norm, *turns, 1e-3), (joined, norm))
    assert check(lambda x: attention_heads(x, (3, 1), None, *turns, 1e-3), (joined,))


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_the_fused_forward_is_the_plain_one(family: str) -> None:
    model = random_model(small(family)).double()
    ids = torch.randint(0, 61, (2, 30), generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        plain = model(ids)
    assert (model(ids) - plain).abs().max() < 1e-12
    model.join_products(False)
    assert (model(ids) - plain).abs().max() < 1e-12


def test_bf16_autocast_is_near() -> None:
    model = random_model(small())
    ids = torch.randint(0, 61, (2, 30), generator=torch.Generator().manual_seed(5))
    starts = torch.zeros(2, 30, dtype=torch.bool)
    starts[1, 11] = True
    exact = model(ids, segments_of(starts))
    with torch.autocast("cpu", torch.bfloat16):
        near = model(ids, segments_of(starts))
        near.float().square().mean().backward()
    assert (near - exact).abs().max() < 0.1 * exact.abs().max()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
