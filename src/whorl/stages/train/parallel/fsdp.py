"""Fully sharded data parallelism: torch's FSDP2 (`fully_shard`), over a process group that exists.

Each rank holds a part of every parameter, gradient and moment, and computes its own rows; a block's
parameters are gathered while it computes. Sources: ZeRO (arXiv 1910.02054), PyTorch FSDP
(2304.11277).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from whorl.core.errors import SpecError
from whorl.model.transformer import Transformer

__all__ = ["FullyShardedData"]


class FullyShardedData:
    """`Parallel` over all ranks of the default process group. num_lanes 1: hooks of a module are
    for one thread."""

    num_lanes: int | None = 1

    def __init__(self, device: str = "cpu") -> None:
        self.world, self.rank = dist.get_world_size(), dist.get_rank()
        self.is_main = self.rank == 0
        self.mesh = init_device_mesh(device, (self.world,))

    def wrap(self, model: Transformer) -> Transformer:
        """Every block by itself, then what is left. Gradients are summed, not averaged: the loss is
        divided by the trained tokens of all ranks."""
        # a block's sum is a view; nothing changes it in place
        warnings.filterwarnings("ignore", "FSDP2-wrapped module")
        for module in (*model.layers, model):
            fully_shard(module, mesh=self.mesh)
            assert isinstance(module, FSDPModule)
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo knows no other
        return model

    def rows(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        if len(numbers) % self.world:
            raise SpecError(
                f"{len(numbers)} rows cannot be shared by {self.world} ranks",
                do="choose train.batch_tokens so that its rows are a multiple of the ranks",
            )
        return numbers[self.rank :: self.world]

    def sum(self, values: Iterable[float]) -> list[float]:
        together = torch.tensor(list(values), dtype=torch.float64, device=self.mesh.device_type)
        dist.all_reduce(together)
        return [float(value) for value in together]

    def whole(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            for name, tensor in tensors.items()
        }

    @torch.no_grad()
    def fill(self, into: Mapping[str, Tensor], whole: Mapping[str, Tensor]) -> None:
        for name, tensor in into.items():
            part = whole[name]
            if isinstance(tensor, DTensor):
                part = distribute_tensor(
                    part.to(tensor.device), tensor.device_mesh, tensor.placements
                )
            tensor.copy_(part)
