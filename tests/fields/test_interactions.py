"""Interactions: files of MovieLens and Amazon, the last item held out, a next item learned."""

from __future__ import annotations

import json
import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra train")
pytest.importorskip("sklearn", reason="needs the extra train")

from scipy.stats import rankdata
from sklearn.linear_model import Ridge
from sklearn.metrics.pairwise import cosine_similarity

from tests.fields.support import miniature
from whorl.codecs.label import LabelCodec
from whorl.core.errors import DataError, SpecError
from whorl.core.metrics import HITS_AT_10, NDCG_AT_10
from whorl.core.ports import Document, Source
from whorl.core.reasons import Reason
from whorl.fields.base import options_of
from whorl.fields.interactions import FIELD
from whorl.fields.recommenders import EASE_WEIGHT, LAST, recommenders

ROWS = [  # user, item, rating, time: not in the order of time
    ("u1", "b", "3", "20"),
    ("u1", "a", "5", "10"),
    ("u1", "c", "1", "30"),
    ("u2", "c", "4", "5"),
    ("u2", "b", "4", "5"),
    ("u2", "a", "2", "5"),
    ("u3", "a", "2", "7"),
    ("u3", "c", "2", "9"),
]
HISTORIES = {"u1": ["a", "b", "c"], "u2": ["c", "b", "a"], "u3": ["a", "c"]}


def written(sign: str, header: str = "") -> str:
    return "".join(f"{line}\n" for line in [header, *(sign.join(row) for row in ROWS)] if line)


def read(path: Path, **options: str) -> tuple[list[Document], Counter[str]]:
    source = Source(str(path), "interactions", options=options_of(FIELD, options))
    reasons: Counter[str] = Counter()

    def reject(reason: str) -> None:
        reasons[reason] += 1

    return [d for i in FIELD.items(source) for d in FIELD.read(source, i, reject)], reasons


def values(document: Document) -> list[str]:
    return [part.value for part in document.parts]


FILES = {
    "ratings.csv": written(",", "userId,movieId,rating,timestamp"),
    "ratings.dat": written("::"),
    "u.data": written("\t"),
    "ml.inter": written("\t", "user_id:token\titem_id:token\trating:float\ttimestamp:float"),
    "amazon.csv": "timestamp;overall;asin;reviewerID\n"
    + "".join(f"{t};{r};{i};{u}\n" for u, i, r, t in ROWS),
    "amazon.jsonl": "".join(
        json.dumps({"user_id": u, "parent_asin": i, "rating": float(r), "timestamp": int(t)}) + "\n"
        for u, i, r, t in ROWS
    ),
    "dates.csv": "user,item,time\n"
    + "".join(f"{u},{i},2024-05-{int(t):02d}T10:00\n" for u, i, _, t in ROWS),
}


NAMES = {
    "films.item": "item_id:token\tmovie_title:token_seq\nc\tAlien\na\tVertigo\nz\tOther\n",
    "movies.dat": "c::Alien::Horror\na::Vertigo::Drama\n",
    "films.csv": "movieId,title\nc,Alien\na,Vertigo\n",
    "films.jsonl": '{"asin": "c", "title": "Alien"}\n{"asin": "a", "title": "Vertigo"}\n',
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("is_folder", [False, True])
def test_items_are_called_by_their_names_in_the_same_order(
    tmp_path: Path, name: str, is_folder: bool
) -> None:
    (tmp_path / "ratings.csv").write_text(FILES["ratings.csv"])
    path = tmp_path if is_folder else tmp_path / "ratings.csv"
    plain, _ = read(tmp_path / "ratings.csv", copies="3")
    (tmp_path / name).write_text(NAMES[name])
    called, reasons = read(path, copies="3", names=name)
    told = {"a": "a Vertigo", "b": "b", "c": "c Alien"}
    assert [values(d) for d in called] == [[told.get(v, v) for v in values(d)] for d in plain]
    assert [d.name for d in called] == [d.name for d in plain]
    assert any("1 items without a name" in reason for reason in reasons)
    codec, before = (FIELD.fit_codecs(ds, {})["item"] for ds in (called, plain))
    for one, other in zip(called, plain, strict=True):
        ids = [
            [c.encode(v) for v in values(d) if v[0] != "<"]
            for c, d in ((codec, one), (before, other))
        ]
        assert ids[0] == ids[1]


def test_a_file_of_names_has_to_be_beside_the_data(tmp_path: Path) -> None:
    (tmp_path / "ratings.csv").write_text(FILES["ratings.csv"])
    with pytest.raises(DataError):
        read(tmp_path / "ratings.csv", names="films.item")
    with pytest.raises(SpecError, match="names"):
        read(tmp_path / "ratings.csv", names="../films.item")


@pytest.mark.parametrize("name", FILES)
def test_usual_files_are_read_and_the_last_item_is_held_out(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(FILES[name])
    documents, reasons = read(tmp_path / name, copies="1")
    refused = [str(r) for r in reasons if not (isinstance(r, Reason) and r.kind == "read")]
    assert not refused
    learned = {d.name: values(d) for d in documents if d.split == "train"}
    assert learned == {f"{user}~0@0": history[:-1] for user, history in HISTORIES.items()}
    asked = {d.name: d for d in documents if d.split == "heldout"}
    for user, (*known, last) in HISTORIES.items():
        assert values(asked[user]) == [*known, last, "<|end|>", *known]
        trained = [part.trained for part in asked[user].parts]
        assert trained.index(True) == len(known) and trained.count(True) == 1


def test_copies_lose_items_but_never_their_order_nor_gain_the_last(tmp_path: Path) -> None:
    rng = random.Random(0)
    lines = []
    histories = {}
    for user in range(20):
        items = [f"i{n}" for n in rng.sample(range(60), 30)]
        histories[f"u{user}"] = items
        lines += [f"u{user},{item},1,{place}" for place, item in enumerate(items)]
    rng.shuffle(lines)
    (tmp_path / "r.csv").write_text("user,item,rating,time\n" + "\n".join(lines) + "\n")
    documents, _ = read(tmp_path / "r.csv", copies="6", window="8")
    assert len({d.name for d in documents}) == len(documents)
    kept: Counter[bool] = Counter()
    for document in documents:
        user, _, copy = document.name.partition("~")
        if not copy:
            continue
        history, mine = histories[user], values(document)
        places = [history.index(item) for item in mine]
        assert places == sorted(places) and max(places) < 29 and len(mine) <= 8
        kept[copy.startswith("0@")] += len(mine)
    assert kept[True] == 20 * 29 and 0.5 < kept[False] / (5 * 20 * 29) < 0.9
    again, _ = read(tmp_path / "r.csv", copies="6", window="8")
    assert [values(d) for d in documents] == [values(d) for d in again]


ODD = {
    "u1,a,5,10": "item that the user has already",
    "u1,,5,10": "row without a usable item",
    ",z,5,10": "row without a usable user",
    "u1,z,five,10": "rating that is no number",
    "u1,z,nan,10": "rating that is no number",
    "u1,z,5,tomorrow": "time that is neither a number nor a date",
    "u1,z,5,inf": "time that is neither a number nor a date",
    "u1,z,5": "row with more or fewer values than columns",
    "u1," + "z" * 300 + ",5,10": "row without a usable item",
    "u1,z\x07,5,10": "row without a usable item",
    "u9,z,5,10": "user with a single item: nothing comes after it",
}


@pytest.mark.parametrize(("line", "reason"), ODD.items())
def test_odd_rows_are_refused_by_reason_and_place(tmp_path: Path, line: str, reason: str) -> None:
    (tmp_path / "r.csv").write_text(written(",", "user,item,rating,time") + line + "\n")
    documents, reasons = read(tmp_path / "r.csv", copies="1")
    assert dict(reasons) == {reason: 1} and sum(d.split == "heldout" for d in documents) == 3
    (told,) = reasons
    if isinstance(told, Reason):
        assert str(told.place) == "r.csv, line 10"


def test_a_row_without_a_time_has_no_place_among_rows_that_have_one(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text(written(",", "user,item,rating,time") + "u3,b,5,\n")
    documents, reasons = read(path, copies="1")
    assert reasons == {"row without a time among rows that have one": 1}
    (told,) = reasons
    assert isinstance(told, Reason) and str(told.place) == "r.csv, line 10"
    asked = {d.name: values(d) for d in documents if d.split == "heldout"}
    assert asked["u3"] == ["a", "c", "<|end|>", "a"]
    path.write_text("user,item,time\n" + "".join(f"{u},{i},\n" for u, i, *_ in ROWS))
    documents, reasons = read(path, copies="1")
    assert not reasons
    learned = {d.name: values(d) for d in documents if d.split == "train"}
    assert learned["u1~0@0"] == ["b", "a"] and learned["u2~0@0"] == ["c", "b"]


def test_of_an_item_taken_twice_the_first_in_time_is_kept(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text(
        "user,item,time\nu1,a,50\nu1,b,20\nu1,c,30\nu1,a,10\nu1,c,40\nu2,c,1\nu2,b,2\nu2,a,3\n"
        "u3,a,5\nu3,b,5\nu3,c,9\nu3,a,5\n"
    )
    documents, reasons = read(tmp_path / "r.csv", copies="1")
    assert dict(reasons) == {"item that the user has already": 3}
    asked = {d.name: values(d) for d in documents if d.split == "heldout"}
    assert asked["u1"] == ["a", "b", "c", "<|end|>", "a", "b"]
    assert asked["u3"] == ["a", "b", "c", "<|end|>", "a", "b"]


@pytest.mark.parametrize("copies", ["1", "4"])
def test_the_methods_beside_a_model_know_all_users_and_rank_all_items(
    tmp_path: Path, copies: str
) -> None:
    """Ranks counted from the file, where only some users are asked and rows keep no names."""
    rng = np.random.default_rng(5)
    lines, histories = ["user,item,time"], {}
    for user in range(60):
        weights = 1 / np.arange(1, 91)
        items = rng.choice(90, rng.integers(6, 41), replace=False, p=weights / weights.sum())
        histories[f"u{user}"] = [f"i{item}" for item in items]
        lines += [f"u{user},i{item},{place}" for place, item in enumerate(items)]
    (tmp_path / "r.csv").write_text("\n".join(lines) + "\n")
    documents, _ = read(tmp_path / "r.csv", copies=copies, window="8")
    asked = [d for d in documents if d.split == "heldout"][::7]
    lost = {f"{d.name}~0@8" for d in asked}  # as if they were duplicates
    train = [
        Document(str(n), d.parts)
        for n, d in enumerate(documents)
        if d.split == "train" and d.name not in lost
    ]
    known = {user: items[:-1] for user, items in histories.items()}
    vocabulary = sorted({item for items in known.values() for item in items})
    assert set(vocabulary) > {item for d in asked for item in known[d.name]}
    taken = Counter(item for items in known.values() for item in items)
    pairs = Counter(pair for items in known.values() for pair in pairwise(items))
    expected: dict[str, list[float]] = {"popularity": [], "Markov chain": []}
    for document in asked:
        *before, right = histories[document.name]
        ranked = [item for item in vocabulary if item not in before]
        after = [pairs[before[-1], item] + taken[item] / 1e6 for item in ranked]
        for name, scores in (("popularity", [taken[i] for i in ranked]), ("Markov chain", after)):
            rank = rankdata(-np.array(scores, float))[ranked.index(right)]
            expected[name].append(1 / np.log2(1 + rank) if rank <= 10 else 0)
    found = {
        score.name: score.measure.numerator.tolist()
        for score in FIELD.baselines(train, asked, None)
        if score.metric == NDCG_AT_10 and score.measure is not None
    }
    for name, gains in expected.items():
        assert found[name] == pytest.approx(gains)
    assert sorted(codec_labels(documents)) == vocabulary


def codec_labels(documents: list[Document]) -> tuple[str, ...]:
    codec = FIELD.fit_codecs((d for d in documents if d.split == "train"), {})["item"]
    assert isinstance(codec, LabelCodec)
    return codec.labels


def test_what_cannot_be_asked_or_read_is_said(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text(written(",", "user,item,rating,time") + "u3,new,1,99\n")
    documents, reasons = read(path, copies="1")
    assert reasons == {"last item that no other user has before: not asked": 1}
    (told,) = (str(reason) for reason in read(path)[1] if "option copies" in reason)
    assert told.startswith("3 users, those to learn from ")
    assert [d.name for d in documents if d.split == "heldout"] == ["u1", "u2"]
    path.write_text("who,what\nx,y\n")
    with pytest.raises(DataError, match="no user with two items"):
        read(path)
    path.write_bytes(b"\xff\xfe\x00\x01" * 20)
    with pytest.raises(DataError):
        read(path)
    path.write_text(written(","))
    with pytest.raises(SpecError, match=r"options\.window"):
        read(path, window="none")


def test_recommenders_score_as_scikit_learn_does() -> None:
    rng = np.random.default_rng(0)
    histories = [rng.choice(25, 14, replace=False).tolist() for _ in range(60)]
    taken = np.zeros((60, 25))
    for row, history in zip(taken, histories, strict=True):
        row[history] = 1
    found = {name: score(histories[0]) for name, score in recommenders(histories, 25)}
    assert found["popularity"] == pytest.approx(taken.sum(axis=0))
    neighbours = cosine_similarity(taken.T)
    np.fill_diagonal(neighbours, 0)
    expected = neighbours[histories[0][-LAST:]].sum(axis=0)
    assert found[f"item neighbours of the last {LAST}"] == pytest.approx(expected)
    ease = np.zeros((25, 25))  # each item by ridge regression on all others
    for item in range(25):
        others = np.delete(np.arange(25), item)
        ridge = Ridge(alpha=EASE_WEIGHT, fit_intercept=False, solver="cholesky")
        ease[others, item] = ridge.fit(taken[:, others], taken[:, item]).coef_
    assert found["EASE(100)"] == pytest.approx(taken[0] @ ease)
    last = histories[0][-1]
    pairs = Counter(p for h in histories for p in pairwise(h) if p[0] == last)
    assert found["Markov chain"] == pytest.approx(
        [pairs[last, item] for item in range(25)], abs=1e-3
    )


def test_a_cycle_of_items_is_learned_where_popularity_is_blind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everybody takes item n + 1 after item n, from a place of their own."""
    rng = random.Random(0)
    lines = ["user,item,rating,time"]
    for user in range(80):
        start = rng.randrange(30)
        lines += [f"u{user},i{(start + n) % 30},1,{n}" for n in range(rng.randrange(5, 12))]
    (tmp_path / "r.csv").write_text("\n".join(lines) + "\n")
    options = {"copies": "3", "window": "20"}
    entry = {"source": tmp_path / "r.csv", "field": "interactions", "options": options}
    session = miniature(monkeypatch, tmp_path / "home", entry, (64, 640), 60, layers=1)
    scores = session.evaluate().metrics["scores"]
    assert scores["interactions/ndcg_at_10"]["hf f32"] > 0.8
    of_hits = scores["interactions"]
    assert of_hits["hf f32"] > 0.95 and of_hits["Markov chain"] > 0.95
    assert of_hits["popularity"] < 0.8
    assert session.plan().config and HITS_AT_10.name == "hits_at_10"
