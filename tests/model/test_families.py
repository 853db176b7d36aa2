"""Every family against transformers' own models: logits, greedy tokens, folders both ways."""

from __future__ import annotations

import warnings
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from whorl.arch.computable import COMPUTED_FAMILIES, check_computable
from whorl.arch.hf_config import shape_from_config
from whorl.arch.known_models import known_model
from whorl.core.errors import RecordError, SpecError
from whorl.model.attend import segments_of
from whorl.model.cached import GrowingCache, next_logits
from whorl.model.families import FAMILIES, family_of
from whorl.model.hf import load_weights, save_model_folder
from whorl.model.transformer import Transformer
from whorl.testing.corpus import tiny_tokens

COMMON = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 61,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERTS = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
WINDOWED = {"use_sliding_window": True, "sliding_window": 7}

# (model_type, what differs from COMMON)
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama tied, MHA": ("llama", {"tie_word_embeddings": True, "num_key_value_heads": 4}),
    "llama biased": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama 3 rope": ("llama", {"rope_parameters": LLAMA3}),
    "llama linear rope": (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0}},
    ),
    "llama of another activation": ("llama", {"hidden_act": "gelu_pytorch_tanh"}),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral windowed": ("mistral", {"sliding_window": 5}),
    "qwen2": ("qwen2", {}),
    "qwen2 partly windowed": ("qwen2", WINDOWED | {"max_window_layers": 1}),
    "qwen3": ("qwen3", {"tie_word_embeddings": True}),
    "qwen3 yarn": ("qwen3", {"rope_parameters": YARN}),
    "qwen3 layer types": (
        "qwen3",
        WINDOWED | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    ),
    "qwen2_moe": (
        "qwen2_moe",
        EXPERTS | {"shared_expert_intermediate_size": 20, "norm_topk_prob": False},
    ),
    "qwen3_moe": ("qwen3_moe", EXPERTS | {"norm_topk_prob": True, "mlp_only_layers": [1]}),
    "mixtral": ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "gemma3_text": (
        "gemma3_text",
        {"sliding_window": 6, "query_pre_attn_scalar": 16, "num_hidden_layers": 7},
    ),
    "gemma3_text capped": (
        "gemma3_text",
        {"sliding_window": 6, "query_pre_attn_scalar": 16, "final_logit_softcapping": 3.0},
    ),
}


def theirs(case: str, folder: Path) -> torch.nn.Module:
    """A random model of transformers, saved to the folder."""
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, changes = CASES[case]
    torch.manual_seed(len(case))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = AutoConfig.for_model(kind, **(COMMON | changes))
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0.0, 0.15).add_(1.0 if parameter.ndim == 1 else 0.0)
        model.save_pretrained(folder)
    return model


@pytest.fixture(scope="module", params=CASES)
def pair(request, tmp_path_factory) -> tuple[torch.nn.Module, Transformer, Path]:
    folder = tmp_path_factory.mktemp("family")
    other = theirs(request.param, folder)
    return other, load_weights(folder)[0], folder


def random_ids(*sizes: int) -> torch.Tensor:
    return torch.randint(3, 61, sizes, generator=torch.Generator().manual_seed(1))


def test_logits_equal(pair) -> None:
    """Without gradients, and by the hand-written backward's forward."""
    other, model, _ = pair
    ids = random_ids(3, 40)
    with torch.no_grad():
        expected = other(input_ids=ids).logits
        plain = model.logits(model(ids))
    fused = model.logits(model(ids))
    assert (plain - expected).abs().max() < 1e-5 * max(1.0, expected.abs().max())
    assert (fused - expected).abs().max() < 1e-5 * max(1.0, expected.abs().max())


def test_gradients_equal(pair) -> None:
    other, model, _ = pair
    ids = random_ids(2, 30)
    model.zero_grad(), other.zero_grad()
    model.nats(ids[:, :-1], ids[:, 1:]).backward()
    logits = other(input_ids=ids).logits[:, :-1]
    torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum"
    ).backward()
    named = dict(other.named_parameters())
    for name, parameter in model.named_parameters():
        expected = named[name if name.startswith("lm_head") else f"model.{name}"].grad
        scale = max(1.0, float(expected.abs().max()))
        assert (parameter.grad - expected).abs().max() < 2e-5 * scale, name


def test_greedy_tokens_equal(pair) -> None:
    other, model, _ = pair
    prompt = random_ids(1, 9)
    with torch.no_grad():
        expected = other.generate(
            prompt, max_new_tokens=64, min_new_tokens=64, do_sample=False, num_beams=1
        )[0, 9:].tolist()
        cache, found, ids = GrowingCache(), [], prompt
        for _ in range(64):
            logits = next_logits(model, ids, cache)[0, -1]
            logits[2] = float("-inf")  # min_new_tokens forbids the end
            ids = logits.argmax()[None, None]
            found.append(int(ids))
    assert found == expected


def test_documents_of_a_row_are_as_if_alone(pair) -> None:
    _, model, _ = pair
    ids = random_ids(2, 33)
    starts = torch.zeros(2, 33, dtype=torch.bool)
    starts[1, [4, 5, 20]] = True
    together = model(ids, segments_of(starts))
    places = [0, 4, 5, 20, 33]
    for begin, end in pairwise(places):
        alone = model(ids[1:, begin:end])[0]
        assert (together[1, begin:end] - alone).abs().max() < 2e-5
    assert (together[0] - model(ids[:1])[0]).abs().max() < 2e-5


def test_folders_are_read_back_by_transformers(pair, tmp_path: Path) -> None:
    """Our config.json and weights: the same shape for us, the same weights for transformers."""
    import json

    from transformers import AutoModelForCausalLM

    other, model, _ = pair
    shape = model.shape
    config = family_of(shape).config(shape) | {"dtype": "float32"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    state = family_of(shape).to_disk(model.state_dict())
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert shape_from_config(tmp_path) == shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    weights = dict(again.named_parameters())
    for name, expected in other.named_parameters():
        assert torch.equal(weights[name], expected), name
    ids = random_ids(1, 30)
    with torch.no_grad():
        expected = other(input_ids=ids).logits
        found = again.eval()(input_ids=ids).logits
    assert (found - expected).abs().max() < 1e-5 * max(1.0, expected.abs().max())


def test_one_list_of_families() -> None:
    assert tuple(sorted(FAMILIES)) == COMPUTED_FAMILIES
    assert {kind for kind, _ in CASES.values()} == set(COMPUTED_FAMILIES)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("deepseek-v3", "latent attention"),
        ("gpt-oss-20b", "attention sinks"),
        ("gpt2", "learned positions"),
        ("gemma-2-9b", "model_type gemma2"),
    ],
)
def test_what_cannot_be_computed_says_why(name: str, reason: str) -> None:
    with pytest.raises(SpecError, match=reason):
        check_computable(known_model(name), "train")


def test_what_cannot_be_exported_says_why() -> None:
    with pytest.raises(SpecError, match="experts"):
        check_computable(known_model("mixtral-8x7b"), "export")
    check_computable(known_model("qwen3-0.6b"), "export")


def test_a_missing_expert_is_named(tmp_path: Path) -> None:
    theirs("mixtral", tmp_path)
    from safetensors.torch import load_file

    state = load_file(tmp_path / "model.safetensors")
    gone = next(name for name in state if ".experts.2." in name)
    save_file({k: v for k, v in state.items() if k != gone}, tmp_path / "model.safetensors")
    with pytest.raises(RecordError, match="experts of"):
        load_weights(tmp_path)


def test_a_shape_that_its_family_cannot_say_is_not_written(tmp_path: Path) -> None:
    """Qwen3-MoE has one window for all layers or none."""
    theirs("qwen3_moe", tmp_path / "theirs")
    shape = load_weights(tmp_path / "theirs")[1]
    mixed = replace(
        shape, vocab_size=512, attention=replace(shape.attention, window=7, windowed=(1,))
    )
    with pytest.raises(RecordError, match="cannot say this shape"):
        save_model_folder(tmp_path / "ours", {}, mixed, tiny_tokens(512), {})


def test_old_checkpoints_with_a_table_of_angles_are_read(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    theirs("llama", tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert load_weights(tmp_path)[1].family == "llama"
