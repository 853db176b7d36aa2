"""Which of a model's variants is served: of those that keep the targets of `serve` the one that
loses least; where no target is set, the smallest.

compress has refused what loses too much already. What a variant does is what compress measured on
this machine, and what is predicted where it did not (see `promise`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from whorl.core.records import MANIFEST, Record
from whorl.core.units import format_bytes
from whorl.core.variants import Variant, find_variant
from whorl.engines.open import AUTO, EXPORTED, SAFETENSORS, servable
from whorl.engines.threads import engine_threads
from whorl.launch.machine import machine_facts
from whorl.model.folder import peek_card
from whorl.spec.recipe import Recipe
from whorl.spec.resolved import ServeConfig
from whorl.stages.serve.promise import Promise
from whorl.wiring.promise import predict, setup_of
from whorl.wiring.rates import probed_rates

__all__ = ["Chosen", "check_variant", "choose_variant", "served_of"]

PARENT = "f32"  # weights that are compressed, and of the trained model
Rates = tuple[float, float]  # operations and bytes per second here


@dataclass(frozen=True)
class Chosen:
    """why: "" where nothing was asked for."""

    variant: Variant
    folder: Path
    why: str = ""


@dataclass(frozen=True)
class _Candidate:
    variant: Variant
    folder: Path
    loss: float  # share of quality, of the field that loses most
    basis: str
    missed: tuple[str, ...]
    shortfall: float  # how many times the worst target is missed; at most 1: none is


def choose_variant(
    there: Mapping[Variant, Path],
    config: ServeConfig,
    probe: Callable[[], Rates] | None = None,
) -> Chosen:
    """there: the smallest first. probe: see `predict`; it is asked once.

    Raises SpecError if there is no such variant, or the engine serves none of them.
    """
    if config.variant is not None:
        chosen = find_variant(config.variant, there)
        return Chosen(chosen, there[chosen])
    served = servable(there, config.engine)
    exported = {key: path for key, path in served.items() if key.format != SAFETENSORS}
    if config.engine == AUTO and exported:  # the trained model is among them as f32
        served = exported
    first = next(iter(served))
    if not config.has_targets or len(served) == 1:
        return Chosen(first, served[first])
    rates = (probe or probed_rates)()
    found = [_candidate(variant, folder, config, rates) for variant, folder in served.items()]
    best = min(found, key=lambda each: (max(1.0, each.shortfall), each.loss))
    return Chosen(best.variant, best.folder, _why(best, found))


def served_of(
    there: Callable[[], Mapping[Variant, Path]], log: Callable[[str], None], config: ServeConfig
) -> tuple[Variant, Path]:
    """What of a recipe's model is served; the log says why, where targets chose it."""
    found = choose_variant(there(), config)
    if found.why:
        log(f"serve: as {found.why}")
    return found.variant, found.folder


def check_variant(recipe: Recipe) -> None:
    """Raises SpecError if serve.variant is none that this recipe makes: told before any work."""
    tried, asked = recipe.compress.tried, recipe.serve.variant
    made = [each for each in EXPORTED if tried and each.weights in (PARENT, *tried)]
    if asked is not None:
        find_variant(asked, [*made, Variant(SAFETENSORS, PARENT)])


def _candidate(variant: Variant, folder: Path, config: ServeConfig, rates: Rates) -> _Candidate:
    """With as many users as are asked for."""
    asked = config.model_copy(update={"max_running": config.users or config.max_running})
    card = peek_card(folder)
    setup = setup_of(card, asked, engine_threads())
    promise = predict(card, variant, asked, setup, lambda: rates)
    measured = _measured(folder, variant) if config.replicas == 1 else None
    basis = "predicted" if measured is None else "measured by compress"
    if measured is not None:
        promise = _as_measured(promise, measured)
    missed = promise.against(asked)
    ratios = [1.0]
    if asked.ttft_p95 is not None:
        ratios.append(promise.ttft_p95_s / asked.ttft_p95)
    if asked.tokens_per_s_per_user is not None:
        ratios.append(asked.tokens_per_s_per_user / promise.tokens_per_s_per_user)
    memory = machine_facts().memory_bytes
    if promise.memory_bytes > memory:
        missed += (f"memory {format_bytes(memory)}: {format_bytes(promise.memory_bytes)}",)
        ratios.append(promise.memory_bytes / memory)
    losses = [max(0.0, float(row["increase"])) for row in card.quality.values()]
    return _Candidate(variant, folder, max(losses, default=0.0), basis, missed, max(ratios))


def _as_measured(promise: Promise, tokens_per_s: Mapping[int, float]) -> Promise:
    """The time of a step grows evenly from one request to many, and never falls; prompts are read
    as much faster or slower than predicted as steps are."""
    (few, many) = sorted(tokens_per_s)
    first_s, last_s = few / tokens_per_s[few], many / tokens_per_s[many]
    slope_s = max(0.0, (last_s - first_s) / (many - few))  # of noise it may be below
    step_s = first_s + max(0, promise.users - few) * slope_s
    ttft_p95_s = promise.ttft_p95_s * step_s * promise.tokens_per_s_per_user
    each = {"ttft_p95_s": ttft_p95_s, "tokens_per_s_per_user": 1 / step_s}
    return promise.model_copy(update=each)


def _measured(folder: Path, variant: Variant) -> dict[int, float] | None:
    """Tokens per second by the number of requests, if compress measured it on this machine."""
    place = folder.resolve().parent
    if not (place / MANIFEST).is_file():
        return None
    record = Record.load(place)
    names = {  # of what a search kept; older records had no name beside how it was made
        each["format"]: each.get("candidate", each["how"])
        for each in record.metrics.get("choices", ())
    }
    speeds = record.run.get("speeds", {}).get(names.get(variant.weights, str(variant)))
    if speeds is None or speeds.get("machine") != machine_facts().identity:
        return None
    return {int(number): float(rate) for number, rate in speeds["tokens_per_s"].items()}


def _why(best: _Candidate, found: list[_Candidate]) -> str:
    if best.missed:
        told = f"comes nearest to the targets, which none of {len(found)} variants keeps"
        return f"{best.variant}: {told}: {_short(best)}"
    keep = sum(not each.missed for each in found)
    whole = f"of {len(found)} that"
    least = f"the least of the {keep} {whole} keep" if keep > 1 else f"the only one {whole} keeps"
    told = f"loses {100 * best.loss:.2g}%, {least} the targets"
    told = f"{best.variant}: {told} ({best.basis})"
    better = [each for each in found if each.missed and each.loss <= best.loss]
    return told + "".join(f"; {each.variant} misses {_short(each)}" for each in better)


def _short(candidate: _Candidate) -> str:
    return f"{', '.join(candidate.missed)} ({candidate.basis})"
