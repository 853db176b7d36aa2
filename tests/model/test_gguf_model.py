"""Models in GGUF files against the transformers models they were written from."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.model.gguf_files import ARCHITECTURES, gguf_facts, gguf_tensors, write_gguf
from tests.model.test_families import COMMON, LLAMA3, random_ids
from whorl.core.errors import DataError, RecordError, SpecError
from whorl.model.gguf_file import KINDS, open_gguf
from whorl.model.gguf_model import gguf_shape, gguf_weights
from whorl.model.hf import check_tensors, model_of

YARN = {
    "rope_type": "yarn",
    "rope_theta": 1000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
# name -> (architecture, what differs from COMMON, further facts)
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "llama": ("llama", {}, {}),
    "llama tied, MHA": ("llama", {"tie_word_embeddings": True, "num_key_value_heads": 4}, {}),
    "llama biased": ("llama", {"attention_bias": True, "mlp_bias": True}, {}),
    "llama linear": (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0}},
        {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0},
    ),
    "llama 3": ("llama", {"rope_parameters": LLAMA3}, {}),
    "qwen2": ("qwen2", {}, {}),
    "qwen2 tied": ("qwen2", {"tie_word_embeddings": True}, {}),
    "qwen3": ("qwen3", {"head_dim": 16}, {}),
    "qwen3 yarn": (
        "qwen3",
        {"rope_parameters": YARN},
        {
            "qwen3.rope.scaling.type": "yarn",
            "qwen3.rope.scaling.factor": 4.0,
            "qwen3.rope.scaling.original_context_length": 64,
        },
    ),
}


def theirs(case: str, **changes: Any) -> Any:
    """A random model of transformers."""
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, differing, _ = CASES[case]
    torch.manual_seed(len(case))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = AutoConfig.for_model(kind, **(COMMON | differing | changes))
        if not hasattr(config, "head_dim"):
            config.head_dim = config.hidden_size // config.num_attention_heads
        model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.15).add_(1.0 if parameter.ndim == 1 else 0.0)
    return model


def written(model: Any, path: Path, more: dict[str, Any], kind: str = "F32") -> Path:
    tensors = gguf_tensors(model)
    if model.config.rope_parameters["rope_type"] == "llama3":
        tensors["rope_freqs.weight"] = llama3_factors(model.config)
    return write_gguf(path, gguf_facts(model.config) | more, tensors, kind)


def llama3_factors(config: Any) -> np.ndarray:
    """How much slower each pair turns, by transformers' own angles."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    stretched, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    pairs = torch.arange(0, config.head_dim, 2).float() / config.head_dim
    plain = 1.0 / config.rope_parameters["rope_theta"] ** pairs
    return (plain / stretched).numpy()


def read(path: Path) -> Any:
    file = open_gguf(path)
    shape = gguf_shape(file)
    return model_of(gguf_weights(file, shape), shape, path)


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_the_model_written(case: str, tmp_path: Path) -> None:
    model = theirs(case)
    found = read(written(model, tmp_path / "x.gguf", CASES[case][2]))
    ids = random_ids(2, 40)
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        logits = found.logits(found(ids))
    assert (logits - expected).abs().max() < 1e-5 * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("kind", ["F16", "BF16"])
def test_files_of_half_numbers_stay_so(kind: str, tmp_path: Path) -> None:
    """Every number as transformers rounds it; norms that do not fit keep everything in float32."""
    model = theirs("llama")
    dtype = {"F16": torch.float16, "BF16": torch.bfloat16}[kind]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(dtype).float())
    found = read(written(model, tmp_path / "a.gguf", {}, kind))
    assert {parameter.dtype for parameter in found.parameters()} == {dtype}
    named = dict(model.named_parameters())
    for name, parameter in found.named_parameters():
        assert torch.equal(
            parameter.float(), named[name if name.startswith("lm_") else f"model.{name}"]
        )
    with torch.no_grad():
        model.model.norm.weight[0] = 1.0 + 2**-20
    found = read(written(model, tmp_path / "b.gguf", {}, kind))
    assert {parameter.dtype for parameter in found.parameters()} == {torch.float32}
    assert float(found.norm.weight.detach()[0]) == 1.0 + 2**-20


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1"])
def test_blocks_become_float32(kind: str, tmp_path: Path) -> None:
    """Within half a step of a block's scale, and the same in rows that llama.cpp reordered."""
    model = theirs("llama", hidden_size=64, intermediate_size=64, head_dim=32)
    found = read(written(model, tmp_path / "x.gguf", {}, kind))
    steps = {"Q8_0": 127, "Q4_0": 8, "Q4_1": 7.5}[kind]
    named = dict(model.named_parameters())
    for name, parameter in found.named_parameters():
        expected = named[name if name.startswith("lm_") else f"model.{name}"].detach()
        assert parameter.dtype == torch.float32
        if parameter.ndim > 1:
            blocks = expected.reshape(-1, 32)
            step = (blocks.abs().amax(-1, keepdim=True) / steps).expand_as(blocks)
            error = (parameter.reshape(-1, 32) - blocks).abs()
            assert (error <= 1.01 * step).all(), name


REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "another architecture": ({"general.architecture": "phi3"}, SpecError, "phi3"),
    "experts": ({"llama.expert_count": 8}, SpecError, "experts"),
    "a window": ({"llama.attention.sliding_window": 7}, SpecError, "sliding window"),
    "scaled logits": ({"llama.logit_scale": 2.0}, SpecError, "scaled logits"),
    "odd values": ({"llama.attention.value_length": 4}, SpecError, "narrower"),
    "partly rotated": ({"llama.rope.dimension_count": 4}, SpecError, "partly rotated"),
    "long rope": ({"llama.rope.scaling.type": "longrope"}, SpecError, "longrope"),
    "heads by layer": ({"llama.attention.head_count": [4, 4, 2]}, SpecError, "num_attention_heads"),
    "endless layers": ({"llama.block_count": 2**31}, SpecError, "num_hidden_layers"),
    "no layers": ({"llama.block_count": 0}, SpecError, "num_hidden_layers"),
    "a text for a size": ({"llama.embedding_length": "32"}, SpecError, "hidden_size"),
    "no epsilon": ({"llama.attention.layer_norm_rms_epsilon": None}, DataError, "epsilon"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_variants_are_refused_with_their_reason(name: str, tmp_path: Path) -> None:
    changes, error, message = REFUSED[name]
    model = theirs("llama")
    facts = gguf_facts(model.config) | changes
    facts = {key: value for key, value in facts.items() if value is not None}
    path = write_gguf(tmp_path / "x.gguf", facts, gguf_tensors(model))
    with pytest.raises(error, match=message):
        gguf_shape(open_gguf(path))


def test_factors_of_no_known_kind_are_refused(tmp_path: Path) -> None:
    model = theirs("llama")
    tensors = gguf_tensors(model) | {"rope_freqs.weight": np.float32([1, 2, 3, 4])}
    path = write_gguf(tmp_path / "x.gguf", gguf_facts(model.config), tensors)
    with pytest.raises(SpecError, match="rope_freqs"):
        gguf_shape(open_gguf(path))


@pytest.mark.parametrize("change", ["missing", "unknown", "another size"])
def test_tensors_that_do_not_fit_are_named(change: str, tmp_path: Path) -> None:
    model = theirs("qwen2")
    tensors = gguf_tensors(model)
    name = "blk.1.ffn_up.weight"
    if change == "missing":
        del tensors[name]
    elif change == "unknown":
        tensors["blk.1.ffn_gate_inp.weight"] = np.ones((4, 4), np.float32)
        name = "ffn_gate_inp"
    else:
        tensors[name] = tensors[name][:-1]
    path = write_gguf(tmp_path / "x.gguf", gguf_facts(model.config), tensors)
    with pytest.raises(Exception, match=name if change == "unknown" else "mlp.up_proj"):
        read(path)


def test_the_lists_are_those_of_the_docs() -> None:
    assert {kind for kind, _, _ in CASES.values()} == set(ARCHITECTURES)
    page = (Path(__file__).parents[2] / "docs/import.md").read_text("utf-8")
    for name in (*ARCHITECTURES, *(label for label, _, _ in KINDS.values())):
        assert name in page, name


def test_numbers_that_are_none_are_named_by_their_tensor(tmp_path: Path) -> None:
    model = theirs("qwen2")
    tensors = gguf_tensors(model)
    tensors["blk.2.attn_k.bias"][3] = np.nan
    path = write_gguf(tmp_path / "x.gguf", gguf_facts(model.config), tensors)
    with pytest.raises(RecordError, match=r"x\.gguf: layers\.2\.self_attn\.k_proj\.bias"):
        check_tensors(read(path).state_dict(), path)
