"""Arrays in files of the MNIST kind: `…-images-idx3-ubyte` beside `…-labels-idx1-ubyte`.

A file is a header of big-endian numbers (0, 0, 8 for bytes, the number of axes, each axis's
length), then the bytes (https://yann.lecun.org/exdb/mnist, "the IDX file format").
"""

from __future__ import annotations

import functools
import math
import os
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from whorl.core import streams
from whorl.core.memory import forgets
from whorl.core.sources import FileItem

__all__ = ["labels_beside", "read_idx"]

NAME = re.compile(r"(.*?)images([-_.]?)idx(\d)(.*)", re.IGNORECASE)
BYTES = 8  # the kind of value
MAX_BYTES = 2**31  # of a file, unpacked


def labels_beside(item: FileItem, items: Sequence[FileItem]) -> FileItem | None:
    """The file of labels of a file of images; None: this is none, or there is no such file."""
    found = NAME.fullmatch(item.name)
    if found is None:
        return None
    before, sign, _, behind = found.groups()
    wanted = f"{before}labels{sign}idx1{behind}".lower()
    bare = wanted.removesuffix(".gz")
    return next(
        (each for each in items if each.name.lower().removesuffix(".gz") == bare),
        None,
    )


def read_idx(item: FileItem, num_axes: int) -> NDArray[np.uint8]:
    """The array, not to be changed. Raises SourceFault with the reason why it cannot be read."""
    try:
        changed_ns = os.stat(item.path).st_mtime_ns
    except OSError as error:
        raise streams.SourceFault("file cannot be read") from error
    return _read_idx(item, num_axes, changed_ns)


@functools.lru_cache(maxsize=4)
def _read_idx(item: FileItem, num_axes: int, changed_ns: int) -> NDArray[np.uint8]:
    """Of the same file once: its parts are read one after the other."""
    with streams.open_source(item.path, item.root, item.num_bytes) as opened:
        data = opened.content.read(MAX_BYTES + 1)
        if opened.fault:
            raise streams.SourceFault(opened.fault)
    head = 4 + 4 * num_axes
    if len(data) < head or data[:3] != bytes((0, 0, BYTES)) or data[3] != num_axes:
        expected = f"expected: bytes along {num_axes} axes"
        raise streams.SourceFault("no idx file of such values", expected)
    shape = tuple(np.frombuffer(data, ">u4", num_axes, 4).astype(int).tolist())
    if len(data) - head != math.prod(shape):
        told = f"{len(data) - head:,} bytes for {' x '.join(map(str, shape))}"
        raise streams.SourceFault("idx file of another length than it says", told)
    array = np.frombuffer(data, np.uint8, offset=head).reshape(shape)
    array.flags.writeable = False
    return array


forgets(_read_idx.cache_clear)  # tens of MiB
