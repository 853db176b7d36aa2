"""`whorl import`: an open model becomes a record, a registered version, and figures that say so."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from whorl.arch.shape import ModelShape
from whorl.arch.shape_counts import count_shape
from whorl.codecs.contract import Tokens
from whorl.codecs.gguf_tokens import read_gguf_tokens
from whorl.codecs.hf_tokens import read_hf_tokens
from whorl.core.context import NoProgress
from whorl.core.digests import digest_file
from whorl.core.errors import MissingExtra, SpecError
from whorl.core.ports import Progress
from whorl.core.records import Record, RecordKey, RecordStore
from whorl.core.units import format_bytes, format_count
from whorl.launch.machine import machine_facts
from whorl.model.folder import CARD, TOKENS, read_card
from whorl.model.gguf_file import GgufFile, open_gguf
from whorl.model.gguf_model import gguf_shape, gguf_weights
from whorl.model.hf_source import open_hf_source
from whorl.wiring.import_sources import Located, locate, model_name

if TYPE_CHECKING:
    from torch import Tensor

    from whorl.stages.improve.registry import Version

__all__ = [
    "MODEL",
    "STAGE",
    "TRAINED",
    "Imported",
    "LookedOver",
    "import_looked",
    "import_model",
    "imported_before",
    "look_over",
    "read_gguf_folder",
]

STAGE, MODEL, TRAINED = "import", "model", "train"
LOGIC_VERSION = 1
FLOAT_BYTES, COPIES = 4, 2  # of the weights in memory: the model's, and the runtime's beside it
TAUGHT_BYTES = 16  # of one parameter: float32, its gradient and AdamW's two moments


@dataclass(frozen=True)
class Imported:
    """checks: what was compared with what, as `engines.runtimes.Checks` says it."""

    version: Version
    record: Record
    origin: str
    checks: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        return self.record.path / MODEL


def import_model(
    asked: str,
    *,
    home: Path,
    name: str | None = None,
    revision: str | None = None,
    progress: Progress | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> Imported:
    """Import a model unless it was imported before, and register it as a version.

    asked: a folder, a GGUF file, an id of the hub (its revision is pinned to the commit found), or
    a package with a GGUF file inside. Raises SpecError, DataError or RecordError on what cannot be
    imported, EngineError if a runtime says something else than the imported model: then nothing
    is kept.
    """
    looked = look_over(asked, revision, home, log, name)
    return import_looked(looked, home=home, name=name, progress=progress, log=log)


@dataclass(frozen=True)
class LookedOver:
    """A source that may be imported; its weights are not read yet, and torch is not needed."""

    asked: str
    located: Located
    source: ForeignModel


def look_over(
    asked: str,
    revision: str | None,
    home: Path,
    log: Callable[[str], None],
    name: str | None = None,
) -> LookedOver:
    """Where the model lies and what it is; remarks are logged. Raises as `import_model` does."""
    if name is not None:
        model_name(name)
    located = locate(asked, revision, home, log)
    model = _opened(located.path)
    for remark in model.remarks:
        log(f"note: {remark}")
    return LookedOver(asked, located, model)


def imported_before(home: Path, source_digest: str) -> Record | None:
    """The first registered import of that content, under whatever name."""
    from whorl.stages.improve.registry import list_versions

    for version in list_versions(home):
        if (digest := version.lineage.get(STAGE)) is not None:
            path = RecordStore(home, version.name).folder(STAGE) / digest
            if path.is_dir() and (record := Record.load(path)).inputs["source"] == source_digest:
                return record
    return None


def import_looked(
    looked: LookedOver,
    *,
    home: Path,
    name: str | None = None,
    progress: Progress | None = None,
    log: Callable[[str], None] = lambda line: None,
    exports: Path | None = None,
) -> Imported:
    """`import_model` of what was looked over. exports: where the export that is checked is kept,
    for engines that will open the model."""
    MissingExtra.check("torch", "train", "importing a model")
    from whorl.stages.improve.registry import register
    from whorl.wiring.checks import runtimes_here

    located, model = looked.located, looked.source
    store = RecordStore(home, model_name(name or located.name))
    if name is None and next(iter(store.all(TRAINED)), None) is not None:
        raise SpecError(
            f"{store.recipe} is a model that was trained here",
            found=f"the name that {looked.asked} would have",
            do=f"--name NAME gives it another; --name {store.recipe} makes it that model's next "
            "version",
        )
    config = {"format": model.format, "checked_in": runtimes_here(model.format)}
    key = RecordKey(STAGE, config, {"source": model.digest}, LOGIC_VERSION)
    if (record := store.find(key)) is None:
        if warning := _too_large(model.shape):
            log(f"warning: {warning}")
        with store.write(key) as writer:
            lineage = {"source": model.digest, "origin": located.origin}
            source = located, model, lineage
            writer.metrics = _make(writer.path, *source, progress or NoProgress(), exports)
        record = store.published(key)
    version = register(home, store.recipe, {STAGE: record.digest}, [])
    return Imported(version, record, located.origin, record.metrics)


def _too_large(shape: ModelShape) -> str:
    """What a person should know before a model is read that this machine can hardly hold; ""."""
    memory_bytes, parameters = machine_facts().memory_bytes, count_shape(shape).total
    needed = COPIES * FLOAT_BYTES * parameters
    if needed <= memory_bytes:
        return ""
    return (
        f"{format_count(parameters)} parameters: importing and checking them takes up to "
        f"{format_bytes(needed)}, and this machine has {format_bytes(memory_bytes)}; teaching "
        f"every weight takes {format_bytes(TAUGHT_BYTES * parameters)} and more"
    )


def _make(
    place: Path,
    located: Located,
    model: ForeignModel,
    lineage: Mapping[str, str],
    progress: Progress,
    exports: Path | None,
) -> dict[str, Any]:
    """Write the model folder and check it; gives the figures."""
    from whorl.engines.open import keep_export
    from whorl.model.hf import check_tensors, save_model_folder
    from whorl.wiring.checks import RuntimeChecks, keep_figures

    progress.start(f"reading {located.path.name}", None)
    folder, tokens = place / MODEL, model.tokens
    weights = model.weights()
    check_tensors(weights, located.path)
    save_model_folder(folder, weights, model.shape, tokens, lineage)
    del weights
    progress.finish()
    scratch = place / "exported"
    with RuntimeChecks.over(folder, progress) as checks:
        checks.transformers(located.path)
        if located.path.is_file():
            checks.llama_cpp(located.path)
        checks.exported(scratch)
    card = keep_figures(folder, checks.checks)
    if exports is not None and scratch.is_dir():
        keep_export(scratch, card, exports)
    shutil.rmtree(scratch, ignore_errors=True)
    return checks.checks.as_json()


# ------------------------------------------------------------------ kinds of sources


class ForeignModel(Protocol):
    """A model of somebody's, looked over; its weights are read last."""

    format: str
    shape: ModelShape
    digest: str

    @property
    def remarks(self) -> tuple[str, ...]: ...

    @property
    def tokens(self) -> Tokens: ...

    def weights(self) -> dict[str, Tensor]:
        """By the names of a Transformer, in the dtype they have."""
        ...


def _opened(path: Path) -> ForeignModel:
    if path.is_file():
        return _Gguf(open_gguf(path))
    return _Whorl(path) if (path / CARD).is_file() else _HuggingFace(path)


class _Gguf:
    format = "gguf"
    remarks: tuple[str, ...] = ()

    def __init__(self, file: GgufFile) -> None:
        MissingExtra.check("gguf", "gguf", "reading GGUF files")
        self._file = file
        self.shape = gguf_shape(file)
        self.digest = digest_file(file.path)

    @cached_property
    def tokens(self) -> Tokens:
        return read_gguf_tokens(self._file.facts, self.shape.vocab_size)

    def weights(self) -> dict[str, Tensor]:
        from whorl.model.hf import model_of

        weights = gguf_weights(self._file, self.shape)
        return dict(model_of(weights, self.shape, self._file.path).state_dict())


def read_gguf_folder(file: Path, folder: Path) -> None:
    """What whorl reads from a GGUF file, as a model folder."""
    from whorl.model.hf import save_model_folder

    source = _Gguf(open_gguf(file))
    save_model_folder(folder, source.weights(), source.shape, source.tokens, {})


class _HuggingFace:
    format = "hf"

    def __init__(self, folder: Path) -> None:
        source = open_hf_source(folder)
        self._folder, self.shape, self.remarks = folder, source.shape, source.remarks
        self.digest = source.digest

    @cached_property
    def tokens(self) -> Tokens:
        return read_hf_tokens(self._folder)

    def weights(self) -> dict[str, Tensor]:
        from whorl.model.hf import load_weights

        return dict(load_weights(self._folder)[0].state_dict())


class _Whorl:
    """A folder that whorl wrote, on another machine perhaps: its card and tokens are kept."""

    format = "hf"
    remarks: tuple[str, ...] = ()

    def __init__(self, folder: Path) -> None:
        card = read_card(folder)
        if card.variant.format != "hf":
            raise SpecError(
                f"{folder} is an export",
                found=str(card.variant),
                expected="the model itself, a Hugging Face folder",
            )
        self._folder, self.shape, self.digest = folder, card.shape, card.digest

    @cached_property
    def tokens(self) -> Tokens:
        return Tokens.load(self._folder / TOKENS)

    def weights(self) -> dict[str, Tensor]:
        from whorl.model.hf import load_model_folder

        return dict(load_model_folder(self._folder)[0].state_dict())
