"""What a served model's card tells: what was measured of it, and what it was taught to answer.

The latter is read from the record of its data: each field of the recipe with the codecs of its
questions and answers, its options, some held-out questions, and the environments that it was taught
to act in.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from whorl.codecs.contract import SPECIAL_CODEC, Tokens
from whorl.codecs.parts import decode_parts
from whorl.core.environments import PlayTask
from whorl.core.errors import DataError, WhorlError
from whorl.core.heldout import HeldoutDocuments
from whorl.core.metrics import find_metric
from whorl.core.ports import Codec, HeldoutDocument
from whorl.core.records import Record
from whorl.core.variants import Variant
from whorl.fields.base import find_field
from whorl.stages.serve.card import AskedPart, HeldoutExample, QualityFigure, TaskCard

__all__ = ["figures_by_variant", "plays_of", "tasks_asked"]

LOG = logging.getLogger(__name__)
NUM_EXAMPLES, NUM_LOOKED_AT = 6, 60  # of a field
MOST_SIGNS = 1_500  # of an example: they are told with every list of models
MOST_PARTS = 100
MOST_WORLDS = 8
MOST_NAME = 60  # signs of an answer that is one of few
CHOICE_TYPE, ROW_TYPE = "application/x-choice", "application/json"
Halves = tuple[list[int], list[int]]  # ids of a question, and of its answer


def figures_by_variant(
    scores: Sequence[Mapping[str, Any]],
) -> dict[Variant, tuple[QualityFigure, ...]]:
    """What was measured of a model, as rows of its scores tell it."""
    found: dict[Variant, tuple[QualityFigure, ...]] = {}
    for score in scores:
        if score.get("variant") is not None:
            figure = QualityFigure(
                **{key: score[key] for key in ("name", "field", "metric", "value", "low", "high")},
                shown=find_metric(score["metric"]).shown(score["value"]),
            )
            variant = Variant(**score["variant"])
            found[variant] = (*found.get(variant, ()), figure)
    return found


def tasks_asked(home: Path, lineage: Mapping[str, Any], tokens: Tokens) -> tuple[TaskCard, ...]:
    """Of each field, in the order of the recipe; () where the record is not in this home.

    One that is damaged, or of a field that is not installed, is told in the log: a model is served
    without it.
    """
    digest = str(lineage.get("prepare", ""))
    found = sorted(home.glob(f"*/prepare/{digest}")) if digest.isalnum() else []
    if not found:
        return ()
    try:
        prepared = Record.load(found[0])
        documents = HeldoutDocuments.open(prepared)
        sources = {each["field"]: each["options"] for each in prepared.config["sources"]}
        told = (_tasks(name, given, documents, tokens) for name, given in sources.items())
        return tuple(itertools.chain.from_iterable(told))
    except WhorlError as error:
        LOG.warning("what this model was taught is not told: %s", error)
        return ()


def plays_of(tasks: Sequence[TaskCard]) -> dict[str, PlayTask]:
    """field -> its task, of fields whose models act in environments."""
    named = {card.field: find_field(card.field).task for card in tasks if card.worlds}
    return {field: task for field, task in named.items() if isinstance(task, PlayTask)}


def _tasks(
    name: str, given: Mapping[str, str], documents: HeldoutDocuments, tokens: Tokens
) -> Iterator[TaskCard]:
    """Of a field: one, or several where some questions are said and others typed."""
    field = find_field(name)
    mine = [number for number, each in enumerate(documents.fields) if each == name]
    worlds: dict[str, None] = {}
    if isinstance(field.task, PlayTask):
        worlds = dict.fromkeys(field.task.own_worlds)
        found = (field.task.world_of(documents.names[number]) for number in mine)
        worlds |= {world: None for world in found if world}
    kinds: dict[frozenset[str], list[Halves]] = {}
    for number in _spread(mine, NUM_LOOKED_AT):
        halves = _halves(documents.document(number), tokens)
        if halves is not None:
            kinds.setdefault(frozenset(_codecs_of(halves[0], tokens)), []).append(halves)
    for some in kinds.values():
        asked = {codec: None for before, _ in some for codec in _codecs_of(before, tokens)}
        answer = next(iter(_codecs_of(some[0][1], tokens)))
        in_words = all(_is_told_in_words(tokens.codecs[codec]) for codec in (*asked, answer))
        yield TaskCard(
            field=name,
            asked=tuple(asked),
            answer=answer,
            options={**field.options, **given},
            examples=_varied(list(_examples(some, tokens))) if asked and in_words else (),
            worlds=tuple(worlds)[:MOST_WORLDS],
        )


def _spread(numbers: Sequence[int], most: int) -> list[int]:
    """At most so many of them, from all over."""
    count = min(most, len(numbers))
    return [numbers[place * len(numbers) // count] for place in range(count)]


def _halves(document: HeldoutDocument, tokens: Tokens) -> Halves | None:
    """Ids before the first learned one, and from it on; None where no codec answers."""
    if not document.mask.any():
        return None
    at, ids = int(document.mask.argmax()), [int(i) for i in document.ids]
    return (ids[:at], ids[at:]) if _codecs_of(ids[at:], tokens) else None


def _codecs_of(ids: Sequence[int], tokens: Tokens) -> dict[str, None]:
    """Of the ids that are not special, in the order they come in."""
    special = set(tokens.contract.special.values())
    owners = (
        next((e.name for e in tokens.contract.codecs if e.id_start <= i < e.id_end), None)
        for i in ids
        if i not in special
    )
    return {name: None for name in owners if name is not None}


def _is_told_in_words(codec: Codec) -> bool:
    """Texts, choices and rows; what images and sounds are decoded to takes long, and no words."""
    return codec.media_type.startswith("text/") or codec.media_type in (CHOICE_TYPE, ROW_TYPE)


def _examples(halves: Iterable[Halves], tokens: Tokens) -> Iterator[HeldoutExample]:
    """Those that are short."""
    for before, after in halves:
        try:
            parts, (answer, *_) = _parts(before, tokens), _parts(after, tokens)
        except DataError:
            continue
        if len(parts) <= MOST_PARTS and sum(len(part.text) for part in parts) <= MOST_SIGNS:
            yield HeldoutExample(asked=tuple(parts), answer=answer.text[:MOST_SIGNS])


def _varied(examples: Sequence[HeldoutExample]) -> tuple[HeldoutExample, ...]:
    """At most NUM_EXAMPLES, of as many kinds as there are: other answers, other first lines."""
    kinds: dict[tuple[str, str], list[HeldoutExample]] = {}
    for example in examples:
        line, end, _ = example.asked[0].text.partition("\n") if example.asked else ("", "", "")
        closed = example.answer if len(example.answer) <= MOST_NAME else ""
        kinds.setdefault((line if end else "", closed if not end else ""), []).append(example)
    turns = itertools.zip_longest(*kinds.values())
    found = [example for turn in turns for example in turn if example is not None]
    return tuple(found[:NUM_EXAMPLES])


def _parts(ids: Sequence[int], tokens: Tokens) -> list[AskedPart]:
    """In words. Raises DataError if a codec cannot decode its ids."""
    return [
        AskedPart(codec=part.codec, text=_text(part.value))
        for part in decode_parts(tokens, ids)
        if part.codec != SPECIAL_CODEC
    ]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
