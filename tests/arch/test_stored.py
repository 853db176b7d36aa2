"""In which format a model's weights are stored, by its name or its config.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from whorl.arch.hf_config import stored_in

SIZES = {"num_hidden_layers": 3, "hidden_size": 48, "vocab_size": 101, "num_attention_heads": 4}


def groups(*widths: int, kind: str = "int") -> dict[str, Any]:
    """As compressed-tensors writes them: groups of layers, each with its weights' type."""
    return {
        f"group_{number}": {"targets": ["Linear"], "weights": {"num_bits": bits, "type": kind}}
        for number, bits in enumerate(widths)
    }


@pytest.mark.parametrize(
    ("said", "stored"),
    [
        (None, None),
        ({"quant_method": "awq", "bits": 4}, "int4"),
        ({"quant_method": "gptq", "bits": 8}, "int8"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "nf4"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "int8"),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8"),
        ({"quant_method": "mxfp4"}, "mxfp4"),
        ({"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}, "fp8"),
        ({"quant_method": "compressed-tensors", "config_groups": groups(4, 4)}, "int4"),
        ({"quant_method": "compressed-tensors", "config_groups": groups(8)}, "int8"),
        (
            {"quant_method": "compressed-tensors", "config_groups": groups(8, kind="float")},
            "fp8",
        ),
    ],
)
def test_a_config_says_how_weights_are_stored(
    said: dict[str, Any] | None, stored: str | None, tmp_path: Path
) -> None:
    config = {**SIZES, "model_type": "llama", "intermediate_size": 90}
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": said}))
    assert stored_in(str(tmp_path)) == stored
    assert stored_in(str(tmp_path / "config.json")) == stored


@pytest.mark.parametrize(
    "said",
    [
        {"quant_method": "quip"},
        {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int4WeightOnlyConfig"}}},
        {"quant_method": "compressed-tensors", "config_groups": groups(4, 8)},
        {"quant_method": "compressed-tensors", "config_groups": "all"},
    ],
)
def test_a_storage_that_is_not_known_is_told(said: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": said}))
    with pytest.warns(UserWarning, match=said["quant_method"]):
        assert stored_in(str(tmp_path)) is None
    assert stored_in("Qwen/Qwen2.5-7B-Instruct-AWQ") == "int4"
