"""Parameters that may be divided among ranks: their local part, and the whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

__all__ = ["add_whole", "gradient", "local", "whole"]


def gradient(parameter: nn.Parameter) -> Tensor:
    """Of this rank's part, or of the whole where nothing is divided."""
    assert parameter.grad is not None
    return parameter.grad


def local(tensor: Tensor) -> Tensor:
    """This rank's part, sharing memory."""
    return cast("DTensor", tensor).to_local() if _is_divided(tensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of it; every rank must ask."""
    return cast("DTensor", tensor).full_tensor() if _is_divided(tensor) else tensor


def add_whole(into: Tensor, whole: Tensor, alpha: float) -> None:
    """into += alpha * its part of a whole tensor that every rank has."""
    if _is_divided(into):
        from torch.distributed.tensor import distribute_tensor

        divided = cast("DTensor", into)
        whole = distribute_tensor(whole, divided.device_mesh, divided.placements)
    into.add_(whole, alpha=alpha)


def _is_divided(tensor: Tensor) -> bool:
    # torch.distributed is slow to load: where it is absent, nothing is divided
    return type(tensor) not in (Tensor, nn.Parameter) and hasattr(tensor, "full_tensor")
