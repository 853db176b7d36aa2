"""Copies are never trained on and held out at once, in whatever dress; other texts all stay."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.stages.prepare.disguises import DISGUISES, LICENCES
from tests.stages.prepare.prose import CHINESE
from tests.stages.prepare.support import story
from tests.stages.prepare.test_shingles import edited, windows
from whorl.core.ports import Document, Part, Source
from whorl.spec.resolved import PrepareConfig
from whorl.stages.prepare import split
from whorl.stages.prepare.clean import CleanTask, clean
from whorl.stages.prepare.corpus import Corpus

TRIALS = int(float(os.environ.get("WHORL_TRIALS", "1")) * 40)
CONFIG = PrepareConfig(vocab_size=512, seq_len=16, heldout_share=0.3)


class Given:
    """A field whose items are its documents."""

    def read(
        self, source: Source, item: Document, reject: Callable[[str], None]
    ) -> Iterator[Document]:
        yield item


def kept(documents: Sequence[Document]) -> list[tuple[str, int]]:
    """(name, split.TRAIN or split.HELDOUT) of each document that stays."""
    with tempfile.TemporaryDirectory() as folder:
        limits = (CONFIG.max_repetition_ratio, CONFIG.max_repeated_windows)
        field: Any = Given()
        source = Source("given", "text")
        corpus = Corpus([clean(CleanTask(field, source, 0, documents, Path(folder, "x"), *limits))])
        gone = corpus.duplicates(CONFIG.near_duplicate_jaccard)
        actions = corpus.choose(~(gone.exact | gone.near), CONFIG).tolist()
        names = [corpus.document(number).name for number in range(len(corpus))]
    return [pair for pair in zip(names, actions, strict=True) if pair[1] != split.DROPPED]


def texts_of(texts: Sequence[str]) -> list[Document]:
    return [Document(str(n), (Part("text", text),)) for n, text in enumerate(texts)]


def base(number: int) -> str:
    """A text unlike those of other numbers: a line, a note, a page or a function."""
    chooser = random.Random(number)
    kind = number % 4
    if kind == 0:
        return f"Note {number}."
    if kind == 1:
        return story(number, chooser.randint(2, 12)).replace(". ", ".\n")
    if kind == 2:
        return f"{number}、" + "".join(chooser.choices("".join(CHINESE), k=chooser.randint(8, 90)))
    names = [f"value_{chooser.randrange(10**6)}" for _ in range(chooser.randint(1, 9))]
    body = "".join(f"    if {name}:\n        return {name} + {number}\n" for name in names)
    return f"def function_{number}({', '.join(names)}):\n{body}"


@settings(max_examples=TRIALS, deadline=None)
@given(
    st.lists(st.integers(0, 10**6), min_size=2, max_size=12, unique=True),
    st.lists(st.tuples(st.integers(0, 99), st.sampled_from(sorted(DISGUISES))), max_size=24),
    st.randoms(use_true_random=False),
)
def test_of_every_text_one_stays(
    numbers: list[int], copies: list[tuple[int, str]], chooser: random.Random
) -> None:
    """The oracle is how they were made: a name says of which text a document is a copy."""
    documents = [(number, base(number)) for number in numbers]
    for place, disguise in copies:
        number = numbers[place % len(numbers)]
        documents.append((number, DISGUISES[disguise](base(number))))
    chooser.shuffle(documents)
    found = kept([Document(f"{number}", (Part("text", t),)) for number, t in documents])
    assert sorted(name for name, _ in found) == sorted(map(str, numbers))
    assert {action for _, action in found} == {split.TRAIN, split.HELDOUT}


@pytest.mark.parametrize("seed", range(max(1, TRIALS // 10)))
def test_no_two_that_stay_are_alike(seed: int) -> None:
    """Changed copies of texts of all lengths, judged by sets of windows of what is written."""
    chooser = random.Random(seed)
    texts = []
    for number in range(60):
        text = story(1000 * seed + number, chooser.randint(1, 12))
        variants = [
            edited(text, 1, number),
            edited(text, 3, number),
            text + "Read on.\n",
            f"# {number}\n\n{text}",
            text[chooser.randint(1, 20) :],
            text.upper() if number % 9 == 0 else text.replace("\n", "\r\n"),
        ]
        texts += [text, *chooser.sample(variants, 3)]
    chooser.shuffle(texts)
    stay = [int(name) for name, _ in kept(texts_of(texts))]
    sets = [set(windows("".join(texts[n].split()).encode())) for n in stay]
    alike = [
        (a, b)
        for n, a in enumerate(sets)
        for b in sets[:n]
        if len(a & b) >= CONFIG.near_duplicate_jaccard * max(1, len(a | b))
    ]
    assert not alike and len(stay) >= 60


@pytest.mark.parametrize("licence", LICENCES)
def test_a_licence_makes_no_copies_and_hides_none(licence: str) -> None:
    functions = [base(4 * number + 3) for number in range(12)]
    assert len(kept(texts_of([LICENCES[licence] + text for text in functions]))) == 12
    dressed = [head + functions[0] for head in LICENCES.values()]
    assert len(kept(texts_of([LICENCES[licence] + functions[1], *dressed]))) == 2


def test_short_texts_of_one_form_are_different() -> None:
    texts = [f"Note number {number} says {number * 7919 % 1000}.\n" for number in range(300)]
    assert len(kept(texts_of(texts))) == 300


def test_chats_in_another_dress_are_copies() -> None:
    def chat(number: int, dress: Callable[[str], str]) -> Document:
        turns = [{"role": "user", "content": dress(f"What is {number} times two?\nSay it.")}]
        return Document(f"{number}", (Part("chat", turns),))

    plain = [name for name in DISGUISES if name not in LICENCES]
    documents = [chat(number, DISGUISES[name]) for number in range(5) for name in plain]
    assert sorted(name for name, _ in kept(documents)) == [str(number) for number in range(5)]


def test_what_stays_is_written_as_it_was() -> None:
    """Only what is compared is changed: line ends, blanks and licences are trained on."""
    text = LICENCES["block"] + "int main() {\r\n\treturn\u00a00;\u200b  \r\n}\r\n"
    with tempfile.TemporaryDirectory() as folder:
        task = CleanTask(
            Given(), Source("given", "text"), 0, texts_of([text]), Path(folder, "x"), 6.0, 0.7
        )  # type: ignore[arg-type]
        assert Corpus([clean(task)]).document(0).text == text
