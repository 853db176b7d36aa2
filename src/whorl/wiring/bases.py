"""`model: {base: …}` of a recipe: the open or trained model that training starts from.

What plan and prepare need of it (shape, tokens, digest) is read without its weights and without
torch; it is imported when somebody asks for its record.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

from whorl.arch.computable import check_computable
from whorl.arch.pruning import pruned_shape
from whorl.arch.shape import ModelShape
from whorl.codecs.contract import Tokens
from whorl.core.context import NoProgress
from whorl.core.digests import digest_value
from whorl.core.errors import SpecError
from whorl.core.ports import Progress
from whorl.core.records import Record, RecordStore
from whorl.launch.given_step import rehearsal_of
from whorl.model.folder import TOKENS, FolderCard, peek_card, read_card
from whorl.spec.recipe import NAME, PruneSpec
from whorl.spec.resolved import TrainConfig
from whorl.spec.train_keys import TrainSpec
from whorl.stages.plan.given import GivenBase, NotRehearsed, Rehearsal
from whorl.wiring.imports import (
    MODEL,
    STAGE,
    TRAINED,
    LookedOver,
    import_looked,
    imported_before,
    look_over,
)

__all__ = ["Base", "find_base", "planned_base", "pruned_base"]

Log = Callable[[str], None]
# Libraries that check an import, which stay in the process that trains next: 150 MiB of
# transformers, 52 of OpenVINO (29 November 2026).
IMPORT_LEAVES_BYTES = 202 * 2**20


@dataclass
class Base:
    """digest: of the source's content, or of the record of a model that was trained here."""

    asked: str
    digest: str
    shape: ModelShape
    make_record: Callable[[], Record] = field(repr=False)
    make_tokens: Callable[[], Tokens] = field(repr=False)
    find: Callable[[str], Base] = field(repr=False)  # another one, asked for in the same place
    whole: Base | None = field(default=None, repr=False)  # of which this is what pruning left

    @cached_property
    def record(self) -> Record:
        """Of its import, made now if need be, or of its training."""
        return self.make_record()

    @cached_property
    def tokens(self) -> Tokens:
        return self.make_tokens()

    def records(self, train: TrainSpec) -> tuple[Record, Record | None]:
        """What training is handed: its own, and that of the teacher it learns from."""
        teacher = self.teacher(train)
        return self.record, None if teacher is None else teacher.record

    def teacher(self, train: TrainSpec) -> Base | None:
        """The model that distil learns from."""
        asked = None if train.distil is None else train.distil.teacher
        return None if asked is None else self.find(asked)

    @property
    def folder(self) -> Path:
        """Its Hugging Face folder."""
        return self.record.folder(MODEL)

    @cached_property
    def card(self) -> FolderCard:
        """Its folder's, every file of it verified: as the record's."""
        return peek_card(self.folder)


def find_base(
    asked: str,
    *,
    home: Path,
    recipe_name: str,
    folder: Path,
    progress: Progress | None = None,
    log: Log = lambda line: None,
    exports: Path | None = None,
) -> Base:
    """The base that a recipe of that name in that folder asks for.

    asked: a model's name here, name@version too, or what `whorl import` takes. exports: see
    `import_looked`. Raises SpecError
    if it is neither or cannot be trained, and as `whorl import` does.
    """
    find = partial(
        find_base, home=home, recipe_name=recipe_name, folder=folder, progress=progress, log=log
    )
    record = _model_here(asked, home, recipe_name)
    if record is None:
        looked = look_over(_place(asked, folder), None, home, log)
        record = imported_before(home, looked.source.digest)
        if record is None:
            check_computable(looked.source.shape, "train")
            importing = _Importing(
                looked, home, recipe_name, progress or NoProgress(), log, exports
            )
            source = looked.source
            return Base(asked, source.digest, source.shape, importing, lambda: source.tokens, find)
    model = record.path / MODEL
    card = read_card(model)
    check_computable(card.shape, "train")
    digest = record.inputs["source"] if record.stage == STAGE else record.digest
    tokens = partial(Tokens.load, model / TOKENS)
    return Base(asked, digest, card.shape, lambda: record, tokens, find)


@dataclass(frozen=True)
class _Importing:
    looked: LookedOver
    home: Path
    recipe_name: str
    progress: Progress
    log: Log
    exports: Path | None

    def __call__(self) -> Record:
        """Under the name of its source, with -base behind it where a recipe has that name."""
        name = self.looked.located.name
        is_taken = next(iter(RecordStore(self.home, name).all(TRAINED)), None) is not None
        given = f"{name[:58]}-base" if is_taken or name == self.recipe_name else None
        self.log(f"importing {self.looked.asked} as {given or name}")
        imported = import_looked(
            self.looked,
            home=self.home,
            name=given,
            progress=self.progress,
            log=self.log,
            exports=self.exports,
        )
        return imported.record


def pruned_base(base: Base, asked: PruneSpec, make: Callable[[Record], Record]) -> Base:
    """What pruning leaves of a base. make: its record, from the base's.

    Raises SpecError if it cannot be pruned so.
    """
    shape = pruned_shape(base.shape, asked.layers, asked.ffn)
    digest = digest_value({"base": base.digest, "prune": asked.model_dump(mode="json")})
    return replace(
        base, digest=digest, shape=shape, make_record=lambda: make(base.record), whole=base
    )


def planned_base(base: Base, train: TrainSpec, home: Path, progress: Progress) -> GivenBase:
    """What plan knows of it, and how a step of it is rehearsed here."""

    def rehearse(
        shape: ModelShape, config: TrainConfig, mixed_rows: int, trained_share: float
    ) -> Rehearsal | NotRehearsed:
        progress.start("rehearsing a step of the base", None)
        found = rehearsal_of(home, shape, config, mixed_rows, trained_share)
        progress.finish(
            f"{found.quiet_step_s:.1f} s a step"
            if isinstance(found, Rehearsal)
            else f"it cannot be done here: {found.reason}"
        )
        return found

    def find_teacher() -> ModelShape | None:
        teacher = base.teacher(train)
        return None if teacher is None else teacher.shape

    is_importing = isinstance((base.whole or base).make_record, _Importing)
    left_bytes = IMPORT_LEAVES_BYTES if is_importing else 0
    return GivenBase(base.asked, base.digest, base.shape, rehearse, find_teacher, left_bytes)


def _place(asked: str, folder: Path) -> str:
    """A path that is there as seen from the recipe's folder; anything else as it is."""
    path = Path(os.path.expanduser(asked))
    return str(folder / path) if (folder / path).exists() else asked


def _model_here(asked: str, home: Path, recipe_name: str) -> Record | None:
    """The record of a model of the home: of a version, or the newest; None if it has no such."""
    from whorl.stages.improve.registry import list_versions

    name, at, number = asked.partition("@")
    if not NAME.fullmatch(name):
        return None
    versions = [v for v in list_versions(home, name) if {STAGE, TRAINED} & v.lineage.keys()]
    if at:
        versions = [v for v in versions if number.lstrip("v") == str(v.version)]
    elif name == recipe_name:  # what it made itself would change what it starts from
        versions = [v for v in versions if TRAINED not in v.lineage]
    if versions:
        lineage = versions[-1].lineage
        stage = TRAINED if TRAINED in lineage else STAGE
        return Record.load(RecordStore(home, name).folder(stage) / lineage[stage])
    trained = RecordStore(home, name).newest(TRAINED)
    if trained is not None and not at and name != recipe_name:
        return trained
    if trained is not None or (at and list_versions(home, name)):
        raise SpecError(
            f"model.base {asked} is no model to start from",
            found="the recipe's own model" if name == recipe_name else "no such version",
            expected=f"another model's name, or a version of it, such as {name}@1",
            do="`whorl models` lists them",
        )
    return None
