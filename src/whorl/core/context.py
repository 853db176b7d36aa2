"""What every stage is handed besides its config: where to write and how to report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from whorl.core.ports import Progress
from whorl.core.records import RecordStore

__all__ = ["NoProgress", "StageContext"]


class NoProgress:
    """A Progress that shows nothing."""

    def start(self, label: str, total: float | None, unit: str = "") -> None: ...

    def advance(self, amount: float = 1.0, note: str = "") -> None: ...

    def finish(self, note: str = "") -> None: ...


@dataclass(frozen=True)
class StageContext:
    store: RecordStore
    progress: Progress = field(default_factory=NoProgress)
    log: Callable[[str], None] = lambda line: None  # one line a person may want to read
