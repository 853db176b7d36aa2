"""The model in a GGUF file: its shape, and its weights by the names of a `Transformer`.

Architectures: llama (Mistral's models too, which are published as one), qwen2, qwen3. Their facts
become a config.json, which is read as any other; llama.cpp's converter reorders the rows of
llama's queries and keys, and that is undone here.

Axes: H heads, N head_dim, D width.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from whorl.arch.computable import check_computable
from whorl.arch.hf_config import shape_from_config
from whorl.arch.shape import ModelShape, Rope
from whorl.core.errors import DataError, SpecError
from whorl.model.gguf_file import GgufFile

__all__ = ["ARCHITECTURES", "gguf_shape", "gguf_weights"]

if TYPE_CHECKING:
    from torch import Tensor

ARCHITECTURES = ("llama", "qwen2", "qwen3")
NAMES = {"token_embd": "embed_tokens", "output_norm": "norm", "output": "lm_head"}
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
LAYER = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")
ROPE_FACTORS = "rope_freqs.weight"  # how much slower each pair turns (Llama 3.1 and later)
HALVES = {"F16": "float16", "BF16": "bfloat16"}
SAME_FACTOR = 1e-4
LLAMA3_LENGTHS = (8192, 4096, 2048, 1024, 512, 256, 128, 64, 32)  # before stretching


def gguf_shape(file: GgufFile) -> ModelShape:
    """The shape that the file's facts say.

    Raises SpecError on another architecture or one that whorl cannot compute, with the reasons;
    DataError on facts that are missing or wrong.
    """
    architecture = file.fact("general.architecture", str, "")
    if architecture not in ARCHITECTURES:
        raise SpecError(
            f"{file.path} holds an architecture that is not read from GGUF",
            found=architecture or "none",
            expected=", ".join(ARCHITECTURES),
            do="import the model's Hugging Face folder, if its family is in docs/families.md",
        )
    shape = shape_from_config(_config(file, architecture))
    check_computable(shape, "serve")
    return shape


def _config(file: GgufFile, architecture: str) -> dict[str, Any]:
    """The facts as a config.json of Hugging Face's."""

    def fact(key: str, default: Any = None) -> Any:
        value = file.facts.get(f"{architecture}.{key}", default)
        if value is None:
            raise DataError(f"{file.path} lacks the fact {architecture}.{key}")
        return value

    _refuse_variants(file, architecture)
    heads, stated = fact("attention.head_count"), file.facts.get
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.sizes) != 2:
        raise DataError(f"{file.path} lacks the tensor token_embd.weight, of two axes")
    config: dict[str, Any] = {
        "model_type": architecture,
        "_name_or_path": str(file.facts.get("general.name") or ""),
        "hidden_size": fact("embedding_length"),
        "num_hidden_layers": fact("block_count"),
        "intermediate_size": fact("feed_forward_length"),
        "num_attention_heads": heads,
        "num_key_value_heads": fact("attention.head_count_kv", heads),
        "head_dim": stated(
            f"{architecture}.attention.key_length", stated(f"{architecture}.rope.dimension_count")
        ),
        "rms_norm_eps": fact("attention.layer_norm_rms_epsilon"),
        "max_position_embeddings": fact("context_length"),
        "vocab_size": embedding.sizes[0],
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "rope_parameters": _rope(file, architecture),
    }
    if architecture == "llama":
        config["attention_bias"] = "blk.0.attn_q.bias" in file.tensors
        config["mlp_bias"] = "blk.0.ffn_up.bias" in file.tensors
    if ROPE_FACTORS in file.tensors:
        head_dim = shape_from_config(config).attention.head_dim
        config["rope_parameters"] |= _llama3(file, head_dim, config["rope_parameters"])
    return config


def _refuse_variants(file: GgufFile, architecture: str) -> None:
    """Raises SpecError on facts whose models compute something else."""
    key_length = file.facts.get(f"{architecture}.attention.key_length")
    wrong = {
        "experts": file.facts.get(f"{architecture}.expert_count"),
        "a sliding window": file.facts.get(f"{architecture}.attention.sliding_window"),
        "values narrower than keys": file.facts.get(
            f"{architecture}.attention.value_length", key_length
        )
        != key_length,
        "scaled logits": file.facts.get(f"{architecture}.logit_scale"),
        "partly rotated heads": key_length is not None
        and file.facts.get(f"{architecture}.rope.dimension_count", key_length) != key_length,
    }
    if reasons := [reason for reason, is_there in wrong.items() if is_there]:
        raise SpecError(
            f"{file.path} holds a variant of {architecture} that is not read from GGUF",
            found=", ".join(reasons),
            do="import the model's Hugging Face folder",
        )


def _rope(file: GgufFile, architecture: str) -> dict[str, Any]:
    def fact(key: str, default: Any = None) -> Any:
        return file.facts.get(f"{architecture}.rope.{key}", default)

    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": fact("freq_base", 10_000.0)}
    kind = fact("scaling.type", "none")
    if kind == "none":
        return rope
    if kind not in ("linear", "yarn") or fact("scaling.attn_factor", 1.0) != 1.0:
        raise SpecError(f"{file.path}: rope scaling", found=kind, expected="linear or yarn")
    rope |= {"rope_type": kind, "factor": fact("scaling.factor", 1.0)}
    if kind == "yarn":
        rope["original_max_position_embeddings"] = fact("scaling.original_context_length")
        for key in ("beta_fast", "beta_slow"):
            if (value := fact(f"scaling.yarn_{key}")) is not None:
                rope[key] = value
    return rope


def _llama3(file: GgufFile, head_dim: int, rope: Mapping[str, Any]) -> dict[str, Any]:
    """The stretching (2407.21783) that a tensor of factors came from, found by trying.

    Raises SpecError if none gives these factors.
    """
    from whorl.model.rotary import inverse_frequencies

    factors = file.read(ROPE_FACTORS).astype(np.float64)
    theta, factor = float(rope["rope_theta"]), float(factors.max())
    plain = inverse_frequencies(Rope(theta), head_dim).double().numpy()
    for length in LLAMA3_LENGTHS if factors.shape == plain.shape and factor > 0 else ():
        tried = Rope(theta, "llama3", factor, original_seq_len=length)
        found = plain / inverse_frequencies(tried, head_dim).double().numpy()
        if np.abs(found - factors).max() <= SAME_FACTOR * factor:
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": tried.low_freq_factor,
                "high_freq_factor": tried.high_freq_factor,
                "original_max_position_embeddings": length,
            }
    raise SpecError(
        f"{file.path}: {ROPE_FACTORS} stretches positions in a way that whorl does not know",
        expected="the factors of Llama 3",
        do="import the model's Hugging Face folder",
    )


# ------------------------------------------------------------------ weights


def gguf_weights(file: GgufFile, shape: ModelShape) -> dict[str, Tensor]:
    """Weights by our names: in float32, or as they are where all are fp16, or all bf16.

    Raises DataError on a tensor that the architecture does not have.
    """
    import torch

    half = _half(file)
    weights: dict[str, Tensor] = {}
    for name, disk in _names(file):
        numbers, kind = file.read(disk), file.tensors[disk].kind
        if kind == "BF16":
            tensor = torch.from_numpy(numbers).view(torch.bfloat16)
        else:
            tensor = torch.from_numpy(numbers)
        if shape.family == "llama" and name.rpartition(".")[0].endswith(("q_proj", "k_proj")):
            a = shape.attention
            tensor = _unpermuted(tensor, a.heads if ".q_proj." in name else a.kv_heads, file.path)
        weights[name] = tensor
    if half is not None:
        dtype = getattr(torch, half)
        halved = {name: tensor.to(dtype) for name, tensor in weights.items()}
        if all(torch.equal(halved[name].float(), t.float()) for name, t in weights.items()):
            return halved
    return {name: tensor.float() for name, tensor in weights.items()}


def _half(file: GgufFile) -> str | None:
    """The one 16-bit dtype of all matrices, if there is one; norms are in float32 beside it."""
    kinds = {tensor.kind for tensor in file.tensors.values() if len(tensor.sizes) > 1}
    return HALVES.get(kinds.pop()) if len(kinds) == 1 else None


def _names(file: GgufFile) -> Iterator[tuple[str, str]]:
    """(our name, the file's) of every tensor but those that shapes say."""
    for disk in file.tensors:
        if disk == ROPE_FACTORS:
            continue
        base, _, kind = disk.rpartition(".")
        if found := LAYER.fullmatch(disk):
            layer, part, kind = found.groups()
            base = LAYER_NAMES.get(part, "")
            name = f"layers.{int(layer)}.{base}.{kind}"
        else:
            base = NAMES.get(base, "")
            name = f"{base}.{kind}"
        if not base:
            raise DataError(f"{file.path} holds a tensor that the architecture has not", found=disk)
        yield name, disk


def _unpermuted(tensor: Tensor, heads: int, path: Path) -> Tensor:
    """Rows of pairs (i, i + N/2) of each head, which llama.cpp keeps side by side; [H * N, D]."""
    rows = tensor.shape[0]
    if rows % (2 * heads):
        raise DataError(f"{path}: {rows} rows of queries or keys are not {heads} heads of pairs")
    pairs = tensor.reshape(heads, rows // heads // 2, 2, *tensor.shape[1:])
    return pairs.transpose(1, 2).reshape(tensor.shape).contiguous()
