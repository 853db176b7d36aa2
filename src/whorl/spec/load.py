"""Read a recipe from YAML: every key known, every value checked, every origin remembered."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from whorl.core.errors import SpecError
from whorl.core.units import format_duration, shown
from whorl.spec.reading import read_file, read_text
from whorl.spec.recipe import LATER, CompressSpec, Recipe
from whorl.spec.refusals import spec_error
from whorl.spec.saying import group_of

__all__ = ["LoadedRecipe", "known_keys", "load_recipe", "parse_recipe", "without_numbers"]

WRITTEN_AS_YAML = ("[", "{", '"', "'")
FIELD_OPTIONS = "data.options."  # keys below are those of a field, which checks them


@dataclass(frozen=True)
class LoadedRecipe:
    recipe: Recipe
    origins: Mapping[
        str, str
    ]  # "data.0.source" -> "recipes/x.yaml:12", "--set"; absent: the default
    path: Path | None  # where relative sources are looked up: the recipe's folder

    @property
    def folder(self) -> Path:
        return self.path.parent if self.path else Path.cwd()


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """Read a YAML recipe and apply `key=value` overrides.

    Raises SpecError naming the file, line or key, what was found and the nearest right name.
    """
    value, lines = read_text(read_file(path), str(path))
    if not isinstance(value, dict):
        kind = {list: "a list", str: "a text", type(None): "nothing"}[type(value)]
        raise SpecError(
            f"{path} is not a recipe",
            found=kind,
            expected="keys, such as name and data",
            do=f"whorl new NAME --data {path} writes one, if these are your data",
        )
    return parse_recipe(value, lines, path, overrides)


def parse_recipe(
    value: Mapping[str, Any],
    origins: Mapping[str, str] | None = None,
    path: Path | None = None,
    overrides: Sequence[str] = (),
) -> LoadedRecipe:
    """Check a recipe given as a dict. Raises SpecError."""
    raw: dict[str, Any] = {**value}
    found = dict(origins or {})
    for override in overrides:
        key, given = _split_override(override)
        _refuse(key, given, raw, "--set")
        found[_set(raw, key, given)] = "--set"
    for key, given in _flat(raw):
        _refuse(key, given, raw, _line_of(key, found))
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        raise spec_error(error, Recipe, found) from error
    _check_together(recipe)
    return LoadedRecipe(recipe, found, path)


def without_numbers(key: str) -> str:
    """ "data.0.source" -> "data.source": as the schema names the keys of list items."""
    return ".".join(part for part in key.split(".") if not part.isdigit())


def known_keys(model: type[BaseModel] = Recipe, prefix: str = "") -> Iterator[str]:
    """Every dotted key of a recipe; list items as `data.N.source` are written `data.source`."""
    for name, info in model.model_fields.items():
        yield f"{prefix}{name}"
        if group := group_of(info.annotation):
            yield from known_keys(group, f"{prefix}{name}.")


@functools.cache
def _known() -> tuple[str, ...]:
    return tuple(known_keys())


def _split_override(override: str) -> tuple[str, Any]:
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not key.strip("."):
        raise SpecError(
            f"--set {override}",
            found=shown(override),
            expected="--set key=value, such as train.seq_len=512",
            do="whorl explain RECIPE lists every key",
        )
    text = text.strip()
    if text[:1] not in WRITTEN_AS_YAML:  # `*.txt`, `a: b` and `#1` are texts
        return key, text
    return key, read_text(text, f"--set {key}")[0]


def _set(raw: dict[str, Any], key: str, value: Any) -> str:
    """Put the value at the dotted key, which is returned with the number of its list item.

    Raises SpecError if it says neither which item of several, nor one that there is.
    """
    parts, here, done = key.split("."), raw, ""
    for position, part in enumerate(parts[:-1]):
        child = here.get(part)
        if isinstance(child, list | tuple):
            rest = parts[position + 1 :]
            number = _item(child, f"{done}{part}", rest, value)
            items = [dict(item) if isinstance(item, Mapping) else item for item in child]
            if not isinstance(items[number], dict):
                raise SpecError(f"--set {key}: {done}{part}.{number} has no keys below it")
            here[part] = items
            tail = ".".join(rest[1:] if rest[0].isdigit() else rest)
            return f"{done}{part}.{number}." + _set(items[number], tail, value)
        child = dict(child) if isinstance(child, Mapping) else {}
        here[part], here, done = child, child, f"{done}{part}."
    here[parts[-1]] = value
    return key


def _item(items: Sequence[Any], key: str, rest: Sequence[str], value: Any) -> int:
    """Which item of a list an override is about: the only one needs no number."""
    if not rest[0].isdigit():
        if len(items) == 1:
            return 0
        raise SpecError(
            f"--set {key}.{'.'.join(rest)}: {key} has {len(items)} items",
            found=f"{key}.{'.'.join(rest)}",
            expected=f"the number of one, {key}.0 to {key}.{len(items) - 1}",
            do=f"such as --set {key}.0.{'.'.join(rest)}={value}",
        )
    number = int(rest[0]) if len(rest[0]) < 9 else len(items)
    if number >= len(items) or len(rest) == 1:
        raise SpecError(
            f"--set {key}.{'.'.join(rest)}: there is no such key",
            found=f"{key}.{rest[0]}",
            expected=f"{key}.0.source to {key}.{len(items) - 1}.source" if items else "no items",
            do=f"the items of {key} are counted from 0",
        )
    return number


def _flat(raw: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every key, list items without their number."""
    if isinstance(raw, Mapping):
        for key, value in raw.items():
            yield f"{prefix}{key}", value
            yield from _flat(value, f"{prefix}{key}.")
    elif isinstance(raw, list | tuple):
        for item in raw:
            yield from _flat(item, prefix)


def _line_of(key: str, origins: Mapping[str, str]) -> str:
    return next((line for name, line in origins.items() if without_numbers(name) == key), "")


def _refuse(key: str, value: Any, raw: Mapping[str, Any], where: str) -> None:
    """Raises SpecError for a key that is for later, or none of a recipe."""
    plain, place = without_numbers(key), f" ({where})" if where else ""
    for name in (plain, f"{plain}={value}" if isinstance(value, str) else plain):
        if found := next(
            (late for late in LATER if name == late or name.startswith(late + ".")), ""
        ):
            raise SpecError(
                f"{found}{place}: {LATER[found]} is not in this version",
                do="remove the key; CHANGELOG.md says what each version brings",
            )
    known = _known()
    if plain in known or plain.startswith(FIELD_OPTIONS):
        return
    guess, data = _nearest(plain, known), raw.get("data")
    if guess and guess.startswith("data.") and isinstance(data, list) and len(data) > 1:
        guess = guess.replace("data.", "data.0.", 1)
    raise SpecError(
        f"{key}{place}: unknown key",
        found=shown(value),
        expected=f"did you mean {guess}?" if guess else "a key of a recipe",
        do="whorl explain RECIPE lists every key",
    )


def _nearest(key: str, known: Sequence[str]) -> str | None:
    """The known key that was probably meant: one that is spelt alike, or ends in that word."""
    if nearest := difflib.get_close_matches(key, known, n=1, cutoff=0.5):
        return nearest[0]
    lasts = [name.rpartition(".")[2] for name in known]
    by_last = difflib.get_close_matches(key.rpartition(".")[2], lasts, n=1, cutoff=0.7)
    return known[lasts.index(by_last[0])] if by_last else None


def _check_together(recipe: Recipe) -> None:
    """What no single key can know."""
    _check_base(recipe)
    _check_compress(recipe.compress)
    _check_budget(recipe)
    hardware = recipe.hardware
    if hardware.is_here and hardware.count > 1:
        raise SpecError(
            "hardware.count needs hardware.device",
            found=hardware.count,
            expected="1, for this machine",
            do="name the device, such as hardware.device=h100-sxm",
        )
    heads, kv_heads, head_dim = (
        getattr(recipe.model, name) for name in ("heads", "kv_heads", "head_dim")
    )
    if kv_heads != "auto" and heads != "auto" and heads % kv_heads:
        raise SpecError(
            "model.kv_heads does not divide model.heads",
            found=f"{kv_heads} of {heads}",
            expected=f"a divisor of {heads}",
            do="correct one of them, or leave kv_heads out",
        )
    if head_dim != "auto" and head_dim % 2:
        raise SpecError(
            "model.head_dim is odd: positions turn pairs of elements",
            found=head_dim,
            expected="an even number",
            do=f"use {head_dim + 1}",
        )
    shares = [entry.share for entry in recipe.data]
    given_shares = [share for share in shares if share is not None]
    add_up = abs(sum(given_shares) - 1) < 1e-6 and min(given_shares) > 0 if given_shares else True
    if given_shares and (len(given_shares) < len(shares) or not add_up):
        raise SpecError(
            "data.share must add up to 1 over all sources",
            found=["none" if share is None else share for share in shares],
            expected="a share above 0 for each source, or for none",
            do="correct data.0.share and those after it",
        )


def _check_compress(compress: CompressSpec) -> None:
    """What is measured with a format needs one."""
    for key, nothing in (("cache", "f32"), ("speculation", "off")):
        if (found := getattr(compress, key)) != nothing and not compress.tried:
            raise SpecError(
                f"compress.{key} is measured with a format, and compress.formats is empty",
                found=found,
                expected="compress.formats=[int8], or more",
                do=f"name a format, or take out compress.{key}",
            )


def _check_base(recipe: Recipe) -> None:
    """A base decides every size; what is measured of one, or stands beside it, needs one."""
    model, prepare, evaluate = recipe.model, recipe.prepare, recipe.evaluate
    fields = type(model).model_fields
    beside = {
        f"model.{key}": value
        for key, value in model
        if key not in ("base", "prune") and value != fields[key].default
    }
    if prepare.vocab_size != "auto":
        beside["prepare.vocab_size"] = prepare.vocab_size
    if model.base is not None and beside:
        raise SpecError(
            f"{', '.join(beside)} beside model.base: the base has sizes and tokens of its own",
            found=", ".join(f"{key} {value}" for key, value in beside.items()),
            do=f"take out {', '.join(beside)}, or model.base",
        )
    if model.prune is not None and model.base is None:
        raise SpecError(
            "model.prune needs model.base",
            found="a model from scratch",
            do="name a base, or give model.layers",
        )
    if model.base is None and recipe.train.objective == "distil":
        raise SpecError(
            "train.objective distil needs model.base: teacher and student have the same tokens",
            found="a model from scratch",
            expected="model.base",
            do="name a base of the teacher's family",
        )
    if model.base is None and recipe.train.objective == "dpo":
        raise SpecError(
            "train.objective dpo needs model.base: preferences move a model that answers already, "
            "and are measured against it",
            found="a model from scratch",
            expected="model.base",
            do="name a base, such as a model that was taught with objective sft before",
        )
    lora = recipe.train.lora
    if model.base is None and lora is not None and recipe.hardware.is_here:
        said = ", ".join(f"train.lora.{key}" for key in sorted(lora.model_fields_set))
        raise SpecError(
            f"{said or 'train.lora'}: train.lora needs model.base",
            found="weights that begin at random, and would stay as they are",
            expected="model.base",
            do="name a base, or take out train.lora",
        )
    asked = [key for key in ("forgetting", "max_forgetting") if getattr(evaluate, key) is not None]
    if model.base is None and asked:
        raise SpecError(
            f"evaluate.{asked[0]} needs model.base: nothing else can be forgotten",
            found="a model from scratch",
            expected="model.base",
            do=f"take out evaluate.{asked[0]}, or name a base",
        )


def _check_budget(recipe: Recipe) -> None:
    """At most one limit; a price where money is the limit."""
    budget, steps = recipe.budget, recipe.train.steps
    given = {f"budget.{name}": value for name, value in budget if value}
    if steps != "auto":
        given["train.steps"] = steps
    if len(given) > 1:
        written = {"budget.train_time": format_duration(budget.train_time or 0)}
        first, *others = given
        raise SpecError(
            f"{' and '.join(given)} both say how long to train",
            found=", ".join(f"{key} {written.get(key, value)}" for key, value in given.items()),
            expected="one of them",
            do=f"take out {' and '.join(others)}, or: --set {first}="
            + ("auto" if first == "train.steps" else "null"),
        )
    if recipe.hardware.is_here and budget.usd and not recipe.hardware.usd_per_device_hour:
        raise SpecError(
            "budget.usd needs the price of this machine",
            found=f"budget.usd {budget.usd:g}",
            expected="hardware.usd_per_device_hour above 0",
            do="give it, or hardware.device",
        )
