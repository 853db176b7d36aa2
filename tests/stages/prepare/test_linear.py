"""Whatever the signs are, prepare takes time in proportion to the bytes."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.stages.prepare.support import TextField, prepare, story
from whorl.core.ports import Document, Part, Source
from whorl.testing.odd_texts import ODD_TEXTS, PROSE, odd_text

NUM_BYTES = 600_000
MOST = 5.0  # times the CPU seconds of prose
SLACK_S = 0.5


@dataclass(frozen=True)
class LongField(TextField):
    """One text, however long, to train on, and a short one to hold out."""

    kind: str = PROSE

    def items(self, source: Source) -> list[Any]:
        return [self.kind]

    def read(self, source: Source, item: Any, reject: Callable[[str], None]) -> Iterator[Document]:
        yield Document("long", (Part("text", odd_text(item, NUM_BYTES)),), "train")
        yield Document("short", (Part("text", story(1)),), "heldout")


def cpu_seconds() -> float:
    of = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in of)


def seconds_of(kind: str, home: Path) -> float:
    """CPU seconds of the whole stage; what it keeps is checked."""
    begin = cpu_seconds()
    source = Source("anything", "long", release={"digest": kind})
    record = prepare(
        home / kind.replace(" ", "-"),
        source,
        fields={"long": LongField(kind=kind)},
        vocab_size=1024,
        max_repetition_ratio=1e9,
        max_repeated_windows=1.0,
    )
    assert record.metrics["train_bytes"] > 0.9 * NUM_BYTES
    return cpu_seconds() - begin


@pytest.fixture(scope="module")
def prose_s(tmp_path_factory: pytest.TempPathFactory) -> float:
    seconds_of(PROSE, tmp_path_factory.mktemp("first"))  # imports, tables
    return seconds_of(PROSE, tmp_path_factory.mktemp("prose"))


@pytest.mark.parametrize("kind", [kind for kind in ODD_TEXTS if kind != PROSE])
def test_time_is_proportional_to_bytes(kind: str, prose_s: float, tmp_path: Path) -> None:
    assert seconds_of(kind, tmp_path) < MOST * prose_s + SLACK_S
