"""What a tokenizer is trained on: an even sample of bytes, however long the documents are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.stages.prepare.support import TextField, story
from whorl.core.ports import Document, Part, Source
from whorl.spec.resolved import PrepareConfig
from whorl.stages.prepare import split
from whorl.stages.prepare.clean import clean, clean_tasks
from whorl.stages.prepare.corpus import BLOCK_BYTES, Corpus, TrainingDocuments
from whorl.stages.prepare.vocabulary import MAX_NEW_BYTES, build_tokens
from whorl.testing.odd_texts import PROSE, odd_text

LONG_BYTES = 40 * BLOCK_BYTES


@dataclass(frozen=True)
class GivenField(TextField):
    texts: tuple[str, ...] = ()

    def read(self, source: Source, item: Any, reject: Callable[[str], None]) -> Iterator[Document]:
        for number, text in enumerate(self.texts):
            yield Document(str(number), (Part("text", text),))


def sample(folder: Path, max_bytes: int, *texts: str) -> list[str]:
    """What is taken of texts that are all trained on."""
    folder.mkdir(exist_ok=True)
    tasks = clean_tasks(0, Source("x", "x"), GivenField(texts=texts), [0], folder, (1e9, 1.0))
    corpus = Corpus([clean(task) for task in tasks])
    actions = np.full(len(corpus), split.TRAIN, np.int8)
    taken = TrainingDocuments(corpus, actions, frozenset({0}), 0.5, max_bytes)
    found = [document.text or "" for document in taken]
    assert found == [document.text for document in taken], "the same again"
    return found


def test_of_a_long_text_blocks_from_all_over_are_taken(tmp_path: Path) -> None:
    text = odd_text(PROSE, LONG_BYTES)
    found = sample(tmp_path, LONG_BYTES // 3, text)
    assert LONG_BYTES / 5 < sum(map(len, found)) < LONG_BYTES / 2
    places = [text.index(block) for block in found]
    assert places == sorted(places) and places[0] < LONG_BYTES / 3 < LONG_BYTES / 2 < places[-1]
    assert all(len(block) <= BLOCK_BYTES for block in found)


def test_long_and_short_texts_have_their_shares(tmp_path: Path) -> None:
    short = [story(number, 40) for number in range(1000)]
    num_short = sum(len(text.encode()) for text in short)
    found = sample(tmp_path, (LONG_BYTES + num_short) // 4, odd_text(PROSE, LONG_BYTES), *short)
    taken = sum(len(text.encode()) for text in found if text in short)
    assert num_short / 6 < taken < num_short / 3
    assert LONG_BYTES / 8 < sum(map(len, found)) - taken < LONG_BYTES / 2


def test_there_is_always_something_and_all_if_it_fits(tmp_path: Path) -> None:
    texts = [odd_text(PROSE, LONG_BYTES, seed) for seed in range(2)]
    least = sample(tmp_path / "least", 1, *texts)
    assert len(least) == 1 and 0 < len(least[0]) <= BLOCK_BYTES
    assert sample(tmp_path / "all", 2 * LONG_BYTES, *texts) == texts


def most_asked(kind: str) -> int:
    """Bytes that a tokenizer of 8,192 ids is trained on, of an endless source of a kind."""
    asked: list[int] = []

    class Endless:
        corpus = SimpleNamespace(codecs_of_source=lambda source: frozenset({"text"}))

        def documents(self, sources: frozenset[int], max_bytes: int) -> Any:
            asked.append(max_bytes)
            return [Document("x", (Part("text", odd_text(kind, 2**19)),))]

    training: Any = Endless()
    config, sources = PrepareConfig(vocab_size=8192, seq_len=64), [Source("x", "x")]
    build_tokens({"x": TextField()}, sources, training, config)
    return max(asked)


def test_of_words_that_come_once_little_is_taken() -> None:
    """BPE's time and memory grow with distinct words, so those are bounded."""
    assert 0.8 * MAX_NEW_BYTES < most_asked("base64") < 1.2 * MAX_NEW_BYTES
    assert most_asked(PROSE) > 20e6
