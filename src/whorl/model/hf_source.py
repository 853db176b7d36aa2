"""Somebody else's folder in Hugging Face's format, looked over before its weights are read.

Only the files named here are ever opened: no code, no pickle, nothing outside of the folder. What
the weights' files themselves claim is checked by the library safetensors as it opens them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whorl.arch.computable import check_computable
from whorl.arch.hf_config import shape_from_config
from whorl.arch.shape import ModelShape
from whorl.core.digests import digest_file, digest_value
from whorl.core.errors import DataError, RecordError

__all__ = [
    "INDEX",
    "SOURCE_FILES",
    "WEIGHTS",
    "HfSource",
    "open_hf_source",
    "read_object",
    "weight_files",
]

INDEX, WEIGHTS = "model.safetensors.index.json", "model.safetensors"
CONFIG, TOKENIZER, TOKENIZER_CONFIG = "config.json", "tokenizer.json", "tokenizer_config.json"
SMALL_FILES = (
    CONFIG,
    TOKENIZER,
    TOKENIZER_CONFIG,
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
)
SOURCE_FILES = (*SMALL_FILES, INDEX, "model*.safetensors")  # patterns: all an import may need
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".msgpack", ".h5")
MAX_SMALL_BYTES = 100_000_000  # the largest published tokenizer.json has a third of it
SNAPSHOTS, BLOBS = "snapshots", "blobs"  # the hub's cache: files of a snapshot are links to blobs


@dataclass(frozen=True)
class HfSource:
    """A folder that may be read. remarks: what is in it and is passed over."""

    folder: Path
    shape: ModelShape
    files: tuple[str, ...]
    remarks: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Of the names and content of every file that is read."""
        return digest_value({name: digest_file(self.folder / name) for name in self.files})


def open_hf_source(folder: Path) -> HfSource:
    """Look a folder over. Its weights are not read yet.

    Raises SpecError with every reason if whorl cannot compute the model, DataError if the weights
    are pickled, RecordError naming a file that is missing, too large, no JSON, or lies elsewhere.
    """
    config = read_object(_inside(folder, CONFIG))
    shape = shape_from_config(folder)
    check_computable(shape, "serve")
    if config.get("quantization_config") is not None:
        raise RecordError(
            f"{folder} holds quantised weights",
            found=f"quantization_config in {CONFIG}",
            expected="weights in float32, bf16 or fp16, or a GGUF file",
        )
    if not shape.max_seq_len:
        raise RecordError(f"{folder / CONFIG} has no max_position_embeddings")
    small = [name for name in SMALL_FILES if _is_there(folder / name)]
    for name in small:
        _inside(folder, name)
    index = [INDEX] if _is_there(folder / INDEX) else []
    return HfSource(
        folder, shape, (*small, *index, *weight_files(folder)), tuple(_remarks(folder, config))
    )


def weight_files(folder: Path) -> list[str]:
    """Names of the files that hold the weights: those of the index, else the one.

    Raises DataError if there are only pickled ones, RecordError if the index is none or names a
    file that is missing or lies elsewhere.
    """
    names = [WEIGHTS]
    if _is_there(folder / INDEX):
        places = read_object(_inside(folder, INDEX)).get("weight_map")
        if not isinstance(places, dict) or not all(isinstance(v, str) for v in places.values()):
            raise RecordError(f"{folder / INDEX} has no weight_map", expected="tensor -> file")
        names = sorted(set(places.values()))
    elif not _is_there(folder / WEIGHTS):
        _refuse_pickles(folder)
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise RecordError(f"{folder / INDEX} names a file outside its folder", found=repr(name))
        _inside(folder, name)
    return names


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object of bounded size. Raises RecordError."""
    try:
        if (size_bytes := path.stat().st_size) > MAX_SMALL_BYTES:
            raise ValueError(f"{size_bytes:,} bytes, more than {MAX_SMALL_BYTES:,}")
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise RecordError(f"{path} cannot be read", found=error, expected="JSON") from error
    if not isinstance(value, dict):
        raise RecordError(
            f"{path} cannot be read", found=type(value).__name__, expected="an object"
        )
    return value


def _is_there(path: Path) -> bool:
    return path.is_symlink() or path.exists()


def _inside(folder: Path, name: str) -> Path:
    """A plain file of the folder. Raises RecordError if it is missing, or a way out of it."""
    path = folder / name
    try:
        target, root = path.resolve(strict=True), folder.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # missing, or links in a circle
        raise RecordError(f"{path} cannot be read", found=error) from error
    roots = [root]
    if root.parent.name == SNAPSHOTS:
        roots.append(root.parent.parent / BLOBS)
    if not any(target.is_relative_to(place) for place in roots):
        raise RecordError(
            f"{path} is a link out of its folder", found=target, do="copy the file itself there"
        )
    if not target.is_file():
        raise RecordError(f"{path} is not a plain file")
    if not name.endswith(".safetensors") and target.stat().st_size > MAX_SMALL_BYTES:
        raise RecordError(
            f"{path} is too large to be what it is called",
            found=f"{target.stat().st_size:,} bytes",
            expected=f"at most {MAX_SMALL_BYTES:,}",
        )
    return path


def _refuse_pickles(folder: Path) -> None:
    names = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    if not names:
        raise RecordError(
            f"{folder} holds no weights", expected=f"{WEIGHTS}, or shards and their {INDEX}"
        )
    load = f"M.from_pretrained({str(folder)!r}, trust_remote_code=False)"
    raise DataError(
        f"{folder} holds pickled weights, which can run code as they are read",
        found=", ".join(names[:3]),
        expected="safetensors",
        do="take the model's safetensors; or, if you trust whoever made the files, convert them: "
        f'python -c "from transformers import AutoModelForCausalLM as M; '
        f"{load}.save_pretrained('{folder.name}-safetensors')\", and copy the tokenizer's files",
    )


def _remarks(folder: Path, config: dict[str, Any]) -> Iterable[str]:
    configs = {CONFIG: config}
    if _is_there(folder / TOKENIZER_CONFIG):
        configs[TOKENIZER_CONFIG] = read_object(folder / TOKENIZER_CONFIG)
    for name, value in configs.items():
        if value.get("auto_map"):
            yield f"{name} names code of its own (auto_map): it is not run"
    code = sorted(path.name for path in folder.glob("*.py"))
    if code:
        yield f"code is not run: {', '.join(code[:3])}"
    if pickles := sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES):
        yield f"pickled files are not read: {', '.join(pickles[:3])}"
