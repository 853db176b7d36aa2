"""A ladder of small models of a recipe's data, trained by the ordinary stages: built on `verbs.py`.

    <home>/<recipe>/ladder/<digest>/ladder.json      rungs, law and prediction
    <home>/<recipe>/ladder/<digest>.run/rungs.json   the rungs as chosen, for one that was killed

The rungs' plans, prepared data and models are records like any others: what is there is reused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whorl.core.digests import read_sealed, write_sealed
from whorl.core.errors import MissingExtra
from whorl.core.records import Record, RecordKey
from whorl.verbs import Session

if TYPE_CHECKING:
    from whorl.stages.plan.candidate import Situation
    from whorl.stages.plan.laws.rungs import RungResult, Target

__all__ = ["DEFAULT_BUDGET_S", "DEFAULT_RUNGS", "draw_ladder", "ladder", "read_ladder"]

DEFAULT_BUDGET_S, DEFAULT_RUNGS = 300.0, 4
LOGIC_VERSION = 1  # raised when the same request would give other rungs or another law
LADDER_FILE, RUNGS_FILE = "ladder.json", "rungs.json"


def ladder(
    session: Session, budget_s: float = DEFAULT_BUDGET_S, rungs: int = DEFAULT_RUNGS
) -> Record:
    """Train the rungs, fit their law, predict the planned model. Found again when it is there.

    The last rung is predicted from those below before it is run. Raises PlanError when the budget
    is too small, and what plan, prepare and train raise.
    """
    planned = session.plan()
    config = {"budget_s": float(budget_s), "rungs": rungs}
    key = RecordKey("ladder", config, {"plan": planned.digest}, LOGIC_VERSION)
    store = session.context.store
    if (record := store.find(key)) is not None:
        return record
    target = _target(session)
    unit = _unit(session)
    results: list[RungResult] = []
    for rung in _rung_sessions(session, target, key):
        results.append(_run_rung(rung, results, unit, session))
    outcome = _outcome(session, results, target, unit)
    with store.write(key) as writer:
        write_sealed(writer.path / LADDER_FILE, outcome)
        writer.metrics.update(
            {"rungs": len(results), "predicted_loss": outcome["target"]["predicted"]["value"]}
        )
    return store.published(key)


def _target(session: Session) -> Target:
    from whorl.stages.plan.laws.rungs import Target

    decided = session.planned.decisions
    train = decided.train
    return Target(decided.architecture, train.seq_len, train.steps * train.batch_tokens)


def _unit(session: Session) -> str:
    return "bits/byte" if session.field.metric == "bits_per_byte" else "nats/token"


def _situation(session: Session, target: Target) -> Situation:
    """The machine, and the data under the planned tokenizer."""
    from whorl.launch.calibrate import this_machine
    from whorl.stages.plan.candidate import Situation
    from whorl.stages.plan.data import gather_facts
    from whorl.stages.plan.law import shipped_law
    from whorl.stages.plan.step_time import fit_level

    recipe = session.loaded.recipe
    machine = this_machine(session.home)
    session.progress.start("sampling the data", None)
    facts = gather_facts(
        session.field,
        session.sources,
        session.data_digest,
        (target.architecture.vocab_size,),
        recipe.prepare.heldout_share,
        recipe.seed,
    )
    session.progress.finish(f"{facts.num_documents:,} documents")
    return Situation(recipe, machine, fit_level(machine.calibration), facts, shipped_law())


def _rung_sessions(session: Session, target: Target, key: RecordKey) -> list[Session]:
    """One session per rung with its plan made; the choice is kept for a ladder that is resumed."""
    from whorl.spec.recipe import Recipe
    from whorl.stages.plan.laws.rungs import choose_rungs, rung_recipe
    from whorl.stages.plan.run import run as make_plan

    kept = session.context.store.run_folder(key) / RUNGS_FILE
    situation: Situation | None = None
    if kept.exists():
        recipes = [Recipe.model_validate(value) for value in read_sealed(kept)["recipes"]]
    else:
        situation = _situation(session, target)
        chosen = choose_rungs(
            situation, target, int(key.config["rungs"]), float(key.config["budget_s"])
        )
        recipe = session.loaded.recipe
        recipes = [
            rung_recipe(recipe, rung.architecture, rung.seq_len, rung.tokens) for rung in chosen
        ]
        values = [recipe.model_dump(mode="json") for recipe in recipes]
        write_sealed(kept, {"recipes": values})
    found = []
    for recipe in recipes:
        rung = Session(
            dataclasses.replace(session.loaded, recipe=recipe),
            session.home,
            session.progress,
            session.log,
            session.workers,
        )
        rung.data_digest = session.data_digest
        if situation is not None:
            rung.records["plan"] = make_plan(
                rung.context, recipe, situation.machine, situation.data
            )
        found.append(rung)
    return found


def _run_rung(
    rung: Session, before: Sequence[RungResult], unit: str, session: Session
) -> RungResult:
    """Train one rung; what those before it say of it is fixed, and told, before it starts."""
    from whorl.stages.plan.laws.rungs import RungResult, predict_from

    figures = {name: item.value for name, item in rung.planned.predictions.items()}
    architecture = rung.planned.decisions.architecture
    params, tokens = int(figures["non_embedding_parameters"]), int(figures["train_tokens"])
    name = f"rung of {params:,} parameters and {tokens:,} tokens"
    predicted = predict_from(before, params, tokens, unit)
    if predicted is not None:
        interval = f"{predicted.low:.4f} to {predicted.high:.4f}"
        session.log(f"{name}: predicted {predicted.value:.4f} {unit} (90%: {interval})")
    record = rung.train()
    loss = float(record.metrics["heldout_loss"])
    if unit == "bits/byte":
        loss = float(record.metrics["heldout_bits_per_byte"])
    session.log(f"{name}: {loss:.4f} {unit}")
    return RungResult(
        layers=architecture.layers,
        width=architecture.width,
        params=params,
        tokens=tokens,
        flops=float(figures["train_flops"]),
        loss=loss,
        record=record.digest,
        train_s=rung.took_s.get("train"),
        predicted=predicted,
    )


def _outcome(
    session: Session, results: Sequence[RungResult], target: Target, unit: str
) -> dict[str, Any]:
    """ladder.json: plain values, without what the clock said."""
    from whorl.stages.plan.laws.rungs import ladder_law

    law = ladder_law(results, unit)
    shipped = session.planned.predictions["heldout_bpb"]
    rows = []
    for rung in results:
        row = {**dataclasses.asdict(rung), "predicted": None}
        del row["train_s"]
        if rung.predicted is not None:
            row["predicted"] = rung.predicted.model_dump()
        rows.append(row)
    return {
        "unit": unit,
        "rungs": rows,
        "law": {"name": law.name, "theta": law.theta.tolist(), "bootstrap": law.bootstrap},
        "target": {
            "layers": target.architecture.layers,
            "width": target.architecture.width,
            "params": target.params,
            "tokens": target.tokens,
            "predicted": law.predict(target.params, target.tokens).model_dump(),
            "plan_predicted": shipped.model_dump() if unit == shipped.unit else None,
        },
    }


def read_ladder(record: Record) -> dict[str, Any]:
    """ladder.json of a record, verified. Raises RecordError."""
    found: dict[str, Any] = read_sealed(record.file(LADDER_FILE))
    return found


def draw_ladder(outcome: dict[str, Any], path: Path) -> None:
    """Loss against compute, rungs and prediction, as png or svg. Raises MissingExtra."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra.of("matplotlib", "train", "the picture of the ladder") from error
    target, unit = outcome["target"], outcome["unit"]
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    flops = [6 * rung["params"] * rung["tokens"] for rung in outcome["rungs"]]
    axes.plot(flops, [rung["loss"] for rung in outcome["rungs"]], "o", label="rungs, measured")
    told = [(6 * t["params"] * t["tokens"], t["predicted"]) for t in (*outcome["rungs"], target)]
    for at, predicted in told:
        if predicted is not None:
            value, low, high = (predicted[name] for name in ("value", "low", "high"))
            errors = [[value - low], [high - value]]
            label = "predicted, 90%" if predicted is target["predicted"] else None
            axes.errorbar(at, value, errors, fmt="_", color="C1", capsize=4, label=label)
    axes.set(xscale="log", yscale="log", xlabel="6 N D (FLOP)", ylabel=f"held-out {unit}")
    axes.legend()
    figure.savefig(path)
