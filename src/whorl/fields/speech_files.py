"""Recordings with their texts, as people have them.

LJSpeech (`metadata.csv` with bars, `wavs/`), Common Voice (`train.tsv` …, `clips/`), manifests of
NeMo (jsonl of audio_filepath and text), tables of path and text (csv, tsv, jsonl, parquet), and
sound files with a `.txt` of the same name beside each. Every sound file is an item, so that it is
part of the data's digest; a list is read in pieces by the bytes of the sounds that it names.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from whorl.codecs.audio_files import SUFFIXES
from whorl.core.errors import DataError
from whorl.core.memory import forgets
from whorl.core.ports import Source, Split
from whorl.core.reasons import and_refused, shown_path
from whorl.core.sources import PASSED_OVER, FileItem
from whorl.fields.files import EXCLUDED, ROW_FORMATS, bare_suffix, file_items
from whorl.fields.formats import lines_of, rows_of
from whorl.fields.places import KeptReasons, Places, Reject
from whorl.fields.whole import LastSources, key_of

__all__ = ["NO_INTENT", "Recording", "listed_recordings", "recordings", "speech_items"]

LIST, PAIR, HEARD = "list", "pair", "heard"  # kinds of items; HEARD: named by a list
LISTS = (*ROW_FORMATS, ".json")
TEXT_SUFFIX = ".txt"
FOLDERS = ("", "clips", "wavs", "audio")  # of a list's folder, where its sounds may lie
FILE_KEYS = ("audio_filepath", "path", "file_name", "file", "audio", "wav")
TEXT_KEYS = ("text", "sentence", "transcript", "transcription", "normalized_text")
SPEAKER_KEYS = ("client_id", "speaker_id", "speaker", "voice")
INTENT_KEYS, SLOTS_KEY = ("intent",), "slots"
NO_INTENT, NO_SLOTS = "recording without an intent", "recording whose slots are no object of JSON"
TEST, TRAIN, UNUSED = ("test",), ("train",), ("dev", "valid", "other", "invalid", "report")
PIECE_BYTES = 2**22  # of sounds in one item of a list
MAX_TEXT = 2_000  # signs


@dataclass(frozen=True)
class Recording:
    """A sound file and what is said in it. speaker, meaning: "" if nobody says; the latter is
    {"intent": …, "slots": {…}}. no_meaning: why there is none. listed: what its list calls the
    file, "" without one: of a refusal, whose place has the line."""

    name: str
    path: str
    text: str
    speaker: str = ""
    split: Split | None = None
    meaning: str = ""
    no_meaning: str = NO_INTENT
    listed: str = ""


@dataclass(frozen=True)
class _Known:
    """What was found in a source. sounds: path -> bytes; has_test: lists of training and test."""

    sounds: Mapping[str, int]
    has_test: bool
    lists: tuple[FileItem, ...] = ()


_Place = tuple[int, int | None, Recording]  # bytes of sounds before it, line


@dataclass
class _Reading:
    """A list that is read up to `at` bytes of sounds."""

    rows: Iterator[_Place]
    next: list[_Place] = field(default_factory=list)
    at: int = 0


_KNOWN: LastSources[_Known] = LastSources()
_READING: dict[tuple[Any, ...], _Reading] = {}  # the last one
forgets(_KNOWN.clear)
forgets(_READING.clear)  # it holds on to what is known, too


def _known(source: Source) -> _Known:
    """As it was last found in this process: a folder is not walked again for each piece."""
    if key_of(source) not in _KNOWN:
        speech_items(source)
    return _KNOWN[key_of(source)]


def speech_items(source: Source) -> list[FileItem]:
    """Raises DataError when the source is missing, empty or has no sound with a text."""
    key = key_of(source)
    only = None
    if os.path.isfile(source.path):  # one list: its sounds lie beside or below it
        only = os.path.basename(source.path)
        folder = os.path.dirname(source.path)
        source = dataclasses.replace(source, source=folder, folder=".")
    found = file_items(source, (*SUFFIXES, *LISTS, TEXT_SUFFIX), EXCLUDED)
    sounds = {item.path: item for item in found if _is_sound(item)}
    lists = _lists([item for item in found if item.is_read and _is_list(item, only)])
    stems = [_stem(item) for item in lists]
    known = _Known(
        {path: item.num_bytes for path, item in sounds.items()},
        all(any(stem.startswith(part) for stem in stems) for part in (TRAIN, TEST)),
        tuple(lists),
    )
    _KNOWN[key] = known
    items: list[FileItem] = []
    named, told = set[str](), KeptReasons()
    for item in lists:
        places = Places(item, told)
        rows = _rows(item, places, known)
        paths = [row.path for row in rows if _has_sound(row, known, places)]
        named.update(paths)
        items += _pieces(item, sum(sounds[path].num_bytes for path in paths))
    items += [dataclasses.replace(sounds[path], kind=HEARD) for path in sounds if path in named]
    texts = {item.path: item for item in found if item.is_read and item.name.endswith(TEXT_SUFFIX)}
    left = [item for path, item in sounds.items() if path not in named]
    pairs = [item for item in left if only is None and _beside(item.path) in texts]
    items += [dataclasses.replace(item, kind=PAIR) for item in pairs]
    items += [dataclasses.replace(texts[_beside(item.path)], kind=HEARD) for item in pairs]
    if not named and not pairs:
        raise DataError(
            f"source {source.source} has no sound with a text",
            found=and_refused(f"{len(sounds)} sound files, {len(lists)} lists", told),
            expected="metadata.csv and wavs/, *.tsv and clips/, a manifest of audio_filepath and "
            "text, or a .txt beside each sound",
            do="give the folder that holds sounds and texts, or a list of both",
        )
    alone = [item for item in left if item not in pairs]
    items += [item for item in found if not item.is_read]
    if alone:
        first = dataclasses.replace(alone[0], kind=PASSED_OVER, reason="sound without a text")
        items.append(dataclasses.replace(first, count=len(alone)))
    return items


def recordings(
    source: Source, item: FileItem, reject: Reject
) -> Iterator[tuple[Recording, Places]]:
    """Those of an item, and where each stands."""
    places = Places.of(item, reject)
    if not item.is_read:
        places.refuse_item()
    elif item.kind == PAIR:
        words = _text_beside(item, places)
        if words is not None:
            yield Recording(item.name, item.path, words), places
    elif item.kind == LIST:
        plain, known = dataclasses.replace(item, start=0, end=None), _known(source)
        places = Places(plain, places.reject)
        if item.start == 0:  # what is wrong with rows is told once
            collections.deque(_rows(plain, places, known), maxlen=0)
        for _, line, row in _between(plain, known, item.start, item.end):
            places.at(line)
            if _has_sound(row, known, places):
                yield row, places


def _has_sound(row: Recording, known: _Known, places: Places) -> bool:
    """Whether the source has its sound; else it is refused."""
    if row.path in known.sounds:
        return True
    is_left_out = os.path.isfile(row.path)
    words = "sound file that the source leaves out" if is_left_out else "no such sound file"
    places.refuse(words, row.listed)
    return False


def listed_recordings(source: Source) -> Iterator[Recording]:
    """Those that lists name and that are there; no sound is opened."""
    known = _known(source)
    for item in known.lists:
        for row in _rows(item, Places(item, lambda reason: None), known):
            if row.path in known.sounds:
                yield row


def _between(item: FileItem, known: _Known, start: int, end: int | None) -> Iterator[_Place]:
    """Rows of a list before which there are start to end bytes of sounds.

    Pieces are mostly read in their order: the rows of one are looked for where the last one ended.
    """
    key = (item.path, os.stat(item.path).st_mtime_ns, id(known))
    reading = _READING.pop(key, None)
    _READING.clear()
    if reading is None or reading.at > start:
        reading = _Reading(_placed(item, known))
    behind: list[_Place] = []
    for place in itertools.chain(reading.next, reading.rows):
        if end is not None and place[0] >= end:
            behind = [place]
            break
        if place[0] >= start:
            yield place
    if end is not None:
        reading.next, reading.at = behind, end
        _READING[key] = reading


def _placed(item: FileItem, known: _Known) -> Iterator[_Place]:
    places, num_bytes = Places(item, lambda reason: None), 0
    for row in _rows(item, places, known):
        yield num_bytes, places.line, row
        num_bytes += known.sounds.get(row.path, 0)


def _pieces(item: FileItem, num_bytes: int) -> Iterator[FileItem]:
    starts = list(range(0, max(1, num_bytes), PIECE_BYTES))
    for start, end in zip(starts, [*starts[1:], None], strict=True):
        yield dataclasses.replace(item, kind=LIST, num_bytes=num_bytes, start=start, end=end)


def _is_sound(item: FileItem) -> bool:
    return item.is_read and item.name.lower().endswith(SUFFIXES)


def _is_list(item: FileItem, only: str | None) -> bool:
    return bare_suffix(item.name) in LISTS and only in (None, item.name)


def _stem(item: FileItem) -> str:
    return PurePath(item.name).name.lower()


def _lists(items: Sequence[FileItem]) -> list[FileItem]:
    """Those that are read: where some are of training, none of what is unused or holds all."""
    if not any(_stem(item).startswith(TRAIN) for item in items):
        return [item for item in items if not _stem(item).startswith(("invalid", "report"))]
    return [item for item in items if _stem(item).startswith((*TRAIN, *TEST))]


def _rows(item: FileItem, places: Places, known: _Known) -> Iterator[Recording]:
    """Rows that name a file inside the list's folder and have a text; others are refused."""
    here = os.path.realpath(os.path.dirname(item.path))
    split: Split | None = None
    if known.has_test:
        split = "heldout" if _stem(item).startswith(TEST) else "train"
    for number, (file, text, speaker, meaning) in enumerate(_columns(item, places)):
        words = " ".join(text.split())
        path = _resolved(here, file, known)
        if path is None:
            places.refuse("sound file outside of the list's folder", shown_path(file)[:80])
        elif not words:
            places.refuse("sound without a text")
        elif len(words) > MAX_TEXT:
            places.refuse(f"text of more than {MAX_TEXT:,} signs")
        else:
            name = f"{item.name}@{number}: {file}"
            said, fault = meaning
            listed = shown_path(file)[:80]
            yield Recording(name, path, words, speaker, split, said, fault, listed)


def _resolved(here: str, file: str, known: _Known) -> str | None:
    """The file's path with links followed; None: it lies outside of the list's folder."""
    if not file or "\0" in file:
        return None
    names = [file] if file.lower().endswith(SUFFIXES) else [f"{file}.wav", f"{file}.mp3"]
    tried = [os.path.join(here, folder, name) for name in names for folder in FOLDERS]
    found = next((p for p in map(os.path.normpath, tried) if p in known.sounds), None)
    if found is None:  # a link, or no sound of the source
        found = os.path.realpath(next((path for path in tried if os.path.isfile(path)), tried[0]))
    return found if found.startswith(os.path.join(here, "")) else None


def _columns(item: FileItem, places: Places) -> Iterator[tuple[str, str, str, tuple[str, str]]]:
    """(file, text, speaker, (meaning, why there is none)) of each row."""
    # num_bytes is that of the sounds here, of the list itself it is asked again
    item = dataclasses.replace(item, num_bytes=os.path.getsize(item.path), start=0, end=None)
    suffix = bare_suffix(item.name)
    if suffix == ".csv" and _has_bars(item):
        for line in lines_of(item, places):
            parts = line.split("|")
            if len(parts) not in (2, 3):
                places.refuse("row of other than two or three columns between bars")
            else:
                yield parts[0].strip(), parts[-1] or parts[1], "", ("", NO_INTENT)
        return
    kind = ROW_FORMATS.get(suffix, "jsonl")
    for _, row in rows_of(dataclasses.replace(item, kind=kind), (), places):
        file, text, speaker = (_value(row, keys) for keys in (FILE_KEYS, TEXT_KEYS, SPEAKER_KEYS))
        if file is None or text is None:
            missing = FILE_KEYS if file is None else TEXT_KEYS
            places.refuse(f"row without {missing[0]}", f"its keys: {', '.join(map(str, row))}"[:80])
        else:
            yield file, text, speaker or "", _meaning(row)


def _meaning(row: Mapping[str, object]) -> tuple[str, str]:
    """(what a row says is meant, as JSON without blanks; why there is none). Slots may be JSON in
    a cell of a table, also null."""
    intent, slots = _value(row, INTENT_KEYS), _of_any_case(row).get(SLOTS_KEY)
    if not intent or not intent.strip():
        return "", NO_INTENT
    if isinstance(slots, str):
        try:
            slots = json.loads(slots) if slots.strip() else {}
        except (ValueError, RecursionError):
            return "", NO_SLOTS
    slots = {} if slots is None else slots
    if not isinstance(slots, Mapping):
        return "", NO_SLOTS
    value = {"intent": intent.strip(), "slots": dict(sorted(slots.items()))}
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")), ""


def _value(row: Mapping[str, object], keys: Sequence[str]) -> str | None:
    """The first of these columns, whatever its case."""
    values = _of_any_case(row)
    return next((value for key in keys if isinstance(value := values.get(key), str)), None)


def _of_any_case(row: Mapping[str, object]) -> dict[str, object]:
    return {str(key).strip().lower(): value for key, value in row.items()}


def _has_bars(item: FileItem) -> bool:
    first = next(lines_of(item, lambda reason: None), "")
    return "|" in first and "," not in first.partition("|")[0]


def _beside(path: str) -> str:
    return os.path.splitext(path)[0] + TEXT_SUFFIX


def _text_beside(item: FileItem, places: Places) -> str | None:
    path = _beside(item.path)
    text_item = dataclasses.replace(item, path=path, num_bytes=os.path.getsize(path))
    text = " ".join(" ".join(itertools.islice(lines_of(text_item, places), 1_000)).split())
    if not text or len(text) > MAX_TEXT:
        places.refuse(f"text beside a sound that is empty or over {MAX_TEXT:,} signs")
        return None
    return text
