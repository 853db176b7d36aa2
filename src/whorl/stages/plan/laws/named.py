"""The laws by name: published ones, and our fits of the families of published losses."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from functools import cache

from whorl.core.errors import SpecError
from whorl.stages.plan.facts import data_file
from whorl.stages.plan.laws.law import PowerLaw

__all__ = ["DEFAULT_LAW", "LAWS_FILE", "find_law", "law_names"]

LAWS_FILE, DEFAULT_LAW = "scaling_laws.json", "chinchilla"


def _published(refit: PowerLaw) -> list[PowerLaw]:
    """Constants as printed. Besiroglu et al. give standard errors without the correlations that
    cancel most of them, so the bootstrap is that of our own refit of the same points.
    """
    size, data = 0.076, 0.103
    return [
        PowerLaw(
            name=DEFAULT_LAW,
            source="Besiroglu et al. 2024, 2404.10102; bootstrap: ours, of the same points",
            theta=(math.log(482.01), math.log(2085.43), math.log(1.8172), 0.3478, 0.3658),
            bootstrap=refit.bootstrap,
            residual=refit.residual,
            max_flops=refit.max_flops,
        ),
        PowerLaw(
            name="hoffmann",
            source="Hoffmann et al. 2022, 2203.15556, approach 3, exponents of its TeX source",
            theta=(math.log(406.4), math.log(410.7), math.log(1.6934), 0.33917, 0.28491),
        ),
        PowerLaw(
            name="kaplan",
            source="Kaplan et al. 2020, 2001.08361, equation 1.5 and table 2; quoted, not re-read",
            theta=(size / data * math.log(6.4e13), math.log(1.8e13), -math.inf, size / data, 1.0),
            gamma=data,
            params_are="non-embedding",
        ),
    ]


@cache
def _laws() -> Mapping[str, PowerLaw]:
    names = set(PowerLaw.__dataclass_fields__)
    families = [
        PowerLaw(name=name, **{key: value for key, value in entry.items() if key in names})
        for name, entry in data_file(f"published/{LAWS_FILE}")["laws"].items()
    ]
    refit = next(law for law in families if law.name == "chinchilla-refit")
    return {law.name: law for law in [*_published(refit), *families]}


def law_names() -> tuple[str, ...]:
    return tuple(_laws())


def find_law(name: str = DEFAULT_LAW) -> PowerLaw:
    """The law of that name. Raises SpecError with the nearest right name."""
    laws = _laws()
    if name not in laws:
        near = difflib.get_close_matches(name, laws, 1)
        raise SpecError(
            f"{name} is not a scaling law",
            expected=", ".join(laws),
            do=f"did you mean {near[0]}?" if near else None,
        )
    return laws[name]
