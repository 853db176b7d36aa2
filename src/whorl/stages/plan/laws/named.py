"""The laws by name: published ones, and our fits of the families of published losses."""

from __future__ import annotations

import difflib
import json
import math
from functools import cache
from importlib import resources
from typing import Any

from whorl.core.errors import SpecError
from whorl.stages.plan.laws.law import PowerLaw

__all__ = ["DEFAULT_LAW", "LAWS_FILE", "find_law", "law_names"]

LAWS_FILE = "scaling_laws.json"
DEFAULT_LAW = "chinchilla"


def _published(fitted: dict[str, Any]) -> dict[str, PowerLaw]:
    """Constants as printed. Besiroglu et al. give standard errors without the correlations that
    cancel most of them, so the bootstrap is that of our own refit of the same points.
    """
    corrected = PowerLaw(
        name="chinchilla",
        source="Besiroglu et al. 2024, 2404.10102; bootstrap: ours, of the same points",
        log_a=math.log(482.01),
        log_b=math.log(2085.43),
        log_e=math.log(1.8172),
        alpha=0.3478,
        beta=0.3658,
        **_uncertainty(fitted["chinchilla-refit"]),
    )
    hoffmann = PowerLaw(
        name="hoffmann",
        source="Hoffmann et al. 2022, 2203.15556, approach 3, exponents of its TeX source",
        log_a=math.log(406.4),
        log_b=math.log(410.7),
        log_e=math.log(1.6934),
        alpha=0.33917,
        beta=0.28491,
    )
    kaplan_size, kaplan_data = 0.076, 0.103
    kaplan = PowerLaw(
        name="kaplan",
        source="Kaplan et al. 2020, 2001.08361, equation 1.5 and table 2; quoted, not re-read",
        log_a=kaplan_size / kaplan_data * math.log(6.4e13),
        log_b=math.log(1.8e13),
        log_e=-math.inf,
        alpha=kaplan_size / kaplan_data,
        beta=1.0,
        gamma=kaplan_data,
        params_are="non-embedding",
    )
    return {law.name: law for law in (corrected, hoffmann, kaplan)}


def _uncertainty(entry: dict[str, Any]) -> dict[str, Any]:
    return {
        "bootstrap": tuple(tuple(row) for row in entry["bootstrap"]),
        "residual": entry["residual"],
        "max_flops": entry["max_flops"],
    }


@cache
def _all() -> dict[str, PowerLaw]:
    path = resources.files("whorl.stages.plan") / "published" / LAWS_FILE
    fitted = json.loads(path.read_text("utf-8"))["laws"]
    families = {
        name: PowerLaw(
            name=name,
            source=entry["source"],
            **dict(zip(("log_a", "log_b", "log_e", "alpha", "beta"), entry["theta"], strict=True)),
            unit=entry["unit"],
            params_are=entry["params_are"],
            **_uncertainty(entry),
        )
        for name, entry in fitted.items()
    }
    return _published(fitted) | families


def law_names() -> tuple[str, ...]:
    return tuple(_all())


def find_law(name: str = DEFAULT_LAW) -> PowerLaw:
    """The law of that name. Raises SpecError with the nearest right name."""
    laws = _all()
    if name not in laws:
        near = difflib.get_close_matches(name, laws, 1)
        raise SpecError(
            f"{name} is not a scaling law",
            expected=", ".join(laws),
            do=f"did you mean {near[0]}?" if near else "",
        )
    return laws[name]
