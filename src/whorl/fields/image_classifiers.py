"""What usual classifiers answer on images: the baselines of `images`."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.core.errors import MissingExtra

__all__ = ["answers_of"]

MAX_VALUES = 10_000 * 28 * 28  # of the images that they learn from: more would take minutes
NEIGHBOURS = 5
ITERATIONS = 100

Pixels = NDArray[np.float32]


def answers_of(
    known: Iterable[tuple[Pixels, str]], asked: Pixels
) -> Iterator[tuple[str, NDArray[np.str_]]]:
    """(method, its class of each asked image): scikit-learn's on the pixels, seed 0.

    They learn from the first images, as many as have MAX_VALUES values. Raises MissingExtra.
    """
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.neighbors import KNeighborsClassifier
    except ImportError as error:
        raise MissingExtra.of("scikit-learn", "train", "the baselines of images") from error
    rows = asked.reshape(len(asked), -1)
    some = list(itertools.islice(known, MAX_VALUES // rows.shape[1]))
    if not some:
        return
    learned = np.stack([image.ravel() for image, _ in some])
    labels = np.array([label for _, label in some])
    classes, counts = np.unique(labels, return_counts=True)
    white = float(max(learned.max(), 1))
    methods: dict[str, Any] = {}
    if len(classes) > 1:
        methods["logistic regression"] = LogisticRegression(max_iter=ITERATIONS)
    nearest = min(NEIGHBOURS, len(labels))
    methods[f"{nearest} nearest neighbours"] = KNeighborsClassifier(nearest)
    for name, method in methods.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of steps that were not the last
            fitted = method.fit(learned / white, labels)
        yield f"{name}, {len(labels):,} images", np.asarray(fitted.predict(rows / white), np.str_)
    yield "commonest class", np.full(len(asked), classes[counts.argmax()])
