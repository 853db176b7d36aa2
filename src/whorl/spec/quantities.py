"""The kinds of numbers a recipe's keys take. Each reads what people type, and has its bounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from pydantic_core import CoreSchema, core_schema

from whorl.core.errors import SpecError
from whorl.core.units import (
    LEAST_DURATION_S,
    MOST_COUNT,
    MOST_DURATION_S,
    parse_count,
    parse_duration_s,
    parse_length,
    parse_number,
    parse_share,
)

__all__ = ["Duration", "Length", "Number", "Quantity", "Share", "Whole"]


@dataclass(frozen=True)
class Quantity:
    """Stands in Annotated[int or float, …]: the reader of the key, its bounds, its words."""

    least: float = 0.0
    most: float = 1e30

    def read(self, value: object, key: str = "") -> Any:
        """The number. Raises SpecError that names the key, if it is given."""
        return parse_number(value, key, self.least, self.most)

    @property
    def expected(self) -> str:
        """What may be written, as an error says it."""
        try:
            self.read("")
        except SpecError as error:
            return str(error.expected)
        raise AssertionError("nothing is no number")

    def __get_pydantic_core_schema__(
        self, source: Any, handler: Callable[[Any], CoreSchema]
    ) -> CoreSchema:
        number = core_schema.int_schema if source is int else core_schema.float_schema
        bounds: dict[str, Any] = {"ge": self.least, "le": self.most}
        return core_schema.no_info_before_validator_function(
            lambda value: self.read(value), number(**bounds)
        )


@dataclass(frozen=True)
class Number(Quantity):
    """Finite; 2e-5 and .02 as well."""


@dataclass(frozen=True)
class Whole(Quantity):
    """1200, "1_200", "1.2k", "2M": what is counted or spent; k is 1000."""

    least: int = 1
    most: int = MOST_COUNT

    def read(self, value: object, key: str = "") -> Any:
        return parse_count(value, key, self.least, self.most)


@dataclass(frozen=True)
class Length(Whole):
    """Tokens side by side, or ids: k is 1024 (docs/decisions/014-suffixes.md)."""

    def read(self, value: object, key: str = "") -> Any:
        return parse_length(value, key, self.least, self.most)


@dataclass(frozen=True)
class Share(Quantity):
    """0.01 or "1%"."""

    most: float = 1.0

    def read(self, value: object, key: str = "") -> Any:
        return parse_share(value, key, self.least, self.most)


@dataclass(frozen=True)
class Duration(Quantity):
    """Seconds, from "90s", "4min", "2h"; a bare number is refused, so JSON has the unit too."""

    least: float = LEAST_DURATION_S
    most: float = MOST_DURATION_S

    def read(self, value: object, key: str = "") -> Any:
        return parse_duration_s(value, key)

    def __get_pydantic_core_schema__(
        self, source: Any, handler: Callable[[Any], CoreSchema]
    ) -> CoreSchema:
        schema = super().__get_pydantic_core_schema__(source, handler)
        written = core_schema.plain_serializer_function_ser_schema(
            lambda seconds: f"{seconds!r}s", when_used="json"
        )
        return cast(CoreSchema, {**schema, "serialization": written})
