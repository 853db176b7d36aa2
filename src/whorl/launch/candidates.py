"""Which of several ways to compute is fastest on this machine: tried, not assumed.

Every way that could win here does the same work; what was tried by the time that was there for it
is what is chosen from, and a choice says so. What nothing was tried of is what is safe anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from whorl.launch.turns import Tries, seconds_of
from whorl.stages.plan.hardware import MachineFacts, MeasuredChoice

__all__ = [
    "CHOICE_STEP",
    "DTYPE_NAMES",
    "Way",
    "choices",
    "first_ways",
    "layouts",
    "muon_dtypes",
    "muon_name",
    "precision_ways",
    "product_name",
    "rows_of_choice",
    "ways_tried",
]

# (layers, width, head_dim, ffn, vocabulary, seq_len, rows of all lanes, masked)
CHOICE_STEP = (2, 128, 64, 384, 2048, 256, 8, False)
DTYPE_NAMES = ("fp32", "bf16")
EMULATED = 3.0  # bf16 products over those of float32: where there are no instructions for them
WORTH = 0.9  # bf16 rounds: it is taken if it needs less than this share of float32's time
LANES_WORTH = 1.15  # lanes keep their speed beside other work: worth that much on a quiet machine
LANES_NOTE = "lanes are taken unless they are 15% slower: other work costs them less"
BY_PROCESSOR = "other work took the cores: by the processor's own time, where threads do not spin"


@dataclass(frozen=True)
class Way:
    """One way to do a step. rows: of all lanes."""

    settings: Mapping[str, Any]  # fields of a TrainConfig
    rows: int

    @property
    def spins(self) -> bool:
        """Whether threads share operations, and wait for each other by spinning."""
        return bool(self.settings["threads"] > self.settings["lanes"])

    @property
    def label(self) -> str:
        s = self.settings
        layout = f"{s['lanes']} x {s['threads'] // s['lanes']}"
        if s["precision"] == "fp32":
            return f"{layout} fp32"
        return f"{layout} bf16, attention {s['attention_dtype']}"

    @property
    def name(self) -> str:
        """Of its tries."""
        return f"choice of {self.rows} rows: {self.label}"


def product_name(dtype: str) -> str:
    return f"product in {dtype}"


def muon_name(dtype: str) -> str:
    return f"Muon's iteration in {dtype}"


def muon_dtypes(tries: Mapping[str, Tries]) -> list[str]:
    """What Muon's iteration, which is products, is worth trying in."""
    ratio = _product_ratio(tries)
    return [dtype for dtype in DTYPE_NAMES if dtype == "fp32" or (ratio or 0.0) < EMULATED]


def _product_ratio(tries: Mapping[str, Tries]) -> float | None:
    """Time of bf16 products over that of float32; None: not tried."""
    seconds, _ = seconds_of(_known(map(product_name, DTYPE_NAMES), tries))
    if len(seconds) < len(DTYPE_NAMES):
        return None
    return seconds[product_name("bf16")] / seconds[product_name("fp32")]


def rows_of_choice(cores: int, small: bool = False) -> int:
    """Of all lanes, however many share them: a multiple of the cores."""
    return cores if small else cores * -(-CHOICE_STEP[6] // cores)


def layouts(cores: int, physical_cores: int) -> list[dict[str, int]]:
    """Threads and lanes worth trying: a lane for each core, or every operation on all cores."""
    counts = sorted({cores, min(cores, physical_cores)}, reverse=True)
    tried = [{"threads": count, "lanes": count} for count in counts]
    return [*tried, {"threads": cores, "lanes": 1}] if cores > 1 else tried


def first_ways(facts: MachineFacts, rows: int) -> list[Way]:
    """Every layout in float32; the first is what is taken if nothing is known."""
    tried = layouts(facts.cores, facts.physical_cores or facts.cores)
    return [Way({**layout, "precision": "fp32"}, rows) for layout in tried]


def precision_ways(
    facts: MachineFacts, rows: int, layout: Mapping[str, Any], tries: Mapping[str, Tries]
) -> list[Way]:
    """Of the layout that is taken: float32, and bf16 where its products are faster here.

    A step in bf16 that is emulated takes seconds; two products say enough.
    """
    plain = Way({**layout, "precision": "fp32"}, rows)
    ratio = _product_ratio(tries)
    if ratio is None or ratio >= 1:
        return [plain]
    bf16_ways = [{"precision": "bf16", "attention_dtype": dtype} for dtype in ("bf16", "fp32")]
    return [plain, *(Way({**layout, **way}, rows) for way in bf16_ways)]


def ways_tried(
    facts: MachineFacts, tries: Mapping[str, Tries], layout: Mapping[str, Any]
) -> list[Way]:
    """All that were to be tried once that layout was taken, of the size of step that was used."""
    rows = _rows_tried(facts, tries)
    ways = [*first_ways(facts, rows), *precision_ways(facts, rows, layout, tries)]
    return list({way.name: way for way in ways}.values())


def choices(
    facts: MachineFacts, tries: Mapping[str, Tries], why: str = ""
) -> tuple[MeasuredChoice, ...]:
    """Lanes, Muon's dtype, and the dtype of products and attention, from what was tried.

    why: what kept the rest from being tried.
    """
    rows = _rows_tried(facts, tries)
    lanes = _lanes(first_ways(facts, rows), tries, why)
    muon = _muon(tries, why)
    ways = precision_ways(facts, rows, lanes.settings, tries)
    return lanes, muon, _precision(ways, tries, why)


def _rows_tried(facts: MachineFacts, tries: Mapping[str, Tries]) -> int:
    """The size of step that was used on this machine."""
    small = rows_of_choice(facts.cores, small=True)
    is_small = any(way.name in tries for way in first_ways(facts, small))
    return small if is_small else rows_of_choice(facts.cores)


def _known(names: Any, tries: Mapping[str, Tries]) -> dict[str, Tries]:
    return {name: tries[name] for name in names if name in tries}


def _lanes(ways: Sequence[Way], tries: Mapping[str, Tries], why: str) -> MeasuredChoice:
    named = {way.name: way for way in ways}
    seconds, by_processor = seconds_of(_known(named, tries))
    best = min(seconds, key=lambda name: seconds[name], default=ways[0].name)
    together = [name for name in seconds if named[name].settings["lanes"] > 1]
    best_lanes = min(together, key=lambda name: seconds[name], default=best)
    is_near = not seconds or seconds[best_lanes] <= LANES_WORTH * seconds[best]
    taken = best_lanes if is_near else best
    note = LANES_NOTE if seconds and seconds[taken] > seconds[best] else ""
    settings = {key: named[taken].settings[key] for key in ("threads", "lanes")}
    labels = {name: named[name].label.removesuffix(" fp32") for name in named}
    return MeasuredChoice(
        key="train.lanes",
        what=f"{_step_words(ways[0].rows)}, by lanes x threads of each",
        taken=labels[taken],
        seconds={labels[name]: value for name, value in seconds.items()},
        settings=settings,
        note=_note(note, seconds, len(ways), by_processor, why),
    )


def _muon(tries: Mapping[str, Tries], why: str) -> MeasuredChoice:
    dtypes, ratio = muon_dtypes(tries), _product_ratio(tries)
    by_name, by_processor = seconds_of(_known(map(muon_name, dtypes), tries))
    seconds = {d: by_name[muon_name(d)] for d in dtypes if muon_name(d) in by_name}
    taken = _bf16_if_worth_it(seconds, ("bf16",))
    note = _slower(ratio) if ratio is not None and len(dtypes) == 1 else ""
    return MeasuredChoice(
        key="train.muon_dtype",
        what="orthogonalising four matrices of 128 x 384",
        taken=taken,
        seconds=seconds,
        settings={"muon_dtype": taken},
        note=_note(note, seconds, len(dtypes), by_processor, why),
    )


def _precision(ways: Sequence[Way], tries: Mapping[str, Tries], why: str) -> MeasuredChoice:
    """float32 unless bf16 products pay for their casts; attention in whichever is faster then."""
    labels = {way.name: way.label.partition(" x ")[2].partition(" ")[2] for way in ways}
    by_name, by_processor = seconds_of(_known(labels, tries))
    seconds = {labels[name]: value for name, value in by_name.items()}
    taken = _bf16_if_worth_it(seconds, [name for name in seconds if name != "fp32"])
    way = next(way for way in ways if labels[way.name] == taken)
    ratio = _product_ratio(tries)
    note = "bf16 products were not tried"
    if ratio is not None:
        note = f"{_slower(ratio)}, bf16 is taken if it saves a tenth"
    return MeasuredChoice(
        key="train.precision",
        what=_step_words(ways[0].rows),
        taken=taken,
        seconds=seconds,
        settings={
            "precision": way.settings["precision"],
            "attention_dtype": way.settings.get("attention_dtype", "fp32"),
        },
        note=_note(note, seconds, len(ways), by_processor, why),
    )


def _slower(ratio: float) -> str:
    return f"bf16 products take {ratio:.2g} x the time of fp32"


def _step_words(rows: int) -> str:
    layers, width, *_ = CHOICE_STEP
    return f"a step of {layers} layers of width {width}, {rows} rows"


def _note(
    note: str, seconds: Mapping[str, float], wanted: int, by_processor: bool, why: str
) -> str:
    missing = f"measured {len(seconds)} of {wanted} ways" if len(seconds) < wanted else ""
    because = f"{missing}: {why}" if missing and why else missing
    return "; ".join(filter(None, (note, because, BY_PROCESSOR if by_processor else "")))


def _bf16_if_worth_it(seconds: Mapping[str, float], others: Sequence[str]) -> str:
    known = [name for name in others if name in seconds]
    best = min(known, key=lambda name: seconds[name], default="fp32")
    worth = "fp32" in seconds and seconds[best] < WORTH * seconds["fp32"]
    return best if worth else "fp32"
