"""What plan is handed: the recipe, this machine, the data's facts, and its base."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from whorl.core.ports import Field, Source
from whorl.core.records import Record
from whorl.stages.plan import run as planner
from whorl.wiring.work import Work

if TYPE_CHECKING:
    from whorl.codecs.contract import Tokens
    from whorl.spec.recipe import Recipe
    from whorl.stages.plan.data import DataFacts
    from whorl.stages.plan.plan import Plan
    from whorl.wiring.bases import Base

__all__ = ["considered", "planned"]


class Asking(Work, Protocol):
    """What a plan is made of; most of it is found when it is asked for."""

    @property
    def fields(self) -> Mapping[str, Field]: ...

    @property
    def sources(self) -> Sequence[Source]: ...

    @property
    def data_digest(self) -> str: ...

    @property
    def base(self) -> Base | None: ...

    @property
    def workers(self) -> int | None: ...

    @property
    def plans_alone(self) -> bool: ...


def planned(session: Asking) -> Record:
    """The plan's record, found or made."""
    return planner.find_or_make(session.context, _asked(session))


def considered(session: Asking) -> Plan:
    """The plan that would be made, without a record of it."""
    return planner.find_or_consider(session.context, _asked(session))


def _asked(session: Asking) -> planner.PlanInputs:
    from whorl.engines.open import find_engine
    from whorl.launch.calibrate import this_machine
    from whorl.launch.compiling import with_compiled
    from whorl.launch.machine import machine_facts
    from whorl.wiring.bases import planned_base
    from whorl.wiring.choice import check_variant

    fields, recipe, home = session.fields, session.loaded.recipe, session.home
    planner.check_plannable(recipe)
    if recipe.serve.engine != "auto":
        find_engine(recipe.serve.engine)  # a wrong name is told before any work
    check_variant(recipe)
    facts, base, progress = machine_facts(), session.base, session.progress

    def told(label: str, find: Callable[..., Any], *known: Any) -> Any:
        progress.start(label, None)
        machine = find(home, *known)
        progress.finish()
        return machine

    def gather() -> DataFacts:
        progress.start("sampling the data", None)
        found = _gathered(session, fields)
        progress.finish(f"{found.num_documents:,} documents")
        return found

    measure = partial(told, "measuring this machine", this_machine)
    compiled = partial(told, "timing compiled blocks", with_compiled)
    given_base = None if base is None else planned_base(base, recipe.train, home, progress)
    return planner.PlanInputs(
        recipe, facts, session.data_digest, measure, gather, compiled, given_base
    )


def _gathered(session: Asking, known: Mapping[str, Field]) -> DataFacts:
    from whorl.stages.prepare.clean import is_little
    from whorl.stages.prepare.facts import field_of
    from whorl.stages.prepare.pool import WorkerPool, default_workers, is_sendable

    sources, base = session.sources, session.base
    fields = {source.field: field_of(known, source) for source in sources}
    items = [item for source in sources for item in fields[source.field].items(source)]
    data = fields, sources, session.data_digest
    find = partial(_facts, *data, session.loaded.recipe, None if base is None else base.tokens)
    is_here = session.plans_alone or is_little(items) or not is_sendable(find)
    workers = 1 if is_here else session.workers or default_workers()
    with WorkerPool(workers) as pool:
        return pool.run(find)


def _facts(
    fields: Mapping[str, Field],
    sources: Sequence[Source],
    digest: str,
    recipe: Recipe,
    given: Tokens | None,
) -> DataFacts:
    from whorl.stages.plan.data import gather_facts
    from whorl.stages.prepare.facts import text_bytes

    sizes = planner.trial_vocab_sizes(recipe, text_bytes(fields, sources))
    share, is_open = recipe.prepare.heldout_share, recipe.prepare.vocab_size == "auto"
    return gather_facts(fields, sources, digest, sizes, share, recipe.seed, given, is_open)
