"""In which form a model's weights lie in a folder: the format of the files, and of the numbers."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from whorl.core.errors import SpecError

__all__ = ["Variant", "find_variant"]

SHORT = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}  # torch's names


@dataclass(frozen=True)
class Variant:
    """format: "hf" (safetensors), "openvino" …; weights: "f32", "bf16", "int8", "int4" …"""

    format: str
    weights: str  # its first number is the bits of one weight

    @classmethod
    def of_torch(cls, dtype: str) -> Variant:
        """A Hugging Face folder whose tensors are of a torch dtype, such as "float32"."""
        return cls("hf", SHORT.get(dtype, dtype))

    @property
    def bits(self) -> int:
        """Of one weight; 32 if the name does not tell."""
        number = re.search(r"\d+", self.weights)
        return int(number[0]) if number else 32

    @property
    def slug(self) -> str:
        """Name of its folder."""
        return f"{self.format}-{self.weights}"

    def __str__(self) -> str:
        return f"{self.format} {self.weights}"


def find_variant(text: str, there: Iterable[Variant]) -> Variant:
    """The variant a person means: "openvino-int8", or a word that says as much: "int8", "hf".

    Raises SpecError naming the variants there are, if none or several are meant.
    """
    known = list(there)
    whole = [variant for variant in known if text in (variant.slug, str(variant))]
    found = whole or [variant for variant in known if text in (variant.format, variant.weights)]
    if len(found) == 1:
        return found[0]
    words = {word for item in known for word in (item.slug, item.format, item.weights)}
    near = difflib.get_close_matches(text, sorted(words), n=1)
    names = ", ".join(variant.slug for variant in found or known)
    raise SpecError(
        f"there {'are several variants' if found else 'is no variant'} {text}",
        expected=names or "a model folder",
        do=f"did you mean {near[0]}?" if near and not found else None,
    )
