"""compress: exported variants of a trained model, each with its measured loss of quality.

A variant is refused when its measured loss of quality, in any of the recipe's fields, is above
`compress.max_bpb_increase`: the figure measured decides, its 95% interval is reported beside it
and the verdict says when the limit lies inside. An interval that decided would refuse every
variant measured on few documents.

`compress.search` tries several ways to make each format (see `candidates`), and keeps one.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from whorl.core.context import StageContext
from whorl.core.errors import EngineError, GateError, MissingExtra, PlanError, WhorlError
from whorl.core.intervals import Interval, paired_interval
from whorl.core.ports import Exporter, Measure, QualityMeasure
from whorl.core.records import Record, RecordKey
from whorl.core.rounding import Guessing, Rounding, SmallWeights, Speeds, Texts
from whorl.core.variants import Variant
from whorl.model.folder import CACHES, change_card, peek_card
from whorl.spec.resolved import CompressConfig
from whorl.stages.compress.candidates import (
    Tried,
    candidates_of,
    choose,
    choose_guesses,
    is_beaten,
)
from whorl.stages.compress.picture import draw_pareto

__all__ = ["LOGIC_VERSION", "PARENT", "MeasureGuesses", "MeasureSpeed", "loss_of_quality", "run"]

LOGIC_VERSION = 5
PARENT = "f32"  # weights of the export that smaller variants are compared with
PARENT_CACHE = CACHES[0]  # its numbers of keys and values
CANDIDATES = "candidates"  # folder of the record while it is made
Measured = Mapping[str, QualityMeasure]  # field -> what was measured of it
MeasureSpeed = Callable[[Path, Variant, Texts], Speeds]
MeasureGuesses = Callable[[Path, Variant], list[Guessing]]  # of several numbers of ids
SIGNIFICANT = 6  # digits of measured figures kept: the rest depends on the number of threads


def run(
    context: StageContext,
    config: CompressConfig,
    trained: Record,
    exporter: Exporter,
    measure: Measure,
    *,
    texts: Callable[[], Texts] = tuple,
    speed: MeasureSpeed | None = None,
    guess: MeasureGuesses | None = None,
    times: bool = False,
) -> Record:
    """Folders openvino-f32/, openvino-int8/ … of the record, each servable; found again if there.

    Metrics: {"variants": [{name, field, bytes, metric, value, increase, low, high, verdict}]}, a
    row per variant and field, the parent first; increase is the relative loss of quality, 0.01 =
    1% worse, whichever way the metric points. With a search, "search" has such a row of every
    candidate, "choices" what was kept and why, and run.json what `speed` and `guess` measured.

    times: without a search too, as targets of a server choose among the variants by it.
    texts: ids of training documents, for methods that read some. A variant that is worse than
    allowed, or cannot be computed here, is left out, and the log says so, where the recipe names no
    formats (config.leaves_out). Where it names some nothing is kept: raises GateError if one is
    worse than allowed, PlanError if the sizes do not allow it, EngineError if this CPU does not.
    RecordError if the trained model is damaged, MissingExtra without the exporter's packages.
    """
    made_by = {"format": exporter.format, "version": exporter.version}
    value = {**config.model_dump(mode="json"), "exporter": made_by}
    key = RecordKey("compress", value, {"train": trained.digest}, LOGIC_VERSION)
    if (found := context.store.find(key)) is not None:
        return found
    begin_s = time.monotonic()
    with context.store.write(key) as writer:
        tools = exporter, measure, texts, speed, guess
        work = _Compression(context, config, *tools, writer.path, times)
        writer.metrics["variants"] = work.make(trained, key.digest)
        if work.is_searching:
            writer.metrics.update(search=work.rows, choices=work.choices)
            if work.guesses:
                writer.run["guesses"] = work.guesses
            _draw(context, context.store.run_folder(key), work)
        if work.speeds:
            writer.run["speeds"] = {name: asdict(each) for name, each in work.speeds.items()}
        writer.run.update(wall_s=time.monotonic() - begin_s, packages=_packages())
    return context.store.published(key)


@dataclass
class _Compression:
    context: StageContext
    config: CompressConfig
    exporter: Exporter
    measure: Measure
    texts: Callable[[], Texts]
    speed: MeasureSpeed | None
    guess: MeasureGuesses | None
    folder: Path  # the record's
    times: bool = False
    rows: list[dict[str, Any]] = field(default_factory=list)  # of every candidate
    choices: list[dict[str, Any]] = field(default_factory=list)
    speeds: dict[str, Speeds] = field(default_factory=dict)  # name of a candidate -> its
    guesses: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # likewise

    @property
    def is_searching(self) -> bool:
        return (
            self.search != "off"
            or self.config.cache != PARENT_CACHE
            or self.config.speculation != "off"
        )

    @property
    def search(self) -> str:
        """auto: int8 hardly loses anything, int4 is worth a search."""
        auto = "full" if "int4" in self.config.formats else "off"
        return auto if self.config.search == "auto" else self.config.search

    def make(self, trained: Record, digest: str) -> list[dict[str, Any]]:
        """All variants, as rows of the metrics. Raises GateError."""
        model = trained.folder("model")
        lineage = {**peek_card(model).lineage, "train": trained.digest, "compress": digest}
        folder, variant = self._place(PARENT)
        self.exporter.export(model, folder, lineage)
        parent = self.measure(folder, variant)
        no_loss = Interval(0.0, 0.0, 0.0)
        rows = [self._row(folder, of, parent[of], no_loss, "parent") for of in parent]
        for of, quality in parent.items():
            self.context.log(f"{variant}: {of} {quality.metric} {quality.value:.4f}")
        self._time(folder, variant, str(variant))
        if self.is_searching:
            self.rows += [{"format": PARENT, "how": str(variant), **row} for row in rows]
        refused: list[dict[str, Any]] = []
        begin_s = time.monotonic()
        for weights in self.config.formats:
            try:
                mine = self._with_cache(weights, self._best(weights, parent, begin_s), parent)
            except (PlanError, EngineError) as error:  # sizes, or a CPU that does not compute it
                self._leave_out(error)
                continue
            rows += mine
            refused += [row for row in mine if row["verdict"].startswith("refused")]
            if not refused:  # else it is not kept
                self._speculate(weights)
        if refused:
            self._leave_out(_refusal(refused, self.config, parent))
        shutil.rmtree(self.folder / CANDIDATES, ignore_errors=True)
        for name in (PARENT, *self.config.formats):
            folder, variant = self._place(name)
            if not folder.exists():
                continue
            quality_rows = {row["field"]: row for row in rows if row["name"] == str(variant)}
            change_card(folder, replace(peek_card(folder), quality=quality_rows))
        return rows

    def _leave_out(self, refusal: WhorlError) -> None:
        """Keep the parent alone where the recipe names no format. Else raises the refusal."""
        if not self.config.leaves_out:
            raise refusal
        for weights in self.config.formats:
            shutil.rmtree(self._place(weights)[0], ignore_errors=True)
        self.choices.clear()
        self.context.log(f"{refusal}; meanwhile it is served in full precision, {PARENT}")

    def _best(
        self, weights: SmallWeights, parent: Measured, begin_s: float
    ) -> list[dict[str, Any]]:
        """Rows of the candidate that is kept as the variant; the least refused if none is."""
        place, variant = self._place(weights)
        tried: list[Tried] = []
        measured: dict[Rounding, list[dict[str, Any]]] = {}
        kept: dict[Rounding, Path] = {}
        impossible: PlanError | None = None
        longest_s = 0.0
        candidates = candidates_of(weights, self.search)
        for number, how in enumerate(candidates):
            start_s = time.monotonic()
            if tried and start_s - begin_s + longest_s > self.config.search_time_s:
                self._skip(candidates[number:], "compress.search_time is spent")
                break
            folder = (
                self.folder / CANDIDATES / f"{weights}-{number}" if self.is_searching else place
            )
            try:
                found, measured[how] = self._try(how, folder, variant, parent)
            except PlanError as error:
                impossible = error
                self._skip([how], str(error))
                shutil.rmtree(folder, ignore_errors=True)
                continue
            longest_s = max(longest_s, time.monotonic() - start_s)
            tried.append(found)
            kept[how] = folder
            for beaten in [one for one in tried if any(is_beaten(one, by) for by in tried)]:
                if beaten.how in kept:
                    shutil.rmtree(kept.pop(beaten.how), ignore_errors=True)
        if not tried:
            raise impossible or AssertionError("every format has a candidate")
        choice = choose(tried)
        best = min(tried, key=lambda each: each.loss) if choice is None else choice[0]
        if choice is not None and self.is_searching:
            kept[best.how].rename(place)
            told = {"candidate": str(best.how), "how": str(best.how)}
            self.choices.append({"format": weights, **told, "why": choice[1]})
            self.context.log(f"{variant}: {best.how}: {choice[1]}")
        return measured[best.how]

    def _try(
        self, how: Rounding, folder: Path, variant: Variant, parent: Measured
    ) -> tuple[Tried, list[dict[str, Any]]]:
        folder.parent.mkdir(parents=True, exist_ok=True)
        self.exporter.compress(
            self._place(PARENT)[0], folder, how, self.texts() if how.needs_text else ()
        )
        rows, worst = self._compared(str(how), folder, variant, parent)
        allowed = worst <= self.config.max_bpb_increase
        return Tried(how, rows[0]["bytes"], _rounded(worst), allowed), rows

    def _with_cache(
        self, weights: SmallWeights, rows: list[dict[str, Any]], parent: Measured
    ) -> list[dict[str, Any]]:
        """Rows of the kept candidate with a smaller cache, if the recipe asks for it and the limit
        allows it; else the same. The choice says which, and why."""
        folder, variant = self._place(weights)
        kept = [each for each in self.choices if each["format"] == weights]
        if self.config.cache == PARENT_CACHE or not kept:
            return rows
        (choice,) = kept
        before = peek_card(folder)
        after = change_card(folder, replace(before, cache=self.config.cache))
        how = f"{choice['how']}, {after.cache} cache"
        found, worst = self._compared(how, folder, variant, parent)
        allowed = self.config.max_bpb_increase
        if worst > allowed:
            change_card(folder, before)
            loses = f"loses {_share(worst)}, over the limit of {_share(allowed)}"
            choice["why"] += f"; an {after.cache} cache {loses}"
            self.context.log(f"{variant}: {how}: refused: {loses}")
            return rows
        least, most = (round(each.cache_bytes_per_token) for each in (after, before))
        why = f"within the limit; a token's keys and values take {least:,} bytes, not {most:,}"
        choice.update(candidate=how, how=how, why=f"{choice['why']}; {why}")
        self.context.log(f"{variant}: {how}: {why}")
        return found

    def _speculate(self, weights: SmallWeights) -> None:
        """Whether what is kept is served with guesses, as was measured here; the choice says so."""
        kept = [each for each in self.choices if each["format"] == weights]
        if self.config.speculation == "off" or not kept or self.guess is None:
            return
        (choice,), (folder, variant) = kept, self._place(weights)
        tried = self.guess(folder, variant)
        self.guesses[choice["how"]] = [asdict(each) for each in tried]
        guesses, why = choose_guesses(tried)
        if guesses:
            change_card(folder, replace(peek_card(folder), lookup=guesses))
            choice["how"] += f", guesses of {guesses}"
        choice["why"] += f"; {why}"
        for each in tried:
            together = "" if each.together is None else f", {each.together:.2f} times together"
            self.context.log(
                f"{variant}: guesses of {each.guesses}: {each.ids_per_step:.2f} ids a step, "
                f"{each.alone:.2f} times the tokens/s alone{together}"
            )
        self.context.log(f"{variant}: {why}")

    def _compared(
        self, how: str, folder: Path, variant: Variant, parent: Measured
    ) -> tuple[list[dict[str, Any]], float]:
        """(rows of what a folder loses in each field, the worst loss)."""
        rows, losses = [], []
        for of, quality in self.measure(folder, variant).items():
            loss = loss_of_quality(quality, parent[of], self.config.seed)
            verdict = _verdict(loss, self.config.max_bpb_increase)
            rows.append(self._row(folder, of, quality, loss, verdict))
            losses.append(loss.value)
            told = f"{quality.metric} {quality.value:.4f}, {_percent(loss)}: {verdict}"
            self.context.log(f"{how if self.is_searching else variant}: {of} {told}")
        self._time(folder, variant, how)
        if self.is_searching:
            self.rows += [{"format": variant.weights, "how": how, **row} for row in rows]
        return rows, max(losses)

    def _time(self, folder: Path, variant: Variant, how: str) -> None:
        if self.speed is not None and (self.is_searching or self.times):
            name = how if self.is_searching else str(variant)
            self.speeds[name] = self.speed(folder, variant, self.texts())

    def _skip(self, hows: list[Rounding], reason: str) -> None:
        for how in hows:
            self.rows.append({"format": how.weights, "how": str(how), "not_tried": reason})
            self.context.log(f"{how}: not tried: {reason}")

    def _place(self, weights: str) -> tuple[Path, Variant]:
        variant = Variant(self.exporter.format, weights)
        return self.folder / variant.slug, variant

    def _row(
        self, folder: Path, of: str, quality: QualityMeasure, loss: Interval, verdict: str
    ) -> dict[str, Any]:
        card = peek_card(folder)  # the engine that measured it has verified its files
        return {
            "name": str(card.variant),
            "field": of,
            "bytes": card.weight_bytes,
            "metric": quality.metric.name,
            "documents": len(quality.document_names),
            "value": _rounded(quality.value),
            "increase": _rounded(loss.value),
            "low": None if loss.low is None else _rounded(loss.low),
            "high": None if loss.high is None else _rounded(loss.high),
            "verdict": verdict,
        }


def _draw(context: StageContext, folder: Path, work: _Compression) -> None:
    try:
        draw_pareto(folder, work.rows, work.speeds, {each["candidate"] for each in work.choices})
    except (MissingExtra, OSError) as error:  # a picture must not undo the work
        context.log(f"no picture of the candidates: {error}")


def loss_of_quality(variant: QualityMeasure, parent: QualityMeasure, seed: int = 0) -> Interval:
    """How much worse a variant is, as a share of the parent's figure, with its paired interval.

    The increase where less is better, else the decrease; a parent that scores 0 there cannot lose.
    Raises SpecError when the two were not measured on the same documents.
    """
    if parent.metric.higher_is_better and parent.value == 0.0:
        return Interval(0.0, None, None)
    change = paired_interval(variant, parent, relative=True, seed=seed)
    if not parent.metric.higher_is_better:
        return change
    low = None if change.high is None else -change.high
    high = None if change.low is None else -change.low
    return Interval(-change.value, low, high)


def _verdict(loss: Interval, limit: float) -> str:
    verdict = "accepted" if loss.value <= limit else "refused"
    if loss.low is not None and loss.high is not None and loss.low <= limit < loss.high:
        verdict += ", uncertain: the limit lies inside the interval"
    return verdict


def _refusal(refused: list[dict[str, Any]], config: CompressConfig, parent: Measured) -> WhorlError:
    """refused: rows of everything above the limit, of each format the best candidate."""
    weights = [row["name"].rpartition(" ")[2] for row in refused]
    kept = [name for name in config.formats if name not in weights]
    loosest = max(row["increase"] for row in refused)
    measured = "; ".join(
        f"{of}: {parent[of].metric} of {len(parent[of].document_names)} documents"
        for of in dict.fromkeys(row["field"] for row in refused)
    )
    losses = [Interval(row["increase"], row["low"], row["high"]) for row in refused]
    return GateError(
        f"{', '.join(dict.fromkeys(weights))} is worse than the recipe allows "
        f"(through the engine, {measured})",
        found="; ".join(
            f"{name} {_percent(loss)} ({row['field']})"
            for name, loss, row in zip(weights, losses, refused, strict=True)
        ),
        expected=f"at most {100 * config.max_bpb_increase:+.3g}% (compress.max_bpb_increase)",
        do=f"set compress.formats to {kept}, or allow {100 * loosest:.2g}% "
        "with compress.max_bpb_increase",
    )


def _rounded(value: float) -> float:
    return float(f"{value:.{SIGNIFICANT}g}") if abs(value) >= 10**-SIGNIFICANT else 0.0


def _share(value: float) -> str:
    return f"{100 * value:.3g}%"


def _percent(loss: Interval) -> str:
    if loss.low is None or loss.high is None:
        return f"{100 * loss.value:+.3g}%"
    return f"{100 * loss.value:+.3g}% [{100 * loss.low:+.3g}%, {100 * loss.high:+.3g}%]"


def _packages() -> dict[str, str]:
    found = {}
    for name in ("openvino", "openvino-genai", "nncf", "torch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found
