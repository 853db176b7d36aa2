"""The best way to spend the budget: every shape worth trying, the one predicted best.

With time or FLOPs as the budget a small model sees more text and a large one learns more from
each byte; the law says where they meet. With tokens or steps fixed the larger model always wins,
so it is the largest that is still worth its FLOPs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from whorl.arch.computable import check_computable
from whorl.core.errors import PlanError, SpecError
from whorl.core.units import format_count, format_duration
from whorl.spec.recipe import Recipe
from whorl.stages.plan import given, rules
from whorl.stages.plan.candidate import (
    Candidate,
    Situation,
    fits,
    lighter_loads,
    load_of,
    make_candidate,
    preference,
    shape_of,
)
from whorl.stages.plan.memory import MEMORY_MARGIN, check_memory

__all__ = ["candidates", "check_says_enough", "choose"]

FLOPS_BISECTIONS = 14


def choose(situation: Situation) -> tuple[Candidate, tuple[Candidate, ...]]:
    """(the choice, everything that was considered and fits).

    Raises PlanError when nothing fits the memory or the budget, saying what would; SpecError when
    sizes of the recipe do not fit each other.
    """
    recipe = situation.recipe
    check_says_enough(recipe)
    tried = list(candidates(situation))
    fitting = [item for item in tried if fits(situation, load_of(situation, item))]
    if not fitting:
        smallest = min(tried, key=lambda item: item.peak_bytes)
        load, memory_bytes = load_of(situation, smallest), situation.machine.facts.memory_bytes
        longest = situation.data.unique_tokens(smallest.shape.vocab_size)
        margin = MEMORY_MARGIN * situation.memory_ratio
        lighter = lighter_loads(situation, load)
        check_memory(load, situation.process_bytes, memory_bytes, margin, longest, lighter)
    trainable = [item for item in fitting if item.steps >= situation.least_steps]
    if not trainable:
        if recipe.train.steps != "auto":
            trainable = fitting
        else:
            raise _too_short(situation, fitting)
    if situation.base is not None:  # nothing but the rows' length was open, the best one first
        return trainable[0], tuple(trainable)
    if recipe.train.steps != "auto" or recipe.budget.tokens is not None:
        return _worth_its_flops(situation, trainable), tuple(trainable)
    return min(trainable, key=lambda item: item.preference), tuple(trainable)


def candidates(situation: Situation) -> Iterator[Candidate]:
    """Every combination of what the recipe leaves open."""
    base = situation.base
    for vocab_size in (facts.vocab_size for facts in situation.data.tokens):
        for seq_len in _seq_lens(situation, vocab_size):
            for layers, width in _shapes(situation):
                if base is not None:
                    shape = base.shape
                else:
                    shape = shape_of(situation.recipe, layers, width, vocab_size, seq_len)
                check_computable(shape, "export" if situation.recipe.compress.tried else "train")
                yield make_candidate(situation, shape, seq_len)


def _seq_lens(situation: Situation, vocab_size: int) -> Sequence[int]:
    """What the recipe gives; else the usual, shorter where every document is short.

    Raises SpecError if a base cannot read so many tokens.
    """
    said, base = situation.recipe.train.seq_len, situation.base
    if said != "auto":
        if base is not None and said > (longest := base.shape.max_seq_len):
            raise SpecError(
                f"train.seq_len is longer than {base.name} reads",
                found=said,
                expected=f"at most {longest}",
            )
        return [said]
    lengths = situation.data.for_vocab(vocab_size).document_tokens
    if base is not None:
        return list(given.seq_lens(lengths, base.shape.max_seq_len))
    longest = lengths[-1]
    seq_len = rules.SEQ_LEN
    while seq_len > rules.MIN_SEQ_LEN and rules.DOCUMENTS_PER_SHORT_ROW * longest <= seq_len // 2:
        seq_len //= 2
    return [seq_len]


def _shapes(situation: Situation) -> list[tuple[int, int]]:
    """(layers, width) with the recipe's own where it gives them."""
    m = situation.recipe.model
    if situation.base is not None:
        return [(situation.base.shape.layers, situation.base.shape.width)]
    if m.layers != "auto" and m.width != "auto":
        return [(m.layers, m.width)]
    if m.width != "auto":
        low, high = rules.WIDTH_PER_LAYER
        return [
            (layers, m.width) for layers in rules.LAYERS if low <= m.width / layers <= high
        ] or [(1, m.width)]
    if m.layers != "auto":
        return [(m.layers, width) for width in rules.WIDTHS]
    return list(rules.shapes())


def check_says_enough(recipe: Recipe) -> None:
    """Raises PlanError if a recipe does not say how long to train."""
    budget = recipe.budget
    if recipe.train.steps != "auto" or any(value for _, value in budget) or recipe.model.base:
        return
    raise PlanError(
        "the recipe does not say how long to train",
        found="neither a budget nor train.steps",
        expected="one of budget.train_time, tokens, flops, device_hours, usd and train.steps",
        do='give budget.train_time (such as "4min"), budget.tokens, budget.flops or train.steps',
    )


def _worth_its_flops(situation: Situation, tried: Sequence[Candidate]) -> Candidate:
    """The best shape for the FLOPs at which the best shape would read just the tokens given.

    Found by bisection: more FLOPs call for a larger model and for more tokens.
    """
    per_token = [item.flops / item.tokens for item in tried]
    low, high = (extreme(item.flops for item in tried) for extreme in (min, max))
    chosen = min(tried, key=lambda item: item.flops)
    for _ in range(FLOPS_BISECTIONS):
        flops = math.sqrt(low * high)
        values = [
            preference(situation, item.shape, flops / cost)
            for item, cost in zip(tried, per_token, strict=True)
        ]
        best = tried[values.index(min(values))]
        if flops / (best.flops / best.tokens) <= best.tokens:
            low, chosen = flops, best
        else:
            high = flops
    return chosen


def _too_short(situation: Situation, fitting: Sequence[Candidate]) -> PlanError:
    """The error for a budget that allows only a handful of steps."""
    best = max(fitting, key=lambda item: item.steps)
    a = best.shape
    train_time_s = situation.recipe.train_time_s
    if train_time_s is not None:
        needed_s = 1.1 * (best.train_s + (situation.least_steps - best.steps) * best.step_s)
        advice = f"budget.train_time={int(needed_s) + 1}s"
        found = f"{format_duration(train_time_s)}, a step takes {format_duration(best.step_s)}"
    else:
        tokens = situation.least_steps * best.batch_tokens
        advice = f"at least {format_count(tokens)} tokens"
        found = f"{best.steps} steps of {best.batch_tokens:,} tokens"
    return PlanError(
        f"the budget is too small to train even {a.layers} layers of width {a.width}",
        found=found,
        expected=f"at least {situation.least_steps} steps",
        do=f"{advice}, or a smaller model or batch",
    )
