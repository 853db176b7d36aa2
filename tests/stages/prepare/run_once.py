"""A process that prepares some sources once and says how it went, for tests that kill or vary it.

    python -m tests.stages.prepare.run_once HOME WORKERS SHUFFLE SOURCE...

Prints "started", then a JSON object: the record's path, the peak memory, the files opened.
"""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path
from typing import Any

from tests.stages.prepare.support import prepare
from whorl.core.memory import peak_resident_bytes
from whorl.core.ports import Source
from whorl.stages.prepare import clean

__all__ = ["main"]

FETCHED = "fetched:"
TASK_BYTES = 2**14  # many small tasks, so that processes really share the work


class ShuffledScan:
    """os.scandir in another order."""

    def __init__(self, path: Any, scandir: Any, seed: int) -> None:
        with scandir(path) as entries:
            self._entries = list(entries)
        random.Random(seed).shuffle(self._entries)

    def __enter__(self) -> ShuffledScan:
        return self

    def __exit__(self, *_: object) -> None: ...

    def __iter__(self) -> ShuffledScan:
        return self

    def __next__(self) -> Any:
        if not self._entries:
            raise StopIteration
        return self._entries.pop()

    def close(self) -> None: ...


def source_of(text: str) -> Path | Source:
    """A path, or `fetched:` and a path: what others made, from which no link leads out."""
    path = text.removeprefix(FETCHED)
    return Path(text) if path == text else Source(path, "text", release={})


def main(home: str, workers: str, shuffle: str, *sources: str) -> None:
    clean.TASK_BYTES = TASK_BYTES
    if int(shuffle):
        scandir = os.scandir
        os.scandir = lambda path=".": ShuffledScan(path, scandir, int(shuffle))  # type: ignore
    opened: set[str] = set()

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str):
            opened.add(os.path.realpath(arguments[0]))

    print("started", flush=True)
    sys.addaudithook(note)
    record = prepare(Path(home), *map(source_of, sources), workers=int(workers))
    peak_bytes = peak_resident_bytes()
    report = {"record": str(record.path), "peak_bytes": peak_bytes, "opened": sorted(opened)}
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
