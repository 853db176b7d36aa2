"""What a person's word for a model means: a name of `whorl models` or a folder, and in which form.

Wiring, like `verbs.py`.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whorl.core.errors import SpecError
from whorl.core.records import MANIFEST, Record, RecordStore
from whorl.core.variants import Variant, find_variant
from whorl.spec.resolved import ServeConfig

if TYPE_CHECKING:
    from whorl.stages.improve.registry import Version

__all__ = ["Servable", "find_beside", "find_model"]

STAGES = ("compress", "train", "import")  # whose records hold model folders
MAX_SHOWN = 5  # model folders named in an error
MAX_CHARS = 80  # of what was asked for, in an error


@dataclass(frozen=True)
class Servable:
    """A model folder, in which form it is served, and what clients call it."""

    model_id: str
    folder: Path
    variant: Variant | None  # None: see `whorl.engines.open.open_engine`
    scores: Sequence[Mapping[str, Any]] = ()
    version: int = 0  # of the registry; 0: of none
    why: str = ""  # this variant, where targets chose it

    @property
    def named(self) -> tuple[str, Path, Variant | None]:
        return self.model_id, self.folder, self.variant


def find_model(what: str, config: ServeConfig, home: Path) -> Servable:
    """The model that a person means, a name of `whorl models` or else a folder, in the variant that
    the config names or its targets choose.

    A word without a slash is a name first, so that a folder of the same name hides no model;
    `./word` is always the folder. Raises SpecError if nothing of it can be served, RecordError if
    it is damaged.
    """
    from whorl.stages.improve.registry import list_versions

    name, _, number = what.partition("@")
    versions = [] if _is_path(what) else list_versions(home, name)
    if versions:
        return _registered(_of_number(versions, what, number), config, home)
    folder = os.path.expanduser(what)
    if os.path.isfile(folder):
        raise SpecError(
            f"{what} is a file",
            expected="a recipe (x.yaml) or a model folder",
            do=f"whorl import {what}" if what.endswith(".gguf") else None,
        )
    if not os.path.isdir(folder):
        raise _no_model(what, home)
    return _in_folder(Path(folder), what, config, home)


def _is_path(what: str) -> bool:
    return os.sep in what or what in (os.curdir, os.pardir)


def _of_number(versions: Sequence[Version], what: str, number: str) -> Version:
    """The newest, or the one that is named by its number: "3", "v3", "0003"."""
    digits = number.removeprefix("v").lstrip("0")
    named = [version for version in versions if number == "" or digits == str(version.version)]
    if not named or what.endswith("@"):
        known = ", ".join(f"{version.name}@{version.version}" for version in versions[-20:])
        do = "name one of these; `whorl models` lists all"
        raise SpecError(f"there is no model {what[:MAX_CHARS]}", found=known, do=do)
    return named[-1]


def _registered(version: Version, config: ServeConfig, home: Path) -> Servable:
    there: dict[Variant, Path] = {}
    for stage in STAGES:
        if stage in version.lineage:
            records = RecordStore(home, version.name).folder(stage)
            there |= _of_record(records / version.lineage[stage])
    scores = [score.model_dump() for score in version.scores if score.kind == "model"]
    chosen, folder, why = _chosen(there, config)
    return Servable(version.name, folder, chosen, scores, version.version, why)


def _in_folder(folder: Path, what: str, config: ServeConfig, home: Path) -> Servable:
    """A model folder, or the record that holds some."""
    from whorl.engines.open import forms_of
    from whorl.model.folder import CARD, peek_card

    if (folder / CARD).is_file():
        card = peek_card(folder)  # the engine verifies every file
        model_id = _model_id(folder, card.variant)
        asked = config.variant
        chosen = None if asked is None else find_variant(asked, forms_of(card))
        return Servable(model_id, folder, chosen)
    if (folder / MANIFEST).is_file() and (there := _of_record(folder.resolve())):
        chosen, place, why = _chosen(there, config)
        return Servable(_model_id(place, peek_card(place).variant), place, chosen, why=why)
    below = [str(path.parent) for path in _cards_below(folder, CARD)]
    is_foreign = (folder / "config.json").is_file()
    if not (below or is_foreign or _is_path(what)):
        raise _no_model(what, home)
    raise SpecError(
        f"{what[:MAX_CHARS]} is not a model folder",
        found=f"config.json without {CARD}: not written by whorl" if is_foreign else f"no {CARD}",
        expected="a folder written by whorl train or whorl compress",
        do=f"whorl import {what[:MAX_CHARS]}, then serve its name"
        if is_foreign
        else f"name one of those below it: {', '.join(below)}"
        if below
        else None,
    )


def _of_record(folder: Path) -> dict[Variant, Path]:
    from whorl.model.folder import model_folders

    return model_folders(Record.load(folder))


def _chosen(there: Mapping[Variant, Path], config: ServeConfig) -> tuple[Variant | None, Path, str]:
    """(variant, its folder, why). Without a word for variant or engine, a Hugging Face folder is
    served in the fastest form: None."""
    from whorl.engines.open import AUTO, SAFETENSORS
    from whorl.wiring.choice import choose_variant

    best = choose_variant(there, config)
    says_nothing = config.variant is None and config.engine == AUTO
    is_any = says_nothing and best.variant.format == SAFETENSORS
    return None if is_any else best.variant, best.folder, best.why


def _model_id(folder: Path, variant: Variant) -> str:
    """The recipe's name where the folder lies in a record, else the folder's own.

    A name that says nothing of this model ("model", "openvino-int8") gives way to the one above.
    """
    place = folder.resolve()
    record = place.parent
    if (record / MANIFEST).is_file() and record.parent.name in STAGES:
        return record.parent.parent.name
    says_nothing = {"model", "", variant.slug, variant.format, variant.weights}
    names = [path.name for path in (place, *place.parents) if path.name not in says_nothing]
    name = next(iter(names), "whorl")
    return "".join(char if char.isprintable() else "_" for char in name)


def _cards_below(folder: Path, card: str) -> Iterator[Path]:
    """Model folders that are not far below, such as a recipe's in a home."""
    found = (path for depth in (1, 2, 3) for path in sorted(folder.glob(f"{'*/' * depth}{card}")))
    yield from (path for _, path in zip(range(MAX_SHOWN), found, strict=False))


def _no_model(what: str, home: Path) -> SpecError:
    """Neither a registered model nor a folder: with what was probably meant."""
    from whorl.stages.improve.registry import list_versions

    name = what.partition("@")[0]
    known = [f"{version.name}@{version.version}" for version in list_versions(home)]
    names = [*known, *(each.partition("@")[0] for each in known)]
    near = difflib.get_close_matches(what[:MAX_CHARS], names, n=1, cutoff=0.7)
    do = "name a recipe (x.yaml), a model of `whorl models`, or a model folder"
    if near:
        do = f"did you mean {near[0]}? `whorl models` lists all"
    elif not _is_path(what) and len(name) < MAX_CHARS:
        trained = list(RecordStore(home, name).all("train"))
        if os.path.isfile(f"{name}.yaml"):
            do = f"whorl serve {name}.yaml"
        elif trained:
            do = f"whorl serve {trained[-1] / 'model'}: it is trained, `whorl up` registers it"
    return SpecError(
        f"there is no model {what[:MAX_CHARS]} in {home}, nor such a folder with one",
        found=", ".join(known[-20:]) or "no models",
        do=do,
    )


# ------------------------------------------------------------------ another beside it


def find_beside(word: str, what: str, model: Servable, config: ServeConfig, home: Path) -> Servable:
    """The model that is served beside one (which `what` means), by a name of its own.

    word: "@2", another version; a variant, such as "int8"; or a model, as `find_model` takes them.
    The config's variant is that of the first one alone: another version or model is in the one that
    targets choose. Raises SpecError where it is none, or the same again.
    """
    from whorl.stages.improve.registry import list_versions

    own = config.model_copy(update={"variant": None})
    if word.startswith("@"):
        found = find_model(what.partition("@")[0] + word, own, home)
    elif _is_path(word) or list_versions(home, word.partition("@")[0]):
        found = find_model(word, own, home)
    else:
        try:
            found = find_model(what, config.model_copy(update={"variant": word}), home)
        except SpecError as error:
            raise SpecError(
                f"--beside {word[:MAX_CHARS]}: {error.what}",
                expected=f"a variant ({error.expected}), another version (@2), a name of "
                "`whorl models`, or a folder, with a slash",
            ) from None
    if _facts(found, config.engine) == _facts(model, config.engine):
        raise SpecError(
            f"--beside {word[:MAX_CHARS]} is what is served already",
            found=f"{model.model_id} {model.variant or ''}",
            do="name another version (@2) or another variant; whorl models lists them",
        )
    return replace(found, model_id=_name_beside(found, model))


def _facts(model: Servable, engine: str) -> tuple[str, int, Path, Variant]:
    """Which model it is, and in which form."""
    from whorl.engines.open import best_form
    from whorl.model.folder import peek_card

    folder = model.folder.resolve()
    form = model.variant or best_form(peek_card(folder), engine)
    return model.model_id, model.version, folder, form


def _name_beside(found: Servable, model: Servable) -> str:
    """Its own name, or what tells it from the other one of that name."""
    if found.model_id != model.model_id:
        return found.model_id
    if found.version != model.version:
        return f"{found.model_id}@{found.version}"
    return f"{found.model_id}:{found.variant.slug if found.variant else 'beside'}"
