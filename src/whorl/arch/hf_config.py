"""From a Hugging Face config.json, or a model's name, to its shape."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from whorl.arch.config_reader import ConfigReader
from whorl.arch.hf_families import FAMILIES
from whorl.arch.hf_shape import shape_of_family
from whorl.arch.known_models import STORED, is_known, known_model, stored_format
from whorl.arch.shape import ModelShape, shape_from_json
from whorl.core.errors import SpecError

__all__ = ["OWN", "model_shape", "model_types", "shape_from_config", "stored_in"]

MAX_CONFIG_BYTES = 10_000_000
OWN = "whorl"  # model_type of a model that is not in transformers: its shape stands beside
TEXT_PART = "text_config"  # of models that also see or hear


def model_types() -> tuple[str, ...]:
    """The model_type values whose shape can be read."""
    return tuple(sorted(FAMILIES))


def model_shape(name_or_path: str | Path) -> ModelShape:
    """A model by its public name, or by the path of a config.json or of a folder with one.

    What ends in .json is a path; one that exists and has a separator goes before a name. Raises
    SpecError if it is neither.
    """
    text = str(name_or_path)
    looks_like_path = os.sep in text or text.endswith(".json") or isinstance(name_or_path, Path)
    path = Path(text).expanduser()
    is_there = bool(text) and path.exists() and (looks_like_path or not is_known(text))
    if is_there or text.endswith(".json"):
        return shape_from_config(path)
    return known_model(text)


def shape_from_config(config: Mapping[str, Any] | str | Path) -> ModelShape:
    """The shape of a decoder from its config.json: parsed, or the path of it or of its folder.

    Of a model with a vision or audio part, the text model alone. Multi-token-prediction layers
    (num_nextn_predict_layers) are left out, as in published counts and in transformers: set
    `predicted_tokens` to plan their training. Raises SpecError if the file is not the
    configuration of a decoder whose sizes can be counted.
    """
    if isinstance(config, Mapping):
        values, where, name = config, "config", ""
    else:
        path = Path(config)
        path = path / "config.json" if path.is_dir() else path
        values, where, name = _read(path), str(path), path.parent.name
    if values.get("model_type") == OWN:
        return shape_from_json(values.get("shape"))
    text = values.get(TEXT_PART)
    if isinstance(text, Mapping):
        # only what the text part leaves out: a tied embedding is often said outside
        outer = {key: values.get(key) for key in ("tie_word_embeddings", "vision_config")}
        values = outer | dict(text)
        where = f"{where}: {TEXT_PART}"
    model_type = values.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise SpecError(
            f"{where}: model_type",
            found=_kind_of(values) if model_type is None else repr(model_type)[:60],
            expected="one of " + ", ".join(model_types()),
            do="give the config.json of a decoder model, or the name of a known one",
        )
    stated = values.get("_name_or_path")
    label = stated if isinstance(stated, str) and stated else name or model_type
    return shape_of_family(model_type, ConfigReader(values, where), label.rsplit("/", 1)[-1])


def stored_in(name_or_path: str) -> str | None:
    """The format that a model's weights are stored in, by its name or by the quantization_config
    of its config.json: "int4", "nf4", "int8", "fp8" …; None: 16 bits, or nothing says it.

    A method that is not known is warned of. Raises SpecError for a file that cannot be read.
    """
    path = Path(name_or_path).expanduser()
    path = path / "config.json" if path.is_dir() else path
    if is_known(name_or_path) or path.suffix != ".json" or not path.is_file():
        return stored_format(name_or_path)
    said = ConfigReader(_read(path), str(path)).section("quantization_config").values
    method = str(said.get("quant_method", "")).lower().removeprefix("fbgemm_")
    bits = said.get("bits", said.get("w_bit"))
    if not said or (method in STORED and bits is None):
        return STORED.get(method)
    if method == "bitsandbytes":
        return "nf4" if said.get("load_in_4bit") else "int8"
    found = STORED.get(f"int{bits}") if bits is not None else _of_groups(said)
    if method in ("awq", "gptq", "auto-round", "hqq", "compressed-tensors") and found:
        return found
    known = f"bitsandbytes, compressed-tensors, {', '.join(STORED)}"
    warnings.warn(
        f"{path}: quantization_config says {method or dict(said)}, which is not known here "
        f"({known}): taken for 16 bits; --base-format says otherwise",
        stacklevel=2,
    )
    return None


def _of_groups(said: Mapping[str, Any]) -> str | None:
    """Of compressed-tensors, whose groups of layers each say it; None where they differ."""
    groups = said.get("config_groups")
    found = set()
    for group in groups.values() if isinstance(groups, Mapping) else ():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        if isinstance(weights, Mapping):
            kind = f"{weights.get('type', 'int')}{weights.get('num_bits')}"
            found.add(STORED.get({"float8": "fp8", "float4": "nvfp4"}.get(kind, kind)))
    return found.pop() if len(found) == 1 else None


def _read(path: Path) -> Mapping[str, Any]:
    expected = "a config.json, or a folder that holds one"
    if not path.is_file():
        raise SpecError(f"{path}", found="no such file", expected=expected)
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise SpecError(f"{path}", found=f"{path.stat().st_size:,} bytes", expected=expected)
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except SpecError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise SpecError(f"{path}: not readable as JSON", found=error, expected=expected) from error
    if not isinstance(values, dict):
        raise SpecError(f"{path}", found=f"a {type(values).__name__}", expected="a JSON object")
    return values


def _kind_of(values: Mapping[str, Any]) -> str:
    """What a file without model_type seems to be."""
    if "tokenizer_class" in values or "added_tokens_decoder" in values:
        return "missing: this is a tokenizer's config"
    if "_class_name" in values or "_diffusers_version" in values:
        return "missing: this is a diffusion model's config"
    return "missing, among the keys " + ", ".join(sorted(map(str, values))[:6])
