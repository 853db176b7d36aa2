"""`whorl export`: a model for other runtimes, checked in them, written whole or not at all."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from whorl.core.context import NoProgress
from whorl.core.disk import DISK_ERRNOS, disk_error
from whorl.core.errors import MissingExtra, RecordError, SpecError
from whorl.core.ports import Progress
from whorl.core.scratch import hold_scratch
from whorl.core.variants import Variant
from whorl.engines.openvino_export import COMPRESSED, compress_folder, export_openvino
from whorl.model.folder import TOKENS, FolderCard, prepare_folder, read_card, seal_folder
from whorl.model.gguf_export import FILE_TYPES, write_gguf

__all__ = ["FORMATS", "Exported", "Format", "export_model"]

Format = Literal["hf", "openvino", "gguf"]
FORMATS: tuple[Format, ...] = get_args(Format)
WHOLE = "f32"
GGUF = "model.gguf"


@dataclass(frozen=True)
class Exported:
    folder: Path
    card: FolderCard
    checks: dict[str, Any]


def export_model(
    folder: Path,
    to: Format,
    out: Path,
    weights: str | None = None,
    progress: Progress | None = None,
) -> Exported:
    """Write a Hugging Face model folder as `to` into a new or empty folder.

    weights: of openvino, "f32" (default), "int8" or "int4"; of gguf, "f32", "f16", "bf16" or "q8_0"
    (default: the model's own); hf is written as it is. Raises
    RecordError if the folder is damaged or `out` not empty, EngineError if a runtime says
    something else than the model: then nothing is left.
    """
    MissingExtra.check("torch", "train", "whorl export")
    card = read_card(folder)
    known = _weights_of(to, card)
    if weights is not None and weights not in known:
        raise SpecError(f"{to} is not written with {weights} weights", expected=", ".join(known))
    if to == "openvino":
        MissingExtra.check("openvino_genai", "openvino", "exporting to openvino")
    elif to == "gguf":
        MissingExtra.check("gguf", "gguf", "exporting to gguf")
    elif card.shape.block:
        raise SpecError(
            "other programs have no such model", found=f"layers of a package: {card.shape.block}"
        )
    _check_empty(out)
    try:
        scratch, descriptor = hold_scratch(out.resolve())
        try:
            made = scratch / "model"
            checks = _made(folder, to, weights or known[0], scratch, made, progress or NoProgress())
            _check_empty(out)
            os.replace(made, out)  # over an empty folder, or none
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
            os.close(descriptor)
    except OSError as error:
        if error.errno not in DISK_ERRNOS:
            raise
        raise disk_error(error, out) from error
    return Exported(out, read_card(out), checks)


def _weights_of(to: Format, card: FolderCard) -> tuple[str, ...]:
    """What a format is written with, the default first."""
    own = card.variant.weights
    if to == "openvino":
        return (WHOLE, *COMPRESSED)
    return (own,) if to == "hf" else (own, *(kind for kind in FILE_TYPES if kind != own))


def _check_empty(out: Path) -> None:
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise RecordError(f"{out} is not a folder", do="name a new or an empty folder")
    if out.is_dir() and (present := sorted(path.name for path in out.iterdir())):
        raise RecordError(
            f"{out} is not empty",
            found=", ".join(present[:5]),
            do="name a new or an empty folder: nothing is written over",
        )


def _made(
    folder: Path, to: Format, weights: str, scratch: Path, made: Path, progress: Progress
) -> dict[str, Any]:
    """Write and check; gives the figures."""
    from whorl.wiring.checks import RuntimeChecks, keep_figures
    from whorl.wiring.imports import read_gguf_folder

    progress.start(f"writing {to}", None)
    if to == "hf":
        shutil.copytree(folder, made)
    elif to == "gguf":
        _write_gguf(folder, made, weights)
    else:
        whole = made if weights == WHOLE else scratch / WHOLE
        export_openvino(folder, whole)
        if weights != WHOLE:
            compress_folder(whole, made, weights)
    progress.finish()
    with RuntimeChecks.over(folder, progress) as checks:
        if to == "hf":
            checks.transformers(made)
        elif to == "gguf":
            read_gguf_folder(made / GGUF, scratch / "read")
            own = read_card(folder).variant.weights
            checks.gguf(made / GGUF, scratch / "read", weights in (own, WHOLE))
        else:
            checks.openvino(made)
    keep_figures(made, checks.checks)
    return checks.checks.as_json()


def _write_gguf(folder: Path, made: Path, kind: str) -> None:
    """model.gguf beside the token contract and the card."""
    from whorl.model.hf import load_model_folder

    model, shape, tokens, card = load_model_folder(folder)
    prepare_folder(made)
    write_gguf(made / GGUF, model.state_dict(), shape, tokens, kind)
    tokens.save(made / TOKENS)
    lineage = {"model": card.digest[:32], **card.lineage}
    seal_folder(made, FolderCard(Variant("gguf", kind), card.contract_digest, shape, lineage))
