"""constraints.txt pins what the extras bring, in releases alone, and this environment has them."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterable

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.policy.conftest import ROOT, report

PIN = re.compile(r"([A-Za-z0-9._-]+)==([0-9][A-Za-z0-9.]*)")
EXTRAS = ("train", "openvino", "dev", "grammar")  # grammar: of dev, installed by .ci/install.py


def read_pins(text: str) -> tuple[dict[str, str], list[str]]:
    """(name -> version, lines that are not a plain pin)."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    matches = [(line, PIN.fullmatch(line)) for line in lines]
    pins = {canonicalize_name(match[1]): match[2] for _, match in matches if match}
    return pins, [line for line, match in matches if not match]


def requirements_of(name: str) -> list[str]:
    """Requirements in the metadata of an installed distribution; [] if it is not installed."""
    try:
        return importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return []


def needed_distributions(name: str, extras: Iterable[str]) -> set[str]:
    """Everything a distribution with its extras brings on this machine, by installed metadata."""
    pending = [(canonicalize_name(name), frozenset(extras))]
    seen: set[tuple[str, frozenset[str]]] = set()
    while pending:
        item = pending.pop()
        if item in seen:
            continue
        seen.add(item)
        for line in requirements_of(item[0]):
            requirement = Requirement(line)
            environments = [{**default_environment(), "extra": extra} for extra in ("", *item[1])]
            marker = requirement.marker
            if marker is None or any(marker.evaluate(each) for each in environments):
                pending.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return {found for found, _ in seen} - {canonicalize_name(name)}


def test_lines_are_plain_pins_of_what_is_needed() -> None:
    pins, strange = read_pins((ROOT / "constraints.txt").read_text("utf-8"))
    assert not strange, report(strange)
    needed = needed_distributions("whorl", EXTRAS) - {"setuptools"}
    platform_only = {
        name for name in needed if name.startswith(("nvidia-", "cuda-")) or name == "triton"
    }
    missing = sorted(needed - platform_only - pins.keys())
    assert not missing, report(missing)
    assert not pins.keys() - needed, report(sorted(pins.keys() - needed))


def test_environment_has_the_pinned_releases() -> None:
    pins, _ = read_pins((ROOT / "constraints.txt").read_text("utf-8"))
    offenders = []
    for name, version in pins.items():
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found = "0+absent"
        if Version(found).public != version:
            offenders.append(f"{name}: {found}; expected: {version}")
    assert not offenders, report(offenders)


@pytest.mark.parametrize(
    "line",
    ["torch==2.13.0+cpu", "numpy>=2", "blake3==1.0 --hash=sha256:0", "-e .", "x @ file:///x"],
)
def test_planted_violation_is_found(line: str) -> None:
    pins, strange = read_pins(f"# note\nnumpy==2.4.6\n{line}\n")
    assert strange == [line] and pins == {"numpy": "2.4.6"}
