"""Engines that compress and evaluate ask: over which folder, and what was answered before."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from whorl.core.ports import Engine
from whorl.core.variants import Variant
from whorl.engines.kept import open_keeping
from whorl.engines.open import AUTO, CACHE, SAFETENSORS, best_form, openable, server_of
from whorl.engines.setup import EngineSetup
from whorl.model.folder import peek_card
from whorl.wiring.work import Work

if TYPE_CHECKING:
    from whorl.stages.plan.plan import Plan

__all__ = ["open_asked"]


class Compressing(Work, Protocol):
    """A recipe with its plan, and what compress made."""

    @property
    def planned(self) -> Plan: ...

    def variants(self) -> Mapping[Variant, Path]: ...


def open_asked(session: Compressing, model: Path, variant: Variant) -> Engine:
    """Of a variant. Beside variants that are made for an engine, the trained model and its base
    are only asked, in the form that is fastest: torch would take an hour for their answers."""
    serve = session.planned.decisions.serve
    name, form = server_of(variant, serve.engine), variant
    if session._compresses and variant.format == SAFETENSORS and name == AUTO:
        model, form = _exported(model, session.variants())
    found = openable(model, form, name, session.home / CACHE)
    setup, answers = EngineSetup(serve.max_running), session.home / CACHE / "answers"
    return open_keeping(found, setup, answers, session.log)


def _exported(model: Path, there: Mapping[Variant, Path]) -> tuple[Path, Variant]:
    """The folder and form that are asked: what compress exported of the model, if it did."""
    card = peek_card(model)
    form = best_form(card, AUTO)
    if form in there and peek_card(there[form]).lineage.get("model") == card.digest[:32]:
        return there[form], form
    return model, form
