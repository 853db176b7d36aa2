"""`whorl serve` begins its engine's process first: it loads OpenVINO while this one loads the rest.

Both take about a second; nothing slow is imported here.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # `typing` is slow to load
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["RECIPE", "begin_engine", "is_served_at_once"]

# With these another engine is meant, it runs elsewhere, or none is opened.
OTHERWISE = ("--engine", "--where", "--emit", "--dry-run", "--help")
RECIPE = (".yaml", ".yml")  # which may be trained first
KEYS = ("serve.engine", "serve.where")


def begin_engine(arguments: Sequence[str]) -> None:
    """Of a command that will ask for one. See `engines.apart.start_here`."""
    if is_served_at_once(arguments):
        # Products of a patch or a frame are small: a second thread of NumPy's would spin, and take
        # its core from the engine. Torch and OpenVINO have threads of their own.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        from whorl.core.children import start_early

        try:  # noqa: SIM105  (contextlib loads slowly)
            start_early("whorl.engines.answering:answer_soon")
        except OSError:
            pass  # of memory or processes there are too few: told where one is needed


def is_served_at_once(arguments: Sequence[str]) -> bool:
    """Whether a command opens a model that is there, probably by OpenVINO on this machine."""
    return (
        len(arguments) > 1
        and arguments[0] == "serve"
        and not any(
            word.startswith(OTHERWISE) or word.endswith(RECIPE) or any(key in word for key in KEYS)
            for word in arguments
        )
    )
