"""Which module loads a codec of each kind: built in, or by an entry point `whorl.codecs`.

A loader is called as `load(name, files)` with the codec's name and the bytes of its files, and
gives the codec that wrote them. Files are data: JSON or safetensors, never pickle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint
from typing import cast

from whorl.core.errors import RecordError
from whorl.core.plugins import find_part
from whorl.core.ports import Codec

__all__ = ["KINDS", "Loader", "load_codec"]

GROUP = "whorl.codecs"
Loader = Callable[[str, Mapping[str, bytes]], Codec]
MODULES = {
    **{"tokenizer": "tokenizer", "image-patches": "image", "label": "label"},
    "table-row": "table",
    "audio-frames": "audio",
    "boxes": "boxes",
    "line-slices": "line",
    "label-pair": "pair",
}
KINDS = {
    kind: EntryPoint(kind, f"whorl.codecs.{module}:load", GROUP) for kind, module in MODULES.items()
}


def load_codec(kind: str, name: str, files: Mapping[str, bytes]) -> Codec:
    """A codec from its files. Raises RecordError if nothing installed knows this kind."""
    return cast(Loader, find_part(GROUP, kind, KINDS, RecordError))(name, files)
