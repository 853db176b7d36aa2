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

from whorl.arch.architecture import Architecture
from whorl.arch.counts import count_parameters
from whorl.core.errors import PlanError
from whorl.core.units import format_duration
from whorl.spec.recipe import Budget, ModelSpec, Recipe
from whorl.stages.plan.candidate import Candidate, Situation, architecture_of, make_candidate
from whorl.stages.plan.laws.fit import FitOptions, Points, fit_law
from whorl.stages.plan.laws.law import PowerLaw
from whorl.stages.plan.plan import Prediction

__all__ = [
    "KNEE_TOKENS",
    "LADDER",
    "MIN_RUNGS",
    "RungResult",
    "Target",
    "choose_rungs",
    "ladder_law",
    "predict_from",
    "rung_recipe",
]

MIN_RUNGS = 4  # the last is predicted from three before it is run
KNEE_TOKENS = 1_500_000
SIZE_RATIO = 1.8  # of neighbouring rungs, as far as shapes allow
TOP_SHARES = (0.7, 0.5, 0.35, 0.25, 0.18, 0.12, 0.08, 0.05, 0.03, 0.02, 0.01)  # of the planned size
WIDTH_STEP, ASPECTS, MAX_LAYERS = 32, (20, 44), 64
ASPECT_WEIGHT = 0.3  # a shape unlike the planned one counts as that much further in log size
# Few points need a prior: of public families, ladders of four with these numbers predict four times
# the compute with 0.5% median error (docs/scaling-laws.md).
LADDER = FitOptions(
    huber=5e-3, exponent_deviation=0.1, floor_share=0.6, floor_deviation=0.3, compute_weight=0.0
)
RESAMPLES = 100


@dataclass(frozen=True)
class Target:
    """The planned model that a ladder leads to."""

    architecture: Architecture
    seq_len: int
    tokens: int

    @property
    def params(self) -> int:
        return count_parameters(self.architecture).non_embedding


@dataclass(frozen=True)
class RungResult:
    """One trained rung. params: without embeddings; loss: held-out, in the ladder's unit."""

    layers: int
    width: int
    params: int
    tokens: int
    flops: float
    loss: float
    record: str = ""  # digest of its train record
    train_s: float | None = None  # None: it was trained before
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
        sizes = [share * target.params / SIZE_RATIO**step for step in reversed(range(count))]
        chosen = _nearest(shapes, sizes, target)
        rungs = _spend(situation, target, chosen)
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


def _shapes(situation: Situation, target: Target) -> list[Architecture]:
    """Every shape below the planned size, of about its proportions, smallest first."""
    recipe = rung_recipe(situation.recipe, target.architecture, target.seq_len, target.tokens)
    found = {}
    for width, layers in itertools.product(
        range(WIDTH_STEP, target.architecture.width + 1, WIDTH_STEP), range(1, MAX_LAYERS)
    ):
        if ASPECTS[0] <= width / layers <= ASPECTS[1]:
            vocab_size = target.architecture.vocab_size
            shape = architecture_of(recipe, layers, width, vocab_size, target.seq_len)
            found[count_parameters(shape).non_embedding] = shape
    return [found[params] for params in sorted(found) if params < target.params]


def _nearest(
    shapes: Sequence[Architecture], sizes: Sequence[float], target: Target
) -> list[Architecture]:
    """A different shape for each size, smallest size first."""
    aspect = target.architecture.width / target.architecture.layers
    left, chosen = list(shapes), []
    for size in reversed(sizes):

        def distance(shape: Architecture, size: float = size) -> float:
            of_size = abs(math.log(count_parameters(shape).non_embedding / size))
            return of_size + ASPECT_WEIGHT * abs(math.log(shape.width / shape.layers / aspect))

        chosen.append(min(left, key=distance))
        left.remove(chosen[-1])
    return sorted(chosen, key=lambda shape: count_parameters(shape).non_embedding)


def _spend(situation: Situation, target: Target, shapes: Sequence[Architecture]) -> list[Candidate]:
    """Each shape with its tokens: D = D_target (N / N_target)^p, p at most 1."""
    smallest = count_parameters(shapes[0]).non_embedding / target.params
    room = math.log(max(1.0, target.tokens / KNEE_TOKENS))
    power = min(1.0, room / -math.log(smallest))
    rungs = []
    for shape in shapes:
        share = count_parameters(shape).non_embedding / target.params
        tokens = target.tokens * share**power
        recipe = rung_recipe(situation.recipe, shape, target.seq_len, round(tokens))
        of_rung = dataclasses.replace(situation, recipe=recipe)
        rungs.append(make_candidate(of_rung, shape, target.seq_len))
    return rungs


def rung_recipe(recipe: Recipe, shape: Architecture, seq_len: int, tokens: int) -> Recipe:
    """The recipe with another size and tokens; its data, tokenizer, rates and batch rule stay."""
    return recipe.model_copy(
        update={
            "budget": Budget(tokens=tokens),
            "model": ModelSpec(family=recipe.model.family, layers=shape.layers, width=shape.width),
            "prepare": recipe.prepare.model_copy(update={"vocab_size": shape.vocab_size}),
            "train": recipe.train.model_copy(update={"seq_len": seq_len, "steps": "auto"}),
        }
    )


def ladder_law(rungs: Sequence[RungResult], unit: str) -> PowerLaw:
    """The law of these losses with its bootstrap covariance. Raises DataError below three."""
    points = Points.of(
        [rung.params for rung in rungs],
        [rung.tokens for rung in rungs],
        [rung.loss for rung in rungs],
    )
    name = f"ladder of {len(rungs)}"
    return fit_law(name, points, LADDER, resamples=RESAMPLES, unit=unit, params_are="non-embedding")


def predict_from(
    rungs: Sequence[RungResult], params: float, tokens: float, unit: str
) -> Prediction | None:
    """The loss of a model that is not trained yet; None from fewer than three rungs."""
    if len(rungs) < MIN_RUNGS - 1:
        return None
    return ladder_law(rungs, unit).predict(params, tokens)
