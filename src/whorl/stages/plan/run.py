"""plan: a recipe, this machine and the data's facts -> plan.json, every value with its reason.

The record's key is made of the recipe, the data and the kind of machine, never of measured
figures: measuring the machine again changes no plan. What only passes through plan (compress,
evaluate, serve) may change without a new choice: sizes and steps are then taken from the plan
that has them, so that nothing is trained again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from whorl.core.context import StageContext
from whorl.core.digests import digest_value, write_sealed
from whorl.core.errors import PlanError, RecordError
from whorl.core.mixture import check_repeats
from whorl.core.plugins import packages_of
from whorl.core.records import Record, RecordKey, RecordStore
from whorl.spec.recipe import HardwareSpec, Recipe
from whorl.spec.resolved import CompressConfig, EvaluateConfig, ServeConfig
from whorl.stages.plan import rules
from whorl.stages.plan.candidate import Candidate
from whorl.stages.plan.choose import check_says_enough, choose
from whorl.stages.plan.data import DataFacts
from whorl.stages.plan.explanation import data_warnings, reasons_of
from whorl.stages.plan.given import GivenBase
from whorl.stages.plan.hardware import Machine, MachineFacts
from whorl.stages.plan.law import shipped_law
from whorl.stages.plan.own_runs import corrected
from whorl.stages.plan.plan import PLAN_FILE, Decisions, Plan
from whorl.stages.plan.predictions import predicted_cache, predictions_of
from whorl.stages.plan.rehearsing import rehearsed
from whorl.stages.plan.rules import REPEATS_MARGIN
from whorl.stages.plan.settings import (
    GIVING_WAY,
    passed_through,
    prepare_config,
    train_config,
    window_of,
)
from whorl.stages.plan.situation import Situation
from whorl.stages.plan.step_time import fit_level

__all__ = [
    "LOGIC_VERSION",
    "PlanInputs",
    "check_is_here",
    "check_plannable",
    "find_or_consider",
    "find_or_make",
    "plan_key",
    "run",
    "trial_vocab_sizes",
]

LOGIC_VERSION = 11  # raised when the same recipe, data and machine would get another plan
Compiled = Callable[[Machine], Machine]
IDS_MULTIPLE = 64
ADDED_BUDGETS = ("device_hours", "usd")  # not in the keys of plans that do not use them
ADDED_KEYS = ("lora", "dpo", "distil")  # of train, likewise
CHOSEN_FROM = ("budget", "model", "train", "prepare", "seed")  # parts of the recipe
SAID = "said"  # in the key: which defaults a recipe says itself, where a base has others


def plan_key(
    recipe: Recipe, facts: MachineFacts, data_digest: str, base: GivenBase | None = None
) -> RecordKey:
    """The key of the record: recipe without names and places, kind of machine, data, base."""
    value = recipe.model_dump(
        mode="json",
        exclude={
            "name": True,
            "data": True,
            "model": {"base"},
            "evaluate": {"forgetting", "max_forgetting"},
        },
    )
    value["budget"] = {
        name: amount
        for name, amount in recipe.budget.model_dump().items()
        if amount is not None or name not in ADDED_BUDGETS
    }
    for name in ADDED_KEYS:
        if value["train"][name] is None:
            del value["train"][name]
    if recipe.model.prune is None:
        del value["model"]["prune"]
    if recipe.compress.speculation == "off":
        del value["compress"]["speculation"]
    if base is not None and (said := _said_defaults(recipe)):
        value[SAID] = said
    if recipe.hardware == HardwareSpec():
        value["hardware"] = "auto"
    value["sources"] = [{"field": entry.field, "share": entry.share} for entry in recipe.data]
    value["machine"] = facts.identity
    value |= packages_of(
        {
            "whorl.fields": dict.fromkeys(entry.field for entry in recipe.data),
            "whorl.blocks": [recipe.model.block],
            "whorl.objectives": [recipe.train.objective],
            "whorl.optimizers": [recipe.train.optimizer],
        }
    )
    inputs = {"data": data_digest} | ({} if base is None else {"base": base.digest})
    return RecordKey("plan", value, inputs, LOGIC_VERSION)


def _said_defaults(recipe: Recipe) -> list[str]:
    """Keys that give way to what suits a base, unless the recipe says them: they look alike."""
    said = [f"train.{key}" for key in GIVING_WAY if key in recipe.train.model_fields_set]
    return said + ["evaluate.max_bytes"] * ("max_bytes" in recipe.evaluate.model_fields_set)


@dataclass(frozen=True)
class PlanInputs:
    """What a plan is made of; the machine is measured and the data read only for a new choice."""

    recipe: Recipe
    facts: MachineFacts
    data_digest: str
    measure: Callable[[], Machine]
    gather: Callable[[], DataFacts]
    with_compiled: Compiled | None  # times compiled blocks too: called only for a long training
    base: GivenBase | None = None  # what the recipe's model.base means

    @property
    def key(self) -> RecordKey:
        return plan_key(self.recipe, self.facts, self.data_digest, self.base)


def find_or_make(context: StageContext, asked: PlanInputs) -> Record:
    """The plan's record."""
    key = asked.key
    if (record := context.store.find(key)) is not None:
        return record
    context.store.check_writable()
    return _written(context, key, asked.facts, _considered(context, key, asked))


def find_or_consider(context: StageContext, asked: PlanInputs) -> Plan:
    """The plan that find_or_make would leave; no record is written."""
    key = asked.key
    record = context.store.find(key)
    return _considered(context, key, asked) if record is None else Plan.load(record)


def run(
    context: StageContext,
    recipe: Recipe,
    machine: Machine,
    data: DataFacts,
    with_compiled: Compiled | None = None,
    base: GivenBase | None = None,
) -> Record:
    """The plan's record, found or made.

    Raises PlanError when what is asked for does not fit, saying what would; SpecError when sizes
    of the recipe do not fit each other.
    """
    work = lambda: machine, lambda: data, with_compiled, base
    return find_or_make(context, PlanInputs(recipe, machine.facts, data.digest, *work))


def _written(context: StageContext, key: RecordKey, facts: MachineFacts, plan: Plan) -> Record:
    with context.store.write(key) as writer:
        write_sealed(writer.path / PLAN_FILE, plan.model_dump(mode="json"))
        writer.metrics.update(
            {name: item.value for name, item in plan.predictions.items() if item.value is not None}
        )
        writer.run.update({"machine": facts.identity, **plan.machine})
    for warning in plan.warnings:
        context.log(f"warning: {warning}")
    return context.store.published(key)


def _considered(context: StageContext, key: RecordKey, asked: PlanInputs) -> Plan:
    """An earlier choice from the same things, for which nothing is measured, or a new one."""
    chosen_from, recipe = _chosen_from(key), asked.recipe
    plan = _earlier_choice(context, chosen_from)
    if plan is None:
        machine, given = asked.measure(), (asked.gather(), chosen_from, asked.base, context.store)
        plan = _new_plan(recipe, machine, *given)
        if asked.with_compiled is not None and _compiling_may_pay(plan, recipe, machine):
            plan = _new_plan(recipe, asked.with_compiled(machine), *given)
    cache = predicted_cache(plan.decisions.shape, recipe.compress.cache)
    predictions = {**plan.predictions, "kv_cache_bytes_per_token": cache}
    decisions = passed_through(plan.decisions, recipe)
    return plan.model_copy(update={"decisions": decisions, "predictions": predictions})


def check_is_here(recipe: Recipe) -> None:
    """Raises PlanError if the recipe is for other hardware: nothing of it is run here."""
    if not (hardware := recipe.hardware).is_here:
        raise PlanError(
            f"recipe {recipe.name} is for other hardware than this machine",
            found=f"hardware: {hardware.count} × {hardware.device}",
            expected="hardware: auto",
            do="whorl plan RECIPE plans it; --set hardware=auto runs it here",
        )


def check_plannable(recipe: Recipe) -> None:
    """What is wrong with a recipe is told before any data is fetched. Raises PlanError."""
    check_is_here(recipe)
    check_says_enough(recipe)


def trial_vocab_sizes(recipe: Recipe, text_bytes: int) -> tuple[int, ...]:
    """Vocabularies that `gather_facts` should try for this recipe."""
    given = recipe.prepare.vocab_size
    return rules.vocab_sizes(text_bytes) if given == "auto" else (given,)


def _chosen_from(key: RecordKey) -> str:
    """Digest of everything the choice of sizes, steps and data depends on."""
    priced = ("hardware",) if key.config["hardware"] != "auto" else ()
    brought = ("packages",) if "packages" in key.config else ()
    said = (SAID,) if SAID in key.config else ()
    names = (*CHOSEN_FROM, *priced, *brought, *said, "sources", "machine")
    used = {name: key.config[name] for name in names}
    return digest_value({"used": used, "data": dict(key.inputs), "logic": key.logic_version})[:32]


def _earlier_choice(context: StageContext, chosen_from: str) -> Plan | None:
    """A plan of this recipe that was chosen from the same things; the newest one."""
    for path in reversed(list(context.store.all("plan"))):
        try:
            plan = Plan.load(Record.load(path))
        except RecordError:
            continue
        if plan.chosen_from == chosen_from:
            return plan
    return None


def _new_plan(
    recipe: Recipe,
    machine: Machine,
    data: DataFacts,
    chosen_from: str,
    base: GivenBase | None,
    store: RecordStore,
) -> Plan:
    law = shipped_law()
    level = fit_level(machine.calibration)
    tightened = _tightened(data, recipe) if base is None else data

    def with_own(situation: Situation) -> Situation:
        return replace(situation, own=corrected(store, situation, LOGIC_VERSION))

    situation = rehearsed(with_own(Situation(recipe, machine, level, tightened, law, base)))
    situation = with_own(situation)  # a rehearsed one is corrected by rehearsed runs alone
    candidate, considered = choose(situation)
    _check_repeats(situation, candidate)
    train = train_config(situation, candidate)
    decisions = Decisions(
        shape=candidate.shape,
        prepare=prepare_config(recipe, candidate.shape.vocab_size, candidate.seq_len),
        train=train,
        compress=CompressConfig(),
        evaluate=EvaluateConfig(window=window_of(candidate.shape, candidate.seq_len, recipe)),
        serve=ServeConfig(),
    )
    calibration = machine.calibration
    return Plan(
        decisions=decisions,
        chosen_from=chosen_from,
        predictions=predictions_of(situation, candidate, train),
        reasons=reasons_of(situation, candidate, considered, train),
        machine={
            "identity": machine.facts.identity,
            **machine.facts.model_dump(mode="json"),
            "calibration": calibration.digest,
            "calibrated_at": calibration.measured_at,
            "noise": calibration.noise,
            "rehearsed": situation.is_rehearsed,
            **({"corrected": situation.own.values()} if situation.own.runs else {}),
        },
        law=_law_facts(data),
        warnings=tuple(data_warnings(situation, candidate)),
    )


def _compiling_may_pay(plan: Plan, recipe: Recipe, machine: Machine) -> bool:
    """Whether a training is so long that it is worth finding out, and nobody knows yet."""
    given, known = recipe.train.compiled, machine.calibration.choice("train.compiled")
    long = (plan.predictions["train_s"].value or 0) >= rules.LONG_TRAINING_S
    return known is None and given is not False and (long or given is True)


def _check_repeats(situation: Situation, candidate: Candidate) -> None:
    """Raises SpecError if a source of a mixture is surely too small; train counts exactly."""
    data, most = situation.data, situation.recipe.train.max_repeats
    epochs = data.epochs(candidate.tokens, candidate.shape.vocab_size)
    if data.is_mixed and max(epochs) * REPEATS_MARGIN > most:
        check_repeats(epochs, [source.field for source in data.sources], most)


def _tightened(data: DataFacts, recipe: Recipe) -> DataFacts:
    """Without text no larger vocabulary is of use: as many ids as the codecs have, rounded up."""
    if recipe.prepare.vocab_size != "auto" or data.num_bytes:
        return data
    tokens = [
        facts.model_copy(update={"vocab_size": -(-facts.used_ids // IDS_MULTIPLE) * IDS_MULTIPLE})
        for facts in data.tokens
    ]
    return data.model_copy(update={"tokens": tuple(tokens)})


def _law_facts(data: DataFacts) -> dict[str, Any]:
    law = shipped_law()
    if not data.has_law:
        return {"used": False, "reason": f"no law predicts {data.metric}"}
    return {
        "used": True,
        "name": law.name,
        "digest": law.digest,
        "num_runs": law.num_runs,
        "fitted_at": law.fitted_at,
        "leave_one_size_out": law.leave_one_size_out,
    }
