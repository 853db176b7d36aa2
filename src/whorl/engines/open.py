"""From a model folder to a running engine: which one, and whether the folder may be served.

A package adds an engine through an entry point of the group `whorl.engines` that names an
`EngineFactory`; nothing else of whorl changes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from whorl.arch.computable import check_computable
from whorl.core.errors import MissingExtra, SpecError
from whorl.core.home import home_folder
from whorl.core.plugins import find_part, part_names
from whorl.core.ports import Engine
from whorl.core.scratch import hold
from whorl.core.variants import Variant
from whorl.engines.openvino_export import (
    COMPRESSED,
    EXPORT_VERSION,
    FORMAT,
    compress_folder,
    export_openvino,
)
from whorl.engines.setup import EngineSetup
from whorl.model.folder import CARD, FolderCard, change_card, peek_card, read_card

__all__ = [
    "AUTO",
    "CACHE",
    "EXPORTED",
    "GROUP",
    "SAFETENSORS",
    "EngineFactory",
    "Openable",
    "best_form",
    "find_engine",
    "forms_of",
    "keep_export",
    "open_engine",
    "openable",
    "servable",
    "server_of",
]

GROUP = "whorl.engines"
AUTO = "auto"
SAFETENSORS = "hf"
EXPORTED = tuple(Variant(FORMAT, weights) for weights in ("f32", *COMPRESSED))
CACHE = ".engines"  # below the home: exports of folders that were opened without compress


@dataclass(frozen=True)
class EngineFactory:
    """An engine that can be chosen."""

    name: str
    accepts: Callable[[Variant], bool]
    open: Callable[[Path, FolderCard, EngineSetup], Engine]  # verified folder, its card


@dataclass(frozen=True)
class Openable:
    """A verified folder in the form that is served, and the engine that serves it."""

    factory: EngineFactory
    folder: Path
    card: FolderCard

    def open(self, setup: EngineSetup) -> Engine:
        """Raises as its engine does, MissingExtra with the line to install."""
        return self.factory.open(self.folder, self.card, setup)


def _open_openvino(folder: Path, card: FolderCard, setup: EngineSetup) -> Engine:
    from whorl.engines.openvino_engine import open_openvino

    return open_openvino(folder, card, setup)


def _open_torch(folder: Path, card: FolderCard, setup: EngineSetup) -> Engine:
    try:
        from whorl.engines.torch_engine import open_torch
    except ImportError as error:
        raise MissingExtra.of(error.name or "torch", "train", "the torch engine") from error
    return open_torch(folder, setup)


def _open_vllm(folder: Path, card: FolderCard, setup: EngineSetup) -> Engine:
    from whorl.engines.vllm_engine import open_vllm

    return open_vllm(folder, card, setup)


BUILT_IN = {
    factory.name: factory
    for factory in (
        EngineFactory("openvino", lambda variant: variant.format == FORMAT, _open_openvino),
        EngineFactory("torch", lambda variant: variant.format == SAFETENSORS, _open_torch),
        EngineFactory("vllm", lambda variant: variant.format == SAFETENSORS, _open_vllm),
    )
}


def find_engine(name: str) -> EngineFactory:
    """The engine of this name. Raises SpecError with the nearest name if there is none."""
    found = find_part(GROUP, name, BUILT_IN)
    if not isinstance(found, EngineFactory):
        raise SpecError(f"the engine {name} is not an EngineFactory", found=type(found).__name__)
    return found


def servable(there: Mapping[Variant, Path], name: str = AUTO) -> dict[Variant, Path]:
    """Those of some variants that an engine serves ("auto": any), in their order.

    Raises SpecError if there is none.
    """
    found = {
        variant: folder
        for variant, folder in there.items()
        if any(factory.accepts(variant) for factory in _chosen(name))
    }
    if not found:
        raise SpecError(
            f"the engine {name} serves none of the model's variants",
            found=", ".join(variant.slug for variant in there),
            do="choose the engine auto" if name != AUTO else "install the package of one that does",
        )
    return found


def server_of(variant: Variant, name: str) -> str:
    """The engine of this name if it serves the variant, else "auto"."""
    return name if any(factory.accepts(variant) for factory in _chosen(name)) else AUTO


def forms_of(card: FolderCard) -> list[Variant]:
    """The variant that a folder holds, and those it can be exported to."""
    return [card.variant, *(EXPORTED if _is_exportable(card) else ())]


def _is_exportable(card: FolderCard) -> bool:
    if card.variant.format != SAFETENSORS:
        return False
    try:
        check_computable(card.shape, "export")
    except SpecError:
        return False
    return True


def open_engine(
    model_folder: Path,
    variant: Variant | None = None,
    name: str = AUTO,
    setup: EngineSetup = EngineSetup(),  # noqa: B008 (frozen)
    cache_folder: Path | None = None,
) -> Engine:
    """Verify a model folder and start an engine on it. Raises as `openable` and MissingExtra."""
    return openable(model_folder, variant, name, cache_folder).open(setup)


def openable(
    model_folder: Path,
    variant: Variant | None = None,
    name: str = AUTO,
    cache_folder: Path | None = None,
) -> Openable:
    """Verify a model folder, and find what serves it.

    variant: the form that is served; None: what the folder holds, but a Hugging Face folder is
    served as openvino f32 where OpenVINO is installed, the model can be exported and no other
    engine is asked for. A form
    that the folder does not hold is exported once, into cache_folder (WHORL_HOME/.engines).
    Raises RecordError on a damaged folder or a token contract that is not the model's,
    SpecError on a variant that cannot be had or served, MissingExtra where it is exported.
    """
    card = read_card(model_folder)
    wanted = variant or best_form(card, name)
    factory = next((each for each in _chosen(name) if each.accepts(wanted)), None)
    if factory is None:
        raise SpecError(
            f"the engine {name} does not serve {wanted}",
            expected=", ".join(each.name for each in _factories() if each.accepts(wanted)) or None,
            do="choose another engine or another variant of the model",
        )
    if wanted != card.variant:
        model_folder, card = _exported(model_folder, card, wanted, cache_folder)
    return Openable(factory, model_folder, card)


def _factories() -> Iterator[EngineFactory]:
    """Built in ones first: those of packages are loaded when none of them is meant."""
    yield from BUILT_IN.values()
    yield from (find_engine(name) for name in part_names(GROUP, ()) if name not in BUILT_IN)


def _chosen(name: str) -> Iterable[EngineFactory]:
    return _factories() if name == AUTO else [find_engine(name)]


def best_form(card: FolderCard, name: str) -> Variant:
    """In which form a folder is served by an engine of this name when none is asked for."""
    if card.variant.format != SAFETENSORS or name not in (FORMAT, AUTO):
        return card.variant
    if name == AUTO and (not _is_exportable(card) or find_spec("openvino_genai") is None):
        return card.variant
    return EXPORTED[0]


def _exported(
    folder: Path, card: FolderCard, wanted: Variant, cache_folder: Path | None
) -> tuple[Path, FolderCard]:
    """The export of an HF folder, made once per content."""
    if card.variant.format != SAFETENSORS or wanted not in EXPORTED:
        raise SpecError(f"{folder} does not hold the variant {wanted}", found=card.variant)
    check_computable(card.shape, "export")
    if cache_folder is None:
        cache_folder = home_folder() / CACHE
    target = cache_folder / _export_name(card, wanted)
    if (target / CARD).exists():
        return target, read_card(target)
    cache_folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_folder, prefix="export-") as temporary:
        parent, made = (hold(Path(temporary)) / item.slug for item in (EXPORTED[0], wanted))
        export_openvino(folder, parent)
        if wanted != EXPORTED[0]:
            compress_folder(parent, made, wanted.weights)
        try:
            os.rename(made, target)
        except OSError:
            if not (target / CARD).exists():  # else another process was faster: same bytes
                shutil.rmtree(target, ignore_errors=True)
                os.rename(made, target)
    return target, read_card(target)


def keep_export(made: Path, card: FolderCard, cache_folder: Path) -> None:
    """Keep what was exported of a folder for another purpose, where `openable` looks for it.

    card: the folder's, as it is now. Where it cannot be moved there it is left as it is.
    """
    own = peek_card(made)
    lineage = {"model": card.digest[:32], **card.lineage}
    change_card(made, replace(own, lineage=lineage, quality=card.quality))
    with contextlib.suppress(OSError):  # another disk; or it is there already
        cache_folder.mkdir(parents=True, exist_ok=True)
        os.rename(made, cache_folder / _export_name(card, own.variant))


def _export_name(card: FolderCard, wanted: Variant) -> str:
    return f"{card.digest[:32]}-{wanted.slug}-v{EXPORT_VERSION}"
