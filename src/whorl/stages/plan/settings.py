"""The configs of the other stages that carry out a choice."""

from __future__ import annotations

from whorl.arch.shape import ModelShape
from whorl.spec.recipe import Recipe
from whorl.spec.resolved import (
    CompressConfig,
    EvaluateConfig,
    PrepareConfig,
    ServeConfig,
    TrainConfig,
)
from whorl.stages.plan import given, rules
from whorl.stages.plan.candidate import Candidate, Situation, checkpoint_every_steps, load_of
from whorl.stages.plan.plan import Decisions

__all__ = [
    "GIVING_WAY",
    "given_prepare_config",
    "passed_through",
    "prepare_config",
    "train_config",
    "window_of",
]

GIVING_WAY = ("norm_learning_rate", "validate_rows")  # defaults of train that suit no base
BASE_SCORED_BYTES = 60_000
BASE_WINDOW = 512  # tokens that a base is given at once, where its context allows
PAIRED = ("dpo",)  # objectives that learn from pairs of answers
EVALUATED = {"max_documents", "baselines", "contamination"}  # keys of evaluate that nothing decides


def given_prepare_config(recipe: Recipe, base_ids: int | None = None) -> PrepareConfig | None:
    """The config of prepare if the recipe alone decides it, so that nothing need be measured.

    base_ids: of the base's vocabulary, if there is one.
    """
    vocab_size, seq_len = base_ids or recipe.prepare.vocab_size, recipe.train.seq_len
    if vocab_size == "auto" or seq_len == "auto":
        return None
    return prepare_config(recipe, vocab_size, seq_len)


def prepare_config(recipe: Recipe, vocab_size: int, seq_len: int) -> PrepareConfig:
    asked = recipe.prepare
    return PrepareConfig(
        vocab_size=vocab_size,
        seq_len=seq_len,
        heldout_share=asked.heldout_share,
        seed=recipe.seed,
        near_duplicate_jaccard=asked.near_duplicate_jaccard,
        max_repetition_ratio=asked.max_repetition_ratio,
        max_repeated_windows=asked.max_repeated_windows,
        pairs=recipe.train.objective in PAIRED,
    )


def train_config(situation: Situation, candidate: Candidate) -> TrainConfig:
    """Every value explicit. What the recipe gives is kept; what it leaves open is filled."""
    asked = situation.recipe.train
    load = load_of(situation, candidate)
    optimizer = situation.optimizer
    filled: dict[str, object] = {
        "optimizer": optimizer,
        "weight_decay": rules.WEIGHT_DECAY,
        "checkpoint_every_steps": checkpoint_every_steps(situation, candidate),
    }
    rate = asked.said.get("learning_rate")
    if situation.base is None:
        filled |= rules.learning_rates(candidate.shape, optimizer, rate)
        warmup_steps, decay_steps = rules.schedule_steps(candidate.steps)
        validations = rules.VALIDATIONS
    else:
        has_adapters = load.adapters is not None
        filled |= given.learning_rates(asked.objective, optimizer, has_adapters, rate)
        warmup_steps, decay_steps = given.schedule_steps(candidate.steps)
        validations = given.VALIDATIONS
        filled["validate_rows"] = given.validate_rows(asked, load.rows * load.micro_batches)
    filled |= {
        "warmup_steps": warmup_steps,
        "decay_steps": decay_steps,
        "validate_every_steps": max(1, -(-candidate.steps // validations)),
    }
    said = {
        key: value
        for key, value in asked.said.items()
        if key in asked.model_fields_set or not (key in GIVING_WAY and key in filled)
    }
    decided: dict[str, object] = {  # with what the recipe says of them
        **situation.ways,
        "lanes": load.lanes,
        "compiled": load.compiled,
        "seq_len": candidate.seq_len,
        "batch_tokens": candidate.batch_tokens,
        "micro_batch_rows": candidate.micro_batch_rows,
        "steps": candidate.steps,
    }
    values = filled | said | decided
    return TrainConfig(seed=situation.recipe.seed, **values)


def _scored_bytes(recipe: Recipe) -> int:
    """Of a base less is scored by default: it is a hundred times as large as what is made here."""
    asked = recipe.evaluate
    if recipe.model.base is None or "max_bytes" in asked.model_fields_set:
        return asked.max_bytes
    return min(asked.max_bytes, BASE_SCORED_BYTES)


def window_of(shape: ModelShape, seq_len: int, recipe: Recipe) -> int:
    """Tokens that are scored or written together: a base can do more than its rows are long."""
    if recipe.model.base is None:
        return seq_len
    return min(shape.max_seq_len, max(seq_len, BASE_WINDOW))


def passed_through(decisions: Decisions, recipe: Recipe) -> Decisions:
    """The decisions with what the recipe alone says of the later stages."""
    seed = recipe.seed
    return decisions.model_copy(
        update={
            "compress": CompressConfig(
                formats=recipe.compress.tried,
                leaves_out=recipe.compress.formats == "auto",
                max_bpb_increase=recipe.compress.max_bpb_increase,
                search=recipe.compress.search,
                search_time_s=recipe.compress.search_time,
                cache=recipe.compress.cache,
                speculation=recipe.compress.speculation,
                seed=seed,
            ),
            "evaluate": EvaluateConfig(
                max_bytes=_scored_bytes(recipe),
                window=window_of(decisions.shape, decisions.train.seq_len, recipe),
                engine=recipe.serve.engine,
                seed=seed,
                **recipe.evaluate.model_dump(include=EVALUATED),
            ),
            "serve": ServeConfig(**recipe.serve.model_dump()),
        }
    )
