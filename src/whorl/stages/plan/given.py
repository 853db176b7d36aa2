"""A given shape: the base that a recipe starts from, and the rules for going on from it.

Nothing is chosen of such a model's size; steps, batch and rates are. Its step is rehearsed on this
machine: the rates of small models say little of a head over fifty thousand ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from pydantic import Field

from whorl.arch.adapter_cost import AdapterCost, adapter_cost
from whorl.arch.shape import ModelShape
from whorl.core.errors import SpecError
from whorl.core.frozen import Frozen
from whorl.spec.resolved import TrainConfig
from whorl.spec.train_keys import LoraKeys, TrainSpec

__all__ = [
    "EPOCHS",
    "MAX_MICRO_BATCH_TOKENS",
    "MIN_STEPS",
    "RATE_REASON",
    "VALIDATIONS",
    "GivenBase",
    "NotRehearsed",
    "Rehearsal",
    "adapters_of",
    "learning_rates",
    "lighter_ways",
    "schedule_steps",
    "seq_lens",
    "validate_rows",
]

EPOCHS = 3  # of small data; what is seen more often is learned by heart
MAX_MICRO_BATCH_TOKENS = 1024  # about a megabyte of activations each in a model of 135M
VALIDATIONS = 3
MIN_STEPS = 10  # fewer are spent on warming up
# AdamW's peak for every weight of models of one to eight billion parameters: a tenth of what was
# best for low-rank adapters in sweeps of supervised teaching (thinking-machines-lab/tinker-cookbook
# at 02face34, tinker_cookbook/hyperparam_utils.py; Schulman et al., "LoRA Without Regret", 2025).
# SmolLM2's makers gave their smallest ten times as much, over millions of chats in large batches
# (huggingface/alignment-handbook, recipes/smollm2/sft/config_smol.yaml): with few data in small
# batches that forgets more than it learns.
RATE, ADAPTER_FACTOR = 1e-4, 10.0
RATE_REASON = "a base goes on with a small rate (LoRA Without Regret, 2025: adapters take tenfold)"
# Preferences move a model that can speak already: 1e-6 to 5e-6 in TRL's and SmolLM2's recipes.
OBJECTIVE_FACTORS = {"dpo": 0.02}
PACKED = ("none", "int8", "nf4")  # how frozen layers are kept, the largest first
WARMUP_SHARE = 0.1  # alignment-handbook's, for every model it teaches
QUIET_SHARE, FULL_SHARE = 0.8, 0.95  # of the threads' time: nearly all, and what is usual
SEQ_LENS, LONG_TEXT_SEQ_LEN = (64, 128, 256, 512, 1024, 2048), 256
WHOLE_SHARE = 0.95  # of the documents fit into a row


class Rehearsal(Frozen):
    """A step of just that load, done on this machine: its fastest time, its process's peak."""

    step_s: float
    cpu_share: float = Field(1.0, description="of the threads' time that they were given a core")
    peak_bytes: int
    took_s: float
    ending_s: float = Field(0.0, description="of merging adapters, and comparing what both say")

    @property
    def was_disturbed(self) -> bool:
        """Whether other work took the cores: the step is faster on a quiet machine."""
        return self.cpu_share < QUIET_SHARE

    @property
    def quiet_step_s(self) -> float:
        """As long as its threads worked, where they were kept waiting for a core."""
        return self.step_s * (self.cpu_share / FULL_SHARE if self.was_disturbed else 1.0)


class NotRehearsed(Frozen):
    """Why a step could not be done here, in words."""

    reason: str


# int: rows with borders; float: the share of tokens that are trained
Rehearse = Callable[[ModelShape, TrainConfig, int, float], Rehearsal | NotRehearsed]


@dataclass(frozen=True)
class GivenBase:
    """name: as the recipe has it. digest: of its content; the plan's record depends on it."""

    name: str
    digest: str
    shape: ModelShape
    rehearse: Rehearse | None = field(default=None, compare=False, repr=False)
    find_teacher: Callable[[], ModelShape | None] = field(
        default=lambda: None, compare=False, repr=False
    )  # the shape of what distil learns from
    left_bytes: int = field(default=0, compare=False)  # that its import leaves in this process


def lighter_ways(train: TrainSpec) -> Iterator[tuple[str, LoraKeys]]:
    """What to set, and the adapters that it means, where a base is too large as it is asked for."""
    lora = train.lora
    if lora is None:
        lora = LoraKeys()
        yield f"train.lora.rank={lora.rank}", lora
    for packed in PACKED[PACKED.index(lora.base) + 1 :]:
        yield f"train.lora.base={packed}", lora.model_copy(update={"base": packed})


def adapters_of(lora: LoraKeys | None, shape: ModelShape, seq_len: int) -> AdapterCost | None:
    """What the low-rank adapters cost that a recipe asks for; None: every weight is trained."""
    if lora is None:
        return None
    return adapter_cost(
        shape,
        seq_len,
        lora.rank,
        targets=lora.targets,
        dora=lora.dora,
        base=lora.base,
        last_layers=lora.last_layers,
    )


def seq_lens(document_tokens: tuple[int, ...], longest: int) -> Iterator[int]:
    """Rows worth trying, the best first: they hold nearly every document whole.

    Long texts are cut anyhow: rows of a usual length do. Shorter rows follow, for budgets in
    which too few steps of long ones would fit.
    """
    most = [size for size in SEQ_LENS if size <= longest] or [longest]
    place = min(len(document_tokens) - 1, int(WHOLE_SHARE * len(document_tokens)))
    fitting = [size for size in most if size >= document_tokens[place]]
    first = fitting[0] if fitting else min(LONG_TEXT_SEQ_LEN, most[-1])
    yield first
    yield from (size for size in reversed(most) if LONG_TEXT_SEQ_LEN <= size < first)


def learning_rates(
    objective: str, optimizer: str, has_adapters: bool, given: float | None
) -> dict[str, float]:
    """By their keys: one rate for everything, small from the start.

    Raises SpecError if nothing is given for an optimiser that no source has a rate for.
    """
    if given is None and optimizer != "adamw":
        raise SpecError(
            f"no learning rate is known for going on from a base with {optimizer}",
            expected="train.optimizer adamw",
            do="leave train.optimizer out, or give train.learning_rate",
        )
    usual = RATE * OBJECTIVE_FACTORS.get(objective, 1.0) * (ADAPTER_FACTOR if has_adapters else 1)
    rate = usual if given is None else given
    if optimizer != "adamw":  # the others are AdamW's all the same
        return {"learning_rate": rate} | dict.fromkeys(_OTHERS, RATE)
    return {"learning_rate": rate} | dict.fromkeys(_OTHERS, rate)


_OTHERS = ("embedding_learning_rate", "head_learning_rate", "norm_learning_rate")


def schedule_steps(steps: int) -> tuple[int, int]:
    """(warm-up, decay) steps: down to nothing from the peak on."""
    warmup = max(1, round(WARMUP_SHARE * steps))
    return warmup, max(1, steps - warmup)


def validate_rows(asked: TrainSpec, rows_of_step: int) -> int:
    """Of one validation: as the recipe says, else those of a step, as forwards are slow too."""
    if "validate_rows" in asked.model_fields_set:
        return asked.validate_rows
    return min(asked.validate_rows, max(4, rows_of_step))
