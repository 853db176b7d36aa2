"""Tiny models are faster on one thread."""

from __future__ import annotations

from tests.engines.conftest import one_thread

__all__ = ["one_thread"]
