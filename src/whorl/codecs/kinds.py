"""Which module loads a codec of each kind: built in, or by an entry point `whorl.codecs`.

A loader is called as `load(name, files)` with the codec's name and the bytes of its files, and
gives the codec that wrote them. Files are data: JSON or safetensors, never pickle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import entry_points

from whorl.core.errors import RecordError
from whorl.core.ports import Codec

__all__ = ["KINDS", "Loader", "load_codec"]

Loader = Callable[[str, Mapping[str, bytes]], Codec]


def _module(name: str) -> Loader:
    """The loader `load` of a module, imported when it is first needed."""

    def load(codec: str, files: Mapping[str, bytes]) -> Codec:
        loader: Loader = import_module(name).load
        return loader(codec, files)

    return load


KINDS: dict[str, Loader] = {
    "tokenizer": _module("whorl.codecs.tokenizer"),
    "image-patches": _module("whorl.codecs.image"),
    "label": _module("whorl.codecs.label"),
}


def load_codec(kind: str, name: str, files: Mapping[str, bytes]) -> Codec:
    """A codec from its files. Raises RecordError if nothing installed knows this kind."""
    loader = KINDS.get(kind)
    if loader is None:
        found = [point for point in entry_points(group="whorl.codecs") if point.name == kind]
        if not found:
            raise RecordError(
                f"no codec of kind {kind} is installed",
                expected=", ".join(KINDS),
                do="install the package that brings it (entry point group whorl.codecs)",
            )
        loader = found[0].load()
    return loader(name, files)
