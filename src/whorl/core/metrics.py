"""What a score means: its unit, which way is better, how documents add up, how it is shown.

A package adds one through an entry point of the group `whorl.metrics` that names a `Metric`; its
tasks hand the object on, and records, which keep its name alone, find it again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.core.errors import RecordError
from whorl.core.plugins import find_part

__all__ = [
    "ACCURACY",
    "BITS_PER_BYTE",
    "BITS_PER_TOKEN",
    "BLEU",
    "BUILT_IN",
    "CER",
    "CER_NEW_FONTS",
    "CHRF",
    "F1",
    "GROUP",
    "HITS_AT_10",
    "MEAN_IOU",
    "MOVE_MATCH",
    "MRR",
    "NDCG_AT_10",
    "POINTS_GREEDY",
    "POINTS_RANDOM",
    "POINTS_STOCKFISH",
    "RECALL_AT_50",
    "RETURN",
    "SLOT_F1",
    "SUCCESS",
    "TYPED_ACCURACY",
    "WER",
    "ClassF1",
    "CorpusBleu",
    "CorpusChrf",
    "Grade",
    "Metric",
    "find_metric",
]

GROUP = "whorl.metrics"
CHRF_ORDERS, BLEU_ORDERS = 6, 4  # signs, words
CHRF_BETA = 2  # how much more recall counts than precision

# Of a document in a metric; several numbers where its figure is made of several sums.
Grade = tuple[float | Sequence[float], float | Sequence[float]]


@dataclass(frozen=True)
class Metric:
    """A figure made of two numbers of every document. Subclass it to add them up otherwise.

    Each of the two may be several, [k] of a document and [k, n] of n: axes are counted from the
    last, along which documents lie.
    """

    name: str  # in records
    unit: str  # "" for a share
    higher_is_better: bool
    is_share: bool = False  # of yes-or-no answers: a document counts 0 or 1, over 1
    decimals: int = 3

    @property
    def title(self) -> str:
        return self.name.replace("_", " ")

    @property
    def sign(self) -> int:
        """What a difference is multiplied with, so that more is better."""
        return 1 if self.higher_is_better else -1

    def total(
        self, numerator: NDArray[np.float64], denominator: NDArray[np.float64], axis: int = -1
    ) -> Any:
        """The figure of all documents along an axis: the ratio of their sums."""
        return numerator.sum(axis=axis) / denominator.sum(axis=axis)

    def shown(self, value: float) -> str:
        return f"{value:.{self.decimals}f}"

    def __str__(self) -> str:
        return self.title


class ClassF1(Metric):
    """numerator: the class that was answered; denominator: the right one, both by their numbers.

    Of two classes the F1 of the second (spam of ham and spam, yes of no and yes), of more the mean
    of all that occur, right or answered.
    """

    def total(
        self, numerator: NDArray[np.float64], denominator: NDArray[np.float64], axis: int = -1
    ) -> Any:
        given, right = (
            np.moveaxis(each, axis, -1).astype(np.int64) for each in (numerator, denominator)
        )
        shape, count = right.shape[:-1], 1 + int(max(given.max(), right.max()))
        rows = np.arange(int(np.prod(shape)))[:, None]

        def counts(classes: NDArray[np.int64], kept: Any = np.True_) -> NDArray[np.int64]:
            """[rows, classes]: how often each is there, where it is kept."""
            places = (rows * count + classes.reshape(len(rows), -1)).ravel()
            kept = np.broadcast_to(kept, right.shape).ravel()
            return np.bincount(places[kept], minlength=len(rows) * count).reshape(-1, count)

        hits, each = counts(right, given == right), counts(right) + counts(given)
        f1 = 2 * hits / np.maximum(each, 1)
        mean = f1.sum(1) / (each > 0).sum(1) if count > 2 else f1[:, -1] * (count - 1)
        return mean.reshape(shape)[()]


class CorpusChrf(Metric):
    """chrF of all texts together, from 0 to 100, as sacrebleu.corpus_chrf has it.

    numerator: [2 x 6], runs of one to six signs in the answer, and those that the right text has
    too; denominator: [6], those of the right text. Popović 2015
    (https://aclanthology.org/W15-3049).
    """

    def total(
        self, numerator: NDArray[np.float64], denominator: NDArray[np.float64], axis: int = -1
    ) -> Any:
        sums, right = numerator.sum(axis=axis), denominator.sum(axis=axis)
        given, common = sums[:CHRF_ORDERS], sums[CHRF_ORDERS:]
        counts = (given > 0) & (right > 0)  # an order that one side is too short for does not
        orders = np.maximum(counts.sum(axis=0), 1)
        precision, recall = (
            (common / np.maximum(each, 1) * counts).sum(axis=0) / orders for each in (given, right)
        )
        below = CHRF_BETA**2 * precision + recall
        return 100 * (1 + CHRF_BETA**2) * precision * recall / np.where(below > 0, below, 1)


class CorpusBleu(Metric):
    """BLEU of all texts together, from 0 to 100, as sacrebleu.corpus_bleu has it.

    numerator: [1 + 2 x 4], words of the answer, runs of one to four words that the right text has
    too, and all such runs of the answer; denominator: [1], words of the right text. Papineni et
    al. 2002 (https://aclanthology.org/P02-1040), runs that never match halved (NIST).
    """

    def total(
        self, numerator: NDArray[np.float64], denominator: NDArray[np.float64], axis: int = -1
    ) -> Any:
        sums, (right,) = numerator.sum(axis=axis), denominator.sum(axis=axis)
        words, common, given = sums[0], sums[1 : 1 + BLEU_ORDERS], sums[1 + BLEU_ORDERS :]
        halved = 0.5 ** (common == 0).cumsum(axis=0)
        share = np.where(common > 0, common, halved) / np.maximum(given, 1)
        mean = np.exp(np.log(share).mean(axis=0))
        shortness = np.exp(np.minimum(0, 1 - right / np.maximum(words, 1)))
        return 100 * shortness * mean * ((given > 0).all(axis=0) & (common > 0).any(axis=0))


BITS_PER_BYTE = Metric("bits_per_byte", "bits/byte", higher_is_better=False)
BITS_PER_TOKEN = Metric("bits_per_token", "bits/token", higher_is_better=False)
ACCURACY = Metric("accuracy", "", higher_is_better=True, is_share=True)
TYPED_ACCURACY = Metric("typed_accuracy", "", higher_is_better=True, is_share=True)
CHRF = CorpusChrf("chrf", "", higher_is_better=True, decimals=1)
BLEU = CorpusBleu("bleu", "", higher_is_better=True, decimals=1)
F1 = ClassF1("f1", "", higher_is_better=True)
SLOT_F1 = Metric("slot_f1", "", higher_is_better=True)  # of each sentence, their mean
# Words put in, left out and exchanged, over the words that were said: it may be above 1.
WER = Metric("wer", "", higher_is_better=False)
# Of boxes on an image: intersection over union with the right ones, each without a counterpart 0,
# the mean of images; and the share of the right ones that are met by half or more.
MEAN_IOU = Metric("mean_iou", "", higher_is_better=True)
RECALL_AT_50 = Metric("recall_at_50", "", higher_is_better=True)
# Signs put in, left out and exchanged, over the signs that stand there: it may be above 1.
CER = Metric("cer", "", higher_is_better=False)
CER_NEW_FONTS = Metric("cer_new_fonts", "", higher_is_better=False)  # of lines in held-out fonts
SUCCESS = Metric("success", "", higher_is_better=True, is_share=True)  # of episodes
RETURN = Metric("return", "", higher_is_better=True)  # the sum of an episode's rewards
# Of games: how often the right move is the most probable one; points against players of known
# strength, a win 1 and a draw a half, over the games.
MOVE_MATCH = Metric("move_match", "", higher_is_better=True, is_share=True)
POINTS_RANDOM = Metric("points_against_random", "", higher_is_better=True)
POINTS_GREEDY = Metric("points_against_greedy", "", higher_is_better=True)
POINTS_STOCKFISH = Metric("points_against_stockfish", "", higher_is_better=True)
# Of the rank of the right one among all candidates: its inverse; whether it is one of the first
# ten; 1 / log2(1 + rank) if it is, the normalised discounted gain of a single right one.
MRR = Metric("mrr", "", higher_is_better=True)
HITS_AT_10 = Metric("hits_at_10", "", higher_is_better=True, is_share=True)
NDCG_AT_10 = Metric("ndcg_at_10", "", higher_is_better=True)
BUILT_IN: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        *(BITS_PER_BYTE, BITS_PER_TOKEN, ACCURACY, F1, SLOT_F1, WER, CHRF, BLEU),
        *(MRR, HITS_AT_10, NDCG_AT_10, SUCCESS, RETURN, MEAN_IOU, RECALL_AT_50),
        *(CER, CER_NEW_FONTS, TYPED_ACCURACY),
        *(MOVE_MATCH, POINTS_RANDOM, POINTS_GREEDY, POINTS_STOCKFISH),
    )
}


def find_metric(name: str) -> Metric:
    """The metric that a record names. Raises RecordError if nothing installed brings it."""
    found = find_part(GROUP, name, BUILT_IN, RecordError)
    if isinstance(found, Metric) and found.name == name:
        return found
    raise RecordError(
        f"what a package brings is not the metric {name}",
        found=repr(found),
        expected="a whorl.core.metrics.Metric of the entry point's name",
    )
