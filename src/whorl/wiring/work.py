"""What every part of the wiring finds in a session: a recipe, its home, whom to tell."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from whorl.core.context import StageContext
from whorl.core.ports import Progress
from whorl.spec.load import LoadedRecipe

__all__ = ["Work"]


class Work(Protocol):
    """A recipe that is being worked on."""

    @property
    def context(self) -> StageContext: ...

    @property
    def loaded(self) -> LoadedRecipe: ...

    @property
    def home(self) -> Path: ...

    @property
    def progress(self) -> Progress: ...

    @property
    def log(self) -> Callable[[str], None]: ...

    @property
    def _compresses(self) -> bool: ...
