"""One line of JSON per answer, so that feedback can be tied to it later.

A line says which version answered (contract, record), which key asked, how many tokens, how long it
took and how it ended; the prompt and the text only where that was asked for. Lines are only ever
added: a file that is full is moved away, and the oldest of those are given up.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from whorl.core.errors import ResourceError
from whorl.stages.serve.lines import append_line, own_folder

__all__ = ["AnswersLog"]

FILE = "answers.jsonl"
MAX_FILE_BYTES = 2**27  # then it is moved away: answers.jsonl.1, .2 …
NUM_KEPT = 7  # of those that were moved away: the oldest one goes
MAX_LOOK_BYTES = 2**24  # of a file, when an answer is looked for
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
            own_folder(folder)
        except ResourceError as error:  # a home that cannot be written serves what it holds
            tell(f"answers are not logged: {error}")
            self.num_lost = 1

    def add(self, line: Mapping[str, Any]) -> None:
        when = datetime.now(UTC).isoformat(timespec="milliseconds")
        data = json.dumps({"time": when, **line}, ensure_ascii=False).encode("utf-8", "replace")
        try:
            append_line(self.path, data, MAX_FILE_BYTES, NUM_KEPT)
        except OSError as error:
            self.num_lost += 1
            if self.num_lost == 1:
                self._tell(f"answers are not logged: {self.path}: {error.strerror}")

    def find(self, request_id: str) -> dict[str, Any] | None:
        """The line of an answer of late; None: it is not there."""
        wanted = f'"id": "{request_id}"'.encode()  # quotes in texts are escaped
        for path in (self.path, self.path.with_name(f"{FILE}.1")):
            with contextlib.suppress(OSError, ValueError), path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - MAX_LOOK_BYTES))
                data = file.read(MAX_LOOK_BYTES)
                if (at := data.rfind(wanted)) >= 0:
                    line = data[data.rfind(b"\n", 0, at) + 1 :].split(b"\n", 1)[0]
                    found: dict[str, Any] = json.loads(line)
                    return found
        return None
