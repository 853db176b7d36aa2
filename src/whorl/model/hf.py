"""A model as a Hugging Face folder: config.json, model.safetensors, tokenizer, and whorl.json.

transformers, vLLM and OpenVINO read the folder as a model of its family.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from whorl.arch.computable import check_computable
from whorl.arch.hf_config import shape_from_config
from whorl.arch.shape import ModelShape
from whorl.codecs.contract import Tokens
from whorl.core.errors import RecordError
from whorl.core.variants import Variant
from whorl.model.families import family_of
from whorl.model.folder import TOKENS, FolderCard, prepare_folder, read_card, seal_folder
from whorl.model.hf_files import CONFIG, write_servable_files
from whorl.model.hf_source import WEIGHTS, read_object, weight_files
from whorl.model.tensor_file import write_tensors
from whorl.model.transformer import Transformer

__all__ = ["check_tensors", "load_model_folder", "load_weights", "model_of", "save_model_folder"]

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


# ------------------------------------------------------------------ writing


def save_model_folder(
    path: Path,
    weights: Mapping[str, Tensor],
    shape: ModelShape,
    tokens: Tokens,
    lineage: Mapping[str, Any],
    quality: Mapping[str, Any] | None = None,
) -> FolderCard:
    """Write a model folder; the same model gives the same bytes. The card is written last.

    weights: by the names of a `Transformer`. lineage: role -> digest of what the model was made
    from. quality: measured figures.
    Raises RecordError if the folder is not empty or the contract does not fit the model,
    ResourceError on a full disk.
    """
    if tokens.contract.vocab_size != shape.vocab_size:
        raise RecordError(
            "the token contract does not fit the model",
            found=f"{tokens.contract.vocab_size} ids",
            expected=f"{shape.vocab_size}",
        )
    config = family_of(shape).config(shape)
    if (read := shape_from_config(config)) != shape:
        raise RecordError(
            f"a config.json of {shape.family} cannot say this shape", found=read, expected=shape
        )
    prepare_folder(path)
    named = {name: tensor.detach().cpu() for name, tensor in weights.items()}
    state = family_of(shape).to_disk(named)
    write_tensors(path / WEIGHTS, state, {"format": "pt"})
    dtype = str(named["embed_tokens.weight"].dtype).removeprefix("torch.")
    write_servable_files(path, shape, tokens, dtype)
    variant = Variant.of_torch(dtype)
    card = FolderCard(variant, tokens.contract.digest, shape, lineage, quality or {})
    return seal_folder(path, card)


# ------------------------------------------------------------------ reading


def load_model_folder(
    path: Path, own: torch.dtype | None = None
) -> tuple[Transformer, ModelShape, Tokens, FolderCard]:
    """The model (as saved, in eval mode), its shape, its tokens and its card.

    own: a dtype to copy the weights into, memory of one's own, so that the file can be let go.
    Every file is verified first. Raises RecordError on a damaged or foreign folder.
    """
    card = read_card(path)
    model, shape = load_weights(path, own)
    if shape != card.shape:
        raise RecordError(
            f"{path / CONFIG} does not match the model card",
            found=shape,
            expected=card.shape,
        )
    return model, shape, Tokens.load(path / TOKENS), card


def load_weights(path: Path, own: torch.dtype | None = None) -> tuple[Transformer, ModelShape]:
    """Model and shape of any HF folder, without tokens or a card. own: as `load_model_folder`.

    Raises RecordError if a tensor is missing, unknown or of another shape, SpecError if the
    model is none that whorl can compute.
    """
    config = read_object(path / CONFIG)
    if config.get("quantization_config") is not None:
        raise RecordError(f"{path} holds quantised weights", expected="float32, bf16 or float16")
    shape = shape_from_config(path)
    check_computable(shape, "train")
    state = family_of(shape).from_disk(_read_tensors(path, own))
    if shape.tied_embeddings:
        state.pop("lm_head.weight", None)
    return model_of(state, shape, path), shape


def model_of(state: Mapping[str, Tensor], shape: ModelShape, where: Path) -> Transformer:
    """The model of a shape with these weights, by our names, as they are; in eval mode.

    Raises RecordError if a tensor is missing, unknown or of another shape.
    """
    layers = {name.split(".")[1] for name in state if name.startswith("layers.")}
    if len(layers) != shape.layers:  # before thousands of them are built in vain
        raise RecordError(
            f"{where} has weights of another number of layers",
            found=len(layers),
            expected=f"{shape.layers}, as its {CONFIG} says",
        )
    with torch.device("meta"):
        model = Transformer(shape)
    expected = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if found != expected:
        wrong = sorted({*found.items()} ^ {*expected.items()})
        raise RecordError(
            f"the weights in {where} are not those of its {CONFIG}",
            found=[f"{name} {found.get(name, 'missing')}" for name, _ in wrong[:3]],
            expected=[f"{name} {expected.get(name, 'absent')}" for name, _ in wrong[:3]],
        )
    model.load_state_dict(state, assign=True)
    return model.eval()


def check_tensors(weights: Mapping[str, Tensor], where: object) -> None:
    """Raises RecordError naming a tensor of another dtype than DTYPES, or with NaN or infinity."""
    for name, tensor in weights.items():
        if tensor.dtype not in DTYPES:
            expected = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
            raise RecordError(f"{where}: {name}", found=tensor.dtype, expected=expected)
        if not (finite := torch.isfinite(tensor)).all():
            raise RecordError(
                f"{where}: {name} holds numbers that are not finite",
                found=f"{int((~finite).sum()):,} of {tensor.numel():,}",
                do="take the file from its source again",
            )


def _read_tensors(path: Path, own: torch.dtype | None) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name in weight_files(path):
        try:
            with safe_open(path / name, framework="pt") as file:
                keys = list(file.keys())
                found = {} if own else {key: file.get_tensor(key) for key in keys}
            for key in keys if own else ():  # opened anew each time: pages that were read go again
                with safe_open(path / name, framework="pt") as file:
                    found[key] = file.get_tensor(key).to(own, copy=True)
        except (OSError, SafetensorError) as error:
            raise RecordError(f"{path / name} cannot be read", found=error) from error
        if twice := sorted(found.keys() & tensors.keys()):
            raise RecordError(f"{path / name} holds tensors of another file", found=twice[:3])
        tensors |= found
    return tensors
