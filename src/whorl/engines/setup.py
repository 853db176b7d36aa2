"""What an engine is opened with."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["VLLM_ARGUMENTS", "VLLM_PYTHON", "EngineSetup"]

VLLM_PYTHON, VLLM_ARGUMENTS = "WHORL_VLLM_PYTHON", "WHORL_VLLM_ARGS"  # of the environment


@dataclass(frozen=True)
class EngineSetup:
    """Settings that each engine follows as far as it has such.

    shares_prefixes: the beginnings of requests of one cache_key are computed once. batched_tokens:
    of one step; long prompts are read in pieces, so that others go on. threads: None: by the
    machine's performance cores. lookup: ids guessed at a time, see `FolderCard.lookup`; None: as
    the folder says.
    """

    max_running: int = 16
    cache_bytes: int = 2 * 2**30  # of keys and values; one request of the whole context always fits
    shares_prefixes: bool = False
    batched_tokens: int = 512
    threads: int | None = None
    lookup: int | None = None
