"""Parts by entry points: found, refused by name, and never one of two."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from whorl.core.errors import DataError, SpecError
from whorl.core.plugins import check_part, find_part, packages_of, part_names

GROUP = "whorl.spoons"
POINTS = "outside = parts_of_a_test:OUTSIDE\nours = parts_of_a_test:OUTSIDE\nlost = nowhere:PART\n"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "parts_of_a_test.py").write_text("OUTSIDE = 'spoon'")
    info = tmp_path / "parts-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: parts\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{POINTS}")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield
    sys.modules.pop("parts_of_a_test", None)


@pytest.mark.usefixtures("installed")
def test_parts_that_ship_and_parts_from_outside() -> None:
    lazily = EntryPoint("dumps", "json:dumps", GROUP)
    built_in = {"mine": 1, "dumps": lazily}
    assert part_names(GROUP, built_in) == ["dumps", "lost", "mine", "ours", "outside"]
    assert find_part(GROUP, "outside", built_in) == "spoon"
    assert find_part(GROUP, "mine", built_in) == 1
    dumps = find_part(GROUP, "dumps", built_in)
    assert callable(dumps) and dumps([1]) == "[1]"
    # what ships may be an entry point of its own package too
    assert find_part(GROUP, "ours", {"ours": EntryPoint("", "parts_of_a_test:OUTSIDE", "")})


@pytest.mark.usefixtures("installed")
def test_what_cannot_be_had_is_refused_with_the_asked_error() -> None:
    with pytest.raises(SpecError, match=r"no spoon outsid; did you mean outside\?.*whorl\.spoons"):
        check_part(GROUP, "outsid", ())
    with pytest.raises(DataError, match="two packages bring a spoon ours"):
        find_part(GROUP, "ours", {"ours": 1}, DataError)
    with pytest.raises(DataError, match=r"lost cannot be loaded from nowhere:PART.*uninstall"):
        find_part(GROUP, "lost", {}, DataError)


@pytest.mark.usefixtures("installed")
def test_packages_of_parts_from_outside() -> None:
    used = {GROUP: ["outside", "mine", "lost"], "whorl.fields": ["text"], "whorl.forks": ["x"]}
    assert packages_of(used) == {
        "packages": {f"{GROUP} outside": "parts 1.0", f"{GROUP} lost": "parts 1.0"}
    }
    assert packages_of({"whorl.fields": ["text", "digits"], GROUP: [""]}) == {}
