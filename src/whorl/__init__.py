"""whorl: one recipe, seven stages, from raw data to a served model that improves.

The verbs of the command line are functions here: `whorl.plan("recipe.yaml")`,
`whorl.plan(model="qwen3-8b", device="h100-sxm", count=8, tune="lora", …)` …
They are imported when first used; importing whorl imports no torch.
"""

from __future__ import annotations

TYPE_CHECKING = False  # `typing` is slow to load, and this is the first file of every command
if TYPE_CHECKING:
    from typing import Any

    from whorl.asking import plan
    from whorl.verbs import (
        Session,
        compress,
        evaluate,
        improve,
        prepare,
        serve,
        train,
        up,
    )

__version__ = "0.1.0"

__all__ = [
    "Session",
    "__version__",
    "compress",
    "evaluate",
    "improve",
    "plan",
    "prepare",
    "serve",
    "train",
    "up",
]


def __getattr__(name: str) -> Any:
    if name == "plan":
        from whorl import asking

        return asking.plan
    if name in __all__:
        from whorl import verbs

        return getattr(verbs, name)
    raise AttributeError(f"module 'whorl' has no attribute {name!r}")
