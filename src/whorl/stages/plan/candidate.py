"""One way to spend the budget: a shape, its batch and steps, their time, memory and quality."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from whorl.arch.dense import dense_shape
from whorl.arch.shape import ModelShape
from whorl.arch.shape_counts import count_shape, flops_per_token, training_bytes
from whorl.core.errors import SpecError
from whorl.spec.recipe import Recipe
from whorl.stages.plan import given, rules
from whorl.stages.plan.data import TokenFacts
from whorl.stages.plan.given import adapters_of
from whorl.stages.plan.law import NEAR_OCTAVES, X0, LawPoint
from whorl.stages.plan.memory import MEMORY_MARGIN, peak_memory
from whorl.stages.plan.situation import Situation
from whorl.stages.plan.step_time import DATA_S, MEAN_OVER_FASTEST, Load, predicted_step_s

__all__ = [
    "Candidate",
    "Situation",
    "checkpoint_every_steps",
    "fastest_step_s",
    "fits",
    "lighter_loads",
    "load_of",
    "make_candidate",
    "preference",
    "shape_of",
]

STARTUP_S = 1.5  # opening the rows, making the model, publishing the record
FORWARD_OVERHEAD = 1.08  # of a forward alone, over its share of a step's FLOPs
CHECKPOINT_S, CHECKPOINT_BYTES_PER_S = 0.05, 250e6
MOST_SAVING = 0.05  # of the time: large models are saved more rarely
BASE_BYTES_PER_S = 100e6  # of a base's weights: verified, read, and the taught ones published
CAUTION = 0.04  # of quality, per octave further from the nearest run of the law
ROW_ELEMENT_BYTES = 2  # of the tokens' file, which is mapped and read at random
TEXT_BYTES_PER_TOKEN = 3.0  # stands in where the data is not text


@dataclass(frozen=True)
class Candidate:
    """A shape and what it costs and gives."""

    shape: ModelShape
    seq_len: int
    batch_tokens: int
    micro_batch_rows: int
    compiled: bool
    steps: int
    step_s: float
    train_s: float  # everything between the start and the finished record
    peak_bytes: int
    quality: float  # bits per byte by the law; a stand-in where there is no law
    point: LawPoint
    preference: float  # lower is better: quality, worse the further the law has to reach
    stopped_by_data: bool = False  # the budget would allow more steps, the data does not

    @property
    def parameters(self) -> int:
        return count_shape(self.shape).non_embedding

    @property
    def tokens(self) -> int:
        return self.steps * self.batch_tokens

    @property
    def flops(self) -> float:
        return flops_per_token(self.shape, self.seq_len).training * self.tokens


def shape_of(recipe: Recipe, layers: int, width: int, vocab_size: int, seq_len: int) -> ModelShape:
    """The shape of that size; every size the recipe gives is kept. Raises SpecError."""
    m = recipe.model
    if m.heads != "auto" and m.head_dim == "auto":
        head_dim = max(2, width // m.heads // 2 * 2)
    else:
        head_dim = rules.head_dim(width) if m.head_dim == "auto" else m.head_dim
    heads = max(1, width // head_dim) if m.heads == "auto" else m.heads
    return dense_shape(
        family=m.family,
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=heads if m.kv_heads == "auto" else m.kv_heads,
        head_dim=head_dim,
        ffn_width=rules.ffn_width(width) if m.ffn_width == "auto" else m.ffn_width,
        vocab_size=vocab_size,
        max_seq_len=seq_len,
        tied_embeddings=rules.TIED_EMBEDDINGS,
        block=m.block,
    )


def make_candidate(situation: Situation, shape: ModelShape, seq_len: int) -> Candidate:
    """Spend the budget on this shape, and predict what comes of it.

    With compiled blocks if that gets further, or there sooner, compiling included.
    Raises SpecError if the recipe's batch does not fit its rows.
    """
    ways = [_candidate(situation, shape, seq_len, compiled) for compiled in situation.compiled_ways]
    return min(ways, key=lambda item: (item.preference, item.train_s))


def _candidate(situation: Situation, shape: ModelShape, seq_len: int, compiled: bool) -> Candidate:
    facts = situation.data.for_vocab(shape.vocab_size)
    batch = _batch_tokens(situation.recipe, rules.USUAL_TOKENS, seq_len)
    for left in range(4, -1, -1):  # the batch depends on the tokens, they on the time of a step
        load = _load(situation, shape, seq_len, batch, compiled)
        allowed = _steps(situation, load, batch)
        steps = _useful_steps(situation, facts, allowed, batch)
        again = _batch_tokens(situation.recipe, steps * batch, seq_len)
        if again == batch or not left:
            break
        batch = again
    own_s = _step_s(situation, load)
    point = _law_point(situation, shape, facts, steps * batch)
    quality = situation.law.value(point)
    return Candidate(
        shape=shape,
        seq_len=seq_len,
        batch_tokens=batch,
        micro_batch_rows=load.rows,
        compiled=compiled,
        steps=steps,
        step_s=own_s + _taught_s(situation, load, steps, own_s) / max(1, steps),
        train_s=_train_s(situation, load, steps, own_s),
        peak_bytes=_peak_bytes(situation, load, steps * batch),
        quality=quality,
        point=point,
        preference=preference(situation, shape, steps * batch),
        stopped_by_data=steps < allowed,
    )


def load_of(situation: Situation, candidate: Candidate) -> Load:
    """What one step of a candidate has to do."""
    c = candidate
    return _load(situation, c.shape, c.seq_len, c.batch_tokens, c.compiled)


def preference(situation: Situation, shape: ModelShape, tokens: float) -> float:
    """Predicted quality after that many tokens, worse the further the law has to reach and the
    more rarely an id is trained."""
    point = _law_point(situation, shape, situation.data.for_vocab(shape.vocab_size), tokens)
    reach = max(0.0, situation.law.distance(point) - NEAR_OCTAVES)
    wanted = rules.MIN_TOKENS_PER_ID * shape.vocab_size
    rare = max(0.0, math.log2(wanted / max(1.0, tokens)))
    return situation.law.value(point) * (1 + CAUTION * reach + rules.RARE_IDS * rare)


def _batch_tokens(recipe: Recipe, tokens: float, seq_len: int) -> int:
    said = recipe.train.batch_tokens
    if said == "auto":
        return rules.batch_tokens(tokens, seq_len)
    if said % seq_len:
        rows = max(1, round(said / seq_len))
        raise SpecError(
            f"train.batch_tokens {said} is not a multiple of train.seq_len {seq_len}",
            do=f"use {rows * seq_len}",
        )
    return said


def _load(
    situation: Situation, shape: ModelShape, seq_len: int, batch: int, compiled: bool
) -> Load:
    """A step with as many lanes as the recipe says, or else as were measured best and fit."""
    train, ways = situation.recipe.train, situation.ways
    rows = batch // seq_len
    lanes = min(int(ways["lanes"]), rows)
    if train.micro_batch_rows == "auto":
        tokens = rules.MAX_MICRO_BATCH_TOKENS
        tokens = tokens if situation.base is None else given.MAX_MICRO_BATCH_TOKENS
        most = max(1, tokens // seq_len // lanes)
        micro_rows = min(-(-rows // lanes), most)
    else:
        micro_rows = min(rows, train.micro_batch_rows)
    data = situation.data.for_vocab(shape.vocab_size)
    load = Load(
        shape=shape,
        seq_len=seq_len,
        rows=micro_rows,
        micro_batches=-(-rows // micro_rows),
        lanes=lanes,
        precision=ways["precision"],
        attention_dtype=ways["attention_dtype"],
        optimizer=situation.optimizer,
        matrix_moments=situation.matrix_moments,
        compiled=compiled,
        mixed_share=data.mixed_share(seq_len),
        # A rehearsal of a base has rows of two documents, without blocks: it is compared with this.
        longest_document=None if situation.base else max(data.document_tokens, default=None),
        trained_share=data.trained_share,
        adapters=adapters_of(train.lora, shape, seq_len),
    )
    if situation.teacher is not None:
        load = replace(load, beside_bytes=training_bytes(situation.teacher).weights)
    if train.objective == "dpo" and load.adapters is None:
        load = replace(load, beside_bytes=load.state.weights)
    while load.lanes > 1 and train.lanes == "auto" and not fits(situation, load):
        load = replace(load, lanes=load.lanes // 2)
    return load


def fits(situation: Situation, load: Load) -> bool:
    """Whether the peak fits the memory even at the high end of its interval."""
    peak = _corrected_peak(situation, load)
    return peak * MEMORY_MARGIN <= situation.machine.facts.memory_bytes


def _peak_bytes(situation: Situation, load: Load, tokens: float) -> int:
    """With the pages of the tokens' file that will have been read; they can be given up."""
    unique = situation.data.unique_tokens(load.shape.vocab_size)
    mapped = ROW_ELEMENT_BYTES * min(tokens, unique)
    return round(_corrected_peak(situation, load) + mapped)


def _corrected_peak(situation: Situation, load: Load) -> float:
    ratio = situation.memory_ratio * situation.own.peak_bytes
    return ratio * peak_memory(load, situation.process_bytes).total


def _step_s(situation: Situation, load: Load) -> float:
    """Of the model that is trained, and of dpo's reference; without a teacher."""
    ratio = situation.time_ratio * situation.own.step_s
    return MEAN_OVER_FASTEST * ratio * fastest_step_s(situation, load) + DATA_S


def _own_flops(load: Load) -> float:
    """Of one token's step, of the model that is trained."""
    if load.adapters is not None:
        return load.adapters.training_flops
    return flops_per_token(load.shape, load.seq_len).training


def _reference_flops(situation: Situation, load: Load) -> float:
    """Of dpo's frozen model, or of the adapted one without its adapters."""
    is_dpo = situation.recipe.train.objective == "dpo"
    return flops_per_token(load.shape, load.seq_len).forward if is_dpo else 0.0


def _taught_s(situation: Situation, load: Load, steps: int, own_s: float) -> float:
    """Of distil's teacher in so many steps: it reads each row once, and what it said is kept."""
    if situation.teacher is None:
        return 0.0
    each_s = own_s * flops_per_token(situation.teacher, load.seq_len).forward / _own_flops(load)
    return each_s * min(steps, _new_steps(situation, load))


def _new_steps(situation: Situation, load: Load) -> int:
    """Steps until every row was met."""
    unique = situation.data.unique_tokens(load.shape.vocab_size)
    return max(1, round(unique / (load.tokens * load.micro_batches)))


def _forward_share(situation: Situation, load: Load) -> float:
    """Of a step's time per row, when only the loss is wanted."""
    reference = _reference_flops(situation, load)
    forward = flops_per_token(load.shape, load.seq_len).forward
    return FORWARD_OVERHEAD * (forward + reference) / (_own_flops(load) + reference)


def lighter_loads(situation: Situation, load: Load) -> dict[str, Load]:
    """What to set -> the load that it makes of a base's; {} without a base."""
    base = situation.base
    ways = () if base is None else given.lighter_ways(situation.recipe.train)
    frozen = 0 if situation.teacher is None else load.beside_bytes  # dpo's is the base itself
    return {
        key: replace(
            load, adapters=adapters_of(lora, load.shape, load.seq_len), beside_bytes=frozen
        )
        for key, lora in ways
    }


def fastest_step_s(situation: Situation, load: Load) -> float:
    """As the machine's calibration has it, before a rehearsal is taken into account."""
    calibration = situation.machine.calibration
    fastest_s = predicted_step_s(load, calibration, situation.level)
    fastest_s *= 1 + _reference_flops(situation, load) / _own_flops(load)
    ways, measured = situation.ways, calibration.settings
    each, usual = ways["threads"] / load.lanes, measured["threads"] / measured["lanes"]
    slower = float(usual / each)  # rates are those of a lane's threads
    return fastest_s * slower


def _train_s(situation: Situation, load: Load, steps: int, own_s: float) -> float:
    """Start-up, compiling, steps, validations, checkpoints, and adapters merged at the end."""
    steps_s = steps * own_s + _taught_s(situation, load, steps, own_s)
    startup_s = STARTUP_S + load.compiled * situation.machine.calibration.compiling_s
    rows, train = load.rows * load.micro_batches, situation.recipe.train
    validations, validate_rows = rules.VALIDATIONS, train.validate_rows
    if situation.base is not None:
        validations, validate_rows = 1 + given.VALIDATIONS, given.validate_rows(train, rows)
        startup_s += load.state.weights / BASE_BYTES_PER_S  # read and verified, and written
        startup_s += situation.ending_s
    validation_s = _forward_share(situation, load) * own_s * validate_rows / rows
    checkpoint_s = _checkpoint_s(load)
    checkpoints = 1 + steps_s / _checkpoint_every_s(load)
    return startup_s + steps_s + validations * validation_s + checkpoints * checkpoint_s


def _checkpoint_s(load: Load) -> float:
    state = load.state
    return CHECKPOINT_S + (state.weights + state.optimizer_state) / CHECKPOINT_BYTES_PER_S


def _checkpoint_every_s(load: Load) -> float:
    return max(rules.CHECKPOINT_EVERY_S, _checkpoint_s(load) / MOST_SAVING)


def checkpoint_every_steps(situation: Situation, candidate: Candidate) -> int:
    """So that a kill costs little, and so do the checkpoints."""
    every_s = _checkpoint_every_s(load_of(situation, candidate))
    return max(1, round(every_s / candidate.step_s))


def _steps(situation: Situation, load: Load, batch: int) -> int:
    """Steps that the recipe or the budget give."""
    recipe = situation.recipe
    if recipe.train.steps != "auto":
        return recipe.train.steps
    tokens: float | None = recipe.budget.tokens
    if tokens is None and recipe.budget.flops is not None:
        tokens = recipe.budget.flops / flops_per_token(load.shape, load.seq_len).training
    if tokens is not None:
        return max(1, round(tokens / batch))
    if recipe.train_time_s is None and situation.base is not None:
        facts = situation.data.for_vocab(load.shape.vocab_size)
        passes = given.EPOCHS * situation.data.unique_tokens(facts.vocab_size)
        return max(situation.least_steps, round(passes / batch))
    assert recipe.train_time_s is not None  # check_says_enough
    return _steps_in(situation, load, recipe.train_time_s)


def _steps_in(situation: Situation, load: Load, train_s: float) -> int:
    """Steps of that time: each takes as long, but for a teacher, who is asked in the first ones."""
    own_s, done = _step_s(situation, load), 0
    for most in (_new_steps(situation, load), math.inf):
        begun_s = _train_s(situation, load, done, own_s)
        each_s = _train_s(situation, load, done + 1, own_s) - begun_s
        more = max(0, int((train_s - begun_s) / each_s))
        if done + more <= most or situation.teacher is None:
            break
        done = int(most)
    return done + more


def _useful_steps(situation: Situation, facts: TokenFacts, steps: int, batch: int) -> int:
    """Fewer steps where a budget would repeat the data beyond use; what is given is kept."""
    recipe = situation.recipe
    if recipe.train.steps != "auto" or recipe.budget.tokens is not None:
        return steps
    data = situation.data
    most = float(rules.MAX_EPOCHS if situation.base is None else given.EPOCHS)
    if data.is_mixed:
        most = rules.REPEATS_MARGIN * recipe.train.max_repeats
    useful = most / max(data.epochs(batch, facts.vocab_size))
    return min(steps, max(situation.least_steps, int(useful)))


def _law_point(
    situation: Situation, shape: ModelShape, facts: TokenFacts, tokens: float
) -> LawPoint:
    bytes_per_token = facts.bytes_per_token or TEXT_BYTES_PER_TOKEN
    unique = situation.data.unique_tokens(facts.vocab_size)
    return LawPoint(
        parameters=count_shape(shape).non_embedding,
        trained_bytes=max(1, tokens) * bytes_per_token,
        unique_bytes=unique * bytes_per_token,
        xz_bits_per_byte=situation.data.xz_bits_per_byte or X0,
    )
