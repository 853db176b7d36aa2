"""Triples: files as people have them, both ends asked, what is true left out, a graph learned."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra train")
pytest.importorskip("sklearn", reason="needs the extra train")

from scipy.stats import rankdata

from tests.fields.support import miniature
from tests.stages.evaluate.fakes import ScoringEngine, context_in
from tests.stages.prepare.support import prepare
from whorl.codecs.contract import Tokens
from whorl.core.errors import DataError, SpecError
from whorl.core.heldout import HeldoutDocuments
from whorl.core.metrics import HITS_AT_10, MRR
from whorl.core.ports import Document, Source
from whorl.core.reasons import Reason
from whorl.core.variants import Variant
from whorl.fields.base import find_field, options_of
from whorl.fields.triple_files import Triple, inverse
from whorl.fields.triples import FIELD
from whorl.spec.resolved import EvaluateConfig
from whorl.stages.evaluate.of_field import FieldEvaluation
from whorl.stages.prepare.pool import is_sendable

FACTS: list[Triple] = [
    ("ada", "parent of", "bo"),
    ("ada", "parent of", "cy"),
    ("bo", "parent of", "di"),
    ("cy", "parent of", "ed"),
    ("bo", "knows", "ada"),
]


def tsv(triples: list[Triple]) -> str:
    return "".join("\t".join(triple) + "\n" for triple in triples)


def read(path: Path, **options: str) -> tuple[list[Document], Counter[str]]:
    source = Source(str(path), "triples", options=options_of(FIELD, options))
    reasons: Counter[str] = Counter()

    def reject(reason: str) -> None:
        reasons[reason] += 1

    items = FIELD.items(source)
    return [d for item in items for d in FIELD.read(source, item, reject)], reasons


def values(document: Document) -> list[str]:
    return [part.value for part in document.parts]


def test_both_ends_are_learned_once_a_copy_in_orders_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text("head\trelation\ttail\n" + tsv(FACTS))
    (tmp_path / "test.tsv").write_text(tsv([("cy", "parent of", "di")]))
    documents, reasons = read(tmp_path, copies="3", facts="2")
    assert not reasons
    learned = [d for d in documents if d.split == "train"]
    facts: Counter[Triple] = Counter()
    for document in learned:
        head, *rest = values(document)
        assert len(rest) <= 4
        assert [p.trained for p in document.parts] == [False] + [False, True] * (len(rest) // 2)
        facts.update((head, *fact) for fact in zip(rest[::2], rest[1::2], strict=True))
    assert facts == {t: 3 for fact in FACTS for t in (fact, inverse(fact))}
    assert len({d.name for d in documents}) == len(documents)
    assert [values(d) for d in documents] == [
        values(d) for d in read(tmp_path, copies="3", facts="2")[0]
    ]


@pytest.mark.parametrize(
    "header", ["head tail relation", "Tail\tHEAD\tRelation", "object predicate subject"]
)
def test_columns_stand_in_the_order_of_their_header(tmp_path: Path, header: str) -> None:
    names = header.split()
    known = {"head": 0, "relation": 1, "tail": 2, "subject": 0, "predicate": 1, "object": 2}
    sign = "\t"
    lines = [
        sign.join(names),
        *(sign.join(fact[known[name.lower()]] for name in names) for fact in FACTS),
    ]
    (tmp_path / "train.tsv").write_text("\n".join(lines) + "\n")
    (tmp_path / "test.tsv").write_text(tsv([("cy", "parent of", "di")]))
    documents, reasons = read(tmp_path, copies="1", facts="9")
    learned = set()
    for document in documents:
        if document.split == "train":
            head, *rest = values(document)
            learned |= {(head, *fact) for fact in zip(rest[::2], rest[1::2], strict=True)}
    assert learned == {t for fact in FACTS for t in (fact, inverse(fact))}
    told = f"columns in the order of the first row: {', '.join(names)}"
    assert dict(reasons) == {told: 1}


def test_an_end_is_asked_with_what_is_known_and_other_true_ends_behind_it(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text(tsv(FACTS))
    (tmp_path / "test.tsv").write_text(tsv([("ada", "parent of", "ed")]))
    (tmp_path / "valid.tsv").write_text(tsv([("ada", "parent of", "di")]))
    documents, reasons = read(tmp_path, copies="1", facts="2")
    tail, head = [d for d in documents if d.split == "heldout"]
    assert values(tail)[0] == "ada" and values(tail)[3:] == ["parent of", "ed", "bo", "cy", "di"]
    assert values(tail)[1] == "parent of" and values(tail)[2] in ("bo", "cy")  # of this one first
    assert [part.trained for part in tail.parts] == [False] * 4 + [True] + [False] * 3
    assert values(head) == ["ed", "^parent of", "cy", "^parent of", "ada", "cy"]
    (reason,) = reasons
    assert isinstance(reason, Reason) and reason.kind == "read" and "validation" in reason


def test_n_triples_are_read_and_literals_are_no_entities(tmp_path: Path) -> None:
    lines = [
        "<http://x/a> <http://x/r> <http://x/b> .",
        r"<http://x/b> <http://x/r> <http://x/caf\u00E9> . # a comment",
        "# nothing",
        "_:n1 <http://x/r> <http://x/a> .",
        '<http://x/a> <http://x/name> "Ada \\" <b> ."@en .',
        "<http://x/a> <http://x/r> .",
        '"no" <http://x/r> <http://x/a> .',
    ]
    path = tmp_path / "graph.nt"
    path.write_text(
        "\n".join(lines * 1) + "\n" + "".join(f"<u:{i}> <u:r> <u:{i % 7}> .\n" for i in range(90))
    )
    documents, reasons = read(path, copies="1", facts="400")
    names = {value for document in documents for value in values(document)}
    assert {"http://x/café", "_:n1", "^http://x/r", "u:3"} <= names
    assert {str(r): n for r, n in reasons.items() if "held-out" not in r} == {
        "triple whose object is a literal": 1,
        "line that is no N-Triple": 2,
    }
    (where,) = [r.place for r in reasons if isinstance(r, Reason) and "no N-Triple" in r]
    assert where is not None and where.line == 6


ODD = {
    "a\tb": "line of other than three columns",
    "a\tb\tc\td": "line of other than three columns",
    "two words": "line of other than three columns",
    "a\t\tc": "triple with an empty name",
    "a\tr\x07\tc": "name with control signs",
    "a\tr\t" + "c" * 501: "name of more than 500 signs",
    "a\t^r\tc": "relation that begins with ^",
    "ada\tparent of\tbo": "triple that is there already",
}


@pytest.mark.parametrize(("line", "reason"), ODD.items())
def test_odd_lines_are_refused_by_reason_and_place(tmp_path: Path, line: str, reason: str) -> None:
    (tmp_path / "train.tsv").write_text(tsv(FACTS) + line + "\n")
    (tmp_path / "test.tsv").write_text(
        tsv([("cy", "parent of", "di"), ("ada", "parent of", "zoe"), ("bo", "likes", "ada")])
    )
    documents, reasons = read(tmp_path, copies="1")
    assert sum(d.split == "heldout" for d in documents) == 2
    unknown = "held-out triple of an entity or relation that is nowhere learned"
    assert dict(reasons) == {reason: 1, unknown: 2}
    places = {str(r): r.place for r in reasons if isinstance(r, Reason)}
    assert str(places[reason]) == "train.tsv, line 6" and str(places[unknown]) == "test.tsv, line 2"


def test_files_without_anything_to_ask_and_bad_options_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text(tsv(FACTS))
    (tmp_path / "test.tsv").write_text(tsv([("x", "y", "z")]))
    with pytest.raises(DataError, match="nothing to learn or to ask"):
        read(tmp_path)
    (tmp_path / "test.tsv").write_text(tsv([("cy", "parent of", "di")]))
    with pytest.raises(SpecError, match=r"options\.copies"):
        read(tmp_path, copies="-1")
    with pytest.raises(SpecError, match=r"options\.heldout"):
        read(tmp_path, heldout="2")
    (tmp_path / "test.tsv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError):
        read(tmp_path)


def test_without_a_test_file_a_share_is_held_out_whatever_the_order(tmp_path: Path) -> None:
    triples = [(f"e{i % 40}", f"r{i % 3}", f"e{i * 7 % 41}") for i in range(900)]
    triples = list(dict.fromkeys(triples))

    def held(lines: list[Triple]) -> set[str]:
        (tmp_path / "graph.tsv").write_text(tsv(lines))
        return {
            d.name for d in read(tmp_path / "graph.tsv", heldout="0.2")[0] if d.split == "heldout"
        }

    found = held(triples)
    assert 0.15 < len(found) / 2 / len(triples) < 0.25
    random.Random(1).shuffle(triples)
    assert held(triples) == found


def test_frequencies_rank_as_counted_by_hand(tmp_path: Path) -> None:
    rng = random.Random(0)
    triples = list(
        dict.fromkeys(
            (f"e{rng.randrange(12)}", f"r{rng.randrange(3)}", f"e{min(rng.randrange(12), 7)}")
            for _ in range(200)
        )
    )
    train, test = triples[:-20], triples[-20:]
    (tmp_path / "train.tsv").write_text(tsv(train))
    (tmp_path / "test.tsv").write_text(tsv(test))
    documents, _ = read(tmp_path, copies="2")
    learned = [d for d in documents if d.split == "train"]
    asked = [d for d in documents if d.split == "heldout"]
    scores = FIELD.baselines(learned, asked, None)
    both = [t for fact in triples for t in (fact, inverse(fact))]
    known = [t for fact in train for t in (fact, inverse(fact))]
    entities = sorted({e for h, _, t in triples for e in (h, t)})
    expected = []
    for fact in test:
        for head, relation, tail in (fact, inverse(fact)):
            counts = Counter(t for _, r, t in known if r == relation)
            true = {t for h, r, t in both if (h, r) == (head, relation)} - {tail}
            left = [e for e in entities if e not in true]
            ranks = rankdata([-counts[e] for e in left], method="average")
            expected.append(1 / ranks[left.index(tail)])
    (found,) = [s for s in scores if s.metric == MRR and "relation" in s.name]
    assert found.value == pytest.approx(np.mean(expected)) and len(scores) == 4


def test_groups_of_a_graph_are_learned_where_frequency_is_blind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everybody of a group knows everybody of the next one: a tenth of it is held out."""
    facts = [
        (f"p{a}", "knows", f"p{b}") for a in range(24) for b in range(24) if (a + 1 - b) % 3 == 0
    ]
    random.Random(3).shuffle(facts)
    (tmp_path / "train.tsv").write_text(tsv(facts[:-20]))
    (tmp_path / "test.tsv").write_text(tsv(facts[-20:]))
    options = {"copies": "12", "facts": "16"}
    entry = {"source": tmp_path / "*.tsv", "field": "triples", "options": options}
    session = miniature(monkeypatch, tmp_path / "home", entry, (70, 700), 80, layers=1)
    scores = session.evaluate().metrics["scores"]
    of_mrr = dict(scores["triples"])
    assert of_mrr.pop("hf f32") > 0.8 and max(of_mrr.values()) < 0.3
    assert scores["triples/hits_at_10"]["hf f32"] == 1


@pytest.mark.parametrize("name", ["triples", "interactions", "table"])
def test_fields_go_to_worker_processes(name: str) -> None:
    """A field that cannot is read by one process, however many there are."""
    assert is_sendable(find_field(name))


def test_both_metrics_come_of_one_asking_and_no_known_end_is_ranked(tmp_path: Path) -> None:
    """An engine that likes an entity the better the greater its id: ranks are counted by hand."""
    (tmp_path / "train.tsv").write_text(tsv(FACTS))
    (tmp_path / "test.tsv").write_text(tsv([("ada", "parent of", "ed"), ("cy", "knows", "bo")]))
    options = options_of(FIELD, {"copies": "2"})
    source = Source(str(tmp_path / "*.tsv"), "triples", options=options)
    prepared = prepare(
        tmp_path / "home", source, fields={"triples": FIELD}, vocab_size=32, seq_len=64
    )
    tokens, heldout = Tokens.load(prepared.folder("tokens")), HeldoutDocuments.open(prepared)
    config = EvaluateConfig(window=64, bootstrap_samples=100)
    whole = FieldEvaluation.of(context_in(tmp_path), config, "triples", FIELD, heldout, tokens)
    parts = whole.with_further()
    assert [(part.name, part.metric) for part in parts] == [
        ("triples", MRR),
        ("triples/hits_at_10", HITS_AT_10),
    ]
    engine = ScoringEngine(tokens.contract.digest, lambda ids: np.array(ids[1:], float) / 100)
    try:
        mrr, hits = (part.score_model(engine, Variant("hf", "f32")) for part in parts)
    finally:
        engine.close()
    assert len(engine.sequences) == 4 * 5, "four ends among five entities, asked once"
    # ada, bo, cy, di, ed from the lowest. ada parent of ed: bo and cy are known, nothing is above.
    # Who is the parent of ed: cy is known; ada lies below bo, di and ed. cy knows bo: three above.
    # Who knows bo: cy, below di and ed.
    expected = {
        "ada parent of ed": 1,
        "ed ^parent of ada": 1 / 4,
        "cy knows bo": 1 / 4,
        "bo ^knows cy": 1 / 3,
    }
    assert mrr.measure is not None
    found = dict(zip(mrr.measure.document_names, mrr.measure.numerator.tolist(), strict=True))
    assert found == pytest.approx(expected) and hits.value == 1
