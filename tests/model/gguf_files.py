"""GGUF files for tests, written by the library gguf from models and tokenizers of others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from whorl.codecs.contract import Tokens

__all__ = ["ARCHITECTURES", "gguf_facts", "gguf_tensors", "text_facts", "write_gguf"]

ARCHITECTURES = ("llama", "qwen2", "qwen3")
LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
WHOLE = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}


def write_gguf(
    path: Path,
    facts: Mapping[str, Any],
    tensors: Mapping[str, Any],
    kind: str = "F32",
    **kinds: str,
) -> Path:
    """kind: of matrices whose rows are whole blocks; kinds: of tensors by a part of their name."""
    gguf = pytest.importorskip("gguf", reason="the package gguf is not installed")
    writer = gguf.GGUFWriter(path, facts["general.architecture"])
    for key, value in facts.items():
        if key != "general.architecture":
            _add(writer, key, value)
    for name, array in tensors.items():
        chosen = next((k for part, k in kinds.items() if part in name), kind)
        number = gguf.GGMLQuantizationType[chosen if array.ndim > 1 else "F32"]
        writer.add_tensor(name, gguf.quants.quantize(array, number), raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def gguf_facts(config: Any) -> dict[str, Any]:
    """Of a transformers config, as llama.cpp's converter writes them."""
    name = config.model_type
    facts = {
        "general.architecture": name,
        f"{name}.context_length": config.max_position_embeddings,
        f"{name}.embedding_length": config.hidden_size,
        f"{name}.block_count": config.num_hidden_layers,
        f"{name}.feed_forward_length": config.intermediate_size,
        f"{name}.attention.head_count": config.num_attention_heads,
        f"{name}.attention.head_count_kv": config.num_key_value_heads,
        f"{name}.attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        f"{name}.rope.freq_base": float(config.rope_parameters["rope_theta"]),
        f"{name}.attention.key_length": config.head_dim,
        f"{name}.attention.value_length": config.head_dim,
    }
    if name == "llama":
        facts[f"{name}.rope.dimension_count"] = config.head_dim
        facts[f"{name}.vocab_size"] = config.vocab_size
    return facts


def gguf_tensors(model: Any) -> dict[str, np.ndarray]:
    """A transformers model's weights by llama.cpp's names, the rows of llama's heads reordered."""
    config, tensors = model.config, {}
    for name, tensor in model.state_dict().items():
        base, _, kind = name.removeprefix("model.").rpartition(".")
        if base == "lm_head" and config.tie_word_embeddings:
            continue
        array = tensor.detach().float().numpy()
        if base.startswith("layers."):
            _, layer, part = base.split(".", 2)
            if config.model_type == "llama" and part.endswith(("q_proj", "k_proj")):
                heads = config.num_attention_heads if "q_proj" in part else 0
                array = _interleaved(array, heads or config.num_key_value_heads)
            tensors[f"blk.{layer}.{LAYER[part]}.{kind}"] = array
        else:
            tensors[f"{WHOLE[base]}.{kind}"] = array
    return tensors


def _interleaved(array: np.ndarray, heads: int) -> np.ndarray:
    """Both rows of a pair side by side: rows i and i + half of each head."""
    out = np.empty_like(array)
    rows = len(array) // heads
    for head in range(heads):
        for pair in range(rows // 2):
            for second in (0, 1):
                out[head * rows + 2 * pair + second] = array[
                    head * rows + pair + second * (rows // 2)
                ]
    return out


def text_facts(tokens: Tokens) -> dict[str, Any]:
    """Facts of whorl's own tokenizer, which splits text as Qwen 2 does; ids to spare are unused."""
    value = json.loads(tokens.codecs["text"].files()["tokenizer.json"])
    texts = {i: text for text, i in value["model"]["vocab"].items()}
    special = {token["id"]: token["content"] for token in value["added_tokens"]}
    texts |= special
    merges = [m if isinstance(m, str) else " ".join(m) for m in value["model"]["merges"]]
    contract = tokens.contract
    unused = range(len(texts), contract.vocab_size)
    kinds = [3 if i in special else 1 for i in range(len(texts))] + [5 for _ in unused]
    texts |= {i: f"[PAD{i}]" for i in unused}
    facts: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": [texts[i] for i in range(len(texts))],
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": contract.id_of("bos_token"),
        "tokenizer.ggml.eos_token_id": contract.id_of("eos_token"),
        "tokenizer.ggml.padding_token_id": contract.pad_id,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.chat_template": contract.chat_template,
    }
    return facts


def random_tensor(*sizes: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed))
