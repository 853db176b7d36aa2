"""The token contract: what every id means. Trainer, evaluator and server share this one object.

    contract.json             sealed: vocabulary, special ids, stop ids, template, codecs
    tokenizer.json            of the text codec, if there is one
    codecs/<name>/<file>      files of the other codecs

Ids 0..15 are special, then each codec has a range of its own, the text codec first; what is left
up to vocab_size is reserved.
"""

from __future__ import annotations

import codecs as unicode_codecs
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from whorl.codecs.kinds import load_codec
from whorl.codecs.text import NUM_SPECIAL, SPECIAL_TOKENS, TextCodec
from whorl.core.digests import (
    digest_bytes,
    digest_value,
    read_sealed,
    write_bytes,
    write_sealed,
)
from whorl.core.errors import DataError, RecordError, SpecError
from whorl.core.ports import Codec, Document, Part

__all__ = ["SPECIAL", "CodecEntry", "DecodeStream", "TokenContract", "Tokens"]

SPECIAL = {token: number for number, token in enumerate(SPECIAL_TOKENS)}
CONTRACT = "contract.json"
TEXT, SPECIAL_CODEC = "text", "special"  # the latter: a Part whose value is a special's name


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CodecEntry(_Frozen):
    """One codec's ids (id_start <= id < id_end) and files (path in the folder -> BLAKE3)."""

    name: str
    kind: str
    digest: str
    files: dict[str, str]
    id_start: int
    id_end: int


class TokenContract(_Frozen):
    version: Literal[1] = 1
    vocab_size: int
    special: dict[str, int]
    stop_ids: tuple[int, ...]
    chat_template: str | None = None
    codecs: tuple[CodecEntry, ...]

    @property
    def bos_id(self) -> int:
        return self.special["<|bos|>"]

    @property
    def eos_id(self) -> int:
        return self.special["<|eos|>"]

    @property
    def pad_id(self) -> int:
        return self.special["<|pad|>"]

    @property
    def digest(self) -> str:
        """Equal for equal meanings of every id."""
        return digest_value(self.model_dump(mode="json"))


@dataclass(frozen=True)
class Tokens:
    """The contract with its codecs loaded."""

    contract: TokenContract
    codecs: Mapping[str, Codec]

    @classmethod
    def build(
        cls, codecs: Mapping[str, Codec], vocab_size: int, chat_template: str | None = None
    ) -> Tokens:
        """Give each codec its range of ids. Raises SpecError if vocab_size is too small."""
        ordered = sorted(codecs.values(), key=lambda codec: codec.name != TEXT)  # text first
        entries, start = [], NUM_SPECIAL
        for codec in ordered:
            files = {_path(codec.name, file): data for file, data in codec.files().items()}
            digests = {path: digest_bytes(data) for path, data in sorted(files.items())}
            entries.append(
                CodecEntry(
                    name=codec.name,
                    kind=codec.kind,
                    digest=digest_value({"kind": codec.kind, "files": digests}),
                    files=digests,
                    id_start=start,
                    id_end=start + codec.num_ids,
                )
            )
            start += codec.num_ids
        if start > vocab_size:
            raise SpecError(
                "the vocabulary is too small for its codecs",
                found=f"{vocab_size} ids",
                expected=f"at least {start}: {NUM_SPECIAL} special, "
                + ", ".join(f"{codec.num_ids} {codec.name}" for codec in ordered),
                do="raise the vocabulary size",
            )
        contract = TokenContract(
            vocab_size=vocab_size,
            special=SPECIAL,
            stop_ids=(SPECIAL["<|eos|>"], SPECIAL["<|end|>"]),
            chat_template=chat_template,
            codecs=tuple(entries),
        )
        return cls(contract, {codec.name: codec for codec in ordered})

    def save(self, folder: Path) -> None:
        """Write the contract and every codec's files. Raises ResourceError on a full disk."""
        folder.mkdir(parents=True, exist_ok=True)
        for codec in self.codecs.values():
            for file, data in codec.files().items():
                path = folder / _path(codec.name, file)
                path.parent.mkdir(parents=True, exist_ok=True)
                write_bytes(path, data)
        write_sealed(folder / CONTRACT, self.contract.model_dump(mode="json"))

    @classmethod
    def load(cls, folder: Path) -> Tokens:
        """Read and verify everything. Raises RecordError naming the file that is damaged."""
        try:
            contract = TokenContract.model_validate(read_sealed(folder / CONTRACT))
        except ValidationError as error:
            raise RecordError(
                f"{folder / CONTRACT} is not a token contract", found=error
            ) from error
        if contract.special != SPECIAL:
            raise RecordError(f"{folder / CONTRACT} has other special ids", expected=SPECIAL)
        codecs = {entry.name: _load_codec(folder, entry) for entry in contract.codecs}
        return cls(contract, codecs)

    # ---------------------------------------------------------------- encoding

    def encode_arrays(self, document: Document) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """(ids [n], mask [n]) of a document: <|bos|>, its parts, <|eos|>.

        mask: the id is a trained target. <|bos|> never is; <|eos|> is if the last part is.
        Raises DataError on a part that its codec cannot encode.
        """
        parts = [self._encode_part(part) for part in document.parts]
        ends_trained = bool(document.parts) and document.parts[-1].trained
        ids = [np.array([self.contract.bos_id]), *parts, np.array([self.contract.eos_id])]
        masks = [
            np.zeros(1, np.bool_),
            *(
                np.full(len(part_ids), part.trained, np.bool_)
                for part_ids, part in zip(parts, document.parts, strict=True)
            ),
            np.full(1, ends_trained, np.bool_),
        ]
        return np.concatenate(ids), np.concatenate(masks)

    def encode_document(self, document: Document) -> tuple[list[int], list[bool]]:
        """The same as lists."""
        ids, mask = self.encode_arrays(document)
        return ids.tolist(), mask.tolist()

    def encode_prompt(self, text: str) -> list[int]:
        """<|bos|> and the text: what a model is asked to continue."""
        return [self.contract.bos_id, *self.encode_parts([Part(TEXT, text)])]

    def encode_parts(self, parts: Iterable[Part]) -> list[int]:
        """The parts' ids and nothing else. Raises DataError on a part that cannot be encoded."""
        return [int(i) for part in parts for i in self._encode_part(part)]

    def _encode_part(self, part: Part) -> NDArray[np.int64]:
        if part.codec == SPECIAL_CODEC:
            if part.value not in SPECIAL:
                raise DataError(
                    f"there is no special token {part.value}", expected=", ".join(SPECIAL)
                )
            return np.array([SPECIAL[part.value]])
        entry = self._entry(part.codec)
        codec = self.codecs[part.codec]
        if isinstance(codec, TextCodec):
            return codec.encode_array(part.value) + entry.id_start
        return np.asarray(codec.encode(part.value), np.int64) + entry.id_start

    def _entry(self, name: str) -> CodecEntry:
        for entry in self.contract.codecs:
            if entry.name == name:
                return entry
        raise DataError(
            f"the token contract has no codec {name}",
            expected=", ".join(entry.name for entry in self.contract.codecs),
        )

    # ---------------------------------------------------------------- decoding

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """Text of text ids; other codecs' ids in a printable form. Never raises on an id."""
        stream = self.decode_stream(skip_special)
        return stream.push(ids) + stream.finish()

    def decode_stream(self, skip_special: bool = True) -> DecodeStream:
        """A decoder that is given ids as they come and holds back half characters."""
        return DecodeStream(self, skip_special)

    def printable(self, number: int, skip_special: bool) -> str:
        """How an id that is not text is shown."""
        for entry in self.contract.codecs:
            if entry.id_start <= number < entry.id_end:
                local = number - entry.id_start
                value = self.codecs[entry.name].decode([local])
                return value if isinstance(value, str) else f"<|{entry.name}_{local}|>"
        if skip_special:
            return ""
        if 0 <= number < NUM_SPECIAL:
            return SPECIAL_TOKENS[number]
        return f"<|unused_{number}|>"


class DecodeStream:
    """Ids to text, piece by piece: the pieces join to what `Tokens.decode` gives for all."""

    def __init__(self, tokens: Tokens, skip_special: bool = True) -> None:
        self._tokens = tokens
        self._skip_special = skip_special
        self._utf8 = unicode_codecs.getincrementaldecoder("utf-8")("replace")
        codec = tokens.codecs.get(TEXT)
        self._bytes = codec.token_bytes if isinstance(codec, TextCodec) else []
        self._start = next((e.id_start for e in tokens.contract.codecs if e.name == TEXT), 0)

    def push(self, ids: Sequence[int]) -> str:
        """The text that is certain once these ids are known too."""
        pieces = []
        for number in ids:
            local = int(number) - self._start
            if 0 <= local < len(self._bytes):
                pieces.append(self._utf8.decode(self._bytes[local]))
            else:
                pieces.append(self.finish())
                pieces.append(self._tokens.printable(int(number), self._skip_special))
        return "".join(pieces)

    def finish(self) -> str:
        """What was held back: half a character becomes U+FFFD."""
        rest = self._utf8.decode(b"", True)
        self._utf8.reset()
        return rest


def _path(codec: str, file: str) -> str:
    return file if codec == TEXT else f"codecs/{codec}/{file}"


def _load_codec(folder: Path, entry: CodecEntry) -> Codec:
    files: dict[str, bytes] = {}
    for path, digest in entry.files.items():
        if ".." in Path(path).parts or Path(path).is_absolute():
            raise RecordError(f"{folder / CONTRACT} names a file outside its folder", found=path)
        try:
            data = (folder / path).read_bytes()
        except OSError as error:
            raise RecordError(f"{folder / path} cannot be read", found=error.strerror) from error
        if digest_bytes(data) != digest:
            raise RecordError(
                f"{folder / path} is damaged",
                found=f"digest {digest_bytes(data)[:16]}…",
                expected=f"{digest[:16]}…",
                do="take the folder from a complete record again",
            )
        files[path.removeprefix(f"codecs/{entry.name}/")] = data
    codec = load_codec(entry.kind, entry.name, files)
    if codec.num_ids != entry.id_end - entry.id_start:
        raise RecordError(
            f"codec {entry.name} does not fit its contract",
            found=f"{codec.num_ids} ids",
            expected=f"{entry.id_end - entry.id_start}",
        )
    return codec
