"""What a taught model has forgotten: general text under it and under its base, before and after.

The text is whorl's own, written for this and equal on every machine (general.md), or a person's.
Passages that the training rows hold too are left out: they would be learned, not remembered. Both
models are read by the same engine, and their bits per byte are paired passage by passage.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from whorl.codecs.contract import Tokens
from whorl.core.context import StageContext
from whorl.core.digests import digest_value
from whorl.core.errors import DataError
from whorl.core.intervals import Interval, paired_interval, score_of
from whorl.core.ports import Engine, HeldoutDocument, Score
from whorl.core.rows import RowSet
from whorl.core.tasks import LikelihoodTask
from whorl.core.variants import Variant
from whorl.model.folder import peek_card
from whorl.spec.resolved import EvaluateConfig
from whorl.stages.evaluate.contamination import seen_shares
from whorl.stages.evaluate.measure import Asked, measure

__all__ = ["GENERAL_TEXT", "Forgetting", "ForgettingProbe", "GeneralText"]

GENERAL_TEXT = "general text"  # stands where a field's name stands in scores
FILE, BETWEEN = "general.md", "\n---\n"
MIN_PASSAGE_BYTES, MAX_PASSAGE_BYTES, MAX_PASSAGES = 200, 1_200, 24
MOST_SHARED = 0.2  # of a passage that training holds too


@dataclass(frozen=True)
class GeneralText:
    """Passages of prose, each a document of its own."""

    passages: tuple[str, ...]

    @classmethod
    def own(cls) -> GeneralText:
        """whorl's."""
        text = (resources.files(__package__) / FILE).read_text("utf-8")
        return cls(tuple(passage.strip() for passage in text.split(BETWEEN)))

    @classmethod
    def of(cls, texts: Sequence[str]) -> GeneralText:
        """Of somebody's texts, cut at blank lines, evenly chosen. Raises DataError if too short."""
        every = [passage for text in texts for passage in _cut(text)]
        if not every:
            raise DataError(
                "there is no passage in evaluate.forgetting",
                found=f"{len(texts)} files",
                expected=f"prose, in paragraphs of at least {MIN_PASSAGE_BYTES} bytes",
            )
        places = np.linspace(0, len(every) - 1, min(MAX_PASSAGES, len(every))).astype(int)
        return cls(tuple(every[place] for place in dict.fromkeys(places.tolist())))

    @property
    def digest(self) -> str:
        return digest_value(list(self.passages))


def _cut(text: str) -> Iterator[str]:
    """Paragraphs, the short ones joined; what is longer than a passage is cut."""
    passage = ""
    for paragraph in [*text.replace("\r\n", "\n").split("\n\n"), None]:
        if len(passage.encode()) >= MIN_PASSAGE_BYTES:
            yield passage.encode()[:MAX_PASSAGE_BYTES].decode("utf-8", "ignore")
            passage = ""
        passage = f"{passage}\n\n{paragraph}".strip() if paragraph is not None else passage


@dataclass(frozen=True)
class ForgettingProbe:
    """before: the base's folder. after: the trained model's, of the same format."""

    text: GeneralText
    before: tuple[Variant, Path]
    after: tuple[Variant, Path]
    base: str  # what the recipe calls it

    def describe(self) -> dict[str, str]:
        """What its scores depend on."""
        cards = {"before": self.before[1], "after": self.after[1]}
        digests = {name: peek_card(folder).digest for name, folder in cards.items()}
        return {"text": self.text.digest, **digests}


@dataclass(frozen=True)
class Forgetting:
    """The probe's part of an evaluation: scores and comparisons as those of a field."""

    context: StageContext
    config: EvaluateConfig
    probe: ForgettingProbe
    tokens: Tokens
    asked: Asked
    name: str = GENERAL_TEXT

    @classmethod
    def of(
        cls,
        context: StageContext,
        config: EvaluateConfig,
        probe: ForgettingProbe,
        tokens: Tokens,
        rows: RowSet,
    ) -> Forgetting:
        """Raises DataError if every passage is trained on too, or the model reads no text."""
        passages = probe.text.passages
        documents = [_document(number, p, tokens) for number, p in enumerate(passages)]
        shares = seen_shares(rows, tokens, documents)
        kept = [
            document
            for document, share in zip(documents, shares, strict=True)
            if share is None or share <= MOST_SHARED
        ]
        if not kept:
            raise DataError(
                "all of the general text is in the training data too",
                found=f"{len(documents)} passages",
                do="give evaluate.forgetting another text",
            )
        asked = Asked(LikelihoodTask(), tuple(kept), (None,) * len(kept))
        return cls(context, config, probe, tokens, asked)

    def score_model(self, engine: Engine, variant: Variant) -> Score:
        """A model's score through its engine."""
        return replace(self._score(engine, str(variant)), variant=variant)

    def score_base(self, engine: Engine, variant: Variant, base: str) -> Score:
        """That of the model it was trained from."""
        return self._score(engine, f"its base, {variant}", f"{base}, before training")

    def _score(self, engine: Engine, name: str, note: str = "") -> Score:
        progress, config = self.context.progress, self.config
        found = measure(engine, self.tokens, self.asked, window=config.window, progress=progress)
        return score_of(name, found, samples=config.bootstrap_samples, seed=config.seed, note=note)

    # ---------------------------------------------------------------- as plain values

    def summary(self) -> dict[str, Any]:
        """How much was asked, and in which metric the answers are scored."""
        return {
            "field": self.name,
            "metric": self.asked.task.metric.name,
            "num_documents": len(self.asked.documents),
            "num_heldout_documents": len(self.probe.text.passages),
            "num_cut_questions": 0,
            "num_bytes": sum(document.num_bytes for document in self.asked.documents),
        }

    def comparisons(self, first: Score, others: Sequence[Score]) -> list[dict[str, Any]]:
        """Every model against the base; the first one last, which reports look up."""
        *rest, base = others
        compared = [self._pair(score, base) for score in (*rest, first)]
        return [
            {
                "field": self.name,
                "first": score.name,
                "second": base.name,
                "difference": found.value,
                "low": found.low,
                "high": found.high,
                "better": {1: base.name, -1: score.name, 0: None}[found.sign],
            }
            for score, found in zip((*rest, first), compared, strict=True)
        ]

    def told(self, scores: Sequence[Score]) -> dict[str, Any]:
        """Before and after, through one engine: bits per byte, and the rise as a share."""
        base = scores[-1]
        after = next(score for score in scores if score.variant == self.probe.after[0])
        rise = self._pair(after, base, relative=True)
        return {
            "base": self.probe.base,
            "text": self.probe.text.digest,
            "passages": len(self.asked.documents),
            "left_out": len(self.probe.text.passages) - len(self.asked.documents),
            "before": base.value,
            "after": after.value,
            "rise": rise.value,
            "low": rise.low,
            "high": rise.high,
        }

    def _pair(self, score: Score, base: Score, relative: bool = False) -> Interval:
        assert score.measure is not None and base.measure is not None
        return paired_interval(
            score.measure,
            base.measure,
            relative=relative,
            samples=self.config.bootstrap_samples,
            seed=self.config.seed,
        )


def _document(number: int, passage: str, tokens: Tokens) -> HeldoutDocument:
    name = f"{GENERAL_TEXT} {number}"
    ids = np.asarray(tokens.encode_prompt(passage), np.int64)
    return HeldoutDocument(name, ids, np.arange(len(ids)) > 0, len(passage.encode()))
