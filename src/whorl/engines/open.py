"""From a model folder to a running engine: which one, and whether the folder may be served."""

from __future__ import annotations

import os
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, cast

from whorl.core.errors import EngineError, MissingExtra, RecordError, SpecError
from whorl.core.ports import Engine
from whorl.model.folder import CARD, FolderCard, read_card
from whorl.stages.compress.openvino_export import (
    EXPORT_VERSION,
    WeightFormat,
    compress_folder,
    export_openvino,
)

__all__ = ["EngineName", "open_engine"]

EngineName = Literal["auto", "openvino", "torch", "vllm"]
SAFETENSORS = "hf"  # the variant of a folder with torch weights
EXPORTED = ("f32", "int8", "int4")
CACHE = ".engines"  # below the home: exports of folders that were opened without compress


def open_engine(
    model_folder: Path,
    variant: str | None = None,
    name: EngineName = "auto",
    max_running: int = 16,
    cache_folder: Path | None = None,
) -> Engine:
    """Verify a model folder and start an engine on it.

    model_folder: an HF folder written by train, an exported one written by compress, or a
    compress record with a folder per variant. variant: "f32", "int8", "int4", "hf" or None (what
    the folder holds). name "auto": openvino where it is installed, else torch. An HF folder is
    exported for openvino once, into cache_folder (default: WHORL_HOME/.engines).
    Raises RecordError on a damaged folder or a token contract that is not the model's,
    SpecError on a variant the folder does not have, MissingExtra with the line to install.
    """
    folder, card = _locate(model_folder, variant)
    chosen = _choose(name, card, variant)
    if chosen == "torch":
        return _open_torch(folder, card, variant, max_running)
    from whorl.engines.openvino_engine import open_openvino

    if card.variant == SAFETENSORS:
        weights = cast(WeightFormat, variant if variant in EXPORTED else "f32")
        folder, card = _exported(folder, card, weights, cache_folder)
    return open_openvino(folder, card, max_running)


def _locate(model_folder: Path, variant: str | None) -> tuple[Path, FolderCard]:
    """The folder itself, or that of the variant inside it; its files verified."""
    if (model_folder / CARD).exists():
        card = read_card(model_folder)
        if variant in (None, "", card.variant):
            return model_folder, card
        if card.variant == SAFETENSORS and variant in EXPORTED:
            return model_folder, card
        raise SpecError(f"{model_folder} does not hold the variant {variant}", found=card.variant)
    inside = sorted(path.parent.name for path in model_folder.glob(f"*/{CARD}"))
    if variant in inside:
        return model_folder / str(variant), read_card(model_folder / str(variant))
    if inside:
        raise SpecError(
            f"{model_folder} holds several variants" if not variant else f"no variant {variant}",
            found=", ".join(inside),
            do="name one of them",
        )
    raise RecordError(
        f"{model_folder} is not a model folder",
        found=f"no {CARD}" if model_folder.is_dir() else "no such folder",
        expected="a folder written by whorl train or whorl compress",
    )


def _choose(
    name: EngineName, card: FolderCard, variant: str | None
) -> Literal["openvino", "torch"]:
    if name == "vllm":
        raise EngineError(
            "whorl does not start vLLM itself",
            do="run `vllm serve <model folder>`: it reads the Hugging Face folder as it is",
        )
    if name in ("openvino", "torch"):
        return name
    if card.variant != SAFETENSORS or find_spec("openvino_genai") is not None:
        return "openvino"
    if variant in EXPORTED[1:]:
        return "openvino"  # which then says what to install
    return "torch"


def _open_torch(folder: Path, card: FolderCard, variant: str | None, max_running: int) -> Engine:
    if card.variant != SAFETENSORS or variant in EXPORTED[1:]:
        raise SpecError(
            "the torch engine serves model folders with safetensors",
            found=card.variant if card.variant != SAFETENSORS else variant,
            do="choose the engine openvino, or the folder written by whorl train",
        )
    try:
        from whorl.engines.torch_engine import open_torch
    except ImportError as error:
        raise MissingExtra.of(error.name or "torch", "train", "the torch engine") from error
    return open_torch(folder, max_running)


def _exported(
    folder: Path, card: FolderCard, weights: WeightFormat, cache_folder: Path | None
) -> tuple[Path, FolderCard]:
    """The export of an HF folder, made once per content."""
    if cache_folder is None:
        cache_folder = Path(os.environ.get("WHORL_HOME") or "runs") / CACHE
    target = cache_folder / f"{card.digest[:32]}-{weights}-v{EXPORT_VERSION}"
    if (target / CARD).exists():
        return target, read_card(target)
    cache_folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_folder, prefix="export-") as temporary:
        made = Path(temporary) / weights
        export_openvino(folder, Path(temporary) / "f32")
        if weights != "f32":
            compress_folder(Path(temporary) / "f32", made, weights)
        try:
            os.rename(made, target)
        except OSError:
            if not (target / CARD).exists():  # else another process was faster: same bytes
                shutil.rmtree(target, ignore_errors=True)
                os.rename(made, target)
    return target, read_card(target)
