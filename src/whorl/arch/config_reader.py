"""Reads sizes out of a config.json that anybody may have written: whole, in range, or an error."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from whorl.core.errors import SpecError

__all__ = ["ConfigReader"]

LARGEST = 100_000_000  # of any size in a config; no model comes near it


class ConfigReader:
    """Typed access to the keys of one configuration. `where` opens every error."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.values, self.where = values, where

    def whole(
        self, *keys: str, default: int | None = None, least: int = 1, most: int = LARGEST
    ) -> int:
        """The first of `keys` that is present and not null.

        Raises SpecError if none is and there is no default, or if it is not a whole number
        from least to most.
        """
        found = self.optional(*keys, least=least, most=most)
        if found is not None:
            return found
        if default is None:
            raise SpecError(
                f"{self.where}: {keys[0]}",
                found="missing",
                expected="a whole number",
                do="give the config.json of a decoder model",
            )
        return default

    def optional(self, *keys: str, least: int = 1, most: int = LARGEST) -> int | None:
        """As `whole`; None when no key is present."""
        for key in keys:
            value = self.values.get(key)
            if value is not None:
                return self._checked(key, value, least, most)
        return None

    def _checked(self, key: str, value: object, least: int, most: int) -> int:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if is_number and least <= value <= most and value == int(value):  # type: ignore[operator, call-overload]
            return int(value)  # type: ignore[call-overload, no-any-return]
        raise SpecError(
            f"{self.where}: {key}",
            found=repr(value)[:60],
            expected=f"a whole number from {least} to {most:,}",
        )

    def number(self, *keys: str) -> float | None:
        """The first of `keys` that is present and not null; None if there is none.

        Raises SpecError unless it is a finite number above 0.
        """
        for key in keys:
            value = self.values.get(key)
            if value is None:
                continue
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if is_number and 0 < value < math.inf:
                return float(value)
            raise SpecError(
                f"{self.where}: {key}", found=repr(value)[:60], expected="a number above 0"
            )
        return None

    def flag(self, key: str, default: bool) -> bool:
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise SpecError(
                f"{self.where}: {key}", found=repr(value)[:60], expected="true or false"
            )
        return value

    def section(self, key: str) -> ConfigReader:
        """A mapping inside the mapping; empty when absent."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, Mapping):
            raise SpecError(f"{self.where}: {key}", found=repr(value)[:60], expected="a mapping")
        return ConfigReader(value or {}, f"{self.where}: {key}")

    def sequence(self, key: str) -> list[Any]:
        """A list; empty when absent."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, list | tuple):
            raise SpecError(f"{self.where}: {key}", found=repr(value)[:60], expected="a list")
        return list(value or ())

    def whole_numbers(self, key: str) -> frozenset[int]:
        """A list of whole numbers of at least 0; empty when absent."""
        return frozenset(self._checked(key, item, 0, LARGEST) for item in self.sequence(key))

    def must_be(self, key: str, expected: object) -> None:
        """Raises SpecError if the key is present with another value: a variant not counted."""
        value = self.values.get(key)
        if value is not None and value != expected:
            raise SpecError(
                f"{self.where}: {key}: this variant cannot be counted",
                found=repr(value)[:60],
                expected=repr(expected),
            )
