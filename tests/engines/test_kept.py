"""Answers that are kept: what is asked again, what is not, and what a damaged file costs."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from whorl.core.collect import run_requests
from whorl.core.errors import EngineError
from whorl.core.ports import Engine, GenerateRequest, Grammar
from whorl.core.variants import Variant
from whorl.engines import kept
from whorl.engines.kept import open_keeping
from whorl.engines.open import EngineFactory, Openable, openable
from whorl.engines.setup import EngineSetup
from whorl.model.folder import FolderCard, change_card, read_card, seal_folder
from whorl.testing.engine import FakeEngine
from whorl.testing.models import tiny_shape

PLAIN = GenerateRequest("plain", (1, 2, 3), 6, stop_ids=(9, 8))
CARD = FolderCard(Variant("openvino", "f32"), "0" * 64, tiny_shape(), {})
Reply = Callable[[GenerateRequest], Sequence[int]]


class Scoring(FakeEngine):
    """Scores at random, other ones at each call."""

    def __init__(self, reply: Reply) -> None:
        super().__init__("0" * 64, reply)
        self.scored: list[Any] = []

    def score(
        self, sequences: Sequence[Sequence[int]], prefix: Sequence[int] = ()
    ) -> list[np.ndarray]:
        self.scored.append(sequences)
        rng = np.random.default_rng(len(self.scored))
        return [rng.standard_normal(len(ids)) for ids in sequences]


@contextmanager
def asked(
    folder: Path, reply: Reply = lambda request: [7, 5, 9], *, card: FolderCard = CARD
) -> Iterator[tuple[Engine, list[FakeEngine], list[str]]]:
    """(an engine that keeps its answers in the folder, the fakes it opened, what it told)."""
    opened: list[FakeEngine] = []
    told: list[str] = []

    def open_fake(*work: object) -> FakeEngine:
        opened.append(Scoring(reply))
        return opened[-1]

    factory = EngineFactory("torch", lambda variant: True, open_fake)
    engine = open_keeping(Openable(factory, folder, card), EngineSetup(), folder, told.append)
    try:
        yield engine, opened, told
    finally:
        engine.close()


def ids_of(engine: Engine, *requests: GenerateRequest) -> list[tuple[list[int], str]]:
    return [(each.token_ids, each.finish_reason) for each in run_requests(engine, requests)]


def named(number: int, request: GenerateRequest = PLAIN) -> GenerateRequest:
    return replace(request, request_id=f"q{number}", prompt_ids=(number, 4))


def test_what_was_answered_is_not_asked_again(tmp_path: Path) -> None:
    first = [named(number) for number in range(5)]
    answers = [([number, 5, 9], "stop") for number in range(5)]
    with asked(tmp_path, lambda request: [request.prompt_ids[0], 5, 9]) as (engine, opened, _):
        assert ids_of(engine, *first) == answers
        assert opened[0].submitted == first
    # one that would answer otherwise is handed the new question alone, among the others
    more = [*first[:2], named(77), *first[2:]]
    with asked(tmp_path, lambda request: [1, 1, 1, 1, 1, 1]) as (engine, opened, told):
        assert [engine.knows(request) for request in more] == [True, True, False, True, True, True]
        found = ids_of(engine, *more)
        assert found == [*answers[:2], ([1] * 6, "length"), *answers[2:]]
        assert opened[0].submitted == [named(77)]
        assert not told


def test_nothing_is_opened_where_all_is_known(tmp_path: Path) -> None:
    with asked(tmp_path) as (engine, _, _):
        before = ids_of(engine, PLAIN)
    with asked(tmp_path) as (engine, opened, _):
        assert ids_of(engine, replace(PLAIN, request_id="later")) == before
        engine.cancel("later")
        assert (engine.name, engine.contract_digest) == ("torch", CARD.contract_digest)
    assert opened == []


@pytest.mark.parametrize(
    "change",
    [
        {"prompt_ids": (1, 2)},
        {"prompt_ids": (1, 2, 3, 4)},
        {"max_tokens": 5},
        {"stop_ids": (9,)},
        {"stop_ids": ()},
        {"grammar": Grammar("regex", "a+")},
    ],
)
def test_another_question_is_asked(change: dict[str, Any], tmp_path: Path) -> None:
    with asked(tmp_path) as (engine, opened, _):
        ids_of(engine, PLAIN)
        other = replace(PLAIN, request_id="other", **change)
        ids_of(engine, other, replace(PLAIN, request_id="again", stop_ids=(8, 9)))
        assert opened[0].submitted == [PLAIN, other]


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 0.7},
        {"allowed_ids": (7, 9)},
        {"repetition_penalty": 1.2},
        {"logit_bias": ((3, 1.0),)},
        {"logprobs": 0},
        {"cache_key": "somebody's"},
    ],
)
def test_what_is_drawn_or_steered_is_always_asked(change: dict[str, Any], tmp_path: Path) -> None:
    request = replace(PLAIN, **change)
    with asked(tmp_path) as (engine, opened, _):
        ids_of(engine, request)
        assert not engine.knows(request)
        ids_of(engine, request)
        assert len(opened[0].submitted) == 2
    assert list(tmp_path.iterdir()) == []


def test_what_failed_is_asked_again(tmp_path: Path) -> None:
    with asked(tmp_path, lambda request: [7] * 6) as (engine, opened, _):
        assert engine.unable == frozenset()  # opened now
        opened[0].fail("no memory")
        with pytest.raises(EngineError, match="no memory"):
            ids_of(engine, PLAIN)
        assert not engine.knows(PLAIN)
        assert ids_of(engine, PLAIN) == [([7] * 6, "length")]


def test_scores_come_back_to_the_last_bit(tmp_path: Path) -> None:
    rows, prefix = [[1, 2, 3], [4]], [5, 6]
    with asked(tmp_path) as (engine, _, _):
        first = engine.score(rows, prefix)
    rng = np.random.default_rng(1)
    expected = [rng.standard_normal(3), rng.standard_normal(1)]
    with asked(tmp_path) as (engine, opened, _):
        again = engine.score([np.array(ids) for ids in rows], tuple(prefix))
        assert opened == []
        for found in (first, again):
            assert all(np.array_equal(*pair) for pair in zip(found, expected, strict=True))
        others = ([[1, 2, 3]], prefix), (rows[::-1], prefix), (rows, ()), (rows, [5])
        for number, other in enumerate(others):
            engine.score(*other)
            assert len(opened[0].scored) == number + 1


@pytest.mark.parametrize("wrong", [np.nan, -np.inf])
def test_scores_that_are_not_finite_are_asked_again(wrong: float, tmp_path: Path) -> None:
    """Whoever asked says so; a fault that has gone is not kept."""
    with asked(tmp_path) as (engine, opened, _):
        assert engine.unable == frozenset()  # opened now
        (fake,) = opened
        fake.score = lambda *work: [np.array([0.5, wrong])]  # type: ignore[method-assign]
        assert np.array_equal(engine.score([[1, 2, 3]])[0], [0.5, wrong], equal_nan=True)
        fake.score = lambda *work: [np.array([0.5, 0.25])]  # type: ignore[method-assign]
        assert engine.score([[1, 2, 3]])[0].tolist() == [0.5, 0.25]


def test_the_first_of_two_answers_is_kept(tmp_path: Path) -> None:
    """One question twice at the same time, and once more by another process."""
    answers = iter(([5, 9], [6, 9], [7, 9]))
    twice = [PLAIN, replace(PLAIN, request_id="again")]
    with (
        asked(tmp_path, lambda request: next(answers)) as (engine, *_),
        asked(tmp_path, lambda request: next(answers)) as (other, *_),
    ):
        assert not other.knows(PLAIN)
        ids_of(engine, *twice)
        assert ids_of(engine, PLAIN) == [([5, 9], "stop")]
        assert ids_of(other, PLAIN) == [([7, 9], "stop")]
    with asked(tmp_path) as (engine, opened, told):
        assert ids_of(engine, *twice) == [([5, 9], "stop")] * 2
        assert opened == [] and told == []
    (path,) = tmp_path.iterdir()
    assert path.read_bytes().count(b"stop") == 2  # of both processes


def test_those_who_ask_at_the_same_time_get_one_engine(tmp_path: Path) -> None:
    begun = threading.Barrier(3)
    opened: list[FakeEngine] = []

    def open_slowly(*work: object) -> FakeEngine:
        opened.append(Scoring(lambda request: [7, 5, 9]))
        time.sleep(0.2)  # the others come meanwhile
        return opened[-1]

    factory = EngineFactory("torch", lambda variant: True, open_slowly)
    engine = open_keeping(Openable(factory, tmp_path, CARD), EngineSetup(), tmp_path, print)

    def ask(number: int) -> None:
        begun.wait(20)
        engine.score([[number, 2]])

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(ask, range(3)))
    engine.close()
    (one,) = opened
    assert len(one.scored) == 3


def test_answers_are_the_models_own(folders: Path, tmp_path: Path) -> None:
    """The same after it was renamed and told of what was measured; another's after any change."""
    moved = tmp_path / "moved"
    shutil.copytree(folders / "hf", moved)
    card = read_card(moved)
    assert card.content == read_card(folders / "hf").content
    change_card(moved, replace(card, quality={"words": 1.0}, lineage={"model": "another"}))
    assert read_card(moved).content == card.content and read_card(moved).digest != card.digest
    others = [replace(card, lookup=4), replace(card, cache="int8"), read_card(folders / "f32")]
    (moved / "config.json").write_bytes((moved / "config.json").read_bytes() + b"\n")
    others.append(seal_folder(moved, card))
    assert len({each.content for each in (card, *others)}) == 5
    for each in (card, *others):
        with asked(tmp_path / "answers", card=each) as (engine, _, _):
            assert not engine.knows(PLAIN)
            ids_of(engine, PLAIN)
    assert len(list((tmp_path / "answers").iterdir())) == 5


def test_another_version_of_the_engine_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with asked(tmp_path) as (engine, _, _):
        ids_of(engine, PLAIN)
    before = kept.version
    for changed in ("torch", "xgrammar"):
        new = {changed: "0.0.1"}
        with monkeypatch.context() as patched:
            patched.setattr(kept, "version", lambda name, new=new: new.get(name) or before(name))
            with asked(tmp_path) as (engine, _, _):
                assert not engine.knows(PLAIN)


def test_another_processor_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the same one without some of its instructions: int8 products are rounded otherwise."""
    with asked(tmp_path) as (engine, _, _):
        ids_of(engine, PLAIN)
    with monkeypatch.context() as patched:
        patched.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
        with asked(tmp_path) as (engine, _, _):
            assert not engine.knows(PLAIN)
    monkeypatch.setattr(kept, "instructions", lambda: ["Another CPU", "avx2"])
    with asked(tmp_path) as (engine, _, _):
        assert not engine.knows(PLAIN)


def test_an_engine_of_no_known_version_keeps_nothing(tmp_path: Path) -> None:
    fake = FakeEngine("0" * 64)
    factory = EngineFactory("somebody's", lambda variant: True, lambda *work: fake)
    engine = open_keeping(Openable(factory, tmp_path, CARD), EngineSetup(), tmp_path, print)
    assert engine is fake
    engine.close()


def test_damaged_answers_are_asked_again_alone(tmp_path: Path) -> None:
    requests = [named(number) for number in range(6)]
    with asked(tmp_path) as (engine, _, _):
        ids_of(engine, *requests)
    (path,) = tmp_path.iterdir()
    whole, rng = path.read_bytes(), random.Random(0)
    for _ in range(60):
        data = bytearray(whole)
        place = rng.randrange(len(data))
        data[place] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        with asked(tmp_path) as (engine, _, told):
            unknown = [request for request in requests if not engine.knows(request)]
        joins = place > 0 and whole[place] == ord("\n")  # two lines, by the end between them
        assert len(unknown) == (2 if joins else 1), (place, unknown)
        assert len(told) == 1 and "kept answers are damaged" in told[0]
    path.write_bytes(whole[:-5])  # killed amid a line
    with asked(tmp_path) as (engine, opened, told):
        ids_of(engine, *requests)
        assert len(opened[0].submitted) == 1
        assert "1 of 6 kept answers are damaged" in told[0]
    with asked(tmp_path) as (engine, opened, told):
        ids_of(engine, *requests)
        assert opened == [] and "1 of 7 kept answers" in told[0]


WRITER = """
import resource, sys
from pathlib import Path
from whorl.engines.kept import _Lines
if len(sys.argv) > 3:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
lines = _Lines(Path(sys.argv[1]), lambda line: print(line, flush=True))
for number in range(300):
    lines.put(f"{sys.argv[2]}-{number}", {"ids": [number] * (number % 90), "end": "stop"})
"""


def test_processes_write_at_the_same_time(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), name], stdout=subprocess.PIPE)
        for name in "ab"
    ]
    assert [writer.communicate()[0] for writer in writers] == [b"", b""]
    told: list[str] = []
    lines = kept._Lines(path, told.append)
    for name in "ab":
        for number in range(300):
            assert lines.get(f"{name}-{number}")["ids"] == [number] * (number % 90)
    assert not told


def test_a_disk_that_is_full_is_told_once(tmp_path: Path) -> None:
    """The kernel lets a file grow to so many bytes: a write may end amid a line."""
    path = tmp_path / "some.answers"
    command = [sys.executable, "-c", WRITER, str(path), "a", "5000"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert told == f"answers are not kept in {path}: File too large\n"
    assert path.stat().st_size == 5000
    lines = kept._Lines(path, lambda line: None)
    known = [lines.get(f"a-{number}") for number in range(300)]
    count = known.index(None)
    assert 20 < count < 100 and known[count:] == [None] * (300 - count)
    assert [each["ids"] for each in known[:count]] == [[n] * (n % 90) for n in range(count)]
    lines.put("b", {"ids": [1], "end": "stop"})  # there is room again: behind the cut line
    assert kept._Lines(path, lambda line: None).get("b") == {"ids": [1], "end": "stop"}


def test_one_file_of_several_writers_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "MOST_BYTES", 2000)
    path = tmp_path / "some.answers"
    writers = [kept._Lines(path, lambda line: None) for _ in range(3)]
    assert [writer.get("nothing") for writer in writers] == [None] * 3
    for number in range(40):
        for name, writer in enumerate(writers):
            writer.put(f"{name}-{number}", {"ids": [number], "end": "stop"})
    assert 1900 < path.stat().st_size <= 2000


def test_files_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MOST_BYTES", 1000)
    monkeypatch.setattr(kept, "MOST_FILES", 3)
    for lookup in range(5):
        with asked(tmp_path, card=replace(CARD, lookup=lookup)) as (engine, _, _):
            for number in range(40):
                ids_of(engine, named(number))
        with asked(tmp_path, card=replace(CARD, lookup=lookup)) as (engine, _, _):
            known = [engine.knows(named(number)) for number in range(40)]
            assert 3 < sum(known) < 20 and known == sorted(known, reverse=True)
            ids_of(engine, named(99))
        assert all(path.stat().st_size <= 1000 for path in tmp_path.iterdir())
        assert len(list(tmp_path.iterdir())) == min(3, lookup + 1)


def test_a_folder_that_cannot_be_written_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with asked(tmp_path / "file/answers") as (engine, opened, told):
        _ = ids_of(engine, named(1), named(2)), ids_of(engine, named(1))
        assert len(opened[0].submitted) == 2  # in memory they are
        assert len(told) == 1 and told[0].endswith("Not a directory")


def test_a_real_engine_says_the_same(folders: Path, tmp_path: Path) -> None:
    found = openable(folders / "f32")
    requests = [GenerateRequest(f"{n}", tuple(range(20 + n, 30 + n)), 8) for n in range(4)]
    told = []
    for _ in range(2):
        engine = open_keeping(found, EngineSetup(), tmp_path, told.append)
        told.append((ids_of(engine, *requests), engine.score([[20, 21, 22]])[0].tolist()))
        assert all(map(engine.knows, requests))
        engine.close()
    plain = found.open(EngineSetup())
    told.append((ids_of(plain, *requests), plain.score([[20, 21, 22]])[0].tolist()))
    plain.close()
    assert told[0] == told[1] == told[2]
