"""Fields of plain text and of little images, and a way to run prepare on them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.codecs.label import LabelCodec
from whorl.codecs.text import train_text_codec
from whorl.core.context import StageContext
from whorl.core.ports import Codec, Document, Part, Score, Source, Task
from whorl.core.records import Record, RecordStore
from whorl.core.sources import FileItem
from whorl.core.tasks import ChoiceTask, LikelihoodTask
from whorl.fields.files import text_items
from whorl.fields.formats import read_item
from whorl.spec.resolved import PrepareConfig
from whorl.stages.prepare.facts import data_digest
from whorl.stages.prepare.run import run

__all__ = ["FIELDS", "PixelField", "TextField", "contents", "prepare", "story", "write_stories"]


@dataclass(frozen=True)
class TextField:
    """What a field of text is, in few lines."""

    name: str = "text"
    task: Task = field(default_factory=LikelihoodTask)
    logic_version: int = 1

    def items(self, source: Source) -> list[FileItem]:
        return text_items(source)

    def read(
        self, source: Source, item: FileItem, reject: Callable[[str], None]
    ) -> Iterator[Document]:
        return read_item(item, reject, source.options.get("text_key", "text"))

    def fit_codecs(
        self, documents: Iterable[Document], options: Mapping[str, Any]
    ) -> dict[str, Codec]:
        texts = (document.text or "" for document in documents)
        return {"text": train_text_codec(texts, options["vocab_size"], options["seed"])}

    def baselines(
        self, train: Sequence[Document], heldout: Sequence[Document], rows: NDArray[np.int64] | None
    ) -> list[Score]:
        return []


@dataclass(frozen=True)
class PixelField:
    """Arrays with a label and a fixed split, from no file at all: every fifth is held out."""

    count: int = 20
    name: str = "pixels"
    task: Task = field(default_factory=ChoiceTask)
    logic_version: int = 1

    def items(self, source: Source) -> list[Any]:
        return [(start, min(start + 7, self.count)) for start in range(0, self.count, 7)]

    def read(self, source: Source, item: Any, reject: Callable[[str], None]) -> Iterator[Document]:
        for number in range(*item):
            pixels = np.arange(4, dtype=np.float32) * number
            parts = (
                Part("pixel", pixels, trained=False),
                Part("label", f"class {number % 3}"),
            )
            yield Document(f"{number}", parts, "heldout" if number % 5 == 0 else "train")

    def fit_codecs(
        self, documents: Iterable[Document], options: Mapping[str, Any]
    ) -> dict[str, Codec]:
        values = [document.parts[1].value for document in documents]
        return {"pixel": PixelCodec(), "label": LabelCodec.fit(values)}

    def baselines(
        self, train: Sequence[Document], heldout: Sequence[Document], rows: NDArray[np.int64] | None
    ) -> list[Score]:
        return []


@dataclass
class PixelCodec:
    """A pixel's value modulo 64. Of a kind that cannot be loaded: prepare must not need to."""

    name: str = "pixel"
    kind: str = "test-pixel"
    num_ids: int = 64

    def encode(self, value: Any) -> list[int]:
        return [int(pixel) % self.num_ids for pixel in value]

    def decode(self, ids: Sequence[int]) -> Any:
        return np.array(ids, np.float32)

    def files(self) -> dict[str, bytes]:
        return {"pixel.json": b"{}"}


FIELDS: dict[str, Any] = {"text": TextField(), "pixels": PixelField()}


def story(seed: int, num_sentences: int = 12) -> str:
    """A text unlike those of other seeds, with Latin and Chinese words."""
    chooser = random.Random(seed)
    nouns = ["shell", "ladder", "river", "stone", "lantern", "garden", "letter", "贝壳", "河流"]
    verbs = ["keeps", "turns", "finds", "joins", "folds", "reads", "repairs", "打开", "记得"]
    sentences = []
    for _ in range(num_sentences):
        subject, thing, place = (chooser.choice(nouns) for _ in range(3))
        number = chooser.randrange(10_000)
        sentences.append(
            f"The {subject} {chooser.choice(verbs)} {number} {thing}s near the {place}."
        )
    return " ".join(sentences) + "\n"


def write_stories(folder: Path, numbers: Iterable[int], num_sentences: int = 12) -> Path:
    """One .txt file per number, made in the order given."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        path = folder / f"story-{number:04d}.txt"
        path.write_text(story(number, num_sentences), encoding="utf-8")
    return folder


def prepare(
    home: Path,
    *sources: Source | Path,
    workers: int = 1,
    fields: Mapping[str, Any] | None = None,
    log: Callable[[str], None] = lambda line: None,
    **config: Any,
) -> Record:
    """Run the stage; a path is a source of the field "text"."""
    fields = FIELDS if fields is None else fields
    resolved = [Source(str(s), "text") if isinstance(s, Path) else s for s in sources]
    settings = PrepareConfig(**{"vocab_size": 512, "seq_len": 64, **config})
    context = StageContext(RecordStore(home, "test"), log=log)
    digest = data_digest(fields, resolved)
    return run(context, settings, fields, resolved, digest, workers)


def contents(record: Record) -> dict[str, bytes]:
    """Every file of a record but run.json."""
    return {
        str(path.relative_to(record.path)): path.read_bytes()
        for path in sorted(record.path.rglob("*"))
        if path.is_file() and path.name != "run.json"
    }
