"""What it means to say nothing of a key: "none", null or ~, and where it may be left out "auto";
and a single name where a list of them is expected.

The same words mean the same in a file, behind --set and in a dict, of one key and of a group.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic.fields import FieldInfo

__all__ = ["NONE", "Spec", "group_of", "without_nothing"]

NONE = (None, "~", "null", "none")
SAYS_NOTHING = ("", "auto", *NONE)  # of a key that may be left out


def group_of(annotation: Any) -> type[BaseModel] | None:
    """The keys below a key: the model among an annotation and what it is made of."""
    for item in (annotation, *get_args(annotation)):
        if isinstance(item, type) and issubclass(item, BaseModel):
            return item
    return None


class Spec(BaseModel):
    """Keys of a recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _say_nothing(cls, values: Any) -> Any:
        return without_nothing(cls, values)


def without_nothing(model: type[BaseModel], values: Any) -> Any:
    """The keys and values of a model; one that says nothing has the value which that means for it.

    Anything but a dict is given back as it is.
    """
    return dict(_said(model, values)) if isinstance(values, dict) else values


def _said(model: type[BaseModel], values: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        info = model.model_fields.get(key)
        word = value.lower() if isinstance(value, str) else value
        if info is None or not (word is None or isinstance(word, str)):
            yield key, value
        elif _may_be_null(info) and word in SAYS_NOTHING:
            yield key, None
        elif _is_group(info) and word in ("", "auto"):
            yield key, {}
        elif word in NONE and (empty := _empty(info)) is not None:
            yield key, empty
        elif _is_one_name(info, value):
            yield key, (value,)
        else:
            yield key, value


def _kinds(annotation: Any) -> Iterator[Any]:
    """The annotation, or what it is a choice of, without what is said about them."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, UnionType):
        for item in get_args(annotation):
            yield from _kinds(item)
    else:
        yield annotation


def _is_one_name(info: FieldInfo, value: Any) -> bool:
    """Of a key that may have a list of names: one of them, and no other word of the key."""
    kinds = list(_kinds(info.annotation))
    lists = [kind for kind in kinds if get_origin(kind) is tuple and group_of(kind) is None]
    words = [*SAYS_NOTHING, *(word for kind in kinds for word in get_args(kind))]
    return bool(lists) and isinstance(value, str) and value.lower() not in words


def _may_be_null(info: FieldInfo) -> bool:
    return type(None) in get_args(info.annotation)


def _is_group(info: FieldInfo) -> bool:
    return info.annotation is group_of(info.annotation)


def _empty(info: FieldInfo) -> Any:
    """What holds nothing, of a key that may: a list, texts by name, a group of limits; or None."""
    kinds: list[Any] = [get_origin(item) for item in (info.annotation, *get_args(info.annotation))]
    for kind in kinds:
        if kind in (tuple, dict) and not info.is_required():
            return kind()
    group = group_of(info.annotation) if _is_group(info) else None
    if group is not None and all(map(_may_be_null, group.model_fields.values())):
        return {}
    return None
