"""Other planners on the published rows, when they are installed."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from planner_scores import Result

__all__ = ["rival_errors"]


def rival_errors(results: Sequence[Result]) -> dict[str, str]:
    """Name -> what it scored, in words."""
    if find_spec("llm_analysis") is None:
        return {"not installed here": "(pip install llm-analysis), so not scored"}
    raise NotImplementedError
