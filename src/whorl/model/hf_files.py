"""The small files of a Hugging Face model folder: config.json, tokenizer, generation. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from whorl.arch.architecture import Architecture
from whorl.codecs.contract import TokenContract, Tokens
from whorl.core.digests import canonical_json, write_bytes
from whorl.core.errors import RecordError, WhorlError
from whorl.model.folder import TOKENS

__all__ = ["CONFIG", "architecture_of", "hf_config", "write_servable_files"]

CONFIG = "config.json"
TOKENIZER, TEXT = "tokenizer.json", "text"
CLASSES = {"qwen3": "Qwen3ForCausalLM", "llama": "LlamaForCausalLM"}


def write_servable_files(
    path: Path, architecture: Architecture, tokens: Tokens, dtype: str = "float32"
) -> None:
    """Everything of a servable folder but the weights and the card."""
    contract = tokens.contract
    values = {
        CONFIG: hf_config(architecture, contract, dtype),
        "generation_config.json": {
            "bos_token_id": contract.id_of("bos_token"),
            "eos_token_id": list(contract.stop_ids),
            "pad_token_id": contract.pad_id,
            **({"stop_strings": list(contract.stop_strings)} if contract.stop_strings else {}),
            "do_sample": False,
        },
    }
    text_codec = tokens.codecs.get(TEXT)
    if text_codec is not None and TOKENIZER in (files := text_codec.files()):
        write_bytes(path / TOKENIZER, files[TOKENIZER])
        values["tokenizer_config.json"] = _tokenizer_config(architecture, contract)
        if contract.chat_template is not None:
            write_bytes(path / "chat_template.jinja", contract.chat_template.encode())
    for name, value in values.items():
        write_bytes(path / name, canonical_json(value).encode())
    tokens.save(path / TOKENS)


def hf_config(
    architecture: Architecture, contract: TokenContract, dtype: str = "float32"
) -> dict[str, Any]:
    """config.json of an architecture, for transformers 4 (rope_theta) and 5 (rope_parameters)."""
    a = architecture
    config: dict[str, Any] = {
        "architectures": [CLASSES[a.family]],
        "model_type": a.family,
        "hidden_size": a.width,
        "intermediate_size": a.ffn_width,
        "num_hidden_layers": a.layers,
        "num_attention_heads": a.heads,
        "num_key_value_heads": a.kv_heads,
        "head_dim": a.head_dim,
        "vocab_size": a.vocab_size,
        "max_position_embeddings": a.max_seq_len,
        "rope_theta": a.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": a.rope_theta},
        "rms_norm_eps": a.norm_eps,
        "tie_word_embeddings": a.tied_embeddings,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "use_cache": True,
        "dtype": dtype,
        "torch_dtype": dtype,
        "bos_token_id": contract.id_of("bos_token"),
        "eos_token_id": contract.id_of("eos_token"),
        "pad_token_id": contract.pad_id,
    }
    if a.family == "llama":
        config["mlp_bias"] = False
    else:
        config["use_sliding_window"] = False
    return config


def _tokenizer_config(architecture: Architecture, contract: TokenContract) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **contract.names,
        "clean_up_tokenization_spaces": False,
        "model_max_length": architecture.max_seq_len,
    }


def architecture_of(config: Mapping[str, Any]) -> Architecture:
    """The shape a config.json describes. Raises RecordError on what Transformer cannot compute."""
    family = config.get("model_type")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    unsupported = {
        "model_type": family not in CLASSES,
        "hidden_act": config.get("hidden_act", "silu") != "silu",
        "attention_bias": bool(config.get("attention_bias")),
        "mlp_bias": bool(config.get("mlp_bias")),
        "use_sliding_window": bool(config.get("use_sliding_window")),
        "rope_parameters": rope.get("rope_type", "default") != "default",
        "quantization_config": config.get("quantization_config") is not None,
    }
    if wrong := [key for key, is_wrong in unsupported.items() if is_wrong]:
        raise RecordError(
            f"{CONFIG} describes a model that whorl cannot compute",
            found={key: config.get(key) for key in wrong},
            expected="a qwen3 or llama without biases, sliding window or scaled rotary positions",
        )
    try:
        heads = config["num_attention_heads"]
        return Architecture(
            family=config["model_type"],
            layers=config["num_hidden_layers"],
            width=config["hidden_size"],
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or config["hidden_size"] // heads,
            ffn_width=config["intermediate_size"],
            vocab_size=config["vocab_size"],
            max_seq_len=config["max_position_embeddings"],
            rope_theta=rope.get("rope_theta") or config.get("rope_theta") or 10_000.0,
            norm_eps=config.get("rms_norm_eps", 1e-6),
            tied_embeddings=config.get("tie_word_embeddings", False),
        )
    except (KeyError, TypeError, ValueError, WhorlError) as error:
        raise RecordError(f"{CONFIG} is not that of a model", found=error) from error
