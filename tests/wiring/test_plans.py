"""What plan is handed: where the data's facts are found."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import pytest

from whorl.stages.prepare.clean import LARGE_BYTES
from whorl.verbs import Session
from whorl.wiring import plans


def pid_of(*data: Any) -> Any:
    """In place of what samples the data; other processes find it by its name."""
    return os.getpid()


@pytest.mark.parametrize("plans_alone", [True, False])
def test_only_a_plan_that_work_follows_takes_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plans_alone: bool
) -> None:
    words = b"some words\n"
    (tmp_path / "long.txt").write_bytes(words * (1 + LARGE_BYTES // len(words)))
    (tmp_path / "packed.txt.gz").write_bytes(gzip.compress(words))
    (tmp_path / "short.txt").write_bytes(words)
    monkeypatch.setattr(plans, "_facts", pid_of)
    for name, is_little in (("long.txt", False), ("packed.txt.gz", False), ("short.txt", True)):
        recipe = {"name": "mine", "data": [{"source": str(tmp_path / name)}]}
        facts = {"home": tmp_path / "home", "workers": 2, "plans_alone": plans_alone}
        session = Session.open(recipe, **facts)
        found: Any = plans._gathered(session, session.fields)
        assert (found == os.getpid()) == (plans_alone or is_little), name
