"""Another model takes the place of the one that is served, while it is asked.

New requests go to the new one from one moment on; those that began before end with the old one,
whose engine is closed when the last of them has left. Nothing is swapped in that has not made a
token.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable

from whorl.core.errors import WhorlError
from whorl.stages.serve.gateway import Gateway
from whorl.stages.serve.health import probe
from whorl.stages.serve.served import Served

__all__ = ["NextModel", "follow", "swap"]

NextModel = Callable[[], Served | None]  # opened; None: nothing new. Called by a thread
LOG = logging.getLogger(__name__)


async def swap(gateway: Gateway, new: Served, deadline_s: float) -> str | None:
    """None when new requests go to the new model; else why they do not, and it is closed.

    Returns before the old model is closed, which waits for the answers it is giving.
    """
    try:
        async with asyncio.timeout(deadline_s):
            failure = await probe(new.engine, new.first_id)
    except TimeoutError:
        failure = f"no token within {deadline_s:g} s"
    except BaseException:  # also when the server stops meanwhile
        await asyncio.shield(asyncio.to_thread(new.close))
        raise
    if failure is not None:
        await asyncio.to_thread(new.close)
        return failure
    old = gateway.take_over(new)
    task = asyncio.get_running_loop().create_task(_retire(old))
    gateway.retiring.add(task)
    task.add_done_callback(gateway.retiring.discard)
    return None


async def _retire(old: Served) -> None:
    await old.unused()
    await asyncio.to_thread(old.close)


async def follow(
    gateway: Gateway,
    next_model: NextModel,
    tell: Callable[[str], None] = LOG.error,
) -> None:
    """Swap in whatever next_model finds, until cancelled. What fails is told; the old one stays."""
    ended = threading.Event()

    def opened() -> Served | None:  # by a thread, which goes on when nobody waits for it any more
        new = next_model()
        if new is not None and ended.is_set():
            new.close()
            return None
        return new

    try:
        await _follow(gateway, opened, tell)
    finally:
        ended.set()


async def _follow(gateway: Gateway, next_model: NextModel, tell: Callable[[str], None]) -> None:
    while True:
        await asyncio.sleep(gateway.config.watch_s)
        try:
            new = await asyncio.to_thread(next_model)
            failure = None if new is None else await swap(gateway, new, gateway.config.stall_s)
        except Exception as error:  # whatever it is, the next version must be seen
            failure = str(error) if isinstance(error, WhorlError) else repr(error)
        if failure is not None:
            tell(f"the model that is served stays: {failure}")
