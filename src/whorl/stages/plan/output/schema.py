"""The document `whorl plan --model … --json` prints. Units stand in the names; bytes are bytes.

docs/plan-schema.json is generated from these classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from whorl.arch.shape import ModelShape
from whorl.core.errors import DataError, SpecError
from whorl.core.frozen import Frozen
from whorl.core.validation import first_problem
from whorl.stages.plan.cluster.devices import Device
from whorl.stages.plan.cluster.job import Layout
from whorl.stages.plan.cluster.memory import RankMemory
from whorl.stages.plan.cluster.step import StepTime
from whorl.stages.plan.laws.allocate import LifetimePlan
from whorl.stages.plan.serving.target import ServingPlan
from whorl.stages.plan.spending import BudgetKind
from whorl.stages.plan.whole_job.view import JobView, Range

__all__ = [
    "BudgetFigures",
    "ClusterPlan",
    "FrontPoint",
    "LossFigures",
    "LossPoint",
    "MemoryReport",
    "ModelFigures",
    "PlannedLayout",
    "Question",
    "ServingAnswer",
    "WayOut",
    "load_plan",
]


class Question(Frozen):
    """What was asked, defaults filled in."""

    model: str = Field(description="a known model, the path of a config.json, or a recipe")
    device: str = Field(description="name in the device catalogue")
    count: int = Field(description="devices")
    seq_len: int = Field(description="tokens of one sequence")
    global_batch: int = Field(description="sequences of one step; 0: by the step law")
    precision: str = Field("bf16", description="of the matrix products")
    optimizer: str = "adamw"
    pure_low_precision: bool = Field(False, description="weights and states in 2 bytes too")
    stack: str = Field("megatron", description="software the figures are predicted for")
    tune: str = Field("", description="full, lora, qlora or dora; empty: pretraining")
    rank: int = Field(0, description="of the adapters; 0: none")
    targets: str = Field("", description="what the adapters adapt: qv, attention or all")
    base_format: str = Field("", description="of a frozen base; none: 16 bits")
    images: str = Field("", description="of a sequence, such as 2@1280")
    objective: str = Field("", description="what is learned, if not next tokens")
    per_example: int = Field(1, description="sequences of one example: two of a preference")
    loss: str = Field("", description="eager, fused or chunked; empty: what the stack does")
    step_in_backward: bool = Field(False, description="each gradient is used as it is made")
    document_tokens: int = Field(0, description="of packed documents; 0: one fills a sequence")
    attention: str = Field("flash", description="flash, or eager: scores are stored")
    tokens: int | None = Field(None, description="to train on; null: the budget's or law's choice")
    budget: str = Field("", description="the budget given, such as usd=100000")
    vocab_size: int | None = Field(None, description="of a model whose size the budget chooses")
    unique_tokens: int | None = Field(None, description="that there are; more are repetitions")
    served_tokens: int | None = Field(None, description="read and written over the model's life")
    usd_per_device_hour: float | None = Field(None, description="null: the catalogue's price")
    layout: str = Field("", description="the layout given; empty: searched")
    measured: str = Field("", description="the measured step given")
    tables: bool = Field(False, description="products timed by measured kernels")
    serve: str = Field("", description="the serving target given")
    words: str = Field("", description="the tool whose words were used; empty: whorl's own")
    became: list[str] = Field([], description="what those words became")


class ModelFigures(Frozen):
    shape: ModelShape
    parameters: int
    active_parameters: int = Field(description="that one token passes through")
    forward_flops_per_token: float
    training_flops_per_token: float = Field(description="forward and backward, no recomputation")
    weight_bytes: float = Field(description="in bf16")
    kv_bytes_per_token: float = Field(description="of a bf16 cache")


class PlannedLayout(Frozen):
    label: str = Field(description="as --layout takes it")
    layout: Layout
    dp: int = Field(description="data-parallel degree")
    step: StepTime
    memory: RankMemory
    why: str = Field(description="why it was chosen, or why it lost")


class FrontPoint(Frozen):
    """A layout that nothing beats in both time and memory."""

    label: str
    step_s: float
    peak_bytes: float


class LossPoint(Frozen):
    """The best size for a budget."""

    flops: float
    parameters: float
    tokens: float
    loss: Range


class LossFigures(Frozen):
    """Losses are nats per token of the law's own data and tokenizer."""

    law: str
    tokens: float
    steps: int
    loss: Range
    tokens_per_parameter: float = Field(description="active parameters")
    best: LossPoint = Field(description="of the same FLOPs, by the law")
    best_batch_tokens: Range = Field(description="of this size and these tokens, by the step law")
    best_learning_rate: Range = Field(description="peak, AdamW, by the step law")
    budgets: list[LossPoint]
    unique_tokens: float | None = Field(None, description="set where tokens repeat them")
    worth_tokens: float | None = Field(None, description="fresh tokens that the repeated are worth")
    lifetime: LifetimePlan | None = Field(
        None, description="the size cheapest to train and serve at this loss"
    )
    notes: list[str] = Field([])


class BudgetFigures(Frozen):
    """What a budget buys at the predicted speed."""

    kind: BudgetKind
    amount: float = Field(description="USD, seconds, device-hours or FLOPs")
    spent: Range = Field(description="by the plan, in the same unit, failures included")
    flops: float = Field(description="6 per active parameter and token, as the laws count")
    tokens: Range
    parameters: Range | None = Field(None, description="active; null: the model was given")
    rounds: int = Field(description="searches until size, batch and speed agreed")


class ClusterPlan(Frozen):
    """Training one model on many devices: the layout, and what it takes and gives."""

    version: Literal[1] = 1
    kind: Literal["cluster_plan"] = "cluster_plan"
    question: Question
    model: ModelFigures
    device: Device = Field(description="rates of one; usd_per_hour is what was asked with")
    chosen: PlannedLayout
    safe: PlannedLayout | None = Field(
        None, description="fastest whose whole interval of memory fits, where the chosen's does not"
    )
    runners_up: list[PlannedLayout] = Field([])
    front: list[FrontPoint] = Field([])
    considered: int = Field(0, description="layouts looked at")
    fitting: int = Field(0, description="of these, layouts that fit the memory")
    budget: BudgetFigures | None = None
    job: JobView | None = None
    loss: LossFigures | None = None
    serving: ServingPlan | None = None
    commands: dict[str, str] = Field({}, description="file name -> what runs the chosen layout")
    warnings: list[str] = Field([])


class WayOut(Frozen):
    """A change, or several together, on the same devices."""

    words: str = Field(description="in the words that were asked with")
    changes: list[str]
    needed_bytes: float = Field(description="that a device must have after it")
    saved_bytes: float
    slower: float = Field(description="time of a token against before, minus one")
    fits: bool


class MemoryReport(Frozen):
    """What `--why-oom` answers: what the fullest rank holds, and what would make it less."""

    version: Literal[1] = 1
    kind: Literal["memory_report"] = "memory_report"
    question: Question
    device: Device
    label: str = Field(description="the layout, as --layout takes it")
    why: str = Field(description="why this layout")
    step_s: float
    fits: bool
    needed_bytes: float = Field(description="what the device must have, the allocator pressed")
    limit_bytes: float
    driver: RankMemory = Field(description="as nvidia-smi counts: context and buffers too")
    reserved_bytes: float = Field(description="torch.cuda.max_memory_reserved")
    allocated_bytes: float = Field(description="torch.cuda.max_memory_allocated")
    changes: list[WayOut] = Field(description="single ones; those that are enough first")
    enough: list[WayOut] = Field(description="up to three ways to fit, if it does not")
    elsewhere: list[str] = Field(description="more or larger devices that would do")
    warnings: list[str] = Field([])


class ServingAnswer(Frozen):
    """Serving a model, without a word of training."""

    version: Literal[1] = 1
    kind: Literal["serving_plan"] = "serving_plan"
    model: ModelFigures
    device: Device
    serve: str = Field(description="the target given")
    serving: ServingPlan
    warnings: list[str] = Field([])


def load_plan(path: Path) -> ClusterPlan:
    """A plan that `--json` wrote. Raises SpecError if there is none, DataError if it is no plan."""
    try:
        return ClusterPlan.model_validate_json(path.read_text("utf-8-sig"))
    except OSError as error:
        do = "whorl plan --model … --json > FILE"
        raise SpecError(f"{path} cannot be read", found=error, do=do) from error
    except ValueError as error:  # of pydantic, of UTF-8, of a shape that cannot be
        expected = "what `whorl plan --model … --json` printed"
        raise DataError(
            f"{path} is not a cluster plan", found=first_problem(error), expected=expected
        ) from error
