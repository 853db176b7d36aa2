"""Read a recipe from YAML: every key known, every value checked, every origin remembered."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from whorl.core.errors import SpecError, WhorlError
from whorl.spec.recipe import LATER, Recipe

__all__ = ["LoadedRecipe", "known_keys", "load_recipe", "parse_recipe"]

MAX_RECIPE_BYTES = 1_000_000
MAX_DEPTH = 20
FIELD_OPTIONS = "data.options."  # keys below are those of a field, which checks them
YAML_TAG = "tag:yaml.org,2002:"
PLAIN_TAGS = {"map", "seq", "str", "int", "float", "bool", "null"}


@dataclass(frozen=True)
class LoadedRecipe:
    recipe: Recipe
    origins: Mapping[str, str]  # dotted key -> "recipes/x.yaml:12", "--set"; absent: the default
    path: Path | None  # where relative sources are looked up: the recipe's folder

    @property
    def folder(self) -> Path:
        return self.path.parent if self.path else Path.cwd()


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """Read a YAML recipe and apply `key=value` overrides.

    Raises SpecError naming the file, line or key, what was found and the nearest right name.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SpecError(
            f"cannot read the recipe {path}",
            found=error.strerror,
            do="whorl new NAME writes a commented one",
        ) from error
    if len(data) > MAX_RECIPE_BYTES:
        raise SpecError(f"{path} is not a recipe", found=f"{len(data):,} bytes")
    try:
        text = data.decode()
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        value, lines = _construct(node, path)
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise SpecError(f"{path} is not YAML", found=error) from error
    if not isinstance(value, dict):
        raise SpecError(f"{path} is not a recipe", found=type(value).__name__, expected="keys")
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
        key, text = _split_override(override)
        _set(raw, key, text)
        found[key] = "--set"
    _refuse_later(raw)
    _refuse_unknown(raw)
    raw = {key: {} if item == "auto" and key == "model" else item for key, item in raw.items()}
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        raise _spec_error(error, found) from error
    _check_together(recipe)
    return LoadedRecipe(recipe, found, path)


def known_keys(model: type[BaseModel] = Recipe, prefix: str = "") -> Iterator[str]:
    """Every dotted key of a recipe; list items as `data.N.source` are written `data.source`."""
    for name, info in model.model_fields.items():
        yield f"{prefix}{name}"
        for candidate in (info.annotation, *get_args(info.annotation)):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                yield from known_keys(candidate, f"{prefix}{name}.")


def _construct(node: Any, path: Path) -> tuple[Any, dict[str, str]]:
    """Plain values of a YAML node, and the line of every dotted key. Refuses duplicate keys."""
    lines: dict[str, str] = {}
    builder = yaml.SafeLoader("")

    def build(item: Any, prefix: str, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise SpecError(f"{path} is nested too deeply", expected=f"at most {MAX_DEPTH} levels")
        if item.tag.removeprefix(YAML_TAG) not in PLAIN_TAGS:
            raise SpecError(f"{path} holds a YAML tag", found=item.tag, expected="plain values")
        if isinstance(item, yaml.MappingNode):
            result: dict[str, Any] = {}
            for key_node, value_node in item.value:
                key = str(builder.construct_object(key_node, deep=True))
                line = f"{path}:{key_node.start_mark.line + 1}"
                if key in result:
                    raise SpecError(f"{line} repeats the key {prefix}{key}", do="keep one of them")
                lines[f"{prefix}{key}"] = line
                result[key] = build(value_node, f"{prefix}{key}.", depth + 1)
            return result
        if isinstance(item, yaml.SequenceNode):
            return [build(child, prefix, depth + 1) for child in item.value]
        return builder.construct_object(item, deep=True)

    return (build(node, "", 0) if node is not None else None), lines


def _split_override(override: str) -> tuple[str, Any]:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise SpecError(f"--set {override}", expected="--set key=value, such as train.seq_len=512")
    try:
        return key.strip(), yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SpecError(f"--set {key} has a value that cannot be read", found=text) from error


def _set(raw: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    here = raw
    for parent in parents:
        child = here.get(parent)
        if isinstance(child, list) and len(child) == 1 and isinstance(child[0], dict):
            child = [dict(child[0])]
            here[parent], here = child, child[0]
            continue
        child = dict(child) if isinstance(child, dict) else {}
        here[parent], here = child, child
    here[last] = value


def _flat(raw: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every key, list items without their number."""
    if isinstance(raw, Mapping):
        for key, value in raw.items():
            yield f"{prefix}{key}", value
            yield from _flat(value, f"{prefix}{key}.")
    elif isinstance(raw, list | tuple):
        for item in raw:
            yield from _flat(item, prefix)


def _refuse_later(raw: Mapping[str, Any]) -> None:
    for key, value in _flat(raw):
        name = key if key in LATER else f"{key}={value}" if isinstance(value, str) else key
        if name in LATER:
            raise SpecError(
                f"{name}: {LATER[name]} is not in this version",
                do="remove the key; CHANGELOG.md says what each version brings",
            )


def _refuse_unknown(raw: Mapping[str, Any]) -> None:
    known = list(known_keys())
    for key, _ in _flat(raw):
        if key not in known and not key.startswith(FIELD_OPTIONS):
            nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            by_last = difflib.get_close_matches(
                key.rpartition(".")[2], [name.rpartition(".")[2] for name in known], n=1, cutoff=0.7
            )
            named = [name for name in known if by_last and name.rpartition(".")[2] == by_last[0]]
            guess = next(iter([*nearest, *named]), None)
            raise SpecError(
                f"{key}: unknown key",
                expected=f"did you mean {guess}?" if guess else None,
                do="whorl explain RECIPE lists every key",
            )


def _spec_error(error: ValidationError, origins: Mapping[str, str]) -> SpecError:
    first = error.errors()[0]
    cause = first.get("ctx", {}).get("error")
    names = [str(part) for part in first["loc"] if isinstance(part, str)]
    names = [
        name for name in names if not name.startswith(("literal[", "function-", "constrained"))
    ]
    key = ".".join(name for name in names if name not in ("int", "float", "str"))
    where = origins.get(key, "")
    if isinstance(cause, WhorlError):
        return SpecError(
            f"{key} {cause.what.partition(' ')[2]}".strip() + (f" ({where})" if where else ""),
            found=cause.found,
            expected=cause.expected,
        )
    if first["type"] == "missing":
        return SpecError(f"{key or 'the recipe'}: missing", expected=f"a value for {key}")
    return SpecError(
        f"{key}{f' ({where})' if where else ''}", found=repr(first["input"]), expected=first["msg"]
    )


def _check_together(recipe: Recipe) -> None:
    """What no single key can know."""
    given = [name for name, value in recipe.budget if value]
    if len(given) > 1:
        raise SpecError("budget has several limits", found=given, expected="one of them")
    if given and recipe.train.steps != "auto":
        raise SpecError(
            f"train.steps and budget.{given[0]} both say how long to train", do="remove one"
        )
    hardware = recipe.hardware
    if hardware.is_here and hardware.count > 1:
        raise SpecError("hardware.count needs hardware.device", found=hardware.count)
    if hardware.is_here and recipe.budget.usd and not hardware.usd_per_device_hour:
        raise SpecError(
            "budget.usd needs the price of this machine",
            do="give hardware.usd_per_device_hour above 0, or hardware.device",
        )
    shares = [entry.share for entry in recipe.data]
    given_shares = [share for share in shares if share is not None]
    add_up = abs(sum(given_shares) - 1) < 1e-6 and min(given_shares) > 0 if given_shares else True
    if given_shares and (len(given_shares) < len(shares) or not add_up):
        raise SpecError(
            "data.share must add up to 1 over all sources",
            found=["none" if share is None else share for share in shares],
            expected="a share above 0 for each source, or for none",
        )
