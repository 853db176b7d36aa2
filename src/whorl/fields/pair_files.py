"""Texts beside their translations as people have them: TSV, two files line by line, TMX, jsonl.

Which language is which is told by the header of a TSV, the ends of two files' names (`news.en`,
`news.es`), `xml:lang` of TMX, or the keys of jsonl (`{"en": …, "es": …}`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO
from xml.parsers import expat

from whorl.core import streams
from whorl.core.errors import DataError, SpecError
from whorl.core.sources import FileItem
from whorl.fields.files import ROW_FORMATS, bare_suffix
from whorl.fields.formats import lines_of, mended_text, rows_of
from whorl.fields.places import Places, Reject

__all__ = ["SUFFIXES", "Pair", "language_of", "pairs_of"]

TMX = ".tmx"
CODE = re.compile(r"([a-z]{2,3})(?:[-_][A-Za-z]{2,4})?")
# Ends of line-aligned files: languages that are no usual suffix of another kind of file.
LANGUAGES = (
    *("ar", "bg", "ca", "cs", "da", "de", "el", "en", "es", "et", "eu", "fa", "fi", "fr", "ga"),
    *("gl", "he", "hi", "hr", "hu", "id", "is", "it", "ja", "ko", "lt", "lv", "mt", "nb", "nl"),
    *(
        "no",
        "pl",
        "pt",
        "ro",
        "ru",
        "sk",
        "sl",
        "sq",
        "sr",
        "sv",
        "sw",
        "th",
        "tr",
        "uk",
        "vi",
        "zh",
    ),
)
SUFFIXES = (*ROW_FORMATS, TMX, *(f".{language}" for language in LANGUAGES))
SAYS_UTF16 = re.compile(rb"\s*<\?xml[^>]*encoding\s*=\s*.utf-?16", re.IGNORECASE)
MAX_TMX_BYTES = 2**29


@dataclass(frozen=True)
class Pair:
    """texts: of each language; group: whose pairs stay on one side, "" if nothing says."""

    name: str
    texts: tuple[tuple[str, str], ...]  # (language, text), two of them
    group: str


def language_of(name: str) -> str:
    """The code of a language such as pt-BR, in lower case; "" if it is none."""
    found = CODE.fullmatch(name.strip())
    return name.strip().replace("_", "-").lower() if found else ""


def pairs_of(
    files: Sequence[FileItem], options: Mapping[str, str], reject: Reject
) -> Iterator[tuple[Pair, Places, int | None]]:
    """All pairs of a source with where each stands. Raises DataError, SpecError on options."""
    wanted = [language_of(code) for code in options["languages"].split()]
    if wanted and (not all(wanted) or len(set(wanted)) != len(wanted) or len(wanted) < 2):
        raise SpecError(
            "data.options.languages is no list of languages",
            found=options["languages"],
            expected="codes between blanks, such as en es",
        )
    by_lines: dict[str, list[FileItem]] = {}
    for item in files:
        places, suffix = Places.of(item, reject), bare_suffix(item.name)
        if suffix[1:] in LANGUAGES:
            by_lines.setdefault(_stem(item), []).append(item)
            continue
        found = _of_tmx(item, places) if suffix == TMX else _of_rows(item, options, places)
        for name, row, group in found:
            yield from _paired(name, row, group, wanted, places)
    for stem, items in by_lines.items():
        places = Places.of(items[0], reject)
        if len(items) < 2:
            places.at(None).refuse("file of lines without its translation", f"{stem}.*")
            continue
        for name, row in _of_lines(items, places):
            yield from _paired(name, row, "", wanted, places)


def _paired(
    name: str, row: Mapping[str, str], group: str, wanted: Sequence[str], places: Places
) -> Iterator[tuple[Pair, Places, int | None]]:
    """The first language with each other one of a row; refusals are told."""
    texts = {code: mended_text(" ".join(text.split()), places) for code, text in row.items()}
    codes = [code for code in wanted or texts if texts.get(code)]
    if len(codes) < 2:
        places.refuse(
            "row without two languages", f"it has {', '.join(filter(texts.get, texts)) or 'none'}"
        )
        return
    for code in codes[1:]:
        if texts[codes[0]] == texts[code]:
            places.refuse("pair of equal texts")
        else:
            both = ((codes[0], texts[codes[0]]), (code, texts[code]))
            yield Pair(name, both, group), places, places.line


def _of_rows(
    item: FileItem, options: Mapping[str, str], places: Places
) -> Iterator[tuple[str, dict[str, str], str]]:
    """Rows whose keys are languages; of a TSV without such a header the options' two columns."""
    kind, codes = ROW_FORMATS[bare_suffix(item.name)], options["languages"].split()
    if kind == "tsv" and not _has_header(item, places):
        if len(codes) < 2:
            raise DataError(
                f"{item.name} does not say its languages",
                expected='a first row such as "en<tab>es"',
                do='give options.languages, such as "en es", in the order of the columns',
            )
        for line in lines_of(item, places):
            columns = line.split("\t")
            if len(columns) < len(codes):
                places.refuse("line of fewer columns than languages")
            else:
                row = dict(zip(map(language_of, codes), columns, strict=False))
                yield f"{item.name}@{places.line}", row, ""
        return
    for name, whole in rows_of(replace(item, kind=kind), (), places):
        nested = whole.get("translation")
        inner = nested if isinstance(nested, Mapping) else whole
        texts = {language_of(str(key)): text for key, text in inner.items() if _is_text(key, text)}
        yield name, texts, str(whole.get(options["group"], "")) if options["group"] else ""


def _is_text(key: object, text: object) -> bool:
    return isinstance(text, str) and bool(language_of(str(key)))


def _has_header(item: FileItem, places: Places) -> bool:
    first = next(iter(lines_of(item, places)), "").split("\t")
    return len(first) > 1 and sum(bool(language_of(name)) for name in first) > 1


def _stem(item: FileItem) -> str:
    """The name without its language and compression."""
    return item.name[: item.name.lower().rindex(bare_suffix(item.name))]


def _of_lines(items: Sequence[FileItem], places: Places) -> Iterator[tuple[str, dict[str, str]]]:
    """Raises DataError if the files have other numbers of lines."""
    codes = [bare_suffix(item.name)[1:] for item in items]
    whole = [_numbered(item, places) for item in items]
    if len({count for _, count in whole}) > 1:
        found = ", ".join(f"{item.name} {n:,}" for item, (_, n) in zip(items, whole, strict=True))
        raise DataError("files that stand line by line have other numbers of lines", found=found)
    for number in range(1, whole[0][1] + 1):
        row = {code: lines.get(number, "") for code, (lines, _) in zip(codes, whole, strict=True)}
        if any(row.values()):
            places.at(number)
            yield f"{items[0].name}@{number}", row


def _numbered(item: FileItem, places: Places) -> tuple[dict[int, str], int]:
    """(lines by their numbers, the last one's)."""
    mine, lines = Places.of(item, places.reject), dict[int, str]()
    for line in lines_of(item, mine):
        lines[mine.line or 0] = line
    return lines, max(lines, default=0)


def _of_tmx(item: FileItem, places: Places) -> Iterator[tuple[str, dict[str, str], str]]:
    """Units of a TMX file; nothing outside it is looked up."""
    try:
        with streams.open_source(item.path, item.root, item.num_bytes) as opened:
            for number, row in enumerate(_units(opened.content), 1):
                yield f"{item.name}@{number}", row, ""
            if opened.fault:
                raise streams.SourceFault(opened.fault)
    except streams.SourceFault as fault:
        places.refuse(*fault.args)
    except (expat.ExpatError, ValueError) as error:
        places.refuse("file that is no TMX, or not to its end", str(error)[:120])


def _units(content: BinaryIO) -> Iterator[dict[str, str]]:
    """The texts of each tu, which are forgotten then.

    Raises ExpatError on what is no XML, ValueError where it declares entities, in whatever
    encoding, SourceFault when there is too much.
    """
    # What was UTF-16 with a mark is UTF-8 by now, though it says otherwise.
    is_changed = SAYS_UTF16.match(streams.head_of(content)) is not None
    parser, units, num_bytes = expat.ParserCreate("utf-8" if is_changed else None), _Units(), 0
    parser.StartElementHandler, parser.EndElementHandler = units.start, units.end
    parser.CharacterDataHandler, parser.EntityDeclHandler = units.take, units.refuse
    is_last = False
    while not is_last:
        data = content.read(streams.PIECE_BYTES)
        num_bytes, is_last = num_bytes + len(data), not data
        if num_bytes > MAX_TMX_BYTES:
            raise streams.SourceFault(f"TMX of more than {MAX_TMX_BYTES:,} bytes, from there on")
        try:
            parser.Parse(data, is_last)
        finally:
            yield from units.done
            units.done.clear()


class _Units:
    """What is heard of a TMX file's elements: the last seg of each tuv of a tu."""

    def __init__(self) -> None:
        self.done: list[dict[str, str]] = []
        self.row: dict[str, str] = {}
        self.code, self.text = "", list[str]()
        self.is_in_segment = False

    def start(self, name: str, attributes: Mapping[str, str]) -> None:
        if name == "tu":
            self.row = {}
        elif name == "tuv":
            self.code = language_of(attributes.get("xml:lang") or attributes.get("lang") or "")
        elif name == "seg":
            self.text, self.is_in_segment = [], True

    def take(self, text: str) -> None:
        if self.is_in_segment:
            self.text.append(text)

    def end(self, name: str) -> None:
        if name == "seg":
            self.is_in_segment = False
            if self.code:
                self.row[self.code] = "".join(self.text)
        elif name == "tuv":
            self.code = ""
        elif name == "tu":
            self.done.append(self.row)

    def refuse(self, *declared: object) -> None:
        raise ValueError(f"it declares entities: {str(declared[0])[:40]}")
