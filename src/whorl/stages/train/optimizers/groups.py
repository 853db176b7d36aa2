"""A model's parameters by kind: matrices by the chosen optimiser, everything else by AdamW.

Of a model with adapters only those are here; all of them have the rate of the matrices.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from whorl.core.errors import RecordError
from whorl.spec.resolved import TrainConfig
from whorl.stages.train.optimizers.adamw import AdamW
from whorl.stages.train.optimizers.registry import find_optimizer
from whorl.stages.train.ports import Optimizer, Work

__all__ = ["Groups", "check_state"]


class Groups:
    """`Optimizer` of a whole model; each kind of parameter has a peak rate of its own."""

    def __init__(self, named_parameters: Mapping[str, nn.Parameter], config: TrainConfig) -> None:
        kinds: dict[str, dict[str, nn.Parameter]] = {
            kind: {} for kind in ("matrix", "embedding", "head", "vector")
        }
        for name, parameter in named_parameters.items():
            kinds[_kind(name, parameter, config.lora is not None)][name] = parameter
        self.parts: list[Optimizer] = [
            find_optimizer(config.optimizer).of(kinds["matrix"], config),
            AdamW(kinds["embedding"], config.embedding_learning_rate),
            AdamW(kinds["head"], config.head_learning_rate),
            AdamW(
                kinds["vector"],
                config.norm_learning_rate if config.lora is None else config.learning_rate,
            ),
        ]

    def work(self, share: float, parts: int) -> list[Work]:
        return [piece for part in self.parts for piece in part.work(share, parts)]

    def state(self) -> dict[str, Tensor]:
        return {name: tensor for part in self.parts for name, tensor in part.state().items()}


def check_state(state: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Raises RecordError if a tensor is missing, unknown or of another shape."""
    expected = {(name, tuple(tensor.shape)) for name, tensor in state.items()}
    given = {(name, tuple(tensor.shape)) for name, tensor in found.items()}
    if wrong := sorted(expected ^ given):
        raise RecordError("the state is of other optimisers", found=wrong[:3])


def _kind(name: str, parameter: nn.Parameter, adapter: bool) -> str:
    if parameter.ndim <= 1:
        return "vector"
    if adapter or name.startswith("layers."):
        return "matrix"
    return "head" if name.startswith("lm_head.") else "embedding"
