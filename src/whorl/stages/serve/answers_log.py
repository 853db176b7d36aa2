"""One line of JSON per answer, only ever added to, so that feedback can be tied to it later.

A line says which version answered (contract, record), which key asked, how many tokens, how long it
took and how it ended; the prompt and the text only where that was asked for.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from whorl.core.disk import make_folder
from whorl.core.errors import ResourceError

__all__ = ["AnswersLog"]

FILE = "answers.jsonl"
LOG = logging.getLogger(__name__)


class AnswersLog:
    """Appends whole lines to `<folder>/answers.jsonl`; several servers may share it.

    A disk that takes no more costs lines, never answers: `num_lost` counts them, the first is told.
    """

    def __init__(
        self, folder: Path, with_text: bool, tell: Callable[[str], None] = LOG.error
    ) -> None:
        self.path, self.with_text = folder / FILE, with_text
        self.num_lost = 0
        self._tell = tell
        try:
            make_folder(folder)
        except ResourceError as error:  # a home that cannot be written serves what it holds
            tell(f"answers are not logged: {error}")
            self.num_lost = 1

    def add(self, line: Mapping[str, Any]) -> None:
        when = datetime.now(UTC).isoformat(timespec="milliseconds")
        data = json.dumps({"time": when, **line}, ensure_ascii=False).encode("utf-8", "replace")
        try:
            # opened for each line: whoever rotates the file needs to tell nobody
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(descriptor, data + b"\n")
            finally:
                os.close(descriptor)
        except OSError as error:
            self.num_lost += 1
            if self.num_lost == 1:
                self._tell(f"answers are not logged: {self.path}: {error.strerror}")
