"""What plan is handed: where the data's facts are found."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from whorl.stages.prepare.pool import LARGE_BYTES
from whorl.verbs import Session
from whorl.wiring import plans


def pid_of(*data: Any) -> Any:
    """In place of what samples the data; other processes find it by its name."""
    return os.getpid()


@pytest.mark.parametrize("plans_alone", [True, False])
def test_only_a_plan_that_work_follows_takes_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plans_alone: bool
) -> None:
    (tmp_path / "long.txt").write_text("some words\n" * (1 + LARGE_BYTES // 11))
    monkeypatch.setattr(plans, "_facts", pid_of)
    recipe = {"name": "mine", "data": [{"source": str(tmp_path / "long.txt")}]}
    facts = {"home": tmp_path / "home", "workers": 2, "plans_alone": plans_alone}
    session = Session.open(recipe, **facts)
    found: Any = plans._gathered(session, session.fields)
    assert (found == os.getpid()) == plans_alone
