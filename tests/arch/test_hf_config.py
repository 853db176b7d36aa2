"""Configs against transformers' own modules on the meta device, and configs that are none."""

from __future__ import annotations

import json
import random
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.arch.configs import MPT, random_config
from whorl.arch.hf_config import model_shape, model_types, shape_from_config
from whorl.arch.known_models import known_model, known_models
from whorl.arch.shape_counts import count_shape
from whorl.core.errors import SpecError

HUB_ONLY = {"kimi_k2": "deepseek_v3", "internlm": None, "internlm2": None}  # not in transformers
BUILDERS = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "modernbert"), "AutoModelForMaskedLM"),
    **dict.fromkeys(("t5", "mt5"), "AutoModelForSeq2SeqLM"),
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "mllama"), "AutoModelForImageTextToText"),
}
OF_VISION = {"qwen2_vl_text", "qwen2_5_vl_text", "mllama_text_model"}  # parts, read with the whole
SIZES = {"num_hidden_layers": 3, "hidden_size": 48, "vocab_size": 101, "num_attention_heads": 4}


def parameters_of_transformers(config: dict[str, Any]) -> int:
    """Parameters of the module that transformers builds, and DeepSeek-V3's correction buffer."""
    import transformers
    from transformers import AutoConfig

    kind = config["model_type"]
    sizes = {key: value for key, value in config.items() if key != "model_type"}
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        builder = getattr(transformers, BUILDERS.get(kind, "AutoModelForCausalLM"))
        model = builder.from_config(AutoConfig.for_model(kind, **sizes))
    buffers = dict(model.named_buffers()).items()
    corrections = sum(b.numel() for name, b in buffers if "score_correction" in name)
    return model.num_parameters() + corrections


@pytest.mark.parametrize("kind", [t for t in model_types() if t not in {*HUB_ONLY, *OF_VISION}])
def test_random_configs_count_as_transformers_builds_them(kind: str) -> None:
    rng = random.Random(f"hf {kind}")
    for _ in range(10):
        config = random_config(kind, rng)
        found = count_shape(shape_from_config(config)).total
        assert found == parameters_of_transformers(config), config


@pytest.mark.parametrize("layers", [2, 4])
def test_vision_of_llama_counts_as_transformers_builds_it(layers: int) -> None:
    vision = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "image_size": 28,
        "num_hidden_layers": layers,
    }
    vision |= {"num_global_layers": 2, "max_num_tiles": 4, "vision_output_dim": 48}
    vision |= {"attention_heads": 2, "intermediate_layers_indices": [0, 1], "patch_size": 14}
    text = {"model_type": "mllama_text_model", "hidden_size": 32, "num_attention_heads": 4}
    text |= {"num_key_value_heads": 2, "intermediate_size": 40, "num_hidden_layers": 5}
    text |= {"vocab_size": 101, "cross_attention_layers": [1, 3], "tie_word_embeddings": False}
    text |= {"pad_token_id": 0}
    config = {"model_type": "mllama", "vision_config": vision, "text_config": text}
    found = count_shape(shape_from_config(config)).total
    assert found == parameters_of_transformers(config)


@pytest.mark.slow
@pytest.mark.parametrize("model", known_models().values(), ids=lambda model: model.name)
def test_known_models_count_as_transformers_builds_them(model) -> None:
    kind = HUB_ONLY.get(model.config["model_type"], model.config["model_type"])
    if kind is None:
        pytest.skip("its code is in the model's repository only")
    config = model.config | {"model_type": kind}
    if kind == "t5" and not config["tie_word_embeddings"]:
        pytest.skip("transformers 5 ties T5's tables whatever its config says")
    if vision := config.get("vision_config"):  # as the whole model's config.json has it
        text = {key: value for key, value in config.items() if key != "vision_config"}
        whole = {"mllama_text_model": "mllama", "qwen2_5_vl": "qwen2_5_vl"}[kind]
        text["model_type"] = "mllama_text_model" if whole == "mllama" else f"{kind}_text"
        ties = {"tie_word_embeddings": text["tie_word_embeddings"]}
        padded = {"pad_token_id": 0} if whole == "mllama" else {}
        config = {"model_type": whole, "text_config": text | padded, "vision_config": vision} | ties
    assert count_shape(model.shape).total == parameters_of_transformers(config)


@pytest.mark.parametrize(
    ("changes", "window", "layers"),
    [
        ({"model_type": "mistral", "sliding_window": 7}, 7, 3),
        ({"model_type": "mistral", "sliding_window": None}, None, 0),
        ({"model_type": "mistral"}, 4096, 3),
        ({"model_type": "qwen2", "sliding_window": 7, "use_sliding_window": False}, None, 0),
        (
            {"model_type": "qwen3", "sliding_window": 7, "use_sliding_window": True}
            | {"max_window_layers": 1},
            7,
            2,
        ),
        (
            {"model_type": "qwen2_moe", "sliding_window": 7, "use_sliding_window": True}
            | {"max_window_layers": 3, "num_hidden_layers": 5, "num_experts": 0},
            7,
            2,
        ),
        ({"model_type": "gemma2", "num_hidden_layers": 5, "sliding_window": 9}, 9, 3),
        ({"model_type": "gemma3_text", "num_hidden_layers": 13, "sliding_window": 9}, 9, 11),
        ({"model_type": "olmo3", "num_hidden_layers": 9}, 4096, 7),
        (
            {"model_type": "qwen3", "sliding_window": 7}
            | {"layer_types": ["full_attention", "sliding_attention", "full_attention"]},
            7,
            1,
        ),
    ],
)
def test_window_layers_are_those_of_transformers(
    changes: dict[str, Any], window: int | None, layers: int
) -> None:
    from transformers import AutoConfig

    config = SIZES | {"intermediate_size": 60, "num_key_value_heads": 2} | changes
    attention = shape_from_config(config).attention
    assert (attention.window, attention.window_layers) == (window, layers)
    sizes = {key: value for key, value in config.items() if key != "model_type"}
    theirs = AutoConfig.for_model(config["model_type"], **sizes)
    types = getattr(theirs, "layer_types", None)
    if types is not None:
        assert types.count("sliding_attention") == layers


def test_a_text_part_is_read_and_its_defaults_filled_in() -> None:
    # the config.json of google/gemma-3-4b-pt leaves heads and vocabulary to the defaults
    text = {"model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240}
    text |= {"num_hidden_layers": 34, "sliding_window": 1024}
    shape = shape_from_config({"model_type": "gemma3", "text_config": text, "vision_config": {}})
    assert count_shape(shape).total == 3_880_263_168
    assert (shape.attention.window, shape.attention.window_layers) == (1024, 29)


def test_a_path_a_folder_and_a_name(tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    config = known_models()["qwen3-0.6b"].config
    (folder / "config.json").write_text(json.dumps(config))
    for where in (folder, folder / "config.json", str(folder)):
        shape = model_shape(where)
        assert (shape.name, count_shape(shape).total) == ("my-model", 596_049_920)
    assert model_shape("Qwen3-0.6B").name == "qwen3-0.6b"


LLAMA = {"model_type": "llama", **SIZES, "intermediate_size": 60}
BAD_CONFIGS: list[tuple[Any, str]] = [
    ({}, "model_type"),
    ({"tokenizer_class": "LlamaTokenizer"}, "tokenizer"),
    ({"_class_name": "UNet2DConditionModel"}, "diffusion"),
    ({"model_type": "wav2vec2", **SIZES}, "deepseek_v3"),
    ({"model_type": ["llama"], **SIZES}, "model_type"),
    ({"model_type": "llama"}, "num_hidden_layers"),
    (LLAMA | {"hidden_size": -48}, "hidden_size"),
    (LLAMA | {"hidden_size": "48"}, "hidden_size"),
    (LLAMA | {"hidden_size": 48.5}, "hidden_size"),
    (LLAMA | {"hidden_size": True}, "hidden_size"),
    (LLAMA | {"hidden_size": float("nan")}, "hidden_size"),
    (LLAMA | {"hidden_size": 10**30}, "hidden_size"),
    (LLAMA | {"hidden_size": float("inf")}, "hidden_size"),
    (LLAMA | {"num_hidden_layers": 10**8}, "num_hidden_layers"),
    (LLAMA | {"num_hidden_layers": 0}, "num_hidden_layers"),
    (LLAMA | {"hidden_size": 50}, "not divisible"),
    (LLAMA | {"num_key_value_heads": 3}, "not divisible"),
    (LLAMA | {"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
    (LLAMA | {"layer_types": ["full_attention"]}, "layer_types"),
    (LLAMA | {"layer_types": ["linear_attention"] * 3}, "layer_types"),
    (LLAMA | {"layer_types": [{}] * 3}, "layer_types"),
    (LLAMA | {"layer_types": "full"}, "layer_types"),
    (LLAMA | {"model_type": "mixtral", "num_local_experts": 8}, "num_experts_per_tok"),
    (
        LLAMA
        | {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 5}
        | {"num_key_value_heads": 2},
        "more active experts",
    ),
    (LLAMA | {"model_type": "qwen2_moe", "num_experts": 4, "mlp_only_layers": [[]]}, "mlp_only"),
    (LLAMA | {"model_type": "deepseek_v3"}, "qk_rope_head_dim"),
    (LLAMA | {"model_type": "stablelm", "qk_layernorm": True}, "qk_layernorm"),
    ({"model_type": "mpt", **MPT, "attn_config": 5}, "attn_config"),
    ({"model_type": "mpt", **MPT, "no_bias": False}, "no_bias"),
    ({"model_type": "gemma3", "text_config": {"model_type": "clip"}}, "text_config"),
    (LLAMA | {"model_type": "nemotron_h"}, "hybrid_override_pattern"),
    (LLAMA | {"model_type": "nemotron_h", "hybrid_override_pattern": "M-Z"}, "found: Z;"),
    (LLAMA | {"model_type": "granitemoehybrid", "layer_types": ["rwkv"] * 3}, "rwkv"),
    (LLAMA | {"model_type": "granitemoehybrid", "layer_types": ["mamba"] * 2}, "2 for 3 layers"),
]


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    config = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2}
    config |= {"num_attention_heads": 2, "intermediate_size": 128, "vocab_size": 100}
    plain, marked = tmp_path / "plain.json", tmp_path / "marked.json"
    plain.write_text(json.dumps(config), "utf-8")
    marked.write_text(json.dumps(config), "utf-8-sig")
    assert model_shape(str(marked)).layers == model_shape(str(plain)).layers == 2


@pytest.mark.parametrize(("config", "named"), BAD_CONFIGS, ids=range(len(BAD_CONFIGS)))
def test_what_is_not_a_models_config_is_refused(config: dict[str, Any], named: str) -> None:
    with pytest.raises(SpecError, match=named):
        shape_from_config(config)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"3", b"{", b"\xff\xfe\x00", b"[" * 100_000, b'"llama"', b"null"],
    ids=range(8),
)
def test_files_that_are_no_config(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(SpecError, match=r"config\.json"):
        shape_from_config(path)


def test_a_missing_file_and_an_empty_folder(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.json"):
        with pytest.raises(SpecError, match=r"no such file|unknown model"):
            model_shape(path)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("jamba", {}),
        ("falcon_h1", {}),
        ("falcon_h1", {"mamba_d_ssm": None, "num_key_value_heads": None}),
    ],
)
def test_what_a_hybrid_leaves_out_is_what_transformers_takes(
    kind: str, said: dict[str, None]
) -> None:
    from transformers import AutoConfig

    sizes = {**SIZES, "hidden_size": 64, "num_attention_heads": 16, "intermediate_size": 32, **said}
    scan = {"mamba_n_heads": 4, "mamba_d_head": "auto"} if kind == "falcon_h1" else {}
    theirs = AutoConfig.for_model(kind, **sizes, **scan)
    ours = shape_from_config({"model_type": kind, **sizes, **scan}).attention
    assert ours.mixer is not None and ours.kv_heads == theirs.num_key_value_heads
    stated = getattr(theirs, "mamba_d_ssm", None)
    assert ours.mixer.inner == (stated or theirs.mamba_expand * theirs.hidden_size)


def test_the_old_key_of_nemotrons_convolution_is_read() -> None:
    config: dict[str, Any] = {**SIZES, "model_type": "nemotron_h", "intermediate_size": 32}
    config |= {"num_attention_heads": 8}
    config |= {"hybrid_override_pattern": "M-M", "mamba_num_heads": 4, "mamba_head_dim": 6}
    config |= {"n_groups": 2, "ssm_state_size": 4}
    counts = [
        count_shape(shape_from_config({**config, "mamba_conv_bias": biased})).total
        for biased in (True, False)
    ]
    assert counts[0] - counts[1] == 2 * (4 * 6 + 2 * 2 * 4)  # of two scans: inputs, B and C


def test_parts_that_are_no_words_are_refused() -> None:
    shape = known_model("jamba-v0.1")
    wrong = ("atention+dense", *shape.parts[1:])
    with pytest.raises(SpecError, match=r"atention.*attention, dense"):
        replace(shape, parts=wrong)
    config = {**SIZES, "model_type": "granitemoehybrid", "layer_types": ["mlp", "mamba", "mamba"]}
    with pytest.raises(SpecError, match=r"mlp.*mix tokens"):
        shape_from_config({**config, "intermediate_size": 32})
