"""Whatever is written for any key of the schema is taken for what it says, or refused clearly.

Keys and bounds are found in the exported JSON Schema: a new key is tried without a change here.
What a text means is computed with fractions, not by the code that reads recipes.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from whorl.core.errors import SpecError
from whorl.spec.load import known_keys, parse_recipe
from whorl.spec.reading import read_text
from whorl.spec.recipe import Recipe

TRIALS = int(float(os.environ.get("WHORL_TRIALS", "1")) * 12)
DATA = {"source": "notes"}
DECIMAL = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9, "t": 10**12}
BINARY = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}
# docs/decisions/014-suffixes.md
LENGTHS = {
    *("train.seq_len", "train.batch_tokens", "prepare.vocab_size"),
    *("model.width", "model.head_dim", "model.ffn_width"),
}
DURATIONS = {  # a bare number has no unit
    "budget.train_time",
    "compress.search_time",
    "serve.max_time",
    "serve.max_wait",
    "serve.ttft_p95",
}
NEEDS = {  # what else must be said so that one key alone makes sense
    "budget.usd": {"hardware": {"usd_per_device_hour": 1}},
    "hardware.count": {"hardware": {"device": "h100-sxm"}},
    "evaluate.forgetting": {"model": {"base": "mine@1"}},
    "evaluate.max_forgetting": {"model": {"base": "mine@1"}},
}
NEEDED_BY_GROUPS = {
    "model.prune": {"model": {"base": "mine@1"}},
    "train.lora": {"model": {"base": "mine@1"}},
    "train.dpo": {"model": {"base": "mine@1"}, "train": {"objective": "dpo"}},
    "train.distil": {
        "model": {"base": "mine@1"},
        "train": {"objective": "distil", "distil": {"teacher": "mine@2"}},
    },
}
NEIGHBOURS = (  # what one key alone may lack
    *("heads", "needs model.base", "another objective is trained", "objective: dpo"),
)
GROUPS_OF_TRAINING = {"train.lora", "train.dpo", "train.distil"}
OTHERWISE = {"data.options", "train.distil.teacher"}  # is empty by default; distil needs one
NOTHING = {"", "~", "null", "none", "auto"}
Node = Mapping[str, Any]


def schema_keys(node: Node, schema: Node, prefix: str = "") -> Iterator[tuple[str, Node]]:
    """(dotted key, its JSON Schema) of every key that has no keys below it."""
    for name, child in node["properties"].items():
        parts = (child, *child.get("allOf", ()), *child.get("anyOf", ()))
        found = [resolve(item, schema) for item in parts]
        if "items" in child:
            found.append(resolve(child["items"], schema))
        if groups := [item for item in found if "properties" in item]:
            yield from schema_keys(groups[0], schema, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", child


def resolve(node: Node, schema: Node) -> Node:
    if "$ref" in node:
        found: Node = schema["$defs"][node["$ref"].rpartition("/")[2]]
        return found
    return node


SCHEMA = Recipe.model_json_schema()
KEYS = dict(schema_keys(SCHEMA, SCHEMA))


def choices(node: Node) -> list[Node]:
    return list(node.get("anyOf", [node]))


def numbers(node: Node) -> list[Node]:
    return [item for item in choices(node) if item.get("type") in ("integer", "number")]


NUMBERS = sorted(key for key, node in KEYS.items() if numbers(node))


def written(key: str, value: object) -> Fraction | None:
    """The number a value says of a key; None: it says none."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        finite = isinstance(value, int) or abs(value) < float("inf")
        return Fraction(value) if finite and key not in DURATIONS else None
    if not isinstance(value, str) or not value:
        return None
    bounds = numbers(KEYS[key])[0]
    units = BINARY if key in LENGTHS else DECIMAL
    if bounds["type"] == "number":
        units = {"": 1, **({"%": Fraction(1, 100)} if bounds["maximum"] == 1 else {})}
    if key in DURATIONS:
        units = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
    unit = value.lstrip("+-.0123456789_eE").lower()
    number = value[: len(value) - len(unit)]
    if unit not in units or not number or not set(number) <= set("+-.0123456789_eE"):
        return None
    try:
        return Fraction(number) * units[unit]
    except ValueError:
        return None


def judged(key: str, value: object) -> Fraction | None:
    """The value a number key gets, or None if it is to be refused."""
    bounds, number = numbers(KEYS[key])[0], written(key, value)
    if number is None or not bounds["minimum"] <= number <= bounds["maximum"]:
        return None
    if bounds["type"] == "integer" and number.denominator != 1:
        return None
    if (key == "data.share" and number != 1) or (key == "model.head_dim" and number % 2):
        return None  # what several keys say together
    return number


def recipe_with(key: str, value: object) -> dict[str, Any]:
    raw: dict[str, Any] = {"name": "mine", "data": [dict(DATA)]}
    needed = NEEDS.get(key) or NEEDED_BY_GROUPS.get(key.rpartition(".")[0], {})
    raw |= json.loads(json.dumps(needed))
    here, (*parents, last) = raw, key.split(".")
    for parent in parents:
        here = here["data"][0] if parent == "data" else here.setdefault(parent, {})
    here[last] = value
    return raw


def value_at(recipe: Recipe, key: str) -> Any:
    value: Any = recipe
    for part in key.split("."):
        value = getattr(value[0] if isinstance(value, tuple) else value, part)
    return value


def said(value: object) -> str:
    """As YAML, quoted: texts are then the same texts."""
    return json.dumps(value, ensure_ascii=False)


def check_refusal(error: SpecError, key: str) -> None:
    assert key.rpartition(".")[2] in error.what, error
    assert error.found is not None and error.expected is not None and error.do is not None, error
    text = str(error)
    assert len(text.splitlines()) == 1 and len(text) < 600, error
    told = f"{error.what} {error.expected} {error.do}".lower()
    assert not any(word in told for word in ("input should", "validation", "pydantic")), error


def number_texts() -> st.SearchStrategy[str]:
    digits = st.integers(-5, 10**7).map(str) | st.floats(-2, 1e6).map(repr)
    odd = st.sampled_from(["1_000", "1e3", "2E-5", ".5", "5.", "+7", "0x1f", "1,000", "١٢", "1/2"])
    units = st.sampled_from(["", "", "k", "K", "M", "B", "T", "G", "%", "s", "min", "h", "q"])
    return st.builds(lambda number, unit: f"{number}{unit}", digits | odd, units)


VALUES = (
    st.integers(-3, 5000)
    | st.integers()
    | st.sampled_from([10**400, -(10**400), 2**31, 65_536, 0, 1, 999])
    | st.floats()
    | st.booleans()
    | st.none()
    | number_texts()
    | st.sampled_from([*NOTHING, "no", "on", "yes", "true", ".nan", ".inf", "-.inf", "2024-01-01"])
    | st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)
    | st.lists(st.integers(), max_size=2)
    | st.dictionaries(st.text(max_size=3), st.integers(), max_size=1)
)


def test_the_schema_and_the_known_keys_are_the_same() -> None:
    known = set(known_keys())
    groups = {key for key in known if any(other.startswith(f"{key}.") for other in known)}
    assert set(KEYS) == known - groups
    assert len(NUMBERS) > 35


def test_every_number_has_bounds() -> None:
    for key in NUMBERS:
        for node in numbers(KEYS[key]):
            assert node["minimum"] >= 0 and node["maximum"] <= 1e32, key


def test_none_leaves_a_key_out_empties_it_or_is_refused() -> None:
    """Of every key and group, in any spelling; which of the three the schema says."""
    taken = set()
    for key, word in itertools.product(known_keys(), ("none", "null", "~", "None", None)):
        try:
            got = value_at(parse_recipe(recipe_with(key, word)).recipe, key)
        except SpecError as error:
            check_refusal(error, key)
        else:
            assert got is None or isinstance(got, dict | tuple | str | BaseModel), (key, word)
            if not isinstance(got, str):  # a name may be "none"
                taken.add((key, word))
    for key, node in KEYS.items():
        kinds = {item.get("type") for item in choices(node) if not item.get("minItems")}
        empties = "null" in kinds or (kinds & {"array", "object"} and "default" in node)
        assert ((key, "none") in taken) == bool(empties) or key in OTHERWISE, key
    groups = {key for key, word in taken if word == "none"} - set(KEYS)
    assert groups == {"budget", "compress", "model.prune", *GROUPS_OF_TRAINING}
    assert {key for key, _ in taken} == {key for key, word in taken if word == "~"}


@pytest.mark.parametrize("key", ["budget", "hardware", "prepare", "train", "evaluate", "serve"])
def test_a_group_that_is_set_to_none_is_no_riddle(key: str) -> None:
    raw = {"name": "mine", "data": [dict(DATA)], "budget": {"train_time": "4min"}}
    if key == "budget":  # of limits, each of which may be left out
        recipe = parse_recipe(raw, overrides=["budget=none", "train.steps=30"]).recipe
        assert recipe.budget.train_time is None and recipe.train.steps == 30
        return
    with pytest.raises(SpecError, match=rf"{key} \(--set\): wrong value.*leave it out$") as caught:
        parse_recipe(raw, overrides=[f"{key}=none"])
    check_refusal(caught.value, key)


def test_a_single_name_is_a_list_of_one() -> None:
    """Of every key that has a list of texts, by the schema; what is a word of the key stays one."""
    names = {"compress.formats": "int8", "train.lora.targets": "q_proj"}
    names |= {"serve.allowed_hosts": "models.example", "serve.allowed_origins": "https://a.example"}
    listed = {
        key
        for key in KEYS
        if key != "data" and any(item.get("type") == "array" for item in choices(KEYS[key]))
    }
    assert listed == set(names)
    raw = {"name": "mine", "data": [dict(DATA)], "model": {"base": "a/b"}}
    for key, name in names.items():
        assert value_at(parse_recipe(raw, overrides=[f"{key}={name}"]).recipe, key) == (name,)
    for key, word in (("compress.formats", "auto"), ("train.lora.targets", "all")):
        assert value_at(parse_recipe(raw, overrides=[f"{key}={word}"]).recipe, key) == word
    with pytest.raises(SpecError, match=r"compress\.formats.*found: 'int9'.*a list of int8, int4"):
        parse_recipe(raw, overrides=["compress.formats=int9"])


def test_a_list_that_is_set_to_none_is_empty() -> None:
    """Not a host of that name."""
    raw = {"name": "mine", "data": [DATA | {"options": {"text_key": "body"}}]}
    raw |= {"serve": {"allowed_hosts": ["models.example"]}}
    keys = ("serve.allowed_hosts", "serve.allowed_origins", "compress.formats", "data.options")
    recipe = parse_recipe(raw, overrides=[f"{key}=none" for key in keys]).recipe
    assert (recipe.serve.allowed_hosts, recipe.serve.allowed_origins) == ((), ())
    assert recipe.compress.formats == () and recipe.data[0].options == {}


@settings(max_examples=TRIALS, deadline=None)
@given(VALUES)
@pytest.mark.parametrize("key", NUMBERS)
def test_a_number_is_read_as_written_or_refused(key: str, value: object) -> None:
    wanted = judged(key, value)
    optional = any(item.get("type") == "null" for item in choices(KEYS[key]))
    auto = any(item.get("const") == "auto" for item in choices(KEYS[key]))
    try:
        got = value_at(parse_recipe(recipe_with(key, value)).recipe, key)
    except SpecError as error:
        assert wanted is None, (key, value, error)
        check_refusal(error, key)
        return
    word = value.lower() if isinstance(value, str) else value
    if optional and (word is None or word in NOTHING):
        assert got is None
    elif auto and value == "auto":
        assert got == "auto"
    else:
        assert wanted is not None, (key, value, got)
        assert got == pytest.approx(float(wanted), rel=1e-12, abs=0), (key, value)
        assert not isinstance(got, bool)


@settings(max_examples=TRIALS, deadline=None)
@given(VALUES)
@pytest.mark.parametrize("key", sorted(KEYS))
def test_any_value_of_any_key_is_taken_or_refused_clearly(key: str, value: object) -> None:
    try:
        parse_recipe(recipe_with(key, value))
    except SpecError as error:
        check_refusal(error, key)


@settings(max_examples=TRIALS, deadline=None)
@given(st.sampled_from(sorted(KEYS)), number_texts() | st.sampled_from(sorted(NOTHING)))
def test_file_flag_and_dict_mean_the_same(key: str, text: str) -> None:
    """The same text in YAML, behind --set and in a dict."""

    def outcome(read: Any) -> object:
        try:
            return read().recipe
        except SpecError:
            return "refused"

    def from_yaml() -> Any:
        value, lines = read_text(json.dumps(recipe_with(key, text)), "r.yaml")
        return parse_recipe(value, lines)

    as_dict = outcome(lambda: parse_recipe(recipe_with(key, text)))
    assert outcome(from_yaml) == as_dict
    base = recipe_with(key, text)
    here = base["data"][0] if key.startswith("data.") else base
    *parents, last = key.removeprefix("data.").split(".")
    for parent in parents:
        here = here[parent]
    del here[last]
    assert outcome(lambda: parse_recipe(base, overrides=[f"{key}={text}"])) == as_dict


@settings(max_examples=TRIALS, deadline=None)
@given(st.data())
def test_a_recipe_is_read_back_from_what_it_says(data: st.DataObject) -> None:
    keys = data.draw(st.lists(st.sampled_from(NUMBERS), unique=True, max_size=5))
    raw: dict[str, Any] = {"name": "mine", "data": [dict(DATA)]}
    for key in keys:
        node = numbers(KEYS[key])[0]
        low, high = node["minimum"], min(node["maximum"], 10**6)
        drawn: st.SearchStrategy[float] = st.floats(low, high, allow_subnormal=False)
        if node["type"] == "integer":
            drawn = st.integers(int(low), int(high))
        value = data.draw(drawn)
        if key.startswith(("data.", "budget.", "hardware.")) or key == "model.head_dim":
            continue
        here, (*parents, last) = raw, key.split(".")
        for parent in parents:
            here = here.setdefault(parent, {})
        here[last] = f"{value:.6f}s" if key in DURATIONS else value
    try:
        recipe = parse_recipe(raw).recipe
    except SpecError as error:  # kv_heads must divide them
        assert any(why in str(error) for why in NEIGHBOURS)
        return
    assert parse_recipe(recipe.model_dump(mode="json")).recipe == recipe
