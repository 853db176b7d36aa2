"""Files in prompts, images and sounds, are read by few threads and up to a deadline.

A photo of 50 million pixels takes a second and 200 MB to decode, whatever is left of it then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["READERS", "FileReaders"]

READERS = 2  # files that are read at once, of all requests to one model
Item = TypeVar("Item")
Result = TypeVar("Result")


class FileReaders:
    """Requests take turns file by file, so that one of many keeps no other waiting for all."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(READERS, "whorl-files")

    async def each(
        self, items: Sequence[Item], read: Callable[[Item], Result], left_s: float | None
    ) -> list[Result]:
        """What `read` makes of each item, in order.

        Raises TimeoutError after left_s seconds (None: never): what has begun then is read to its
        end, the rest is not begun. Likewise where the caller is cancelled. Raises what read raises.
        """
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(left_s):
            return [await loop.run_in_executor(self._threads, read, item) for item in items]
