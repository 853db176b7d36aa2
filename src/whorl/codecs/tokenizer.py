"""Text <-> tokens by any tokenizer.json: the ids are those of the library `tokenizers`.

`tiktoken` encodes instead, several times as fast, where the file's rules are those that both
libraries follow alike. Local id = id in the file - first_id: the special ids in front are not text.
"""

from __future__ import annotations

import functools
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.codecs.words import QWEN2_PATTERN, SPLIT_PATTERN, has_long_blank
from whorl.core.errors import DataError, MissingExtra, RecordError

__all__ = [
    "FILE",
    "TextCodec",
    "byte_of_char",
    "load",
    "nfc",
    "tokenizers_library",
    "valid_text",
]

FILE = "tokenizer.json"
NUM_BYTES = 256

CHECK_CHARS = 4_000  # of each text on which the two encoders are compared

BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")  # how byte fallback writes a byte
# Names of special tokens while a rendered chat is encoded: noncharacters, in no text.
STANDS_FOR_SPECIAL = ("\ufdd4", "\ufdd5")


class TextCodec:
    """A tokenizer.json with local ids 0..num_ids-1; special ids may lie among them.

    A byte that the file has no token for is left out, as its library does; our own file has all.

    special: text of a special token -> id in the file. token_bytes: UTF-8 of each local id, b"" of
    special ones. strips_space: decoding a whole text drops the space that encoding put in front.
    """

    kind = "tokenizer"
    media_type = "text/plain"
    value_ids = None

    def __init__(self, tokenizer_json: bytes, name: str = "text") -> None:
        """Raises RecordError if this is not a tokenizer.json that can be decoded piece by piece."""
        self.name = name
        self._json = tokenizer_json
        try:
            value = json.loads(tokenizer_json)
            added: list[dict[str, Any]] = value.get("added_tokens") or []
            self.special = {t["content"]: int(t["id"]) for t in added if t["special"]}
            texts = _texts(value["model"]["vocab"], added)
            to_bytes, self.strips_space = _decoding(value["decoder"])
            ordinary = sorted(texts.keys() - set(self.special.values()))
            self.first_id = ordinary[0]
            self._ids = {text: number for number, text in texts.items()}
            self._matched = [t["content"] for t in added if not t["special"]]
            model = value["model"]
            unknown = self.special.get(model.get("unk_token"), model.get("unk_id"))
            self._not_text = np.array(sorted({*self.special.values()} - {unknown}), np.int64)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise RecordError(f"{FILE} is not a tokenizer of text", found=repr(error)) from error
        self.num_ids = max(texts) + 1 - self.first_id
        self.token_bytes = [b""] * self.num_ids
        for number in ordinary:
            self.token_bytes[number - self.first_id] = to_bytes(texts[number])
        self._pattern = _split_pattern(value)
        self._num_ranked = _num_ranked(value, self.token_bytes) if self._pattern else 0

    def encode(self, value: Any) -> list[int]:
        """Local ids of a text. Raises DataError on lone surrogates or a non-text."""
        return [int(i) for i in self.encode_array(value)]

    def encode_array(self, value: Any) -> NDArray[np.int64]:
        """The same as int64 [n]. The text of a special token is text like any other.

        Raises DataError too on the few noncharacters that would come out as special ids.
        """
        text = valid_text(value)
        if not self._num_ranked or self._is_unbounded(text) or self._is_matched(text):
            ids = np.array(self.encode_slowly(text), np.int64)
            if self._is_special(ids):  # vocabularies that hold "</s>" as a piece of text, too
                ids = self.encode_rendered(text)[0] - self.first_id
                if self._is_special(ids):
                    raise DataError("the tokenizer has no ids but special ones for a text")
            return ids
        ids = self._fast.encode_ordinary(nfc(text))
        return np.asarray(ids, np.int64)

    def encode_slowly(self, value: Any) -> list[int]:
        """Local ids by the library `tokenizers`, always; equal to `encode`."""
        ids: list[int] = self._slow.encode(valid_text(value), add_special_tokens=False).ids
        return [i - self.first_id for i in ids]

    def encode_rendered(self, text: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(ids in the file [n], begin and end of each in the text [n, 2]) of a rendered chat.

        Special tokens are what `stand_in` writes for them; their own text is text.
        """
        encoding = self._renamed.encode(valid_text(text), add_special_tokens=False)
        offsets = np.array(encoding.offsets, np.int64).reshape(-1, 2)
        return np.array(encoding.ids, np.int64), offsets

    def stand_in(self, special: str) -> str:
        """What stands for a special token in a text for `encode_rendered`."""
        return f"{STANDS_FOR_SPECIAL[0]}{self.special[special]}{STANDS_FOR_SPECIAL[1]}"

    def id_of(self, text: str) -> int | None:
        """The id in the file of a token's text; None if there is no such token."""
        return self._ids.get(text)

    def added_ids(self) -> tuple[list[int], list[int]]:
        """Ids in the file that its own rules put (before, after) a text."""
        bare = self._slow.encode("a", add_special_tokens=False).ids
        whole = self._slow.encode("a", add_special_tokens=True).ids
        count = len(bare)
        for at in range(len(whole) - count + 1):
            if whole[at : at + count] == bare:
                return whole[:at], whole[at + count :]
        raise RecordError(f"{FILE} changes a text when it adds special tokens to it", found=whole)

    def decode(self, ids: Sequence[int]) -> str:
        """The text; bytes that are not UTF-8 become U+FFFD. Exact for what `encode` gave."""
        text = b"".join(self.token_bytes[i] for i in ids).decode("utf-8", "replace")
        return text.removeprefix(" ") if self.strips_space else text

    def to_bytes(self, value: Any) -> bytes:
        """UTF-8. Raises DataError as `encode`."""
        return valid_text(value).encode()

    def from_bytes(self, data: bytes) -> str:
        """Raises DataError on bytes that are not UTF-8."""
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise DataError("the text is not UTF-8", found=error.reason) from error

    def files(self) -> dict[str, bytes]:
        """A Hugging Face tokenizer.json."""
        return {FILE: self._json}

    def check(self, texts: Iterable[str]) -> int:
        """Compare both encoders and the round trip on texts; gives how many were compared.

        None are where there is one encoder. Raises DataError naming the first place of difference.
        """
        number = 0
        for number, whole in enumerate(texts if self._num_ranked else (), start=1):
            text = nfc(valid_text(whole[:CHECK_CHARS]))
            fast, slow = self.encode(text), self.encode_slowly(text)
            if fast != slow or self.decode(fast) != text:
                at = next(
                    (i for i, (a, b) in enumerate(zip(fast, slow, strict=False)) if a != b), -1
                )
                raise DataError(
                    f"the two tokenizer libraries disagree on document {number}",
                    found=f"token {at} near {self.decode(slow[max(0, at - 4) : at + 4])!r}",
                    do="report this text: its ids would not be the same when served",
                )
        return number

    def _is_special(self, ids: NDArray[np.int64]) -> bool:
        return bool(np.isin(ids + self.first_id, self._not_text).any())

    def _is_unbounded(self, text: str) -> bool:
        """Whether white space is too long for tiktoken, where words have no bound."""
        return self._pattern == QWEN2_PATTERN and has_long_blank(text)

    def _is_matched(self, text: str) -> bool:
        """Whether a token that is matched as a whole, such as <think>, is in the text."""
        return any(token in text for token in self._matched)

    @cached_property
    def _fast(self) -> Any:
        try:
            import tiktoken
        except ImportError as error:
            raise MissingExtra.of("tiktoken", "train", "the text codec") from error
        ranks = {token: rank for rank, token in enumerate(self.token_bytes[: self._num_ranked])}
        return tiktoken.Encoding(
            "whorl", pat_str=self._pattern, mergeable_ranks=ranks, special_tokens={}
        )

    @cached_property
    def _slow(self) -> Any:
        tokenizer = _opened(self._json)
        tokenizer.encode_special_tokens = True  # "<|eos|>" written in a text is plain text
        return tokenizer

    @cached_property
    def _renamed(self) -> Any:
        """The tokenizer with other names for its special tokens, so that theirs are text."""
        value = json.loads(self._json)
        names = {text: self.stand_in(text) for text in self.special}
        model = value["model"]
        for token in value["added_tokens"]:
            token["content"] = names.get(token["content"], token["content"])
        if isinstance(model["vocab"], dict):
            model["vocab"] = {names.get(text, text): i for text, i in model["vocab"].items()}
        else:
            model["vocab"] = [[names.get(text, text), score] for text, score in model["vocab"]]
        if model.get("unk_token") in names:
            model["unk_token"] = names[model["unk_token"]]
        value["post_processor"] = None
        tokenizer = _opened(json.dumps(value).encode())
        for text, number in self.special.items():
            if tokenizer.token_to_id(names[text]) != number:
                raise RecordError(f"{FILE} gives {text} another id", expected=number)
        return tokenizer

    def __getstate__(self) -> dict[str, Any]:
        return {"name": self.name, "json": self._json}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["json"], state["name"])  # type: ignore[misc]


def load(name: str, files: Mapping[str, bytes]) -> TextCodec:
    """The codec of these files. Raises RecordError if they are not its."""
    if FILE not in files:
        raise RecordError(f"codec {name} has no {FILE}", found=sorted(files))
    return TextCodec(files[FILE], name)


def valid_text(value: Any) -> str:
    """The text itself. Raises DataError on lone surrogates or what is no text."""
    if not isinstance(value, str):
        raise DataError("the text codec encodes text", found=type(value).__name__)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            "the text holds a lone surrogate", found=f"{value[error.start]!a} at {error.start}"
        ) from error
    return value


def nfc(text: str) -> str:
    """The text in NFC, of one version of Unicode wherever it runs; the same object if it is.

    Python's own takes the square of the marks in a run. Raises UnicodeEncodeError on lone
    surrogates in what is not yet in NFC.
    """
    if unicodedata.is_normalized("NFC", text):
        return text
    return str(tokenizers_library().normalizers.NFC().normalize_str(text))


def tokenizers_library() -> Any:
    """The library `tokenizers`. Raises MissingExtra without it."""
    try:
        import tokenizers
    except ImportError as error:
        raise MissingExtra.of("tokenizers", "train", "the text codec") from error
    return tokenizers


def _opened(tokenizer_json: bytes) -> Any:
    library = tokenizers_library()
    try:
        return library.Tokenizer.from_str(tokenizer_json.decode())
    except Exception as error:  # the library raises bare Exceptions
        raise RecordError(f"{FILE} cannot be read by tokenizers", found=error) from error


# ------------------------------------------------------------------ what the file says


def _texts(vocab: Any, added: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    """Text of each id. Raises RecordError if two tokens share one."""
    if isinstance(vocab, list):  # Unigram: pairs of text and score
        vocab = {text: number for number, (text, _) in enumerate(vocab)}
    pairs = {*vocab.items(), *((token["content"], token["id"]) for token in added)}
    texts = {int(number): str(text) for text, number in pairs}
    if len(texts) != len(pairs) or min(texts) < 0:
        raise RecordError(f"{FILE} gives two tokens one id")
    return texts


def _decoding(decoder: Any) -> tuple[Callable[[str], bytes], bool]:
    """(a token's text in the file -> its bytes, whether a leading space is dropped).

    Raises RecordError on rules other than byte-level's and those of SentencePiece.
    """
    steps = decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
    kinds = [step["type"] for step in steps]
    if "ByteLevel" in kinds:
        return functools.partial(_byte_level, byte_of_char()), False
    strange = set(kinds) - {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}
    if strange:
        raise RecordError(
            f"{FILE} decodes by rules that whorl does not know",
            found=", ".join(sorted(strange)),
            expected="a byte-level or SentencePiece tokenizer",
        )
    replaced = [
        (step["pattern"]["String"], step["content"]) for step in steps if step["type"] == "Replace"
    ]
    scheme = [step.get("prepend_scheme") for step in steps if step["type"] == "Metaspace"]
    replaced += [(step["replacement"], " ") for step in steps if step["type"] == "Metaspace"]
    strips = any(step["start"] for step in steps if step["type"] == "Strip")
    strips |= any(name != "never" for name in scheme)
    return functools.partial(_spaced, replaced, "ByteFallback" in kinds), strips


def _byte_level(table: Mapping[str, int], text: str) -> bytes:
    try:
        return bytes(table[char] for char in text)
    except KeyError:  # an added token with characters of its own
        return text.encode()


def _spaced(replaced: Sequence[tuple[str, str]], has_bytes: bool, text: str) -> bytes:
    if has_bytes and (found := BYTE_TOKEN.fullmatch(text)):
        return bytes([int(found[1], 16)])
    for old, new in replaced:
        text = text.replace(old, new)
    return text.encode()


def _split_pattern(value: Mapping[str, Any]) -> str:
    """The pattern of words before the bytes, if both libraries follow it alike; else ""."""
    steps = (value.get("pre_tokenizer") or {}).get("pretokenizers") or [{}]
    for pattern in (SPLIT_PATTERN, QWEN2_PATTERN):
        split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
        if (
            len(steps) == 2
            and all(steps[0].get(key) == wanted for key, wanted in split.items())
            and not steps[0].get("invert")
            and steps[1].get("type") == "ByteLevel"
            and not steps[1].get("add_prefix_space")
            and not steps[1].get("use_regex")
        ):
            return pattern
    return ""


def _num_ranked(value: Mapping[str, Any], token_bytes: Sequence[bytes]) -> int:
    """How many local ids are bytes and merges in order, so that tiktoken gives the same; else 0."""
    model = value["model"]
    if (
        model.get("type") != "BPE"
        or (value.get("normalizer") or {}).get("type") != "NFC"
        or any(model.get(key) for key in ("dropout", "ignore_merges", "byte_fallback"))
        or model.get("continuing_subword_prefix")
        or model.get("end_of_word_suffix")
        or {len(token) for token in token_bytes[:NUM_BYTES]} != {1}
    ):
        return 0
    table = byte_of_char()
    merges = (pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"])
    ranked = [bytes(table[char] for char in left + right) for left, right in merges]
    ranked = [*token_bytes[:NUM_BYTES], *ranked]
    is_same = ranked == [*token_bytes[: len(ranked)]] and len(set(ranked)) == len(ranked)
    return len(ranked) if is_same else 0


def byte_of_char() -> dict[str, int]:
    """GPT-2's printable stand-ins for the 256 bytes, as written in tokenizer.json."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(others)}
