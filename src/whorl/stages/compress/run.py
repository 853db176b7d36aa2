"""compress: exported variants of a trained model, each with its measured loss of quality.

A variant is refused when its measured loss of quality, in any of the recipe's fields, is above
`compress.max_bpb_increase`: the figure measured decides, its 95% interval is reported beside it
and the verdict says when the limit lies inside. An interval that decided would refuse every
variant measured on few documents.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from whorl.core.context import StageContext
from whorl.core.errors import GateError, WhorlError
from whorl.core.intervals import Interval, paired_interval
from whorl.core.ports import Exporter, Measure, QualityMeasure
from whorl.core.records import Record, RecordKey
from whorl.core.variants import Variant
from whorl.model.folder import read_card, seal_folder
from whorl.spec.resolved import CompressConfig

__all__ = ["LOGIC_VERSION", "PARENT", "loss_of_quality", "run"]

LOGIC_VERSION = 3
PARENT = "f32"  # weights of the export that smaller variants are compared with
Measured = Mapping[str, QualityMeasure]  # field -> what was measured of it
SIGNIFICANT = 6  # digits of measured figures kept: the rest depends on the number of threads


def run(
    context: StageContext,
    config: CompressConfig,
    trained: Record,
    exporter: Exporter,
    measure: Measure,
) -> Record:
    """Folders openvino-f32/, openvino-int8/ … of the record, each servable; found again if there.

    Metrics: {"variants": [{name, field, bytes, metric, value, increase, low, high, verdict}]}, a
    row per variant and field, the parent first; increase is the relative loss of quality, 0.01 =
    1% worse, whichever way the metric points. Raises GateError when a variant is worse than
    allowed (nothing is kept), RecordError if the trained model is damaged, MissingExtra without
    the exporter's packages.
    """
    made_by = {"format": exporter.format, "version": exporter.version}
    value = {**config.model_dump(mode="json"), "exporter": made_by}
    key = RecordKey("compress", value, {"train": trained.digest}, LOGIC_VERSION)
    if (found := context.store.find(key)) is not None:
        return found
    begin_s = time.monotonic()
    with context.store.write(key) as writer:
        rows = _Compression(context, config, exporter, measure, writer.path).make(
            trained, key.digest
        )
        writer.metrics["variants"] = rows
        writer.run.update(wall_s=time.monotonic() - begin_s, packages=_packages())
    return context.store.published(key)


@dataclass(frozen=True)
class _Compression:
    context: StageContext
    config: CompressConfig
    exporter: Exporter
    measure: Measure
    folder: Path  # the record's

    def make(self, trained: Record, digest: str) -> list[dict[str, Any]]:
        """All variants, as rows of the metrics. Raises GateError."""
        model = trained.folder("model")
        lineage = {**read_card(model).lineage, "train": trained.digest, "compress": digest}
        parent_folder, variant = self._place(PARENT)
        self.exporter.export(model, parent_folder, lineage)
        parent = self.measure(parent_folder, variant)
        no_loss = Interval(0.0, 0.0, 0.0)
        rows = [self._row(variant, field, parent[field], no_loss, "parent") for field in parent]
        for field, quality in parent.items():
            self.context.log(f"{variant}: {field} {quality.metric} {quality.value:.4f}")
        refused: list[tuple[str, str, Interval]] = []
        for weights in self.config.formats:
            folder, variant = self._place(weights)
            self.exporter.compress(parent_folder, folder, weights)
            for field, quality in self.measure(folder, variant).items():
                loss = loss_of_quality(quality, parent[field], self.config.seed)
                verdict = _verdict(loss, self.config.max_bpb_increase)
                rows.append(self._row(variant, field, quality, loss, verdict))
                told = f"{quality.metric} {quality.value:.4f}, {_percent(loss)}: {verdict}"
                self.context.log(f"{variant}: {field} {told}")
                if verdict.startswith("refused"):
                    refused.append((weights, field, loss))
        if refused:
            raise _refusal(refused, self.config, parent)
        for name in (PARENT, *self.config.formats):
            folder, variant = self._place(name)
            mine = {row["field"]: row for row in rows if row["name"] == str(variant)}
            seal_folder(folder, replace(read_card(folder), quality=mine))
        return rows

    def _place(self, weights: str) -> tuple[Path, Variant]:
        variant = Variant(self.exporter.format, weights)
        return self.folder / variant.slug, variant

    def _row(
        self, variant: Variant, field: str, quality: QualityMeasure, loss: Interval, verdict: str
    ) -> dict[str, Any]:
        return {
            "name": str(variant),
            "field": field,
            "bytes": read_card(self.folder / variant.slug).weight_bytes,
            "metric": quality.metric.name,
            "documents": len(quality.document_names),
            "value": _rounded(quality.value),
            "increase": _rounded(loss.value),
            "low": None if loss.low is None else _rounded(loss.low),
            "high": None if loss.high is None else _rounded(loss.high),
            "verdict": verdict,
        }


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


def _refusal(
    refused: list[tuple[str, str, Interval]], config: CompressConfig, parent: Measured
) -> WhorlError:
    """refused: (weights, field, loss) of everything above the limit."""
    names = list(dict.fromkeys(name for name, _, _ in refused))
    kept = [name for name in config.formats if name not in names]
    loosest = max(loss.value for _, _, loss in refused)
    measured = "; ".join(
        f"{field}: {parent[field].metric} of {len(parent[field].document_names)} documents"
        for field in dict.fromkeys(field for _, field, _ in refused)
    )
    return GateError(
        f"{', '.join(names)} is worse than the recipe allows (through the engine, {measured})",
        found="; ".join(f"{name} {_percent(loss)} ({field})" for name, field, loss in refused),
        expected=f"at most {100 * config.max_bpb_increase:+.3g}% (compress.max_bpb_increase)",
        do=f"set compress.formats to {kept}, or allow {100 * loosest:.2g}% "
        "with compress.max_bpb_increase",
    )


def _rounded(value: float) -> float:
    return float(f"{value:.{SIGNIFICANT}g}") if abs(value) >= 10**-SIGNIFICANT else 0.0


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
