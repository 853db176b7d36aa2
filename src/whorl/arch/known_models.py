"""Public models by name: their sizes and the counts their authors publish, from one file."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib import resources
from typing import Any

from whorl.arch.config_reader import ConfigReader
from whorl.arch.hf_shape import shape_of_family
from whorl.arch.shape import ModelShape
from whorl.core.errors import SpecError
from whorl.core.nearest import nearest

__all__ = [
    "STORED",
    "KnownModel",
    "is_known",
    "known_model",
    "known_models",
    "model_names",
    "stored_format",
]

MISSPELT = 0.8  # how alike a name must be spelt that is of no known family and number
# parts of a name that say how weights were tuned or stored, not which sizes they have
TUNING = re.compile(r"base|instruct|chat|it|pt|hf|bf16|fp16|thinking|unsloth|bnb|dq|\d{4}")
# and parts that say in which format they are stored -> a base of the planner's
STORED = {"awq": "int4", "gptq": "int4", "int4": "int4", "4bit": "nf4", "nf4": "nf4"}
STORED |= {"int8": "int8", "8bit": "int8", "fp8": "fp8", "nvfp4": "nvfp4", "mxfp4": "mxfp4"}


@dataclass(frozen=True)
class KnownModel:
    """One entry of known_models.json: facts, each with its source."""

    name: str
    source: str
    config: dict[str, Any]  # the keys of its config.json that decide the shape
    aliases: Sequence[str] = ()
    parameters: int | None = None  # published, exact; None where only a rounded figure is
    parameters_rounded: float | None = None  # published, in billions
    active_rounded: float | None = None  # published per token, in billions

    @property
    def shape(self) -> ModelShape:
        reader = ConfigReader(self.config, f"model {self.name}")
        return shape_of_family(self.config["model_type"], reader, self.name)


@cache
def known_models() -> dict[str, KnownModel]:
    """Every entry by its name, in the file's order."""
    text = resources.files("whorl.arch").joinpath("known_models.json").read_text("utf-8")
    entries = (KnownModel(**entry) for entry in json.loads(text)["models"])
    return {entry.name: entry for entry in entries}


def model_names() -> tuple[str, ...]:
    return tuple(known_models())


def is_known(name: str) -> bool:
    return _key(name) in _names_by_key()


def known_model(name: str) -> ModelShape:
    """The shape of a public model.

    Case, underscores, hyphens, the organisation before a slash and words such as Instruct or
    Base do not matter. Raises SpecError with the nearest names if it is not known.
    """
    found = _names_by_key().get(_key(name))
    if found is not None:
        return known_models()[found].shape
    spelt = re.sub(r"[_\s:]+", "-", name.strip().lower().rsplit("/", 1)[-1])[:100]
    known = {word: each.name for each in known_models().values() for word in _spellings(each)}
    words = nearest(spelt, known, 4) or get_close_matches(spelt, known, n=4, cutoff=MISSPELT)
    near = [known[word] for word in words]
    names = ", ".join(dict.fromkeys(near)) or ", ".join(model_names())
    raise SpecError(
        "unknown model",
        found=name[:100] or "an empty name",
        expected=("near it: " if near else "one of ") + names,
        do="use one of these names, or give the path of its config.json",
    )


def stored_format(name: str) -> str | None:
    """ "int4" of a name such as Qwen2.5-7B-Instruct-AWQ; None: of 16 bits, or it does not say."""
    parts = re.split(r"[-_\s:]+", name.strip().lower().rsplit("/", 1)[-1])
    return next((STORED[part] for part in parts if part in STORED), None)


def hugging_face_id(name: str) -> str | None:
    """ "meta-llama/Llama-3.1-8B" of a known model, where its sizes come from its page there."""
    found = _names_by_key().get(_key(name))
    source = known_models()[found].source if found is not None else ""
    match = re.search(r"huggingface\.co/([\w.-]+/[\w.-]+)", source)
    return match[1] if match else None


@cache
def _names_by_key() -> dict[str, str]:
    return {
        _key(spelling): model.name
        for model in known_models().values()
        for spelling in _spellings(model)
    }


def _spellings(model: KnownModel) -> tuple[str, ...]:
    return (model.name, *model.aliases)


def _key(name: str) -> str:
    """A spelling reduced to what tells models apart."""
    parts = re.split(r"[-_\s:]+", name.strip().lower().rsplit("/", 1)[-1])
    if parts[0] == "meta" and len(parts) > 1:
        parts = parts[1:]
    return "".join(part for part in parts if not TUNING.fullmatch(part) and part not in STORED)
