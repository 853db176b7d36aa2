"""A model folder as a GGUF file: what llama.cpp and the programs around it run.

Families: llama and mistral (as llama.cpp's llama), qwen2, qwen3. Matrices are in the kind asked
for, vectors in F32; the file is written by the library gguf, whose blocks these are.

Axes: H heads, N head_dim, D width.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from whorl.arch.shape import ModelShape
from whorl.codecs.contract import Tokens
from whorl.codecs.gguf_facts import gguf_token_facts
from whorl.core.errors import MissingExtra, PlanError, SpecError
from whorl.model.gguf_model import LAYER_NAMES, NAMES, ROPE_FACTORS

__all__ = ["FILE_TYPES", "gguf_file_facts", "write_gguf"]

if TYPE_CHECKING:
    from torch import Tensor

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
FILE_TYPES = {"f32": 0, "f16": 1, "bf16": 32, "q8_0": 7}  # general.file_type, by llama.cpp
BLOCK = 32  # weights of a block of q8_0
MAX_F16 = 65_504.0


def write_gguf(
    path: Path,
    weights: Mapping[str, Tensor],
    shape: ModelShape,
    tokens: Tokens,
    kind: str,
) -> None:
    """weights: by the names of a `Transformer`. kind: one of FILE_TYPES, of the matrices.

    Raises SpecError on a model that such a file cannot say, PlanError if its rows are no whole
    blocks or its weights too large for F16, MissingExtra without the library gguf.
    """
    try:
        import gguf
    except ImportError as error:
        raise MissingExtra.of("gguf", "gguf", "writing GGUF files") from error
    facts = gguf_file_facts(shape, tokens, kind)
    architecture = facts.pop("general.architecture")
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in facts.items():
        _add(writer, key, value)
    for name, array in _tensors(weights, shape):
        chosen = gguf.GGMLQuantizationType[kind.upper() if array.ndim > 1 else "F32"]
        _check_kind(name, array, kind)
        writer.add_tensor(name, gguf.quants.quantize(array, chosen), raw_dtype=chosen)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
    with path.open("rb") as file:
        os.fsync(file.fileno())


def gguf_file_facts(shape: ModelShape, tokens: Tokens, kind: str) -> dict[str, Any]:
    """Everything the file says but its tensors. Raises SpecError."""
    _check_shape(shape)
    attention, name = shape.attention, ARCHITECTURES[shape.family]
    facts: dict[str, Any] = {
        "general.architecture": name,
        "general.name": shape.name or "whorl",
        "general.file_type": FILE_TYPES[kind],
        "general.quantization_version": 2,
        f"{name}.context_length": shape.max_seq_len,
        f"{name}.embedding_length": shape.width,
        f"{name}.block_count": shape.layers,
        f"{name}.feed_forward_length": shape.ffn_width,
        f"{name}.attention.head_count": attention.heads,
        f"{name}.attention.head_count_kv": attention.kv_heads,
        f"{name}.attention.layer_norm_rms_epsilon": float(shape.norm_eps),
        f"{name}.attention.key_length": attention.head_dim,
        f"{name}.attention.value_length": attention.head_dim,
        f"{name}.rope.dimension_count": attention.head_dim,
        f"{name}.rope.freq_base": float(shape.rope.theta),
        f"{name}.vocab_size": shape.vocab_size,
    }
    rope = shape.rope
    if rope.scaling in ("linear", "yarn"):
        facts |= {
            f"{name}.rope.scaling.type": rope.scaling,
            f"{name}.rope.scaling.factor": float(rope.factor),
        }
    if rope.scaling == "yarn":
        facts |= {
            f"{name}.rope.scaling.original_context_length": rope.original_seq_len,
            f"{name}.rope.scaling.yarn_beta_fast": float(rope.beta_fast),
            f"{name}.rope.scaling.yarn_beta_slow": float(rope.beta_slow),
        }
    return facts | gguf_token_facts(tokens)


def _check_shape(shape: ModelShape) -> None:
    wrong = {
        f"family {shape.family or 'unknown'}": shape.family not in ARCHITECTURES,
        f"layers of a package ({shape.block})": bool(shape.block),
        "experts": shape.experts is not None,
        "a sliding window": shape.attention.window is not None and bool(shape.attention.windowed),
        f"activation {shape.activation}": shape.activation != "silu",
        f"rope scaling {shape.rope.scaling}": shape.rope.scaling
        not in ("default", "linear", "yarn", "llama3"),
        "a scaled rope": shape.rope.attention_factor != 1.0 and shape.rope.scaling != "yarn",
        "biases of the feed-forward block": shape.ffn_bias,
    }
    if reasons := [reason for reason, is_there in wrong.items() if is_there]:
        raise SpecError(
            "whorl writes no GGUF file of this model",
            found=", ".join(reasons),
            expected=f"a dense model of {', '.join(ARCHITECTURES)}",
            do="export to hf or openvino",
        )


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


def _tensors(
    weights: Mapping[str, Tensor], shape: ModelShape
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """(the file's name, numbers), in the order of the model."""
    layer_names = {ours: theirs for theirs, ours in LAYER_NAMES.items()}
    names = {ours: theirs for theirs, ours in NAMES.items()}
    attention = shape.attention
    for name, tensor in weights.items():
        base, _, kind = name.rpartition(".")
        if base == "lm_head" and shape.tied_embeddings:
            continue
        array: NDArray[np.float32] = tensor.detach().float().numpy()
        if base.startswith("layers."):
            _, layer, part = base.split(".", 2)
            if ARCHITECTURES[shape.family] == "llama" and part.endswith(("q_proj", "k_proj")):
                heads = attention.heads if part.endswith("q_proj") else attention.kv_heads
                array = _paired(array, heads)
            yield f"blk.{layer}.{layer_names[part]}.{kind}", array
        else:
            yield f"{names[base]}.{kind}", array
    if shape.rope.scaling == "llama3":
        yield ROPE_FACTORS, _rope_factors(shape)


def _paired(array: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows i and i + N/2 of each head side by side, as llama.cpp turns them; [H * N, D]."""
    halves = array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(array.shape))


def _rope_factors(shape: ModelShape) -> NDArray[np.float32]:
    """How much slower each pair turns: [N/2]."""
    from whorl.arch.shape import Rope
    from whorl.model.rotary import inverse_frequencies

    head_dim = shape.attention.head_dim
    plain = inverse_frequencies(Rope(shape.rope.theta), head_dim)
    return (plain / inverse_frequencies(shape.rope, head_dim)).numpy()


def _check_kind(name: str, array: NDArray[np.float32], kind: str) -> None:
    if array.ndim > 1 and kind == "q8_0" and array.shape[-1] % BLOCK:
        raise PlanError(
            f"{name}: rows of {array.shape[-1]} weights are no whole blocks of q8_0",
            expected=f"a multiple of {BLOCK}",
            do="export as f16 or f32",
        )
    if array.ndim > 1 and kind == "f16" and float(np.abs(array).max()) > MAX_F16:
        raise PlanError(f"{name} holds weights too large for f16", do="export as bf16 or f32")
