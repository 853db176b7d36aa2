"""A ladder: small models of the recipe's own data, and the law that their losses give.

The rungs lie on a straight line in log size and log tokens that ends at the planned model, so that
predicting it is going on along one curve. Tokens fall with size no lower than KNEE_TOKENS: small
models leave the trend of shorter runs after about a million tokens, when they learn to copy from
the context (docs/log.md, 22 November 2026), and runs from before say nothing of runs after.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from whorl.arch.shape import ModelShape
from whorl.arch.shape_counts import count_shape
from whorl.core.errors import PlanError
from whorl.core.units import format_duration
from whorl.spec.recipe import Budget, ModelSpec, Recipe
from whorl.stages.plan.candidate import Candidate, Situation, make_candidate, shape_of
from whorl.stages.plan.law import shipped_law
from whorl.stages.plan.laws.fit import FitOptions, Points, fit_law
from whorl.stages.plan.laws.law import PowerLaw
from whorl.stages.plan.plan import Prediction

__all__ = [
    "KNEE_TOKENS",
    "LADDER",
    "MIN_RUNGS",
    "Rung",
    "Target",
    "choose_rungs",
    "ladder_law",
    "predict_from",
    "rung_recipe",
]

MIN_RUNGS = 4  # the last is predicted from three before it is run
KNEE_TOKENS = 1_500_000
# Rungs that read less cross the knee at their own times: they scatter about a smooth law as the
# runs behind published/law.json do, which few rungs cannot show (docs/log.md, 22 November 2026).
SHORT_TOKENS = 20_000_000
SIZE_RATIO = 1.8  # of neighbouring rungs, as far as shapes allow
TOP_SHARES = (0.7, 0.5, 0.35, 0.25, 0.18, 0.12, 0.08, 0.05, 0.03, 0.02, 0.01)  # of the planned size
WIDTH_STEP, ASPECTS, MAX_LAYERS = 32, (20, 44), 64
ASPECT_WEIGHT = 0.3  # a shape unlike the planned one counts as that much further in log size
# Ladders of four public points with this prior: docs/scaling-laws.md.
LADDER = FitOptions(huber=5e-3, floor_share=0.6, floor_deviation=0.3, exponent_deviation=0.1)


@dataclass(frozen=True)
class Target:
    """The planned model that a ladder leads to."""

    shape: ModelShape
    seq_len: int
    tokens: int

    @property
    def params(self) -> int:
        return _size(self.shape)


@dataclass(frozen=True)
class Rung:
    """One trained rung. params: without embeddings; loss: held-out, in the ladder's unit."""

    layers: int
    width: int
    params: int
    tokens: int
    flops: float
    loss: float
    record: str = ""  # digest of its train record
    predicted: Prediction | None = None  # before it was run, from the rungs below it


def choose_rungs(
    situation: Situation, target: Target, count: int, budget_s: float
) -> list[Candidate]:
    """The rungs, smallest first: as large as the time allows together.

    Raises PlanError if there are fewer than four, no `count` shapes below the planned size, or
    even the smallest take longer.
    """
    if count < MIN_RUNGS:
        raise PlanError("too few rungs", found=count, expected=f"{MIN_RUNGS} or more")
    shapes = _shapes(situation, target)
    if len(shapes) < count:
        raise PlanError(
            f"only {len(shapes)} shapes are smaller than the planned {target.params:,} parameters",
            expected=f"{count} rungs",
            do="a larger budget in the recipe, or fewer --rungs",
        )
    needed_s = math.inf
    for share in TOP_SHARES:
        sizes = [share * target.params / SIZE_RATIO**step for step in range(count)]
        rungs = _spend(situation, target, _nearest(shapes, sizes, target))
        total_s = sum(rung.train_s for rung in rungs)
        if total_s <= budget_s:
            return rungs
        needed_s = min(needed_s, total_s)
    raise PlanError(
        f"{count} rungs take longer than the ladder's budget",
        found=format_duration(budget_s),
        expected=f"at least {format_duration(needed_s)}",
        do=f"--budget {math.ceil(1.05 * needed_s)}s",
    )


def _size(shape: ModelShape) -> int:
    return count_shape(shape).non_embedding


def _shapes(situation: Situation, target: Target) -> list[ModelShape]:
    """Every shape below the planned size, of about its proportions, smallest first."""
    planned, seq_len = target.shape, target.seq_len
    recipe = rung_recipe(situation.recipe, planned, seq_len, target.tokens)
    widths = range(WIDTH_STEP, planned.width + 1, WIDTH_STEP)
    shapes = [
        shape_of(recipe, layers, width, planned.vocab_size, seq_len)
        for width, layers in itertools.product(widths, range(1, MAX_LAYERS))
        if ASPECTS[0] <= width / layers <= ASPECTS[1]
    ]
    return sorted((shape for shape in shapes if _size(shape) < target.params), key=_size)


def _nearest(
    shapes: Sequence[ModelShape], sizes: Sequence[float], target: Target
) -> list[ModelShape]:
    """A different shape for each size, smallest first."""
    planned, left, chosen = target.shape, list(shapes), []
    for wanted in sizes:

        def distance(shape: ModelShape, wanted: float = wanted) -> float:
            aspect = shape.width / shape.layers * planned.layers / planned.width
            return abs(math.log(_size(shape) / wanted)) + ASPECT_WEIGHT * abs(math.log(aspect))

        chosen.append(min(left, key=distance))
        left.remove(chosen[-1])
    return sorted(chosen, key=_size)


def _spend(situation: Situation, target: Target, shapes: Sequence[ModelShape]) -> list[Candidate]:
    """Each shape with its tokens: D = D_target (N / N_target)^p, p at most 1."""
    room = math.log(max(1.0, target.tokens / KNEE_TOKENS))
    power = min(1.0, room / math.log(target.params / _size(shapes[0])))
    rungs = []
    for shape in shapes:
        tokens = round(target.tokens * (_size(shape) / target.params) ** power)
        recipe = rung_recipe(situation.recipe, shape, target.seq_len, tokens)
        of_rung = dataclasses.replace(situation, recipe=recipe)
        rungs.append(make_candidate(of_rung, shape, target.seq_len))
    return rungs


def rung_recipe(recipe: Recipe, shape: ModelShape, seq_len: int, tokens: int) -> Recipe:
    """The recipe with another size and tokens; its data, tokenizer, rates and batch rule stay."""
    sizes = {"layers": shape.layers, "width": shape.width}
    changes = {
        "budget": Budget(tokens=tokens),
        "model": ModelSpec(family=recipe.model.family, **sizes),
        "prepare": recipe.prepare.model_copy(update={"vocab_size": shape.vocab_size}),
        "train": recipe.train.model_copy(update={"seq_len": seq_len, "steps": "auto"}),
    }
    return recipe.model_copy(update=changes)


def ladder_law(rungs: Sequence[Rung], unit: str) -> PowerLaw:
    """The law of these losses, short runs with the scatter of ours. Raises DataError below 3."""
    columns = ([getattr(rung, name) for rung in rungs] for name in ("params", "tokens", "loss"))
    is_short = min(rung.tokens for rung in rungs) < SHORT_TOKENS
    name = f"ladder of {len(rungs)}" + (" short runs" if is_short else "")
    law = fit_law(name, Points.of(*columns), LADDER, unit=unit, params_are="non-embedding")
    scatter = shipped_law().residual if is_short else 0.0
    return dataclasses.replace(law, residual=max(law.residual, scatter))


def predict_from(
    rungs: Sequence[Rung], params: float, tokens: float, unit: str
) -> Prediction | None:
    """The loss of a model that is not trained yet; None from fewer than three rungs."""
    return ladder_law(rungs, unit).predict(params, tokens) if len(rungs) >= MIN_RUNGS - 1 else None
