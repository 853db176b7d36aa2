"""The configs of prepare and train that carry out a choice."""

from __future__ import annotations

from whorl.spec.recipe import Recipe
from whorl.spec.resolved import PrepareConfig, TrainConfig
from whorl.stages.plan import rules
from whorl.stages.plan.candidate import Candidate, Situation, load_of

__all__ = ["given_prepare_config", "prepare_config", "train_config"]

PAIRED = ("dpo",)  # objectives that learn from pairs of answers


def given_prepare_config(recipe: Recipe) -> PrepareConfig | None:
    """The config of prepare if the recipe alone decides it, so that nothing need be measured."""
    vocab_size, seq_len = recipe.prepare.vocab_size, recipe.train.seq_len
    if vocab_size == "auto" or seq_len == "auto":
        return None
    return _prepare_config(recipe, vocab_size, seq_len)


def prepare_config(recipe: Recipe, candidate: Candidate) -> PrepareConfig:
    return _prepare_config(recipe, candidate.shape.vocab_size, candidate.seq_len)


def _prepare_config(recipe: Recipe, vocab_size: int, seq_len: int) -> PrepareConfig:
    given = recipe.prepare
    return PrepareConfig(
        vocab_size=vocab_size,
        seq_len=seq_len,
        heldout_share=given.heldout_share,
        seed=recipe.seed,
        near_duplicate_jaccard=given.near_duplicate_jaccard,
        max_repetition_ratio=given.max_repetition_ratio,
        max_repeated_windows=given.max_repeated_windows,
        pairs=recipe.train.objective in PAIRED,
    )


def train_config(situation: Situation, candidate: Candidate) -> TrainConfig:
    """Every value explicit. What the recipe gives is kept; what it leaves open is filled."""
    said = situation.recipe.train.said
    load = load_of(situation, candidate)
    optimizer = str(said.get("optimizer", "muon"))
    warmup_steps, decay_steps = rules.schedule_steps(candidate.steps)
    filled: dict[str, object] = {
        "optimizer": optimizer,
        "weight_decay": rules.WEIGHT_DECAY,
        "warmup_steps": warmup_steps,
        "decay_steps": decay_steps,
        "checkpoint_every_steps": max(1, round(rules.CHECKPOINT_EVERY_S / candidate.step_s)),
        "validate_every_steps": max(1, -(-candidate.steps // rules.VALIDATIONS)),
    }
    filled |= rules.learning_rates(candidate.shape, optimizer, said.get("learning_rate"))
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
