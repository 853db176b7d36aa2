"""What a training can exchange: what is learned, how weights move, who shares the work, where it
is saved. Each port has at most five methods.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from whorl.model.transformer import Transformer
from whorl.spec.resolved import TrainConfig

if TYPE_CHECKING:
    from whorl.stages.train.batch import MicroBatch
    from whorl.stages.train.checkpoints.local import Checkpoint

__all__ = [
    "OF_BITS",
    "OF_PAIRS",
    "OF_TEACHER",
    "CheckpointStore",
    "Objective",
    "Optimizer",
    "OptimizerKind",
    "Parallel",
    "Work",
    "unit_of",
]

Work = Callable[[], None]
OF_BITS = "nats per trained token"  # of the data: as bits per byte, where it is text
OF_TEACHER = "nats from the teacher per trained token"
OF_PAIRS = "nats per pair"


class Objective(Protocol):
    """What is learned. One with an attribute `unit` of OF_PAIRS is a sum over pairs, see `Dpo`."""

    name: str

    def loss(self, model: Transformer, micro_batch: MicroBatch) -> Tensor:
        """Sum over the micro-batch's trained tokens, float64, with a gradient.

        The trainer divides by the trained tokens of the whole batch, so that micro-batches,
        lanes, ranks and packing change nothing but rounding.
        """
        ...


def unit_of(objective: Objective) -> str:
    """What its loss is measured in: that of the data's tokens unless it says something else."""
    return str(getattr(objective, "unit", OF_BITS))


class Optimizer(Protocol):
    """Moves some parameters by their gradients."""

    def work(self, share: float, parts: int) -> list[Work]:
        """One update at `share` of every peak rate, in pieces that may run side by side."""
        ...

    def state(self) -> dict[str, Tensor]:
        """All its tensors themselves, by name: a checkpoint copies them, a resume fills them."""
        ...


class OptimizerKind(Protocol):
    """How the matrices of the blocks are optimised; the rest is always AdamW's."""

    name: str
    matrix_moments: int  # values of state for each element

    def of(self, parameters: Mapping[str, nn.Parameter], config: TrainConfig) -> Optimizer:
        """The optimiser of those parameters."""
        ...


class Parallel(Protocol):
    """How processes share a training. Ranks call every method together."""

    is_main: bool  # the one that writes
    num_lanes: int | None  # the most lanes it can go with; None: any number

    def wrap(self, model: Transformer) -> Transformer:
        """The model, its parameters divided or not."""
        ...

    def rows(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """This rank's share of a step's rows. Raises SpecError if they cannot be shared."""
        ...

    def sum(self, values: Iterable[float]) -> list[float]:
        """Each value summed over the ranks; equal on every rank."""
        ...

    def whole(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Whole tensors of what may be divided; on every rank."""
        ...

    def fill(self, into: Mapping[str, Tensor], whole: Mapping[str, Tensor]) -> None:
        """The opposite: this rank's part of each whole tensor, copied."""
        ...


class CheckpointStore(Protocol):
    """Saved states of one run."""

    def save(self, checkpoint: Checkpoint) -> str:
        """Verified; gives its digest. Raises ResourceError when it cannot be written."""
        ...

    def newest(self, work_digest: str) -> tuple[Checkpoint, str] | None:
        """The newest one that is whole and of this work, with its digest."""
        ...

    def remove(self) -> None:
        """All of them."""
        ...
