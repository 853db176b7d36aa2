"""A package as pip leaves it: what `importlib.metadata` finds of one that brings parts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

__all__ = ["install"]


def install(
    folder: Path, points: Mapping[str, Mapping[str, str]], name: str = "parts", version: str = "1.0"
) -> None:
    """Its metadata in a folder of sys.path. points: group -> part -> where it is."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    sections = [
        f"[{group}]\n" + "".join(f"{part} = {value}\n" for part, value in of.items())
        for group, of in points.items()
    ]
    (info / "entry_points.txt").write_text("\n".join(sections))
