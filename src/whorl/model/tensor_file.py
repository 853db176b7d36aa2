"""A safetensors file written from the tensors themselves: no second copy of them in memory."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from whorl.core.digests import write_file

__all__ = ["write_tensors"]

OS_ERROR = re.compile(r"os error (\d+)")  # at the end of what the library says of a full disk


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Whole or not at all, the same bytes for the same tensors. Raises ResourceError."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    told = None if metadata is None else dict(metadata)

    def fill(temporary: Path) -> None:
        try:
            save_file(plain, temporary, metadata=told)
        except SafetensorError as error:
            if (match := OS_ERROR.search(str(error))) is None:
                raise
            raise OSError(int(match[1]), os.strerror(int(match[1]))) from error

    write_file(path, fill, sum(tensor.nbytes for tensor in plain.values()))
