"""whorl.plan(): the command `whorl plan` as a function."""

from __future__ import annotations

from typing import Any

from whorl import planning
from whorl.core.errors import SpecError
from whorl.core.records import Record
from whorl.planning import Answer
from whorl.stages.plan.ask.flags import FLAGS
from whorl.stages.plan.ask.texts import flat
from whorl.verbs import RecipeLike, Session

__all__ = ["plan"]

OF_SESSION = ("overrides", "home", "progress", "log", "workers")


def plan(recipe: RecipeLike | None = None, **options: Any) -> Record | Answer:
    """What `whorl plan` answers. Of a recipe (path, dict or LoadedRecipe) alone: its record, with
    options overrides, home, progress. With the command's flags by their Python names, or words of
    other tools (model="llama-3-8b", device="h100-sxm", count=8, from_file="axolotl.yaml"): the
    document that --json prints, as an object. Raises SpecError for what is neither.
    """
    names = {item.name: item.flag for item in FLAGS if item.name not in ("html", "emit")}
    given = {names[key]: value for key, value in options.items() if key in names}
    opening = {key: value for key, value in options.items() if key in OF_SESSION}
    others = {k: v for k, v in options.items() if k not in names and k not in OF_SESSION}
    words = flat(others)
    if recipe is None:
        if opening:
            raise SpecError(f"{', '.join(opening)} need a recipe", do="leave them out")
        return planning.answer(given, words)
    session = Session.open(recipe, **opening)
    loaded = session.loaded
    if not (given or words) and loaded.recipe.hardware.is_here:
        return session.plan()
    return planning.answer(given, words, loaded.recipe, str(loaded.path or loaded.recipe.name))
