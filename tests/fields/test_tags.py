"""Tags: CoNLL, CoNLL-U and word/tag, words asked one by one, context learned."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the extra train")
pytest.importorskip("sklearn", reason="needs the extra train")

from tests.fields.support import miniature
from whorl.core.errors import DataError, SpecError
from whorl.core.ports import Document, Source
from whorl.core.reasons import Reason
from whorl.fields import sequence_taggers
from whorl.fields.base import options_of
from whorl.fields.tags import FIELD, question_of

SENTENCES = [
    [(f"w{n}", "NN"), ("can", "MD" if n % 2 else "NN"), ("run", "VB"), (".", ".")]
    for n in range(40)
] + [[("#", "B-NP"), ("1.98", "CD"), ("2-3", "CD"), ("#hash", "NN")]]


def universal(sentences: list[list[tuple[str, str]]]) -> str:
    text = ""
    for number, sentence in enumerate(sentences):
        text += f"# sent_id = {number}\n1-2\tw{number}can\t_\t_\t_\t_\t_\t_\t_\t_\n"
        for place, (word, tag) in enumerate(sentence, 1):
            text += f"{place}\t{word}\t{word}\t{tag}\tX{tag}\t_\t0\troot\t_\t_\n"
        text += "8.1\tghost\t_\tX\t_\t_\t_\t_\t_\t_\n\n"
    return text


def conll(sentences: list[list[tuple[str, str]]]) -> str:
    rows = ("".join(f"{word} I-NP {tag}\n" for word, tag in each) for each in sentences)
    return "-DOCSTART- -X- O\n\n" + "\n".join(rows)


def slashed(sentences: list[list[tuple[str, str]]]) -> str:
    return "\n\n\n".join("\t" + " ".join(f"{w}/{t}" for w, t in each) for each in sentences)


def read(path: Path, **options: str) -> tuple[list[Document], Counter[str]]:
    source = Source(str(path), "tags", options=options_of(FIELD, options))
    reasons: Counter[str] = Counter()

    def reject(reason: str) -> None:
        reasons[reason] += 1

    return [d for i in FIELD.items(source) for d in FIELD.read(source, i, reject)], reasons


@pytest.mark.parametrize("write", [universal, conll, slashed])
def test_the_formats_that_people_have_give_the_same(tmp_path: Path, write: Any) -> None:
    (tmp_path / "t.conllu").write_text(write(SENTENCES))
    documents, reasons = read(tmp_path / "t.conllu", window="2")
    found = Counter((d.parts[0].value, d.parts[2].value) for d in documents)
    expected = Counter()
    for sentence in SENTENCES:
        words = [word for word, _ in sentence]
        for place, (_, tag) in enumerate(sentence):
            expected[question_of(words, place, 2), tag] += 1
    assert found == expected and not reasons
    assert {d.split for d in documents} == {"train", "heldout"}


def test_a_word_is_asked_with_its_neighbours_and_no_tag() -> None:
    words = ["the", "old", "man", "the", "boats"]
    assert question_of(words, 2, 2) == " the old _ the boats\n man"
    assert question_of(words, 0, 1) == " _ old\n the"


@pytest.mark.parametrize(("column", "tag"), [("xpos", "XNN"), ("5", "XNN"), ("lemma", "w3")])
def test_another_column_may_be_asked(tmp_path: Path, column: str, tag: str) -> None:
    (tmp_path / "t.conllu").write_text(universal(SENTENCES))
    documents, _ = read(tmp_path, column=column)
    by_word = {d.parts[0].value.rpartition(" ")[2]: d.parts[2].value for d in documents}
    assert by_word["w3"] == tag or column == "lemma"
    with pytest.raises(SpecError, match=r"options\.column"):
        read(tmp_path, column="word")


def test_whole_files_are_held_out_where_there_are_many(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"c{number:02}.pos").write_text(slashed(SENTENCES[: 2 + number]))
    documents, _ = read(tmp_path)
    sides = {side: {d.name.partition("@")[0] for d in documents if d.split == side}
             for side in ("train", "heldout")}  # fmt: skip
    assert not sides["train"] & sides["heldout"] and len(sides["heldout"]) == 2


def test_odd_lines_are_refused_by_reason_and_place(tmp_path: Path) -> None:
    (tmp_path / "t.conll").write_text(conll(SENTENCES) + "\nalone\nw _\n" + "x" * 101 + " NN\n")
    _, reasons = read(tmp_path)
    found = {str(r): str(r.place) for r in reasons if isinstance(r, Reason)}
    last = len(conll(SENTENCES).splitlines())
    assert found == {
        "line without a tag": f"t.conll, line {last + 2}",
        "word without a tag": f"t.conll, line {last + 3}",
        "word or tag of control signs, or of more than 100": f"t.conll, line {last + 4}",
    }
    (tmp_path / "t.conll").write_text("".join(f"a{n} X\nb X\n\n" for n in range(60)))
    with pytest.raises(DataError, match="has no tags"):
        read(tmp_path)


def test_a_line_of_blanks_ends_a_sentence_and_signs_may_be_words(tmp_path: Path) -> None:
    comments = "#begin document (x);\n# text = # #\n"
    rows = "".join(f"#w{n} A\n# B\n3.5 C\n#\n  \nw{n} D\n\n" for n in range(20))
    (tmp_path / "t.conll").write_text(comments + rows)
    documents, reasons = read(tmp_path, window="1", heldout="0.5")
    found = {(d.parts[0].value, d.parts[2].value) for d in documents}
    assert found >= {(" _ #\n #w7", "A"), (" # _\n 3.5", "C"), (" _\n w7", "D")}
    assert (" #w7 _ 3.5\n #", "B") in found and not reasons


def test_tags_are_cut_at_a_sign_but_not_at_the_first(tmp_path: Path) -> None:
    lines = (f"The/at-tl isn't/bez* --/-- can't/md+ppss* {n}/cd\n" for n in range(40))
    (tmp_path / "t.pos").write_text("".join(lines))
    documents, _ = read(tmp_path, cut="-+*", heldout="0.5")
    assert {d.parts[2].value for d in documents} == {"at", "bez", "-", "md", "cd"}


def test_context_is_learned_where_a_word_alone_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What "can" is depends on the word before it."""
    rng, lines = random.Random(0), []
    for _ in range(400):
        before = rng.choice(["the/DT can/NN", "we/PR can/MD", "a/DT can/NN", "they/PR can/MD"])
        lines.append(f"{before} {rng.choice('uvwxyz')}{rng.randrange(99)}/X")
    (tmp_path / "t.pos").write_text("\n".join(lines) + "\n")
    entry = {"source": tmp_path / "t.pos", "field": "tags", "options": {"window": "1"}}
    kept = {"vocab_size": 290}
    session = miniature(monkeypatch, tmp_path / "home", entry, (128, 1024), 100, prepare=kept)
    scores = session.evaluate().metrics["scores"]["tags"]
    assert scores["hf f32"] > 0.97
    assert scores["commonest tag of the word"] < 0.9
    assert scores["linear model of words and their ends"] > 0.95


def test_a_crf_reads_whole_sentences_and_answers_the_words_that_are_asked(tmp_path: Path) -> None:
    """What "x" is depends on the tag two words before it, which no word beside it tells."""
    pytest.importorskip("pycrfsuite", reason="python-crfsuite is not installed")
    rng, lines = random.Random(0), []
    for _ in range(300):
        kind, others = rng.choice("AB"), rng.randint(1, 3)
        middle = " ".join(["x/" + kind] * (others + 4))
        lines.append(f"{kind.lower()}/{kind} {middle} {rng.choice('uvw')}/X")
    (tmp_path / "t.pos").write_text("\n".join(lines) + "\n")
    options = options_of(FIELD, {"heldout": "0.3", "asked": "200", "words": "1000"})
    source = Source(str(tmp_path / "t.pos"), "tags", options=options)
    documents = [d for i in FIELD.items(source) for d in FIELD.read(source, i, lambda reason: None)]
    sides = [[d for d in documents if d.split == side] for side in ("train", "heldout")]
    field = FIELD.with_sources((source,))
    assert field.absent() == "" and field.name == "tags"
    found = {score.name: score for score in field.baselines(*sides, None)}
    crf, alone = found["CRF of whole sentences"], found["linear model of words and their ends"]
    assert crf.num_documents == len(sides[1]) and 100 < len(sides[1]) < 400
    assert crf.value > 0.98 and alone.value < 0.85
    gone = FIELD.with_sources(())  # documents of a record whose sources are not at hand
    assert "CRF of whole sentences" not in {score.name for score in gone.baselines(*sides, None)}


def test_without_a_crf_the_report_says_how_to_have_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequence_taggers, "find_spec", lambda name: None)
    assert "pip install python-crfsuite" in FIELD.absent()
