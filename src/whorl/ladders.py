"""A ladder of small models of a recipe's data, trained by the ordinary stages: built on `verbs.py`.

    <home>/<recipe>/ladder/<digest>/ladder.json      rungs, law and prediction
    <home>/<recipe>/ladder/<digest>.run/rungs.json   the rungs as chosen, for one that was killed

The rungs' plans, prepared data and models are records like any others: what is there is reused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whorl.core.digests import read_sealed, write_sealed
from whorl.core.errors import MissingExtra, SpecError
from whorl.core.metrics import BITS_PER_BYTE
from whorl.core.records import Record, RecordKey
from whorl.verbs import Session

if TYPE_CHECKING:
    from whorl.stages.plan.laws.rungs import Rung, Target

__all__ = ["DEFAULT_RUNGS", "draw_ladder", "ladder", "read_ladder"]

DEFAULT_RUNGS = 4
LOGIC_VERSION = 1  # raised when the same request would give other rungs or another law
LADDER_FILE, RUNGS_FILE = "ladder.json", "rungs.json"


def ladder(session: Session, budget_s: float = 300.0, rungs: int = DEFAULT_RUNGS) -> Record:
    """Train the rungs, fit their law, predict the planned model. Found again when it is there.

    The last rung is predicted from those below before it is run. Raises PlanError when the budget
    is too small, and what plan, prepare and train raise.
    """
    from whorl.stages.plan.laws.rungs import Target, ladder_law

    if (base := session.loaded.recipe.model.base) is not None:
        raise SpecError(
            "a ladder is of models that are trained from nothing",
            found=f"model.base {base}",
            do="whorl plan predicts time and memory of a base, whorl evaluate its quality",
        )
    config = {"budget_s": float(budget_s), "rungs": rungs}
    key = RecordKey("ladder", config, {"plan": session.plan().digest}, LOGIC_VERSION)
    store = session.context.store
    if (record := store.find(key)) is not None:
        return record
    planned = session.planned.decisions
    tokens = planned.train.steps * planned.train.batch_tokens
    target = Target(planned.shape, planned.train.seq_len, tokens)
    is_text = all(field.task.metric is BITS_PER_BYTE for field in session.fields.values())
    unit = "bits/byte" if is_text else "nats/token"
    results: list[Rung] = []
    for rung in _rung_sessions(session, target, key):
        results.append(_climb(rung, results, unit))
    law = ladder_law(results, unit)
    predicted = law.predict(target.params, tokens)
    of_plan = session.planned.predictions["heldout_bpb"]
    outcome = {
        "unit": unit,
        "rungs": [
            {**vars(rung), "predicted": rung.predicted and rung.predicted.model_dump()}
            for rung in results
        ],
        "law": {"name": law.name, "theta": law.theta, "bootstrap": law.bootstrap},
        "target": {
            "layers": planned.shape.layers,
            "width": planned.shape.width,
            "params": target.params,
            "tokens": tokens,
            "predicted": predicted.model_dump(),
            "plan_predicted": of_plan.model_dump() if unit == of_plan.unit else None,
        },
    }
    with store.write(key) as writer:
        write_sealed(writer.path / LADDER_FILE, outcome)
        writer.metrics.update({"rungs": len(results), "predicted_loss": predicted.value})
    return store.published(key)


def _rung_sessions(session: Session, target: Target, key: RecordKey) -> Iterator[Session]:
    """One session per rung; the choice is kept for a ladder that is resumed."""
    from whorl.spec.recipe import Recipe
    from whorl.stages.plan.run import run as make_plan

    kept = session.context.store.run_folder(key) / RUNGS_FILE
    situation = None
    if not kept.exists():
        situation, recipes = _choose(session, target, key.config)
        write_sealed(kept, {"recipes": [recipe.model_dump(mode="json") for recipe in recipes]})
    for value in read_sealed(kept)["recipes"]:
        loaded = dataclasses.replace(session.loaded, recipe=Recipe.model_validate(value))
        rung = dataclasses.replace(session, loaded=loaded, records={}, took_s={})
        rung.data_digest = session.data_digest
        if situation is not None:  # machine and data are known: plan need not look again
            machine, data = situation.machine, situation.data
            rung.records["plan"] = make_plan(rung.context, loaded.recipe, machine, data)
        yield rung


def _choose(session: Session, target: Target, config: Mapping[str, Any]) -> tuple[Any, list[Any]]:
    """(what the choice was made from, the rungs' recipes, smallest first)."""
    from whorl.launch.calibrate import this_machine
    from whorl.stages.plan.candidate import Situation
    from whorl.stages.plan.data import gather_facts
    from whorl.stages.plan.law import shipped_law
    from whorl.stages.plan.laws.rungs import choose_rungs, rung_recipe
    from whorl.stages.plan.step_time import fit_level

    recipe, machine = session.loaded.recipe, this_machine(session.home)
    sizes, share = (target.shape.vocab_size,), recipe.prepare.heldout_share
    session.progress.start("sampling the data", None)
    facts = gather_facts(
        session.fields, session.sources, session.data_digest, sizes, share, recipe.seed
    )
    session.progress.finish(f"{facts.num_documents:,} documents")
    situation = Situation(recipe, machine, fit_level(machine.calibration), facts, shipped_law())
    rungs = choose_rungs(situation, target, config["rungs"], config["budget_s"])
    return situation, [rung_recipe(recipe, rung.shape, rung.seq_len, rung.tokens) for rung in rungs]


def _climb(session: Session, before: Sequence[Rung], unit: str) -> Rung:
    """Train one rung; what those before it say of it is fixed, and told, before it starts."""
    from whorl.stages.plan.laws.rungs import Rung, predict_from

    predictions = session.planned.predictions.items()
    figures = {name: item.value for name, item in predictions if item.value is not None}
    params, tokens = int(figures["non_embedding_parameters"]), int(figures["train_tokens"])
    name = f"rung of {params:,} parameters and {tokens:,} tokens"
    predicted = predict_from(before, params, tokens, unit)
    if predicted is not None:
        interval = f"{predicted.low:.4f} to {predicted.high:.4f}"
        session.log(f"{name}: predicted {predicted.value:.4f} {unit} (90%: {interval})")
    record = session.train()
    metric = "heldout_bits_per_byte" if unit == "bits/byte" else "heldout_loss"
    loss = float(record.metrics[metric])
    session.log(f"{name}: {loss:.4f} {unit}")
    shape = session.planned.decisions.shape
    flops = float(figures["train_flops"])
    return Rung(shape.layers, shape.width, params, tokens, flops, loss, record.digest, predicted)


def read_ladder(record: Record) -> dict[str, Any]:
    """ladder.json of a record, verified. Raises RecordError."""
    found: dict[str, Any] = read_sealed(record.file(LADDER_FILE))
    return found


def draw_ladder(outcome: Mapping[str, Any], path: Path) -> None:
    """Loss against compute, rungs and predictions, as png or svg. Raises MissingExtra."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra.of("matplotlib", "train", "the picture of the ladder") from error
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for row in (*outcome["rungs"], outcome["target"]):
        flops = 6 * row["params"] * row["tokens"]
        if "loss" in row:
            axes.plot(flops, row["loss"], "o", color="C0", label="measured")
        if (predicted := row["predicted"]) is not None:
            value, low, high = (predicted[name] for name in ("value", "low", "high"))
            ends, label = [[value - low], [high - value]], "predicted, 90%"
            axes.errorbar(flops, value, ends, fmt="_", capsize=4, color="C1", label=label)
    axes.set(xscale="log", xlabel="6 N D (FLOP)", ylabel=f"held-out {outcome['unit']}")
    handles, labels = axes.get_legend_handles_labels()
    by_label = dict(zip(labels, handles, strict=True))
    axes.legend(by_label.values(), by_label.keys())
    figure.savefig(path)
