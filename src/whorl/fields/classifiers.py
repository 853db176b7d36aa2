"""What usual classifiers of tables answer: the baselines of `table`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.codecs.table import Cell
from whorl.core.errors import MissingExtra

__all__ = ["answers_of"]

Rows = Sequence[Mapping[str, Cell]]


def answers_of(
    known: Rows, labels: Sequence[str], asked: Rows
) -> Iterator[tuple[str, NDArray[np.str_]]]:
    """(method, its class of each asked row): scikit-learn's with their usual settings, seed 0.

    Words are numbered for trees and made columns of their own for the linear model, which is given
    standardised numbers, the middle ones where they are missing. Raises MissingExtra.
    """
    try:
        from sklearn.compose import ColumnTransformer
        from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
        from sklearn.impute import SimpleImputer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler
    except ImportError as error:
        raise MissingExtra.of("scikit-learn", "train", "the baselines of tables") from error
    names = list(dict.fromkeys(name for row in known for name in row))
    words = [n for n in names if any(isinstance(row.get(n), str) for row in (*known, *asked))]
    numbers = [name for name in names if name not in words]
    train, test = (_matrix(rows, numbers, words) for rows in (known, asked))
    left, right = list(range(len(numbers))), list(range(len(numbers), len(names)))
    unknown = {"handle_unknown": "use_encoded_value", "unknown_value": -1}
    trees = ColumnTransformer(
        [("numbers", "passthrough", left), ("words", OrdinalEncoder(**unknown), right)]
    )
    linear = ColumnTransformer(
        [
            ("numbers", make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), left),
            ("words", OneHotEncoder(handle_unknown="ignore"), right),
        ]
    )
    methods: dict[str, Any] = {
        "random forest": make_pipeline(trees, RandomForestClassifier(random_state=0)),
        "histogram boosting": make_pipeline(trees, HistGradientBoostingClassifier(random_state=0)),
        "logistic regression": make_pipeline(linear, LogisticRegression(max_iter=1000)),
    }
    for name, method in methods.items():
        yield name, np.asarray(method.fit(train, np.array(labels)).predict(test), np.str_)
    classes, counts = np.unique(np.array(labels), return_counts=True)
    yield "commonest class", np.full(len(asked), classes[counts.argmax()])


def _matrix(rows: Rows, numbers: Sequence[str], words: Sequence[str]) -> NDArray[np.object_]:
    """[rows, columns]: numbers with NaN where missing, then words."""
    found = np.empty((len(rows), len(numbers) + len(words)), np.object_)
    for place, row in enumerate(rows):
        cells = [row.get(name) for name in numbers]
        found[place, : len(numbers)] = [np.nan if cell is None else cell for cell in cells]
        found[place, len(numbers) :] = [str(row.get(name, "")) for name in words]
    return found
