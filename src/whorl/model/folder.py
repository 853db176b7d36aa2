"""A model folder's card, whorl.json: what the folder holds, where it comes from, every digest.

The card is sealed and lists every file with its BLAKE3 digests, so that a folder copied to another
machine still verifies itself: nothing damaged, missing or unlisted is ever loaded. No torch here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from whorl.arch.shape import ModelShape, shape_from_json, shape_values
from whorl.arch.shape_counts import cache_bytes_per_token
from whorl.codecs.contract import TokenContract
from whorl.core.clutter import is_clutter
from whorl.core.digests import digest_value, read_sealed, write_sealed
from whorl.core.errors import RecordError, WhorlError
from whorl.core.records import FileEntry, Record
from whorl.core.validation import first_problem
from whorl.core.variants import Variant

__all__ = [
    "CACHES",
    "CARD",
    "TOKENS",
    "FolderCard",
    "change_card",
    "model_folders",
    "peek_card",
    "prepare_folder",
    "read_card",
    "seal_folder",
]

CARD, TOKENS = "whorl.json", "tokens"
VERSION = 2
CACHES = ("f32", "int8")
MOST_GUESSES = 32  # as many as a block of keys and values has tokens
WEIGHTS = (".safetensors", ".bin", ".gguf")  # ends of files that hold weights


@dataclass(frozen=True)
class FolderCard:
    """What whorl.json says."""

    variant: Variant
    contract_digest: str
    shape: ModelShape
    lineage: Mapping[str, Any]  # role -> digest of what it was made from
    quality: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, FileEntry] = field(default_factory=dict, repr=False)
    cache: str = "f32"  # numbers of the keys and values it is served with: these, or "int8"
    # ids guessed at a time from the prompt and checked in one step, where a request runs alone
    lookup: int = 0

    @property
    def digest(self) -> str:
        """Equal for folders of equal content."""
        return digest_value(_to_json(self))

    @property
    def content(self) -> str:
        """Of what its answers depend on: equal wherever the model came from and whatever was
        measured of it."""
        return digest_value(_to_json(replace(self, lineage={}, quality={})))

    @property
    def cache_bytes_per_token(self) -> float:
        """Of a served sequence, at most."""
        return cache_bytes_per_token(self.shape, self.cache)

    @property
    def weight_bytes(self) -> int:
        return sum(entry.size_bytes for name, entry in self.files.items() if name.endswith(WEIGHTS))


def prepare_folder(folder: Path) -> None:
    """Make an empty folder to fill. Raises RecordError if something is in it already."""
    folder.mkdir(parents=True, exist_ok=True)
    if present := sorted(path.name for path in folder.iterdir()):
        raise RecordError(
            f"{folder} is not empty",
            found=", ".join(present[:5]),
            expected="an empty or new folder to write a model into",
            do="choose another folder or delete this one",
        )


def seal_folder(folder: Path, card: FolderCard) -> FolderCard:
    """Write whorl.json over every file now in the folder; the last step of writing a model."""
    names = sorted(_present(folder) - {CARD})
    files = {name: FileEntry.of(folder / name) for name in names}
    sealed = replace(card, files=files)
    write_sealed(folder / CARD, _to_json(sealed))
    return sealed


def change_card(folder: Path, card: FolderCard) -> FolderCard:
    """Write whorl.json anew, with other words of the same files: their digests stay the card's."""
    write_sealed(folder / CARD, _to_json(card))
    return card


def model_folders(record: Record) -> dict[Variant, Path]:
    """The model folders of a record, the smallest weights first; not verified yet.

    Raises RecordError if a card is damaged or two folders hold one variant.
    """
    found: dict[Variant, Path] = {}
    for name in record.files:
        if name.endswith(f"/{CARD}"):
            folder = record.file(name).parent
            value = read_sealed(folder / CARD)
            try:
                variant = _variant(value)
            except (KeyError, TypeError) as error:
                raise RecordError(f"{folder / CARD} is not a model card", found=error) from error
            if variant in found:
                names = f"{found[variant].name} and {folder.name}"
                raise RecordError(f"{record.path} holds {variant} twice", found=names)
            found[variant] = folder
    return dict(sorted(found.items(), key=lambda item: item[0].bits))


def read_card(folder: Path) -> FolderCard:
    """Read whorl.json and verify every file of the folder against it.

    Raises RecordError if a file is damaged (naming its chunk), missing or not listed, or if the
    token contract in the folder is not the one the model was trained with.
    """
    card = peek_card(folder)
    _verify_files(folder, card)
    _verify_contract(folder, card)
    return card


def peek_card(folder: Path) -> FolderCard:
    """What whorl.json says, for those who load nothing: no other file is looked at.

    Raises RecordError if there is none or it is damaged.
    """
    if not (folder / CARD).is_file():
        raise RecordError(
            f"{folder} is not a model folder",
            found=f"no {CARD}" if folder.is_dir() else "no such folder",
            expected="a folder written by whorl train or whorl compress",
        )
    value = read_sealed(folder / CARD)
    try:
        if value["version"] != VERSION:
            raise ValueError(f"version {value['version']}, not {VERSION}")
        return FolderCard(
            _variant(value),
            str(value["contract_digest"]),
            shape_from_json(value["shape"]),
            dict(value["lineage"]),
            dict(value["quality"]),
            {
                name: FileEntry(entry["size_bytes"], entry["blake3"], tuple(entry["chunks"]))
                for name, entry in value["files"].items()
            },
            _cache(value),
            _lookup(value),
        )
    except (KeyError, TypeError, ValueError, AttributeError, WhorlError) as error:
        raise RecordError(f"{folder / CARD} is not a model card", found=error) from error


def _variant(card: Any) -> Variant:
    """Raises KeyError or TypeError if the card has no such thing."""
    variant = Variant(**card["variant"])
    if not isinstance(variant.format, str) or not isinstance(variant.weights, str):
        raise TypeError(f"the variant {variant} is not of two names")
    return variant


def _cache(card: Any) -> str:
    """Raises ValueError if keys and values are to be kept in what no engine knows."""
    cache = card.get("cache", "f32")
    if cache not in CACHES:
        raise ValueError(f"a cache of {cache}, not of {' or '.join(CACHES)}")
    return str(cache)


def _lookup(card: Any) -> int:
    """Raises ValueError if it is no number of ids."""
    lookup = card.get("lookup", 0)
    if type(lookup) is not int or not 0 <= lookup <= MOST_GUESSES:
        raise ValueError(f"a lookup of {lookup}, not of 0 to {MOST_GUESSES} ids")
    return lookup


def _verify_files(folder: Path, card: FolderCard) -> None:
    for name, entry in card.files.items():
        entry.check(folder / name)
    if strangers := sorted(_present(folder) - {*card.files, CARD}):
        raise RecordError(
            f"{folder} holds files that are not part of the model",
            found=strangers[:5],
            do="move them away: nothing unlisted is ever loaded",
        )


def _verify_contract(folder: Path, card: FolderCard) -> None:
    path = folder / TOKENS / "contract.json"
    try:
        contract = TokenContract.model_validate(read_sealed(path))
    except ValidationError as error:
        raise RecordError(f"{path} is not a token contract", found=first_problem(error)) from error
    if contract.digest != card.contract_digest:
        raise RecordError(
            f"{folder} refuses its token contract: the model was trained with another",
            found=f"{contract.digest[:16]}…",
            expected=f"{card.contract_digest[:16]}…",
            do="take the tokens folder that belongs to this model",
        )
    if contract.vocab_size != card.shape.vocab_size:
        raise RecordError(
            f"{folder}: the token contract does not fit the model",
            found=f"{contract.vocab_size} ids",
            expected=f"{card.shape.vocab_size}",
        )


def _present(folder: Path) -> set[str]:
    inside = {path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir()}
    return {str(path) for path in inside if not is_clutter(path)}


def _to_json(card: FolderCard) -> dict[str, Any]:
    return {
        "version": VERSION,
        "variant": asdict(card.variant),
        "contract_digest": card.contract_digest,
        "shape": shape_values(card.shape),
        "lineage": dict(card.lineage),
        "quality": dict(card.quality),
        "files": {
            name: {**vars(entry), "chunks": list(entry.chunks)}
            for name, entry in card.files.items()
        },
        **({} if card.cache == "f32" else {"cache": card.cache}),
        **({} if card.lookup == 0 else {"lookup": card.lookup}),
    }
