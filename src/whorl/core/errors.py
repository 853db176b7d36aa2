"""Every error a user can meet.

WhorlError
├── SpecError       exit 2   the recipe or a flag is wrong
├── DataError       exit 3   a source is missing, empty or unusable
├── PlanError       exit 4   what is asked for cannot fit or cannot be planned
├── RecordError     exit 5   a record on disk is damaged or does not match
├── BusyError       exit 6   another process holds what we need (a lock, a port)
├── ResourceError   exit 7   the machine ran out of something (disk, memory)
├── EngineError     exit 8   a generation engine failed
├── MissingExtra    exit 9   an optional package is not installed
├── GateError       exit 10  a result is worse than the recipe allows
├── DivergedError   exit 11  training left the finite numbers, or learned nothing
└── Interrupted     exit 130/143  stopped by a signal (128 + its number); the work so far is saved
"""

from __future__ import annotations

from importlib.util import find_spec
from math import isfinite

__all__ = [
    "BusyError",
    "DataError",
    "DivergedError",
    "EngineError",
    "GateError",
    "Interrupted",
    "MissingExtra",
    "PlanError",
    "RecordError",
    "ResourceError",
    "SpecError",
    "WhorlError",
    "listed",
]


class WhorlError(Exception):
    """What went wrong, what was found, what was expected and what to do, in one line."""

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        found: object = None,
        expected: object = None,
        do: str | None = None,
    ) -> None:
        self.what, self.found, self.expected, self.do = what, found, expected, do
        parts = [what]
        if found is not None:
            parts.append(f"found: {listed(found)}")
        if expected is not None:
            parts.append(f"expected: {listed(expected)}")
        if do is not None:
            parts.append(f"do: {do}")
        super().__init__("; ".join(" ".join(str(part).split()) for part in parts))

    def as_json(self) -> dict[str, dict[str, object]]:
        """The error as the document that --json answers with; values JSON lacks are text."""
        told = {"what": self.what, "found": self.found, "expected": self.expected, "do": self.do}
        plain = {key: _plain(value) for key, value in told.items()}
        return {"error": {**plain, "exit_code": self.exit_code}}


def listed(value: object) -> object:
    """What a person reads of a list."""
    return ", ".join(map(str, value)) or "none" if isinstance(value, list | tuple) else value


def _plain(value: object) -> object:
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if isfinite(value) else str(value)
    return value if value is None or isinstance(value, str | int) else str(value)


class SpecError(WhorlError, ValueError):
    exit_code = 2


class DataError(WhorlError, ValueError):
    exit_code = 3


class PlanError(WhorlError, ValueError):
    exit_code = 4


class RecordError(WhorlError):
    exit_code = 5


class BusyError(WhorlError):
    exit_code = 6


class ResourceError(WhorlError):
    exit_code = 7


class EngineError(WhorlError):
    exit_code = 8


class MissingExtra(WhorlError, ImportError):
    exit_code = 9

    @classmethod
    def of(cls, package: str, extra: str, purpose: str) -> MissingExtra:
        """The error for a package that an extra would bring."""
        return cls(
            f"{purpose} needs the package {package}",
            found="not installed",
            do=f"pip install 'whorl[{extra}]'",
        )

    @classmethod
    def check(cls, package: str, extra: str, purpose: str) -> None:
        """Raises it if the package is not there, before any work is done for nothing."""
        if find_spec(package) is None:
            raise cls.of(package.replace("_", "-"), extra, purpose)


class GateError(WhorlError):
    exit_code = 10


class DivergedError(WhorlError):
    exit_code = 11


class Interrupted(WhorlError):
    """Stopped by SIGINT (130) or SIGTERM (143)."""

    def __init__(self, what: str, *, signal_number: int, do: str | None = None) -> None:
        super().__init__(what, do=do)
        self.exit_code = 128 + signal_number
