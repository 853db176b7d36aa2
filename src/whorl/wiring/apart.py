"""Each field of a recipe by itself, at equal compute: what is gained and lost by one model for all.

Of a recipe of several fields there is one of each, with the same model's shape, as many ids as the
field has in the whole, and as many of its rows in training: in as many steps, each of the field's
part of the batch. Its learning rates are smaller by the square root of that part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from whorl.arch.shape import ModelShape
from whorl.codecs.contract import Tokens
from whorl.codecs.parts import token_space
from whorl.codecs.text import NUM_SPECIAL
from whorl.core.errors import SpecError
from whorl.core.heldout import HeldoutDocuments
from whorl.core.ports import Field
from whorl.core.records import Record
from whorl.core.rows import RowSet
from whorl.spec.load import LoadedRecipe, parse_recipe
from whorl.stages.evaluate.beside import ByItself
from whorl.wiring.work import Work

if TYPE_CHECKING:
    from whorl.stages.plan.plan import Plan

__all__ = ["alone", "recipes_of"]

RATES = ("learning_rate", "embedding_learning_rate")
KEPT = ("formats", "search", "cache")  # of compression
ANY_LOSS = 0.99  # of compression: a model that is only compared is not refused for it


class Together(Work, Protocol):
    """A recipe of several fields that has been trained."""

    @property
    def fields(self) -> Mapping[str, Field]: ...

    @property
    def planned(self) -> Plan: ...

    @property
    def records(self) -> Mapping[str, Record]: ...


Evaluated = Callable[[LoadedRecipe], tuple[Record, Record]]


def alone(session: Together, evaluated: Evaluated) -> dict[str, ByItself]:
    """Of each field its own model's evaluation, where the recipe asks and has several; else {}.

    evaluated: the records of evaluate and train of a recipe, made now unless they are there.
    Raises SpecError if the sources have no shares.
    """
    if len(session.fields) < 2 or not session.loaded.recipe.evaluate.apart:
        return {}
    found = {}
    for name, recipe in recipes_of(session).items():
        record, trained = evaluated(recipe)
        note = f"{trained.metrics['trained_tokens']:,} tokens of this field alone"
        found[name] = ByItself(record, note)
    return found


def recipes_of(session: Together) -> dict[str, LoadedRecipe]:
    """Of each field its own, of a session whose data is prepared."""
    train, prepared = session.planned.decisions.train, session.records["prepare"]
    rows, documents = RowSet.open(prepared), HeldoutDocuments.open(prepared)
    ranges = token_space(Tokens.load(prepared.folder("tokens"))).ranges.values()
    mixture = rows.mixture(train.seed)
    if mixture is None:
        raise SpecError(
            "evaluate.apart compares fields at equal compute: their sources need shares",
            do="give each entry of data its share",
        )
    drawn = mixture.drawn(train.steps * (train.batch_tokens // train.seq_len)).tolist()
    num_rows = dict.fromkeys(session.fields, 0)
    for count, source in zip(drawn, rows.index.sources, strict=True):
        num_rows[source.field] += count
    found = {}
    for name, mine in num_rows.items():
        met = set(np.unique(documents.of_field(name).all_ids).tolist())
        num_ids = NUM_SPECIAL + sum(len(ids) for ids in ranges if not met.isdisjoint(ids))
        found[name] = _recipe_of(session, name, mine, num_ids)
    return found


def _recipe_of(session: Together, name: str, num_rows: int, num_ids: int) -> LoadedRecipe:
    """Of one field: of so many rows in all, and as many ids as its held-out documents use."""
    recipe, decided = session.loaded.recipe, session.planned.decisions
    train = decided.train
    rows_per_step = max(1, round(num_rows / train.steps))
    part = rows_per_step / (train.batch_tokens // train.seq_len)
    raw: dict[str, Any] = recipe.model_dump(mode="json", exclude_unset=True)
    for key in ("budget", "serve"):  # of training all that is needed is said, and nothing is served
        raw.pop(key, None)
    compress = {key: raw.get("compress", {})[key] for key in KEPT if key in raw.get("compress", {})}
    given = raw.get("train", {})
    rates = {key: given[key] * part**0.5 for key in RATES if isinstance(given.get(key), float)}
    entries = [entry for entry in raw["data"] if entry.get("field", "text") == name]
    whole = sum(entry["share"] for entry in entries)
    raw |= {
        "name": f"{recipe.name}.{name}"[:64],
        "data": [_entry(entry, len(entries), whole) for entry in entries],
        "prepare": {**raw.get("prepare", {}), "vocab_size": num_ids},
        "model": {**raw.get("model", {}), **_sizes(decided.shape)},
        "train": {
            **given,
            **rates,
            "seq_len": train.seq_len,
            "batch_tokens": rows_per_step * train.seq_len,
            "steps": max(1, round(num_rows / rows_per_step)),
        },
        "compress": {**compress, "max_bpb_increase": ANY_LOSS},
        "evaluate": {**raw.get("evaluate", {}), "apart": False, "baselines": False},
    }
    return parse_recipe(raw, path=session.loaded.path)


def _sizes(shape: ModelShape) -> dict[str, int]:
    """What a recipe's `model` says of a shape that it had planned."""
    sizes = {key: getattr(shape, key) for key in ("layers", "width", "ffn_width")}
    return sizes | {key: getattr(shape.attention, key) for key in ("heads", "kv_heads", "head_dim")}


def _entry(entry: Mapping[str, Any], count: int, whole: float) -> dict[str, Any]:
    """A source's entry with its share of the field, which a single source has not."""
    kept = {key: value for key, value in entry.items() if key != "share"}
    return kept if count == 1 else {**kept, "share": entry["share"] / whole}
