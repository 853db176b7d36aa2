"""A model as a Hugging Face folder: config.json, model.safetensors, tokenizer, and whorl.json.

transformers, vLLM and OpenVINO read the folder as Qwen3ForCausalLM or LlamaForCausalLM.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from whorl.arch.architecture import Architecture
from whorl.codecs.contract import TokenContract, Tokens
from whorl.core.digests import canonical_json, write_bytes
from whorl.core.errors import RecordError, WhorlError
from whorl.model.folder import TOKENS, FolderCard, prepare_folder, read_card, seal_folder
from whorl.model.transformer import Transformer

__all__ = [
    "architecture_of",
    "hf_config",
    "load_model_folder",
    "load_weights",
    "save_model_folder",
    "write_servable_files",
]

CONFIG, INDEX, WEIGHTS = "config.json", "model.safetensors.index.json", "model.safetensors"
TOKENIZER, TEXT = "tokenizer.json", "text"
CLASSES = {"qwen3": "Qwen3ForCausalLM", "llama": "LlamaForCausalLM"}


# ------------------------------------------------------------------ writing


def save_model_folder(
    path: Path,
    model: Transformer,
    architecture: Architecture,
    tokens: Tokens,
    lineage: Mapping[str, Any],
    quality: Mapping[str, Any] | None = None,
) -> FolderCard:
    """Write a model folder; the same model gives the same bytes. The card is written last.

    lineage: role -> digest of what the model was made from. quality: measured figures.
    Raises RecordError if the folder is not empty or the contract does not fit the model,
    ResourceError on a full disk.
    """
    if tokens.contract.vocab_size != architecture.vocab_size:
        raise RecordError(
            "the token contract does not fit the model",
            found=f"{tokens.contract.vocab_size} ids",
            expected=f"{architecture.vocab_size}",
        )
    prepare_folder(path)
    state = {_hf_name(name): tensor for name, tensor in model.state_dict().items()}
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    write_bytes(path / WEIGHTS, safetensors_bytes(state, metadata={"format": "pt"}))
    dtype = str(model.embed_tokens.weight.dtype).removeprefix("torch.")
    write_servable_files(path, architecture, tokens, dtype)
    card = FolderCard("hf", tokens.contract.digest, architecture, lineage, quality or {})
    return seal_folder(path, card)


def write_servable_files(
    path: Path, architecture: Architecture, tokens: Tokens, dtype: str = "float32"
) -> None:
    """Everything of a servable folder but the weights and the card."""
    contract = tokens.contract
    values = {
        CONFIG: hf_config(architecture, contract, dtype),
        "generation_config.json": {
            "bos_token_id": contract.bos_id,
            "eos_token_id": list(contract.stop_ids),
            "pad_token_id": contract.pad_id,
            "do_sample": False,
        },
    }
    text_codec = tokens.codecs.get(TEXT)
    if text_codec is not None and TOKENIZER in (files := text_codec.files()):
        write_bytes(path / TOKENIZER, files[TOKENIZER])
        values["tokenizer_config.json"] = _tokenizer_config(architecture, contract)
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
        "bos_token_id": contract.bos_id,
        "eos_token_id": contract.eos_id,
        "pad_token_id": contract.pad_id,
    }
    if a.family == "llama":
        config["mlp_bias"] = False
    else:
        config["use_sliding_window"] = False
    return config


def _tokenizer_config(architecture: Architecture, contract: TokenContract) -> dict[str, Any]:
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|bos|>",
        "eos_token": "<|eos|>",
        "pad_token": "<|pad|>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": architecture.max_seq_len,
    }
    if contract.chat_template is not None:
        config["chat_template"] = contract.chat_template
    return config


def _hf_name(name: str) -> str:
    return name if name.startswith("lm_head.") else f"model.{name}"


# ------------------------------------------------------------------ reading


def load_model_folder(path: Path) -> tuple[Transformer, Architecture, Tokens, FolderCard]:
    """The model (fp32 or as saved, in eval mode), its shape, its tokens and its card.

    Every file is verified first. Raises RecordError on a damaged or foreign folder.
    """
    card = read_card(path)
    model, architecture = load_weights(path)
    if architecture != card.architecture:
        raise RecordError(
            f"{path / CONFIG} does not match the model card",
            found=architecture,
            expected=card.architecture,
        )
    return model, architecture, Tokens.load(path / TOKENS), card


def load_weights(path: Path) -> tuple[Transformer, Architecture]:
    """Model and shape of any HF folder of a Qwen3 or Llama, without tokens or a card.

    Raises RecordError if a tensor is missing, unknown or of another shape.
    """
    architecture = architecture_of(_read_json(path / CONFIG))
    state = _read_tensors(path)
    if architecture.tied_embeddings:
        state.pop("lm_head.weight", None)
    with torch.device("meta"):
        model = Transformer(architecture)
    expected = {_hf_name(name): tuple(t.shape) for name, t in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if found != expected:
        wrong = sorted({*found.items()} ^ {*expected.items()})
        raise RecordError(
            f"the weights in {path} are not those of its {CONFIG}",
            found=[f"{name} {found.get(name, 'missing')}" for name, _ in wrong[:3]],
            expected=[f"{name} {expected.get(name, 'absent')}" for name, _ in wrong[:3]],
        )
    model = Transformer(architecture)
    model.load_state_dict(
        {name.removeprefix("model."): tensor for name, tensor in state.items()}, assign=True
    )
    return model.eval(), architecture


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


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if (path / INDEX).exists():
        names = sorted(set(_read_json(path / INDEX).get("weight_map", {}).values()))
    else:
        names = [WEIGHTS]
    tensors: dict[str, Tensor] = {}
    for name in names:
        if Path(name).name != name:
            raise RecordError(f"{path / INDEX} names a file outside its folder", found=name)
        try:
            with safe_open(path / name, framework="pt") as file:
                tensors |= {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise RecordError(f"{path / name} cannot be read", found=error) from error
    return tensors


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise RecordError(f"{path} cannot be read", found=error, expected="JSON") from error
    if not isinstance(value, dict):
        raise RecordError(
            f"{path} cannot be read", found=type(value).__name__, expected="an object"
        )
    return value
