"""What `whorl plan --serve` answers, alone or beside training. Wiring."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from whorl.arch.hf_config import stored_in
from whorl.arch.known_models import hugging_face_id, is_known
from whorl.arch.shape import ModelShape
from whorl.core.errors import PlanError, SpecError
from whorl.spec.recipe import DEVICES, PRICE
from whorl.stages.plan.ask.service import at_rate, serving_target
from whorl.stages.plan.cluster.devices import HERE, Device, device
from whorl.stages.plan.output import figures, schema
from whorl.stages.plan.serving.choose import plan_serving
from whorl.stages.plan.serving.target import ServingPlan, ServingTarget
from whorl.stages.plan.serving.work import QUANTISATIONS

__all__ = ["device_named", "is_here", "served", "serving_alone"]

HERE_FORMATS = ("fp32", "int8", "int4")  # that whorl serves on a CPU; by itself the first two


def is_here(name: object) -> bool:
    return isinstance(name, str) and name.strip().lower() == HERE


def device_named(name: str | Device) -> Device:
    """As `device`, and this machine by its name, measured unless it was."""
    if not is_here(name):
        return device(name)
    from whorl.core.home import home_folder
    from whorl.launch.calibrate import this_machine
    from whorl.stages.plan.cluster.here import here

    return here(this_machine(home_folder()))


def served(
    shape: ModelShape, name: str, usual: Device, usual_price: float | None, text: str
) -> tuple[ServingPlan, Device]:
    """The plan and the device it is for: the usual one, unless `text` names another."""
    target, named, rate, has_format = serving_target(text)
    if shape.bidirectional:
        raise SpecError(f"{shape.name} writes no text: each of its tokens sees all others",
                        do="leave --serve out")  # fmt: skip
    chosen, stored = usual if named is None else device_named(named), stored_in(name)
    if chosen.name == HERE:
        target = _here(target, has_format)
    elif stored is not None and stored in QUANTISATIONS and not has_format:
        target = replace(target, quantisations=(stored,))
    price = usual_price if named is None or chosen.name == usual.name else None
    path = hugging_face_id(name) if is_known(name) else name
    path = path if path and (is_known(name) or Path(path).exists()) else None
    plan = partial(plan_serving, shape, chosen, price=price, model_path=path)
    found = plan(target) if rate is None else at_rate(target, rate, plan)
    return _by_one(found, rate) if chosen.name == HERE else found, chosen


def _here(target: ServingTarget, has_format: bool) -> ServingTarget:
    """By one machine, in formats that whorl serves on a CPU. Raises SpecError for others."""
    if (target.devices_per_replica or 1) > 1:
        found = f"tp={target.devices_per_replica}"
        raise SpecError(f"--serve on {HERE}: one machine", found=found, do="leave tp out")
    if not has_format:
        return replace(target, quantisations=HERE_FORMATS[:2])
    if others := [name for name in target.quantisations if name not in HERE_FORMATS]:
        expected = ", ".join(HERE_FORMATS)
        raise SpecError(f"--serve on {HERE}: format", found="+".join(others), expected=expected)
    return target


def _by_one(found: ServingPlan, rate: float | None) -> ServingPlan:
    """The plan of one machine. Raises PlanError if more of its kind would be needed, with the load
    that one bears, in the words of the question."""
    needed = round(found.replicas.value)
    if needed > 1:
        bears = f"users={found.max_running}" if rate is None else f"rate={rate / needed:.3g}"
        raise PlanError(
            f"this machine does not serve {found.model} to as many within the target",
            found=f"{found.max_running:,} at once; {needed} such machines would",
            do=f"--serve {bears},… or ask for less: tokens_per_s, ttft, output",
        )
    if found.replicas.high == 1:
        return found
    note = "at the slow end of the intervals the target is missed"
    one = replace(found.replicas, low=1, high=1)
    return replace(found, replicas=one, notes=(note, *found.notes))


def serving_alone(
    name: str, shape: ModelShape | None, flags: Mapping[str, Any]
) -> schema.ServingAnswer:
    """--serve without a word of training."""
    serve = {"--device", "--serve", "--usd-per-device-hour", "--count", "--stack", "--vocab"}
    if stray := sorted(set(flags) - serve):
        raise SpecError(
            f"{', '.join(stray)} do not go with serving alone",
            do="add --seq and --global-batch-tokens to plan training too, or leave them out",
        )
    if shape is None or "--device" not in flags:
        raise SpecError(
            "serving needs --model and --device",
            do="such as --model qwen3-8b --device l40s --serve users=20,ttft=1s,tokens_per_s=20",
        )
    price = flags.get("--usd-per-device-hour")
    usd = None if price is None else PRICE.read(price, "--usd-per-device-hour")
    usual = device_named(flags["--device"])
    found, chosen = served(shape, name, usual, usd, flags["--serve"])
    warnings = [f"{part.name}: its weights are counted, its time is not" for part in shape.beside]
    if "--count" in flags:
        count = DEVICES.read(flags["--count"], "--count")
        if found.devices > count:
            warnings.append(f"{found.devices} devices are needed, --count has {count}")
    return schema.ServingAnswer(
        model=figures.model_figures(shape, 1),
        device=chosen,
        serve=flags["--serve"],
        serving=found,
        warnings=warnings,
    )
