"""What pydantic finds wrong with a file that a program wrote, in a few words of ours."""

from __future__ import annotations

from pydantic import ValidationError

from whorl.core.units import shown

__all__ = ["first_problem"]

KINDS = {"missing": "missing", "extra_forbidden": "unknown", "json_invalid": "not JSON"}


def first_problem(error: ValueError) -> str:
    """ "question.seq_len: 'x'", of several wrong values the first; other errors as they are."""
    if not isinstance(error, ValidationError):
        return str(error)[:300]
    first, *others = error.errors(include_url=False)
    place = ".".join(map(str, first["loc"]))
    cause = first.get("ctx", {}).get("error")
    kind = KINDS.get(first["type"]) or (str(cause) if cause else shown(first["input"]))
    more = f" (and {len(others)} more)" if others else ""
    return (f"{place}: " if place else "") + kind + more
