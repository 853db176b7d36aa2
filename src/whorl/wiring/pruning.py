"""The base of a recipe, as it is or with parts of it gone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

from whorl.core.records import Record
from whorl.engines.open import CACHE
from whorl.wiring.bases import Base, find_base, pruned_base
from whorl.wiring.texts import training_texts
from whorl.wiring.work import Work

__all__ = ["base_of"]


class Basing(Work, Protocol):
    """What a base is found with."""

    def prepare(self) -> Record: ...

    def _stage(self, stage: str, make: Callable[[], Record]) -> Record: ...


def base_of(session: Basing, asked: str) -> Base:
    """Raises as `find_base`, and SpecError if it cannot be pruned as the recipe says."""
    recipe, folder = session.loaded.recipe, session.loaded.folder
    base = find_base(
        asked,
        home=session.home,
        recipe_name=recipe.name,
        folder=folder,
        progress=session.progress,
        log=session.log,
        exports=session.home / CACHE if session._compresses else None,  # evaluate asks it
    )
    if (prune := recipe.model.prune) is None:
        return base

    def make(whole: Record) -> Record:
        from whorl.stages.compress.prune import run

        prepared = session.prepare()
        texts = partial(training_texts, prepared)
        work = session.context, prune.layers, prune.ffn, whole, prepared, texts
        return session._stage("prune", partial(run, *work))

    return pruned_base(base, prune, make)
