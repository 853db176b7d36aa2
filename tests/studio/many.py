"""A model of many fields for the page's rooms: a rule in the place of each answer that was learned.

The rules read the prompt as a model does, by its ids, so that a room that asks in another form than
the field was taught gets another answer. By hand:

    python -m tests.studio.many 8123
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.studio.worlds import BOARD, GRID, ROAD, TURNS, BoardWorld, RoadWorld
from whorl.codecs.contract import Tokens
from whorl.codecs.image import fit_image_codec
from whorl.codecs.label import LabelCodec
from whorl.codecs.parts import decode_parts, token_space
from whorl.codecs.table import Column, TableCodec
from whorl.codecs.text import train_text_codec
from whorl.core.ports import GenerateRequest, Part
from whorl.stages.serve.card import AskedPart, HeldoutExample, TaskCard

FILMS = {  # film -> what it is like
    "Star Wars (1977)": "space",
    "Return of the Jedi (1983)": "space",
    "Alien (1979)": "space fear",
    "Aliens (1986)": "space fear",
    "2001: A Space Odyssey (1968)": "space old",
    "Psycho (1960)": "fear old",
    "The Shining (1980)": "fear",
    "Vertigo (1958)": "fear old love",
    "Casablanca (1942)": "old love",
    "Roman Holiday (1953)": "old love funny",
    "Some Like It Hot (1959)": "old funny love",
    "Annie Hall (1977)": "funny love",
    "When Harry Met Sally… (1989)": "funny love",
    "Airplane! (1980)": "funny",
    "Toy Story (1995)": "funny young",
    "The Lion King (1994)": "young",
}
FACTS = [  # of a small graph
    ("virus", "causes", "influenza"),
    ("virus", "causes", "cold"),
    ("influenza", "has_symptom", "fever"),
    ("influenza", "has_symptom", "cough"),
    ("cold", "has_symptom", "cough"),
    ("aspirin", "treats", "fever"),
    ("aspirin", "treats", "headache"),
    ("vaccine", "prevents", "influenza"),
]
SECTIONS = {
    "games": "game play chess puzzle card",
    "sound": "audio music player sound midi",
    "science": "statistics matrix physics numeric",
    "web": "browser http server web page",
}
TAGS = {
    "DET": "the a an this every",
    "NOUN": "dog fox house model word river morning bank",
    "VERB": "jumps sees runs reads flows is",
    "ADJ": "quick brown lazy small old",
    "ADP": "over under of in by on",
    "PUNCT": ". , ! ?",
}
PETALS = {"setosa": 1.4, "versicolor": 4.3, "virginica": 5.6}  # cm
COLUMNS = ("sepal length", "sepal width", "petal length", "petal width")
WORDS = {"the house is old.": "das Haus ist alt.", "das Haus ist alt.": "the house is old."}
SHAPES = ("ankle boot", "bag", "sneaker", "trouser")


# ------------------------------------------------------------------ what it was taught


def many_tokens() -> Tokens:
    pictures = np.random.default_rng(0).integers(0, 256, (40, 28, 28)).astype(np.uint8)
    entities = sorted({end for head, _, tail in FACTS for end in (head, tail)})
    relations = sorted({relation for _, relation, _ in FACTS})
    flowers = tuple(
        Column.of_numbers(name, [round(0.1 * n, 1) for n in range(1, 81)], 32) for name in COLUMNS
    )
    seen = [Column.of_numbers(name, [float(n) for n in range(-9, 10)], 32) for name in ("ahead",)]
    seen += [Column.of_numbers("aside", [float(n) for n in range(-9, 10)], 32)]
    texts = [*SECTIONS.values(), *TAGS.values(), *WORDS, *WORDS.values()]
    codecs = {
        "text": train_text_codec(texts * 3, 300),
        "image": fit_image_codec(pictures, 16, 4),
        "shape": LabelCodec(SHAPES, "shape"),
        "item": LabelCodec(sorted(FILMS), "item"),
        "entity": LabelCodec(entities, "entity"),
        "relation": LabelCodec([*relations, *(f"^{each}" for each in relations)], "relation"),
        "row": TableCodec((*flowers, Column.of_words("garden", ["north", "south"]))),
        "flower": LabelCodec(sorted(PETALS), "flower"),
        "section": LabelCodec(sorted(SECTIONS), "section"),
        "tag": LabelCodec(sorted(TAGS), "tag"),
        "seen": TableCodec(tuple(seen), "seen"),
        "action": LabelCodec(sorted({*TURNS, *RoadWorld.actions}), "action"),
        "move": LabelCodec(
            sorted({m for _, ms in BoardWorld.OPENINGS.values() for m in ms}), "move"
        ),
    }
    return Tokens.build(codecs, 1024)


def _example(answer: str, *parts: tuple[str, str]) -> HeldoutExample:
    return HeldoutExample(asked=tuple(AskedPart(codec=c, text=t) for c, t in parts), answer=answer)


def many_tasks() -> tuple[TaskCard, ...]:
    films = ("item", "Psycho (1960)"), ("item", "Casablanca (1942)")
    known = ("entity", "virus"), ("relation", "causes"), ("entity", "cold"), ("relation", "causes")
    row = dict(zip(COLUMNS, (5.9, 3.0, 4.2, 1.5), strict=True)) | {"garden": "north"}
    ways = ("text", "en > de\nthe house is old."), ("text", "de > en\ndas Haus ist alt.")
    worlds, taught = (GRID, ROAD), ("seen",)
    return (
        TaskCard(field="images", asked=("image",), answer="shape"),
        TaskCard(
            field="interactions",
            asked=("item",),
            answer="item",
            options={"window": "5"},
            examples=(_example("Vertigo (1958)", *films),),
        ),
        TaskCard(
            field="triples",
            asked=("entity", "relation"),
            answer="entity",
            options={"facts": "48"},
            examples=(
                _example("influenza", *known),
                _example("aspirin", ("entity", "headache"), ("relation", "^treats")),
            ),
        ),
        TaskCard(
            field="table",
            asked=("row",),
            answer="flower",
            examples=(_example("versicolor", ("row", json.dumps(row))),),
        ),
        TaskCard(
            field="labels",
            asked=("text",),
            answer="section",
            examples=(_example("games", ("text", "a chess game to play by the web")),),
        ),
        TaskCard(
            field="tags",
            asked=("text",),
            answer="tag",
            options={"window": "3"},
            examples=(_example("NOUN", ("text", " the quick _ jumps over the\n fox")),),
        ),
        TaskCard(
            field="translation",
            asked=("text",),
            answer="text",
            examples=(
                _example("das Haus ist alt.", ways[0]),
                _example("the house is old.", ways[1]),
            ),
        ),
        TaskCard(field="episodes", asked=taught, answer="action", worlds=worlds),
        TaskCard(field="chess", asked=taught, answer="move", worlds=(BOARD,)),
    )


# ------------------------------------------------------------------ the rules


class Rules:
    """What `score` and `reply` of a fake engine answer; asked: every prompt that was scored."""

    def __init__(self, tokens: Tokens) -> None:
        self.tokens, self.asked = tokens, list[tuple[int, ...]]()

    def score(
        self, sequences: Sequence[Sequence[int]], prefix: Sequence[int] = ()
    ) -> list[NDArray[np.float64]]:
        """ln p among the candidates, each of one id."""
        self.asked.append(tuple(prefix))
        ranges = token_space(self.tokens).ranges
        codec = next(name for name, ids in ranges.items() if sequences[0][0] in ids)
        found = decode_parts(self.tokens, prefix)
        parts = [part for part in found if part.codec != "special"]
        names = [
            self.tokens.codecs[codec].decode([ids[0] - ranges[codec].start]) for ids in sequences
        ]
        logits = np.array([RULES[codec](name, parts) for name in names], np.float64)
        return [np.array([nats]) for nats in logits - np.log(np.exp(logits).sum())]

    def reply(self, request: GenerateRequest) -> list[int]:
        """A translation, by heart."""
        parts = decode_parts(self.tokens, request.prompt_ids)
        text = next(part.value for part in parts if part.codec == "text")
        answer = WORDS.get(text.partition("\n")[2], "…")
        return self.tokens.encode_parts([Part("text", answer)])


def _film(name: str, parts: Sequence[Part]) -> float:
    """Like those that were seen, the last one most; the order of the list else."""
    likes = sum(
        len({*FILMS[name].split()} & {*FILMS[part.value].split()}) * (1 + place)
        for place, part in enumerate(parts)
    )
    return likes - 0.1 * list(FILMS).index(name)


def _end(name: str, parts: Sequence[Part]) -> float:
    head, relation = parts[0].value, parts[-1].value
    if relation.startswith("^"):
        return 4.0 * ((name, relation[1:], head) in FACTS)
    return 4.0 * ((head, relation, name) in FACTS)


def _flower(name: str, parts: Sequence[Part]) -> float:
    """By the petals, and a little by the sepals; what is missing says nothing."""
    row, long = parts[0].value, PETALS[name]
    petal, width = row["petal length"], row["petal width"]
    told = 0.0 if petal is None else -1.5 * (petal - long) ** 2
    told += 0.0 if width is None else -1.2 * (3 * width - long) ** 2 / 3
    sepal = row["sepal width"]
    return told + (0.0 if sepal is None else 0.5 * (sepal - 3) * (name == "setosa"))


def _section(name: str, parts: Sequence[Part]) -> float:
    words = parts[0].value.lower().split()
    return 1.5 * sum(word in SECTIONS[name].split() for word in words)


def _tag(name: str, parts: Sequence[Part]) -> float:
    """The word stands behind the last line end; "by" and the like after an adjective are nouns."""
    around, _, word = parts[0].value.rpartition("\n")
    before = around.partition("_")[0].split()
    after_adjective = bool(before) and before[-1] in TAGS["ADJ"].split()
    known = 3.0 * (word.strip().lower() in TAGS[name].split())
    return known + 1.0 * (name == "NOUN" and after_adjective)


def _action(name: str, parts: Sequence[Part]) -> float:
    row = parts[-1].value
    if name in RoadWorld.actions:
        return 1.0 * (name == "LANE_RIGHT") * (row["ahead"] == 3)
    if name == "forward":
        return 2.0 * (row["ahead"] > 0)
    return 2.0 * (row["ahead"] <= 0) * (name == ("turn_left" if row["aside"] < 0 else "turn_right"))


RULES: dict[str, Any] = {
    "item": _film,
    "entity": _end,
    "flower": _flower,
    "section": _section,
    "tag": _tag,
    "action": _action,
    "relation": lambda name, parts: 0.0,
    "shape": lambda name, parts: 2.0 * (name == "bag") + 0.3 * len(name) / 10,
    "move": lambda name, parts: 1.0 * (name in ("e2e4", "e7e5", "g1f3")),
}


def main(port: int) -> None:
    import pathlib
    import tempfile
    import time

    from tests.studio.conftest import real_site
    from tests.studio.worlds import PLAYS

    tokens = many_tokens()
    with (
        tempfile.TemporaryDirectory() as home,
        real_site(tokens, pathlib.Path(home), tasks=many_tasks(), plays=PLAYS, port=port) as site,
    ):
        rules = Rules(tokens)
        site.engine.score, site.engine.reply = rules.score, rules.reply
        print(site.app.state.access.page_address(site.base_url), flush=True)
        time.sleep(10**6)


if __name__ == "__main__":
    main(int(sys.argv[1]))
