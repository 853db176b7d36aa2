"""What file managers, editors and network disks leave is passed over, whatever its spelling."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whorl.core.clutter import is_clutter

CLUTTER = [
    ".DS_Store", "._rows.json", "Thumbs.db", "THUMBS.DB", "desktop.ini", ".nfs000000000a1",
    ".fuse_hidden0001", "notes.txt~", ".notes.txt.swp", "#notes#", ".#notes", "x.bak", "x.orig",
    "lost+found", ".Trash-1000", "@eaDir", "Icon\r", ".Spotlight-V100",
]  # fmt: skip
NAMES = ["manifest.json", "model.safetensors", "config.json", "notes.txt", ".hidden", "x.bak.json"]


@pytest.mark.parametrize("name", CLUTTER)
def test_clutter(name: str) -> None:
    assert is_clutter(name) and is_clutter(f"rows/{name}") and is_clutter(f"{name}/inside")


@pytest.mark.parametrize("name", NAMES)
def test_what_somebody_made_is_no_clutter(name: str) -> None:
    assert not is_clutter(name) and not is_clutter(f"rows/{name}")


@given(st.text("0123456789abcdef", min_size=32, max_size=32))
def test_names_of_whorl_are_no_clutter(digest: str) -> None:
    for name in (digest, f"{digest}.run", f"{digest}.tmp-0a0b0c0d-12", "lock", "run.json"):
        assert not is_clutter(f"recipe/train/{name}/rows/train-00000.rows")
