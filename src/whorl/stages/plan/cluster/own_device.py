"""A device of one's own, from a small YAML file: `--device my-card.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from whorl.core.errors import SpecError
from whorl.stages.plan.cluster.devices import Device, Entry, device

__all__ = ["device_text", "read_device"]

# Of a file: of what may be left out, the usual is a single device, joined by PCIe 4.
SAID = tuple(
    name
    for name in Entry.model_fields
    if name not in ("usd_range", "aliases", "sources", "memory_nominal_gb", "year", "notes")
)
MOST_BYTES = 100_000


def read_device(path: str | Path) -> Device:
    """The device of a file such as `whorl doctor --device` writes.

    Peaks are dense, in 10^12 FLOP/s by type; links count one direction, in GB/s per device.
    `like` names a card of the catalogue from which all that is not given is taken; without it a
    `maker` that is not given is unknown. The device is called by its file, which a plan of it needs
    to be read again. Raises SpecError, naming the key.
    """
    given = _load(Path(path))
    like = given.pop("like", None)
    base = None if like is None else device(str(like))
    if unknown := [str(key) for key in given if key not in SAID]:
        raise SpecError(f"{path}: {unknown[0]} is not known", expected=", ".join((*SAID, "like")))
    usual = {} if base is None else Entry.of(base).model_dump()
    values = {**usual, **given, "name": str(path)}
    if base is not None and isinstance(given.get("tflops"), dict):
        values["tflops"] = {**usual["tflops"], **given["tflops"]}
    price = values.get("usd_per_hour", 0.0)
    values |= {"sources": (f"all fields: {path}",), "aliases": (), "usd_range": (price, price)}
    values |= {"notes": str(given.get("name", "")), "memory_nominal_gb": values.get("memory_gib")}
    try:
        return Entry.model_validate(values).device("" if base is None else base.catalogued)
    except ValidationError as error:
        raise _refusal(str(path), error) from error


def _refusal(path: str, error: ValidationError) -> SpecError:
    found = [item for item in error.errors(include_url=False) if item["loc"][0] in SAID]
    missing = [str(item["loc"][0]) for item in found if item["type"] == "missing"]
    if missing:
        do = "state it, or name a card to take it from: like: rtx-4090"
        return SpecError(f"{path} has no {', '.join(missing)}", do=do)
    first = found[0]
    where = ".".join(str(part) for part in first["loc"] if part != "[key]")
    return SpecError(
        f"{path}: {where}",
        found=first["input"],
        expected=first["msg"].removeprefix("Input should be "),
    )


def _load(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise SpecError(f"{path} is too large for a device", expected="a few lines of YAML")
        found = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        do = "whorl doctor --device writes one for the cards of this machine"
        raise SpecError(f"{path} cannot be read as a device", found=error, do=do) from error
    if not isinstance(found, dict):
        raise SpecError(f"{path} is no device", found=type(found).__name__, expected="key: value")
    return found


def device_text(item: Device) -> str:
    """The file of a device, as read_device takes it."""
    values = Entry.of(item).model_dump(include={*SAID})
    values["tflops"] = {name: round(rate, 1) for name, rate in values["tflops"].items()}
    rounded = {k: round(v, 3) if isinstance(v, float) else v for k, v in values.items()}
    like = {"like": item.catalogued} if item.catalogued else {}
    kept = {key: value for key, value in rounded.items() if value or key == "usd_per_hour"}
    return yaml.safe_dump({"name": item.name, **like, **kept}, sort_keys=False)
