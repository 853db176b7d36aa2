"""Files written from the tensors are those of the library, and are whole or not there."""

from __future__ import annotations

import resource
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from whorl.core.errors import ResourceError
from whorl.model.tensor_file import write_tensors


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(64, 48, generator=generator)
    return {
        "b": whole.T,
        "a": whole.to(torch.bfloat16),
        "c": whole[:1, :1],
        "step": torch.zeros(()),
    }


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_the_bytes_are_the_librarys(metadata: dict[str, str] | None, tmp_path: Path) -> None:
    write_tensors(tmp_path / "x.safetensors", tensors(), metadata)
    plain = {name: tensor.contiguous() for name, tensor in tensors().items()}
    assert (tmp_path / "x.safetensors").read_bytes() == save(plain, metadata=metadata)
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        with pytest.raises(ResourceError, match="cannot write"):
            write_tensors(path, tensors())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1
