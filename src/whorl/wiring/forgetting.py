"""The forgetting probe of a recipe with a base: which text, which two models, and the gate."""

from __future__ import annotations

from pathlib import Path

from whorl.core.errors import DataError, GateError
from whorl.core.records import Record
from whorl.model.folder import model_folders
from whorl.spec.load import LoadedRecipe
from whorl.spec.recipe import Recipe
from whorl.stages.evaluate.forgetting import ForgettingProbe, GeneralText
from whorl.wiring.bases import Base

__all__ = ["check_forgetting", "probe_of"]

TEXTS = (".txt", ".md")
MAX_BYTES = 4 * 2**20  # that are read of a person's text


def probe_of(base: Base, trained: Record, loaded: LoadedRecipe) -> ForgettingProbe:
    """Raises DataError if the text that the recipe names cannot be read."""
    asked = loaded.recipe.evaluate.forgetting
    text = GeneralText.own() if asked is None else GeneralText.of(_texts(loaded.folder, asked))
    before = base.whole or base  # what was there before anything went
    after = next(iter(model_folders(trained).items()))
    return ForgettingProbe(text, (before.card.variant, before.folder), after, base.asked)


def check_forgetting(recipe: Recipe, evaluated: Record) -> None:
    """Raises GateError if general text costs more bits than the recipe allows."""
    most, found = recipe.evaluate.max_forgetting, evaluated.metrics.get("forgetting")
    if most is None or found is None or found["rise"] <= most:
        return
    raise GateError(
        f"{recipe.name} has forgotten too much of what {found['base']} knew",
        found=f"{found['after']:.3f} bits per byte of general text, {found['rise']:+.1%}",
        expected=f"at most {most:+.1%} above {found['before']:.3f}, evaluate.max_forgetting",
        do="lower train.learning_rate, train fewer steps, mix in text like the base's (data.share)",
    )


def _texts(folder: Path, asked: str) -> list[str]:
    place = folder / Path(asked).expanduser()
    paths = sorted(p for p in place.rglob("*") if p.suffix in TEXTS) if place.is_dir() else [place]
    texts, left_bytes = [], MAX_BYTES
    for path in paths:
        try:
            with path.open("rb") as file:
                data = file.read(left_bytes)
        except OSError as error:
            raise DataError(f"evaluate.forgetting: {path}", found=error.strerror) from error
        texts.append(data.decode("utf-8", "replace"))
        left_bytes -= len(data)
    return texts
