"""Translation: pairs in every usual file, both directions, no text on both sides, scores."""

from __future__ import annotations

import json
import random
import sys
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra train")

from tests.fields.support import miniature
from whorl.core.errors import DataError, SpecError
from whorl.core.intervals import paired_interval, score_of
from whorl.core.measures import measure_of, measure_of_some
from whorl.core.metrics import BLEU, CHRF, Metric
from whorl.core.ports import Document, QualityMeasure, Source
from whorl.core.reasons import Reason
from whorl.fields import pair_files, translators
from whorl.fields.base import options_of
from whorl.fields.places import Places
from whorl.fields.translation import FIELD, graded

PAIRS = [(f"the house number {n}", f"la casa número {n}") for n in range(60)]


def tmx(pairs: list[tuple[str, str]]) -> str:
    units = "".join(
        f'<tu><tuv xml:lang="en"><seg>{a}</seg></tuv>'
        f'<tuv xml:lang="es"><seg>{b.replace(" ", " <ph>x</ph>", 0)}</seg></tuv></tu>'
        for a, b in pairs
    )
    return f'<?xml version="1.0"?><tmx version="1.4"><header/><body>{units}</body></tmx>'


def write(folder: Path, kind: str, pairs: list[tuple[str, str]]) -> Path:
    if kind == "lines":
        (folder / "news.en").write_text("".join(f"{a}\n" for a, _ in pairs))
        (folder / "news.es").write_text("".join(f"{b}\n" for _, b in pairs))
    elif kind == "tmx":
        (folder / "t.tmx").write_text(tmx(pairs))
    elif kind == "tsv":
        (folder / "t.tsv").write_text("en\tes\n" + "".join(f"{a}\t{b}\n" for a, b in pairs))
    elif kind == "bare tsv":
        (folder / "t.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in pairs))
    else:
        rows: list[Any] = [{"en": a, "es": b} for a, b in pairs]
        if kind == "nested":
            rows = [{"id": n, "translation": row} for n, row in enumerate(rows)]
        (folder / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def read(path: Path, **options: str) -> tuple[list[Document], Counter[str]]:
    source = Source(str(path), "translation", options=options_of(FIELD, options))
    reasons: Counter[str] = Counter()

    def reject(reason: str) -> None:
        reasons[reason] += 1

    return [d for i in FIELD.items(source) for d in FIELD.read(source, i, reject)], reasons


def refused(reasons: Counter[str]) -> dict[str, int]:
    return {str(r): n for r, n in reasons.items() if getattr(r, "kind", "refused") == "refused"}


@pytest.mark.parametrize("kind", ["lines", "tmx", "tsv", "bare tsv", "jsonl", "nested"])
def test_the_formats_that_people_have_give_the_same(tmp_path: Path, kind: str) -> None:
    documents, reasons = read(write(tmp_path, kind, PAIRS), languages="en es", heldout="0.2")
    assert not refused(reasons)
    found = {(d.parts[0].value, d.parts[2].value) for d in documents}
    expected = {(f"en > es\n{a}", b) for a, b in PAIRS} | {(f"es > en\n{b}", a) for a, b in PAIRS}
    assert found == expected and len(documents) == 2 * len(PAIRS)
    assert all(d.whole and [p.trained for p in d.parts] == [False, False, True] for d in documents)
    assert any("languages: en and es" in reason for reason in reasons)


def test_both_directions_and_whole_groups_are_on_one_side(tmp_path: Path) -> None:
    rows = [{"en": a, "es": b, "package": f"p{n // 5}"} for n, (a, b) in enumerate(PAIRS)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    documents, _ = read(tmp_path, group="package", heldout="0.3")
    sides: dict[str, set[str]] = {}
    for document in documents:
        number = int(document.parts[2].value.rpartition(" ")[2])
        sides.setdefault(f"p{number // 5}", set()).add(str(document.split))
    assert all(len(side) == 1 for side in sides.values()) and len(sides) == 12
    assert {side for each in sides.values() for side in each} == {"train", "heldout"}


def test_odd_rows_are_refused_by_reason_and_place(tmp_path: Path) -> None:
    odd = [
        *({"en": "the house number 1", "es": "la casa número 1"}, {"en": "same", "es": "same"}),
        *({"en": "alone"}, {"en": "long " * 60, "es": "largo"}, {"en": " ", "es": "nada"}),
    ]
    rows = [{"en": a, "es": b} for a, b in PAIRS]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, *odd]))
    documents, reasons = read(tmp_path, heldout="0.2")
    assert len(documents) == 2 * len(PAIRS)
    assert refused(reasons) == {
        "pair that is there already": 1,
        "pair of equal texts": 1,
        "row without two languages": 2,
        "text of more than 240 signs": 1,
    }
    places = {str(r): str(r.place) for r in reasons if isinstance(r, Reason)}
    assert places["row without two languages"] == "t.jsonl, line 63"


def test_what_is_trained_on_is_not_asked(tmp_path: Path) -> None:
    rows = [{"en": f"text {n}", "es": f"texto {n % 20}", "package": str(n)} for n in range(60)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    documents, reasons = read(tmp_path, heldout="0.4", group="package")
    texts = {side: {p.value.partition("\n")[2] or p.value for d in documents if d.split == side
                    for p in d.parts if p.codec == "text"}
             for side in ("train", "heldout")}  # fmt: skip
    assert not texts["train"] & texts["heldout"] and texts["heldout"]
    assert refused(reasons)["held-out pair of a text that is trained on"] > 0


def test_what_is_no_translation_is_said(tmp_path: Path) -> None:
    write(tmp_path, "bare tsv", PAIRS)
    with pytest.raises(DataError, match="does not say its languages"):
        read(tmp_path)
    with pytest.raises(SpecError, match=r"options\.languages"):
        read(tmp_path, languages="english")
    (tmp_path / "t.tsv").unlink()
    write(tmp_path, "lines", PAIRS)
    with (tmp_path / "news.es").open("a") as file:
        file.write("una más\n")
    with pytest.raises(DataError, match="other numbers of lines"):
        read(tmp_path)
    for name in ("news.es", "news.en"):
        (tmp_path / name).unlink()
    entities = '<!DOCTYPE tmx [<!ENTITY a "b">]>' + tmx(PAIRS).partition("?>")[2]
    said = '<?xml version="1.0" encoding="utf-16"?>' + entities
    wide = (said.encode("utf-16"), said.encode("utf-16-le"), said.encode("utf-16-be"))
    for data in (entities.encode(), *wide, b"no xml"):
        (tmp_path / "t.tmx").write_bytes(data)
        with pytest.raises(DataError, match="nothing to learn"):
            read(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "iso-8859-1"])
def test_a_tmx_file_may_have_its_encoding_and_an_end_too_early(
    tmp_path: Path, encoding: str
) -> None:
    head = f'<?xml version="1.0" encoding="{encoding[:6] if "16" in encoding else encoding}"?>'
    text = head + '<!DOCTYPE tmx SYSTEM "tmx14.dtd">' + tmx(PAIRS).partition("?>")[2]
    (tmp_path / "t.tmx").write_bytes(text.encode(encoding))
    documents, reasons = read(tmp_path, heldout="0.2")
    found = {(d.parts[0].value.partition("\n")[2], d.parts[2].value) for d in documents}
    assert found == {*PAIRS, *((b, a) for a, b in PAIRS)} and not refused(reasons)
    (tmp_path / "t.tmx").write_bytes(text[: text.rindex("<tu>") + 9].encode(encoding))
    documents, reasons = read(tmp_path, heldout="0.2")
    assert len(documents) == 2 * (len(PAIRS) - 1)
    assert refused(reasons) == {"file that is no TMX, or not to its end": 1}


ANSWERS = {
    "as they are": [("the house is red .", "the house is red ."), ("a b", "a b")],
    "alike": [
        ("The house is very red, and old.", "The house is red and very old."),
        ("set the timer", "set a timer for ten minutes, please"),
        ("it is what it is what it is", "it is what it is"),
        ("", "an answer that is missing"),
        ("word", "one word"),
    ],
    "nothing in common": [("xyz", "abcd efg"), ("qqq www", "one two three four five")],
    "no run of four words": [("one two", "one two"), ("three", "three four")],
    "no answer": [("", "a text of words"), ("", "another")],
    "runs that never match": [("a c b d f e", "a b c d e f"), ("x y w z", "w x y z")],
    "Chinese": [("我们今天去学校。", "我们今天去学校学习中文。"), ("他是人", "他是好人。")],
    "Japanese": [("わたしは学校に行く。", "わたしは学校に行きます。")],
}


def words_of(texts: str) -> str:
    return {"Chinese": "zh", "Japanese": "char"}.get(texts, "13a")


def measures(pairs: Sequence[tuple[str, str]]) -> dict[Metric, QualityMeasure]:
    grades = [graded(*pair) for pair in pairs]
    names = [str(number) for number in range(len(pairs))]
    return {m: measure_of(m, names, [g[m] for g in grades]) for m in (CHRF, BLEU)}


def as_sacrebleu(pairs: Sequence[tuple[str, str]], tokenizer: str) -> dict[Metric, float]:
    sacrebleu = pytest.importorskip("sacrebleu", reason="needs the extra translation")
    answers, right = [list(side) for side in zip(*pairs, strict=True)]
    bleu = sacrebleu.corpus_bleu(answers, [right], tokenize=tokenizer)
    return {CHRF: sacrebleu.corpus_chrf(answers, [right]).score, BLEU: bleu.score}


@pytest.mark.parametrize("texts", ANSWERS)
def test_figures_of_all_texts_are_those_of_sacrebleu(texts: str) -> None:
    expected = as_sacrebleu(ANSWERS[texts], words_of(texts))
    for metric, found in measures(ANSWERS[texts]).items():
        assert found.value == pytest.approx(expected[metric]), metric
    if texts == "alike":
        assert 20 < expected[CHRF] < 80 and 10 < expected[BLEU] < 80


def random_pairs(count: int) -> list[tuple[str, str]]:
    """Texts of words, and the same with some words left out or exchanged."""
    rng = random.Random(0)
    words = ["the", "a", "house", "dog", "red", "old", "is", "was", "runs", "eats", "and", "of"]
    pairs = []
    for _ in range(count):
        right = rng.choices(words, k=rng.randint(1, 14))
        given = [
            rng.choice(words) if rng.random() < 0.3 else w for w in right if rng.random() > 0.1
        ]
        pairs.append((" ".join(given), " ".join(right)))
    return pairs


def test_drawn_texts_have_the_figures_of_sacrebleu_and_its_interval() -> None:
    sacrebleu = pytest.importorskip("sacrebleu", reason="needs the extra translation")
    pairs = random_pairs(150)
    found = measures(pairs)
    places = np.random.default_rng(0).integers(len(pairs), size=(5, len(pairs)))
    for metric, measure in found.items():
        sides = measure.numerator[..., places], measure.denominator[..., places]
        drawn = [as_sacrebleu([pairs[i] for i in row], "13a")[metric] for row in places]
        assert measure.metric.total(*sides) == pytest.approx(drawn)
        some = measure_of_some(measure, places[0])
        assert some.value == pytest.approx(drawn[0])
    answers, right = [list(side) for side in zip(*pairs, strict=True)]
    its = {CHRF: sacrebleu.CHRF(), BLEU: sacrebleu.BLEU()}
    for metric, measure in found.items():
        score = its[metric].corpus_score(answers, [right], n_bootstrap=1000)
        mine = score_of("mine", measure)
        assert mine.low is not None and mine.high is not None and mine.value > mine.low
        assert mine.high - mine.low == pytest.approx(2 * score._ci, rel=0.2)


def test_two_methods_are_compared_by_figures_of_all_texts() -> None:
    pairs = random_pairs(60)
    better = [(right if n % 2 else answer, right) for n, (answer, right) in enumerate(pairs)]
    one, other = measures(better)[CHRF], measures(pairs)[CHRF]
    found = paired_interval(one, other)
    expected = as_sacrebleu(better, "13a")[CHRF] - as_sacrebleu(pairs, "13a")[CHRF]
    assert found.value == pytest.approx(expected) and found.sign == 1


def test_a_large_tmx_file_is_read_in_bounded_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = [(f"{n} {'word ' * 40}", f"{n} {'palabra ' * 25}") for n in range(20_000)]
    (tmp_path / "t.tmx").write_text(tmx(pairs))
    item = FIELD.items(Source(str(tmp_path), "translation"))[0]
    places = Places(item, lambda reason: None)
    tracemalloc.start()
    count = sum(1 for _ in pair_files._of_tmx(item, places))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == len(pairs) and item.num_bytes > 9e6 and peak < 9e6
    monkeypatch.setattr(pair_files, "MAX_TMX_BYTES", 2**21)
    _, reasons = read(tmp_path, most="999")
    assert any("TMX of more than" in reason for reason in reasons)


SCRIPT = """#!{python}
import sys
words = {{"the": "la", "house": "casa", "number": "número"}}
if sys.argv[1] == "-l":
    print("  eng-spa\\n  zzz-en")
else:
    assert sys.argv[1:] == ["-u", "eng-spa"], sys.argv
    for line in sys.stdin:
        print(" ".join(words.get(word, word) for word in line.split()))
"""


def test_apertium_answers_in_the_directions_that_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sacrebleu", reason="needs the extra translation")
    program = tmp_path / "bin" / "apertium"
    program.parent.mkdir()
    program.write_text(SCRIPT.format(python=sys.executable))
    program.chmod(0o755)
    documents, _ = read(write(tmp_path, "tsv", PAIRS), heldout="0.3")
    held = [document for document in documents if document.split == "heldout"]
    monkeypatch.setenv("PATH", str(tmp_path))  # none is there
    assert "apt-get install apertium" in FIELD.absent()
    assert {score.name for score in FIELD.baselines([], held, None)} == {"copying"}
    monkeypatch.setenv("PATH", str(program.parent))
    assert FIELD.absent() == ""
    found = {(s.name, s.metric.name): s for s in FIELD.baselines([], held, None)}
    mine, copied = found["apertium", "chrf"], found["copying", "chrf"]
    assert mine.value == 100 and copied.value < 60
    assert mine.measure is not None and copied.measure is not None
    asked = {document.name for document in held if document.name.endswith(" en>es")}
    assert set(mine.measure.document_names) == asked
    assert len(copied.measure.document_names) == 2 * len(asked) > 4


@pytest.mark.skipif(translators.mode_of("en", "es") is None, reason="needs apertium-eng-spa")
def test_the_real_apertium_keeps_texts_apart() -> None:
    mode = translators.mode_of("en", "es")
    assert mode is not None
    texts = ["The house is red.", "[a] ^file$ for the web\\n", "the end"]
    found = translators.apertium(mode, texts)
    assert len(found) == 3 and found[0] == "La casa es roja." and "[" in found[1]


def test_two_words_are_learned_in_both_directions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sacrebleu", reason="needs the extra translation")
    rng = random.Random(0)
    nouns = {"dog": "perro", "cat": "gato", "bird": "pato", "wolf": "lobo", "bear": "oso"}
    verbs = {"eats": "come", "sings": "canta", "sleeps": "duerme", "runs": "corre"}
    lines = ["en\tes"]
    for number in range(300):
        noun, verb = rng.choice(list(nouns)), rng.choice(list(verbs))
        lines.append(f"{number} {noun} {verb}\t{number} {nouns[noun]} {verbs[verb]}")
    (tmp_path / "t.tsv").write_text("\n".join(lines) + "\n")
    entry = {"source": str(tmp_path / "t.tsv"), "field": "translation", "options": {"asked": "10"}}
    kept = {"vocab_size": 320}
    session = miniature(
        monkeypatch, tmp_path / "home", entry, (250, 1500), 150, heads=4, prepare=kept
    )
    evaluated = session.evaluate()
    scores = evaluated.metrics["scores"]
    groups = json.loads(evaluated.file("scores.json").read_bytes())["groups"]
    mine = [row for row in groups if (row["name"], row["metric"]) == ("hf f32", "chrf")]
    assert [row["group"] for row in mine] == ["en>es", "es>en"]
    of_all = scores["translation"]["hf f32"]
    sides = sorted(row["value"] for row in mine)
    assert sides[0] - 5 < of_all < sides[1] + 5  # all texts together, not the mean of the two
    kept = json.loads(evaluated.file("per_document.json").read_bytes())["translation"]
    assert len(kept["denominator"][0]) == len(kept["documents"]) == 20
    assert of_all > scores["translation"]["copying"] + 20
    assert scores["translation/bleu"].keys() - {"apertium"} == {"hf f32", "copying"}
