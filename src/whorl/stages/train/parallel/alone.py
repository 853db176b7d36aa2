"""One process has everything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from whorl.model.transformer import Transformer

__all__ = ["Alone"]


class Alone:
    """`Parallel` for one process."""

    is_main: bool = True
    num_lanes: int | None = None

    def wrap(self, model: Transformer) -> Transformer:
        return model

    def rows(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        return numbers

    def sum(self, values: Iterable[float]) -> list[float]:
        return list(values)

    def whole(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(tensors)

    @torch.no_grad()
    def fill(self, into: Mapping[str, Tensor], whole: Mapping[str, Tensor]) -> None:
        for name, tensor in into.items():
            tensor.copy_(whole[name])
