"""A processor as a serving device: its rates are those `whorl doctor --calibrate` measured."""

from __future__ import annotations

import statistics

from whorl.stages.plan.cluster.devices import Device
from whorl.stages.plan.hardware import Calibration, MachineFacts
from whorl.stages.plan.serving.times import constants

__all__ = ["cpu_device"]


def cpu_device(facts: MachineFacts, calibration: Calibration, price: float = 0.0) -> Device:
    """Rates such that the model's efficiencies give back what was measured on this machine.

    Traffic: of the largest arrays. Products: the median shape, per precision.
    """
    k = constants()["values"]
    lanes = int(calibration.settings["lanes"])
    traffic = lanes * max(calibration.traffic, key=lambda item: item.num_bytes).bytes_per_s
    rates: dict[str, list[float]] = {}
    for item in calibration.matmuls:
        rates.setdefault(item.precision, []).append(lanes * item.flops_per_s)
    return Device(
        name=facts.identity,
        kind="cpu",
        memory_bytes=facts.memory_bytes,
        memory_bytes_per_s=traffic / k["weights"],
        flops_per_s={name: statistics.median(of) / k["compute"] for name, of in rates.items()},
        node_devices=1,
        link_bytes_per_s=traffic,
        network_bytes_per_s=traffic,
        power_w=0.0,
        usd_per_hour=price,
    )
