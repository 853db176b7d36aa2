"""A device of one's own, from a small YAML file: `--device my-card.yaml`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from whorl.core.errors import SpecError
from whorl.stages.plan.cluster.devices import GIB, MAKERS, RATES, Device, device

__all__ = ["device_text", "read_device"]

KINDS = ("gpu", "tpu", "npu", "cpu")
NEEDED = ("tflops", "memory_gib", "memory_gb_per_s")
CHIP = ("maker", "multiprocessors")  # may be left out: then unknown
# What may be left out, and what is then taken: a single device, linked and networked by PCIe 4.
USUAL: dict[str, float] = {
    "node_devices": 1,
    "link_gb_per_s": 32,
    "network_gb_per_s": 1.25,
    "power_w": 300,
    "host_power_w": 150,
    "usd_per_hour": 0,
}
MOST_BYTES = 100_000


def read_device(path: str | Path) -> Device:
    """The device of a file such as `whorl doctor --device` writes.

    Peaks are dense, in 10^12 FLOP/s by type; links count one direction, in GB/s per device.
    `like` names a card of the catalogue from which all that is not given is taken; without it a
    `maker` that is not given is unknown. The device is called by its file, which a plan of it needs
    to be read again. Raises SpecError, naming the key.
    """
    values = _load(Path(path))
    like = values.pop("like", None)
    given = dict(values)
    base = None if like is None else device(str(like))
    _check(given, str(path), base is None)
    rates = given.get("tflops")
    flops = (
        {name: 1e12 * _number(value, f"{path}: tflops.{name}") for name, value in rates.items()}
        if rates
        else {}
    )
    if base is not None:
        flops = {**base.flops_per_s, **flops}
    usual = USUAL if base is None else _numbers_of(base)
    numbers = {
        name: _number(given.get(name, usual.get(name, 0)), f"{path}: {name}", name in NEEDED)
        for name in ("memory_gib", "memory_gb_per_s", *USUAL)
    }
    units = _number(
        given.get("multiprocessors", base.multiprocessors if base else 0),
        f"{path}: multiprocessors",
        "multiprocessors" in given,
    )
    for name, value in (("node_devices", numbers["node_devices"]), ("multiprocessors", units)):
        if value != int(value) or (name == "node_devices" and value < 1):
            expected = "a whole number from 1"
            raise SpecError(f"{path}: {name}", found=given.get(name), expected=expected)
    price = numbers["usd_per_hour"]
    return Device(
        name=str(path),
        kind=str(given.get("kind", base.kind if base else "gpu")),
        memory_bytes=numbers["memory_gib"] * GIB,
        memory_bytes_per_s=numbers["memory_gb_per_s"] * 1e9,
        flops_per_s=flops,
        node_devices=int(numbers["node_devices"]),
        link_bytes_per_s=numbers["link_gb_per_s"] * 1e9,
        network_bytes_per_s=numbers["network_gb_per_s"] * 1e9,
        power_w=numbers["power_w"],
        usd_per_hour=price,
        sources=(f"all fields: {path}",),
        notes=str(given.get("name", "")),
        host_power_w=numbers["host_power_w"],
        usd_range=(price, price),
        memory_nominal_gb=numbers["memory_gib"],
        year=base.year if base else 0,
        maker=str(given.get("maker", base.maker if base else "")),
        multiprocessors=int(units),
        catalogued=base.catalogued if base else "",
    )


def _numbers_of(base: Device) -> dict[str, float]:
    return {
        "memory_gib": base.memory_bytes / GIB,
        "memory_gb_per_s": base.memory_bytes_per_s / 1e9,
        "node_devices": base.node_devices,
        "link_gb_per_s": base.link_bytes_per_s / 1e9,
        "network_gb_per_s": base.network_bytes_per_s / 1e9,
        "power_w": base.power_w,
        "host_power_w": base.host_power_w,
        "usd_per_hour": base.usd_per_hour,
    }


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


def _check(given: Mapping[str, Any], path: str, is_whole: bool) -> None:
    known = ("name", "kind", *CHIP, *NEEDED, *USUAL)
    if unknown := [str(name) for name in given if name not in known]:
        raise SpecError(f"{path}: {unknown[0]} is not known", expected=", ".join((*known, "like")))
    missing = [name for name in NEEDED if name not in given] if is_whole else []
    if missing:
        do = "state it, or name a card to take it from: like: rtx-4090"
        raise SpecError(f"{path} has no {', '.join(missing)}", do=do)
    if given.get("kind", "gpu") not in KINDS:
        raise SpecError(f"{path}: kind", found=given["kind"], expected=", ".join(KINDS))
    if given.get("maker", MAKERS[0]) not in MAKERS:
        raise SpecError(f"{path}: maker", found=given["maker"], expected=", ".join(MAKERS))
    rates = given.get("tflops", {})
    if not isinstance(rates, dict) or (is_whole and not rates) or set(rates) - set(RATES):
        raise SpecError(f"{path}: tflops", found=rates, expected=f"some of {', '.join(RATES)}")


def _number(value: Any, where: str, is_positive: bool = True) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value < 0 or (is_positive and value == 0):
        expected = "a number above 0" if is_positive else "a number"
        raise SpecError(where, found=value, expected=expected)
    return float(value)


def device_text(item: Device) -> str:
    """The file of a device, as read_device takes it."""
    chip = {name: value for name in CHIP if (value := getattr(item, name))}
    values: dict[str, Any] = {
        "name": item.name,
        **({"like": item.catalogued} if item.catalogued else {}),
        "kind": item.kind,
        **chip,
        "tflops": {name: round(rate / 1e12, 1) for name, rate in item.flops_per_s.items()},
        "memory_gib": round(item.memory_bytes / GIB, 2),
        "memory_gb_per_s": round(item.memory_bytes_per_s / 1e9, 1),
        "node_devices": item.node_devices,
        "link_gb_per_s": round(item.link_bytes_per_s / 1e9, 2),
        "network_gb_per_s": round(item.network_bytes_per_s / 1e9, 3),
        "power_w": item.power_w,
        "host_power_w": item.host_power_w,
        "usd_per_hour": item.usd_per_hour,
    }
    return yaml.safe_dump(values, sort_keys=False)
