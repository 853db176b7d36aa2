"""The token contract: what every id means. Trainer, evaluator and server share this one object.

    contract.json             sealed: vocabulary, special ids, stop rules, template, codecs
    tokenizer.json            of the text codec, if there is one
    codecs/<name>/<file>      files of the other codecs

The ids of text are those of its tokenizer.json, special ones among them or in front; each other
codec has a range of its own behind it. Without text, ids 0..15 are whorl's own special ones. What
is left up to vocab_size is reserved.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from whorl.codecs.decoding import DecodeStream
from whorl.codecs.kinds import load_codec
from whorl.codecs.text import CHAT_TEMPLATE, NAMES, NUM_SPECIAL, SPECIAL
from whorl.codecs.tokenizer import TextCodec
from whorl.core.digests import (
    digest_bytes,
    digest_value,
    read_sealed,
    write_bytes,
    write_sealed,
)
from whorl.core.errors import DataError, MissingExtra, RecordError, SpecError
from whorl.core.ports import Codec, Document, Part
from whorl.core.validation import first_problem

if TYPE_CHECKING:
    from whorl.codecs.chat import ChatEncoder

__all__ = [
    "CHAT",
    "OWN_RULES",
    "TEXT",
    "CodecEntry",
    "TokenContract",
    "TokenRules",
    "Tokens",
    "is_of_files",
]

CONTRACT = "contract.json"
TEXT, CHAT = "text", "chat"  # the latter: a Part whose value is a chat (see whorl.codecs.chat)
SPECIAL_CODEC = "special"  # a Part whose value is a special token's text
FILE_TYPES = ("image", "audio")  # beginnings of media types


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


class TokenRules(_Frozen):
    """Special ids and what they are for."""

    special: dict[str, int]  # text -> id
    names: dict[str, str]  # "bos_token", "eos_token" … -> its text, as templates know it
    start_ids: tuple[int, ...]  # before every document and prompt; () if nothing is
    end_ids: tuple[int, ...]  # after every document
    pad_id: int  # fills rows; may have another meaning besides
    stop_ids: tuple[int, ...]  # any of them ends an answer
    stop_strings: tuple[str, ...] = ()  # so does any of these texts
    chat_template: str | None = None

    def id_of(self, name: str) -> int | None:
        """The id of a name such as "eos_token"; None if the tokenizer has none."""
        return self.special.get(self.names.get(name, ""))


OWN_RULES = TokenRules(
    special=SPECIAL,
    names=NAMES,
    start_ids=(SPECIAL["<|bos|>"],),
    end_ids=(SPECIAL["<|eos|>"],),
    pad_id=SPECIAL["<|pad|>"],
    stop_ids=(SPECIAL["<|eos|>"], SPECIAL["<|end|>"]),
    chat_template=CHAT_TEMPLATE,
)


class TokenContract(TokenRules):
    version: Literal[2] = 2
    vocab_size: int
    codecs: tuple[CodecEntry, ...]

    @property
    def digest(self) -> str:
        """Equal for equal meanings of every id."""
        return digest_value(self.model_dump(mode="json"))


@dataclass(frozen=True)
class Tokens:
    """The contract with its codecs loaded."""

    contract: TokenContract
    codecs: Mapping[str, Codec]
    names: Mapping[str, str] = field(default_factory=dict)  # own name of a codec -> the contract's

    def of_field(self, name: str) -> Tokens:
        """The same, with the codecs that only this field has under its own names for them."""
        own = f"{name}."
        names = {key.removeprefix(own): key for key in self.codecs if key.startswith(own)}
        return replace(self, names=names) if names else self

    def codec(self, name: str) -> Codec:
        """The codec of this name, a field's own or the contract's. Raises DataError."""
        return self.codecs[self._entry(name).name]

    def own_name(self, name: str) -> str:
        """What the field calls a codec of the contract."""
        return next((own for own, key in self.names.items() if key == name), name)

    @classmethod
    def build(
        cls, codecs: Mapping[str, Codec], vocab_size: int, rules: TokenRules = OWN_RULES
    ) -> Tokens:
        """Give each codec its range of ids. Raises SpecError if vocab_size is too small."""
        ordered = sorted(codecs.values(), key=lambda codec: codec.name != TEXT)  # text first
        first = ordered[0] if ordered else None
        start = first.first_id if isinstance(first, TextCodec) else NUM_SPECIAL
        entries, num_special = [], start
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
                expected=f"at least {start}: {num_special} special, "
                + ", ".join(f"{codec.num_ids} {codec.name}" for codec in ordered),
                do="raise the vocabulary size",
            )
        contract = TokenContract(vocab_size=vocab_size, codecs=tuple(entries), **dict(rules))
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
                f"{folder / CONTRACT} is not a token contract", found=first_problem(error)
            ) from error
        codecs = {entry.name: _load_codec(folder, entry) for entry in contract.codecs}
        return cls(contract, codecs)

    # ---------------------------------------------------------------- encoding

    def encode_arrays(self, document: Document) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """(ids [n], mask [n]) of a document: start ids, its parts, end ids; of chats, the chats.

        mask: the id is a trained target. Start ids never are, nor is the first id; end ids are if
        the last part is. Raises DataError on a part that its codec cannot encode.
        """
        segments = self.encode_segments(document)
        ids, mask = (np.concatenate(arrays) for arrays in zip(*segments, strict=True))
        return ids, mask

    def encode_segments(
        self, document: Document
    ) -> list[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
        """The same for each chat of a document of chats; one pair of arrays of any other."""
        are_chats = [part.codec == CHAT for part in document.parts]
        if any(are_chats):
            if not all(are_chats):
                raise DataError("a document with a chat has other parts", found=document.name)
            segments = [self.encode_chat(part.value) for part in document.parts]
        else:
            ends_trained = bool(document.parts) and document.parts[-1].trained
            start, end = self.contract.start_ids, self.contract.end_ids
            parts = [(np.array(start, np.int64), False)]
            parts += [(self._encode_part(part), part.trained) for part in document.parts]
            parts += [(np.array(end, np.int64), ends_trained)]
            ids = np.concatenate([part_ids for part_ids, _ in parts])
            mask = np.concatenate([np.full(len(part), trained) for part, trained in parts])
            segments = [(ids, mask)]
        for _, mask in segments:
            mask[:1] = False
        return segments

    def encode_document(self, document: Document) -> tuple[list[int], list[bool]]:
        """The same as lists."""
        ids, mask = self.encode_arrays(document)
        return ids.tolist(), mask.tolist()

    def encode_chat(
        self,
        chat: Any,
        ask: bool = False,
        now: datetime | None = None,
        goes_on: bool = False,
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """(ids [n], mask [n]: the assistant's turns) of a chat, as `whorl.codecs.chat` says.

        ask: the assistant's next turn is begun. goes_on: its last one is gone on with. now: for
        templates that tell the date. Raises DataError on what is no chat, or without a template.
        """
        return self._chat.encode(chat, ask, now, goes_on)

    @cached_property
    def _chat(self) -> ChatEncoder:
        codec, contract = self.codecs.get(TEXT), self.contract
        if contract.chat_template is None or not isinstance(codec, TextCodec):
            raise DataError(
                "this model has no chat template", do="use plain text, or tokens with a template"
            )
        try:
            from whorl.codecs.chat import ChatEncoder
        except ImportError as error:
            raise MissingExtra.of("jinja2", "train", "a chat template") from error
        stops = [text for text, number in contract.special.items() if number in contract.stop_ids]
        return ChatEncoder(codec, contract.chat_template, contract.names, stops)

    def encode_prompt(self, text: str) -> list[int]:
        """Start ids and the text: what a model is asked to continue."""
        return [*self.contract.start_ids, *self.encode_parts([Part(TEXT, text)])]

    def encode_parts(self, parts: Iterable[Part]) -> list[int]:
        """The parts' ids and nothing else. Raises DataError on a part that cannot be encoded."""
        return [int(i) for part in parts for i in self._encode_part(part)]

    def _encode_part(self, part: Part) -> NDArray[np.int64]:
        if part.codec == SPECIAL_CODEC:
            special = self.contract.special
            if part.value not in special:
                raise DataError(
                    f"there is no special token {part.value}",
                    expected=", ".join(special),
                    do="write one of these, or leave it out",
                )
            return np.array([special[part.value]])
        entry = self._entry(part.codec)
        codec = self.codecs[entry.name]
        if isinstance(codec, TextCodec):
            return codec.encode_array(part.value) + entry.id_start
        return np.asarray(codec.encode(part.value), np.int64) + entry.id_start

    def _entry(self, name: str) -> CodecEntry:
        wanted = self.names.get(name, name)
        for entry in self.contract.codecs:
            if entry.name == wanted:
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

    def decode_stream(
        self,
        skip_special: bool = True,
        continues: bool = False,
        shown: Collection[str] = (),
    ) -> DecodeStream:
        """A decoder that is given ids as they come and holds back half characters.

        continues: the ids go on from a prompt. shown: special tokens that are not skipped.
        """
        codec = self.codecs.get(TEXT)
        kept = {self.contract.special.get(text) for text in shown}
        return DecodeStream(
            codec if isinstance(codec, TextCodec) else None,
            lambda number: self._shown(number, skip_special and number not in kept),
            continues,
        )

    @cached_property
    def special_texts(self) -> dict[int, str]:
        """Id of each special token -> its text."""
        return {number: text for text, number in self.contract.special.items()}

    def _shown(self, number: int, skip_special: bool) -> str | None:
        """How an id that is not text is shown; None for one of text."""
        if number in self.special_texts:
            return "" if skip_special else self.special_texts[number]
        for entry in self.contract.codecs:
            if entry.id_start <= number < entry.id_end:
                codec, local = self.codecs[entry.name], number - entry.id_start
                if entry.name == TEXT and isinstance(codec, TextCodec):
                    return None
                value = None if is_of_files(codec) else codec.decode([local])
                return value if isinstance(value, str) else f"<|{entry.name}_{local}|>"
        return "" if skip_special else f"<|unused_{number}|>"


def is_of_files(codec: Codec) -> bool:
    """Whether its values are images or sounds, of which one id alone says nothing."""
    return codec.media_type.partition("/")[0] in FILE_TYPES


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
    is_moved = isinstance(codec, TextCodec) and codec.first_id != entry.id_start
    if is_moved or codec.num_ids != entry.id_end - entry.id_start:
        raise RecordError(
            f"codec {entry.name} does not fit its contract",
            found=f"{codec.num_ids} ids",
            expected=f"{entry.id_start} to {entry.id_end - 1}",
        )
    return codec
