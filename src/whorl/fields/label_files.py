"""Texts with labels as people have them: rows with a text and a label, or a folder of each class.

A text is known by its words: one that comes again, with its label or another, is refused. Files
whose names, or folders, begin with test are held out; else a share of each class is.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from email import message_from_bytes, policy
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from email.message import Message
from fnmatch import fnmatchcase
from pathlib import PurePath

from whorl.core import streams
from whorl.core.errors import DataError, SpecError
from whorl.core.ports import Source
from whorl.core.sources import FileItem
from whorl.fields.files import ROW_FORMATS, TEXT_SUFFIXES, bare_suffix
from whorl.fields.formats import mended_text, rows_of, text_of, texts_of
from whorl.fields.jsonl import Row
from whorl.fields.places import Places, Reject
from whorl.fields.whole import files_of, number_of, share_of, share_option

__all__ = ["SUFFIXES", "LabelledText", "read_labels"]

MAIL = ".eml"
SUFFIXES = (*TEXT_SUFFIXES, *ROW_FORMATS, MAIL)
TEXT_KEYS = ("text", "sentence", "content", "body", "message", "review", "comment", "description")
LABEL_KEYS = (
    "label",
    "class",
    "category",
    "target",
    "section",
    "intent",
    "topic",
    "sentiment",
    "y",
)
TEST, VALID = ("test",), ("valid", "dev", "val")
HIDDEN = re.compile(r"<(script|style)\b", re.IGNORECASE)
ENDS = {name: re.compile(rf"</{name}\s*>", re.IGNORECASE) for name in ("script", "style")}
TAG = re.compile(r"<[^<>]{1,2000}>")
MAX_MAIL_BYTES = 2**26
MAX_CLASSES, MAX_LABEL = 5_000, 100


@dataclass(frozen=True)
class LabelledText:
    name: str
    text: str
    label: str
    is_heldout: bool


def read_labels(source: Source, options: Mapping[str, str], reject: Reject) -> list[LabelledText]:
    """All files of a source. Raises DataError if there are no classes to choose from, SpecError."""
    least, seed = number_of(options, "least", 1), number_of(options, "seed")
    files = files_of(source, SUFFIXES)
    has_test = any(_part(item) == "test" for item in files)
    renamed = _renaming(options["classes"])
    found: dict[str, tuple[LabelledText, Places, int | None]] = {}
    for item in files:
        places, part = Places.of(item, reject), _part(item)
        if has_test and part == "valid":
            places.tell("file of a validation set: neither learned nor asked")
            continue
        for name, text, given in _rows(item, options, places):
            try:
                label = renamed(_checked(given, text))
            except ValueError as error:
                places.refuse(*error.args)
                continue
            words = _words_of(text)
            if words in found:
                same = found[words][0].label == label
                places.refuse(
                    f"text that is there already, with {'its' if same else 'another'} label"
                )
                continue
            found[words] = LabelledText(name, text, label, part == "test"), places, places.line
    counts = Counter(each.label for each, _, _ in found.values())
    kept = []
    for each, places, line in found.values():
        if counts[each.label] < least:
            places.at(line).refuse(f"class of fewer than {least} texts")
        else:
            kept.append(each)
    _refuse_nothing(source, kept)
    return kept if has_test else _split(kept, share_option(options, "heldout"), seed)


def _refuse_nothing(source: Source, kept: list[LabelledText]) -> None:
    num_classes = len({each.label for each in kept})
    if not 2 <= num_classes <= MAX_CLASSES:
        raise DataError(
            f"source {source.source} has no classes to choose from",
            found=f"{len(kept):,} usable texts of {num_classes:,} classes",
            expected=f"2 to {MAX_CLASSES:,}",
            do="name the columns in options.text and options.label, or give a folder of each class",
        )


def _split(kept: list[LabelledText], share: float, seed: int) -> list[LabelledText]:
    """Held out are of each class the texts with the smallest hashes."""
    ranked: dict[str, list[tuple[float, int]]] = {}
    for place, each in enumerate(kept):
        number = share_of(seed, each.label, _words_of(each.text))
        ranked.setdefault(each.label, []).append((number, place))
    held = set()
    for mine in ranked.values():
        held |= {place for _, place in sorted(mine)[: round(share * len(mine))]}
    return [replace(each, is_heldout=place in held) for place, each in enumerate(kept)]


def _words_of(text: str) -> str:
    return " ".join(text.casefold().split())


def _part(item: FileItem) -> str:
    """test, valid or train, by how its name or one of its folders begins."""
    for name in PurePath(item.name.lower()).parts:
        stem = re.split(r"[^a-z]", name)[0]
        if stem in TEST or stem in VALID:
            return "test" if stem in TEST else "valid"
    return "train"


def _renaming(classes: str) -> _Renaming:
    """Raises SpecError unless it reads like "spam-*=spam *ham*=ham"."""
    pairs = []
    for word in classes.split():
        pattern, sign, label = word.rpartition("=")
        if not (pattern and sign and label):
            expected = 'pattern=class between blanks, such as "spam-*=spam *ham*=ham"'
            raise SpecError("data.options.classes cannot be read", found=word, expected=expected)
        pairs.append((pattern, label))
    return _Renaming(tuple(pairs))


@dataclass(frozen=True)
class _Renaming:
    pairs: tuple[tuple[str, str], ...]

    def __call__(self, label: str) -> str:
        """The class of the first pattern that a label is of; without patterns itself."""
        for pattern, other in self.pairs:
            if fnmatchcase(label, pattern):
                return other
        if self.pairs:
            raise ValueError("label of no pattern of options.classes", label[:80])
        return label


def _checked(label: object, text: str) -> str:
    """Raises ValueError with the reason why a row is refused."""
    if not text.strip():
        raise ValueError("row without a text")
    if label is None or isinstance(label, dict | list) or not str(label).strip():
        raise ValueError("row without a label")
    name = str(label).strip()
    if len(name) > MAX_LABEL or not name.isprintable():
        raise ValueError("label that is no name", f"it has {len(name)} signs: {name[:40]!r}")
    return name


def _rows(
    item: FileItem, options: Mapping[str, str], places: Places
) -> Iterator[tuple[str, str, object]]:
    """(name, text, label) of each row of an item, or of all of a file of text."""
    kind = ROW_FORMATS.get(bare_suffix(item.name))
    if kind is None:
        yield from _of_file(item, options, places)
        return
    most, keys = number_of(options, "most", 1), None
    for name, row in rows_of(replace(item, kind=kind), (), places):
        try:
            if keys is None:
                keys = (
                    _key(row, options["text"], TEXT_KEYS),
                    _key(row, options["label"], LABEL_KEYS),
                )
                places.tell(f"text: {keys[0]}, label: {keys[1]}")
            text = mended_text(text_of(row, keys[0]), places)
            yield name, text[:most], row.get(keys[1])
        except ValueError as error:
            places.refuse(*error.args)


def _key(row: Row, given: str, usual: tuple[str, ...]) -> str:
    """The column that is asked for, or the usual one. Raises ValueError if it is not there."""
    by_name = {str(name).lower(): str(name) for name in row}
    found = given if given in row else next((by_name[k] for k in usual if k in by_name), "")
    if found and (not given or given == found):
        return found
    has = ", ".join(map(str, list(row)[:8]))
    raise ValueError(f"no key {given or usual[0]}", f"it has {has}: say which in data.options")


def _of_file(
    item: FileItem, options: Mapping[str, str], places: Places
) -> Iterator[tuple[str, str, object]]:
    folders = list(PurePath(item.name).parts[:-1])
    known = (*TEST, *VALID, "train")
    label = next(
        (name for name in folders if re.split(r"[^a-z]", name.lower())[0] not in known), ""
    )
    if not label:
        places.refuse("file in no folder of a class", "give a folder of each class, or rows")
        return
    is_mail = options["mail"].lower() in ("yes", "true", "1") or bare_suffix(item.name) == MAIL
    if is_mail:
        pieces = list(_of_mail(item, places))
    else:
        pieces = [text for _, text in texts_of(replace(item, kind="text"), places)]
    if pieces:
        yield item.name, "".join(pieces)[: number_of(options, "most", 1)], label


def _of_mail(item: FileItem, places: Places) -> Iterator[str]:
    """Subject and words of a mail, without its other headers, attachments and signs of HTML.

    It is read as bytes: each of its parts says its own encoding.
    """
    try:
        with streams.open_source(item.path, item.root, item.num_bytes) as opened:
            data = opened.content.read(MAX_MAIL_BYTES + 1)
            if opened.fault or len(data) > MAX_MAIL_BYTES:
                told = opened.fault or f"mail of more than {MAX_MAIL_BYTES:,} bytes"
                raise streams.SourceFault(told)
    except streams.SourceFault as fault:
        places.refuse(*fault.args)
        return
    mail = message_from_bytes(data, policy=policy.compat32)
    parts = [_words(part) for part in mail.walk() if part.get_content_maintype() == "text"]
    words = " ".join(parts) if any(parts) else _decoded(data)
    yield mended_text(f"{_subject(mail)}\n{words}", places)


def _subject(mail: Message) -> str:
    headers = (value for name, value in mail.raw_items() if name.lower() == "subject")
    plain = _decoded(str(next(headers, "")).encode("utf-8", "surrogateescape"))
    with contextlib.suppress(LookupError, ValueError, HeaderParseError):  # else as it stands
        plain = str(make_header(decode_header(plain)))
    return re.sub(r"\s+", " ", plain)


def _words(part: Message) -> str:
    payload = part.get_payload(decode=True)
    if not isinstance(payload, bytes):
        return ""
    text = _decoded(payload, str(part.get_content_charset("")))
    return _shown(text) if part.get_content_subtype() == "html" else text


def _decoded(data: bytes, charset: str = "") -> str:
    """Bytes as their mail says; where it says nothing that there is, UTF-8 or else Latin-1."""
    try:
        if charset:
            return data.decode(charset, "replace")
    except (LookupError, ValueError):
        pass
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _shown(html: str) -> str:
    """What stands between tags, without scripts and styles: one pass, also where none is closed."""
    pieces, at, unclosed = list[str](), 0, set[str]()
    for found in HIDDEN.finditer(html):
        name = found[1].lower()
        if found.start() < at or name in unclosed:
            continue
        end = ENDS[name].search(html, found.end())
        if end is None:
            unclosed.add(name)
        else:
            pieces.append(html[at : found.start()])
            at = end.end()
    return " ".join(TAG.sub(" ", piece) for piece in (*pieces, html[at:]))
