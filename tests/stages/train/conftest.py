"""One thread: tests run beside each other, and OpenMP's threads wait by spinning."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> None:
    torch.set_num_threads(1)
