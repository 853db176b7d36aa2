"""A function that runs in a thread of its own while the caller goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import ParamSpec, TypeVar

__all__ = ["later", "with_result"]

P = ParamSpec("P")
T = TypeVar("T")


def later(function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> Future[T]:
    """What the function will have returned or raised. Nothing waits for its thread at the end."""
    found: Future[T] = Future()

    def work() -> None:
        try:
            found.set_result(function(*arguments, **options))
        except BaseException as error:
            found.set_exception(error)

    name = f"later-{getattr(function, '__name__', 'function')}"
    threading.Thread(target=work, name=name, daemon=True).start()
    return found


def with_result(found: Future[T], use: Callable[[T], object]) -> None:
    """Give it to a function when it is there; where there is none, nothing happens."""

    def done(found: Future[T]) -> None:
        if found.exception() is None:
            use(found.result())

    found.add_done_callback(done)
