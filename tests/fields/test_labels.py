"""Labels: texts with classes as people have them, split by class, judged as scikit-learn would."""

from __future__ import annotations

import json
import random
import re
import time
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra train")
pytest.importorskip("sklearn", reason="needs the extra train")

from sklearn.metrics import f1_score

from tests.fields.support import miniature
from tests.stages.prepare.support import prepare
from whorl.core.errors import DataError, SpecError
from whorl.core.metrics import F1
from whorl.core.ports import Document, Source
from whorl.core.reasons import Reason
from whorl.core.rows import RowSet
from whorl.fields.base import options_of
from whorl.fields.label_files import _shown
from whorl.fields.labels import FIELD

TEXTS = [(f"{'cheap pills' if n % 3 == 0 else 'see you'} at {n}", ["ham", "spam"][n % 3 == 0])
         for n in range(60)]  # fmt: skip


def read(path: Path, **options: str) -> tuple[list[Document], Counter[str]]:
    source = Source(str(path), "labels", options=options_of(FIELD, options))
    reasons: Counter[str] = Counter()

    def reject(reason: str) -> None:
        reasons[reason] += 1

    return [d for i in FIELD.items(source) for d in FIELD.read(source, i, reject)], reasons


def refused(reasons: Counter[str]) -> dict[str, int]:
    return {
        str(r): n for r, n in reasons.items() if not isinstance(r, Reason) or r.kind == "refused"
    }


def pairs(documents: list[Document]) -> list[tuple[str, str]]:
    return [(d.parts[0].value, d.parts[2].value) for d in documents if "~" not in d.name]


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl", "folders"])
def test_the_formats_that_people_have_give_the_same(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "folders":
        for number, (text, label) in enumerate(TEXTS):
            (path / label).mkdir(parents=True, exist_ok=True)
            (path / label / f"{number}.txt").write_text(text)
    elif name == "t.jsonl":
        path.write_text("".join(json.dumps({"text": t, "label": c}) + "\n" for t, c in TEXTS))
    else:
        sign = "\t" if name.endswith("tsv") else ","
        path.write_text(
            "".join(f"{a}{sign}{b}\n" for a, b in [("label", "text"), *((c, t) for t, c in TEXTS)])
        )
    documents, reasons = read(path, copies="2")
    assert sorted(pairs(documents)) == sorted(TEXTS) and not refused(reasons)
    assert all(d.whole for d in documents)
    held = Counter(d.parts[2].value for d in documents if d.split == "heldout")
    assert held == {"ham": 8, "spam": 4}
    for document in documents:
        assert [p.codec for p in document.parts if p.trained] == ["label"]


def test_a_split_does_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    def heldout(rows: list[tuple[str, str]], seed: str = "0") -> set[tuple[str, str]]:
        (tmp_path / "t.jsonl").write_text(
            "".join(json.dumps({"text": t, "label": c}) + "\n" for t, c in rows)
        )
        return set(pairs([d for d in read(tmp_path, seed=seed)[0] if d.split == "heldout"]))

    shuffled = random.Random(1).sample(TEXTS, len(TEXTS))
    assert heldout(TEXTS) == heldout(shuffled) != heldout(TEXTS, "1")


def test_files_of_a_test_set_are_held_out(tmp_path: Path) -> None:
    for part, rows in {"train": TEXTS[:40], "test": TEXTS[40:50], "valid": TEXTS[50:]}.items():
        for number, (text, label) in enumerate(rows):
            (tmp_path / part / label).mkdir(parents=True, exist_ok=True)
            (tmp_path / part / label / f"{number}.txt").write_text(text)
    documents, reasons = read(tmp_path, copies="1")
    held = [d for d in documents if d.split == "heldout"]
    assert sorted(pairs(held)) == sorted(TEXTS[40:50]) and len(documents) == 50
    assert any("validation" in reason for reason in reasons)


def test_odd_rows_are_refused_by_reason_and_place(tmp_path: Path) -> None:
    odd = [
        {"text": "see  you at 1", "label": "ham"},
        {"text": "SEE you at 1", "label": "spam"},
        {"text": " ", "label": "ham"},
        {"text": "none", "label": ""},
        {"text": "a list", "label": ["ham"]},
        {"text": "long", "label": "x" * 101},
        {"text": 7, "label": "ham"},
        {"label": "ham"},
        {"text": "of a rare class", "label": "eggs"},
    ]
    rows = [{"text": t, "label": c} for t, c in TEXTS]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, *odd]))
    documents, reasons = read(tmp_path / "t.jsonl", copies="1", least="2")
    assert len(documents) == len(TEXTS)
    assert refused(reasons) == {
        "text that is there already, with its label": 1,
        "text that is there already, with another label": 1,
        "row without a text": 1,
        "row without a label": 2,
        "label that is no name": 1,
        "text is not a text": 1,
        "no key text": 1,
        "class of fewer than 2 texts": 1,
    }
    places = {str(r): str(r.place) for r in reasons if isinstance(r, Reason)}
    assert places["row without a text"] == "t.jsonl, line 63"
    assert places["class of fewer than 2 texts"] == "t.jsonl, line 69"


def test_classes_are_renamed_by_patterns_and_mails_are_their_words(tmp_path: Path) -> None:
    head = "From: a@b\nSubject: Hello\n  there\nContent-Type: text/html\n\n"
    mail = head + "<b>Buy</b><style>x</style> n"
    for folder in ("spam-1", "easy-ham-1", "other"):
        (tmp_path / folder).mkdir()
        for number in range(4):
            (tmp_path / folder / f"{number}.txt").write_text(f"{mail}{folder}{number}")
    documents, reasons = read(tmp_path, classes="spam-*=spam *ham*=ham", mail="yes", copies="1")
    assert Counter(label for _, label in pairs(documents)) == {"spam": 4, "ham": 4}
    assert refused(reasons) == {"label of no pattern of options.classes": 4}
    words = {" ".join(text.split()) for text, _ in pairs(documents)}
    assert "Hello there Buy nspam-10" in words


@pytest.mark.parametrize(
    ("said", "written"),
    [("utf-8", "utf-8"), ("koi8-r", "koi8-r"), ("x-unknown", "utf-8"), ("", "utf-8")],
)
def test_a_mail_is_read_in_the_encoding_that_it_says(
    tmp_path: Path, said: str, written: str
) -> None:
    charset = f"; charset={said}" if said else ""
    head = f"Content-Type: text/plain{charset}\nContent-Transfer-Encoding: 8bit\n\n"
    for label, subject in (("a", "=?koi8-r?B?8NLJ18XU?="), ("b", "Привет")):
        (tmp_path / label).mkdir()
        for number in range(4):
            mail = f"Subject: {subject}\n".encode() + f"{head}Дешёвый чай {number}".encode(written)
            (tmp_path / label / f"{number}.eml").write_bytes(mail + label.encode())
    documents, reasons = read(tmp_path, copies="1")
    found = sorted(text for text, _ in pairs(documents))
    assert found == sorted(f"Привет\nДешёвый чай {n}{label}" for n in range(4) for label in "ab")
    assert not refused(reasons)


def test_html_is_stripped_in_one_pass() -> None:
    old = re.compile(r"<(script|style)\b.*?</\1\s*>|<[^<>]{1,2000}>", re.IGNORECASE | re.DOTALL)
    rng = random.Random(0)
    signs = ["<script", "<STYLE", "</script >", "</style>", ">", "<", "<b>", "x", " ", "\n"]
    for _ in range(3_000):
        html = "".join(rng.choice(signs) for _ in range(rng.randrange(16)))
        assert _shown(html) == old.sub(" ", html)
    start = time.perf_counter()
    _shown("<script <style>" * 100_000)
    assert time.perf_counter() - start < 5  # 1.5 MB; by the old one hours


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"classes": "spam"}, SpecError, "classes cannot be read"),
        ({"heldout": "2"}, SpecError, r"options\.heldout"),
        ({"least": "99"}, DataError, "no classes to choose from"),
        ({"label": "klass"}, DataError, "no classes to choose from"),
    ],
)
def test_what_cannot_be_classified_is_said(
    tmp_path: Path, options: dict[str, str], kind: type[Exception], message: str
) -> None:
    (tmp_path / "t.jsonl").write_text(
        "".join(json.dumps({"text": t, "label": c}) + "\n" for t, c in TEXTS)
    )
    with pytest.raises(kind, match=message):
        read(tmp_path / "t.jsonl", **options)


@pytest.mark.parametrize("count", [2, 3, 7])
def test_f1_is_scikit_learns_along_any_axis(count: int) -> None:
    rng = np.random.default_rng(0)
    right = rng.integers(0, count, (5, 90))
    given = np.where(rng.random((5, 90)) < 0.6, right, rng.integers(0, count, (5, 90)))
    how: dict[str, Any] = (
        {"average": "binary", "pos_label": 1} if count == 2 else {"average": "macro"}
    )
    expected = [f1_score(r, g, **how) for r, g in zip(right, given, strict=True)]
    a, b = given.astype(np.float64), right.astype(np.float64)
    assert F1.total(a, b) == pytest.approx(expected)
    assert F1.total(a.T, b.T, axis=0) == pytest.approx(expected)
    assert F1.total(a[0], b[0]) == pytest.approx(expected[0])


def test_f1_of_many_classes_needs_no_table_of_them() -> None:
    """A bootstrap of 1,000 classes: a table of each with each would be 8 MB a row."""
    rng = np.random.default_rng(0)
    right = rng.integers(0, 1_000, (50, 2_000))
    given = np.where(rng.random(right.shape) < 0.6, right, rng.integers(0, 1_000, right.shape))
    tracemalloc.start()
    found = F1.total(given.astype(np.float64), right.astype(np.float64))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    expected = [f1_score(r, g, average="macro") for r, g in zip(right, given, strict=True)]
    assert found == pytest.approx(expected)
    assert peak < 30e6


def test_no_question_is_cut_from_its_answer(tmp_path: Path) -> None:
    rows = [(f"{'word ' * (n % 23)}{n} end", "ab"[n % 2]) for n in range(80)]
    (tmp_path / "t.jsonl").write_text(
        "".join(json.dumps({"text": t, "label": c}) + "\n" for t, c in [*rows, ("w x " * 99, "a")])
    )
    source = Source(str(tmp_path / "t.jsonl"), "labels", options=options_of(FIELD, {"copies": "1"}))
    fields = {"labels": FIELD}
    record = prepare(tmp_path / "home", source, fields=fields, vocab_size=290, seq_len=64)
    batch = RowSet.open(record).read(np.arange(record.metrics["train_rows"]))
    assert (batch.ids[batch.segment_starts] <= 2).all()  # all begin with <bos>, or are padding
    counts = record.metrics["reading"]
    assert "question and answer longer than a row" in str(counts)


def test_words_are_learned_as_well_as_by_a_linear_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(0)
    words = ["a", "b", "c", "d", "e", "f", "g", "h"]
    lines = ["text,label"]
    for number in range(400):
        said = [rng.choice(words) for _ in range(5)]
        spot = rng.randrange(6)
        is_spam = rng.random() < 0.4
        said.insert(spot, "cheap" if is_spam else "kind")
        lines.append(f"{' '.join(said)} {number},{'spam' if is_spam else 'ham'}")
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    entry = {"source": tmp_path / "t.csv", "field": "labels", "options": {"copies": "2"}}
    kept = {"vocab_size": 290}
    session = miniature(monkeypatch, tmp_path / "home", entry, (128, 1024), 120, prepare=kept)
    scores = session.evaluate().metrics["scores"]
    assert scores["labels"]["hf f32"] > 0.95 and scores["labels/f1"]["hf f32"] > 0.95
    assert scores["labels"]["TF-IDF, linear SVM"] > 0.9
    assert scores["labels/f1"]["commonest class"] == 0
