"""Recordings with their texts, as people have them.

LJSpeech (`metadata.csv` with bars, `wavs/`), Common Voice (`train.tsv` …, `clips/`), manifests of
NeMo (jsonl of audio_filepath and text), tables of path and text (csv, tsv, jsonl, parquet), and
sound files with a `.txt` of the same name beside each. Every sound file is an item, so that it is
part of the data's digest; a list is read in pieces by the bytes of the sounds that it names.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from whorl.codecs.audio_files import SUFFIXES
from whorl.core.errors import DataError
from whorl.core.ports import Source, Split
from whorl.core.reasons import shown_path
from whorl.core.sources import PASSED_OVER, FileItem
from whorl.fields.files import EXCLUDED, ROW_FORMATS, bare_suffix, file_items
from whorl.fields.formats import lines_of, rows_of
from whorl.fields.places import Places, Reject

__all__ = ["Recording", "recordings", "speech_items"]

LIST, PAIR, HEARD = "list", "pair", "heard"  # kinds of items; HEARD: named by a list
LISTS = (*ROW_FORMATS, ".json")
TEXT_SUFFIX = ".txt"
FOLDERS = ("", "clips", "wavs", "audio")  # of a list's folder, where its sounds may lie
FILE_KEYS = ("audio_filepath", "path", "file_name", "file", "audio", "wav")
TEXT_KEYS = ("text", "sentence", "transcript", "transcription", "normalized_text")
SPEAKER_KEYS = ("client_id", "speaker_id", "speaker", "voice")
TEST, TRAIN, UNUSED = ("test",), ("train",), ("dev", "valid", "other", "invalid", "report")
PIECE_BYTES = 2**22  # of sounds in one item of a list
MAX_TEXT = 2_000  # signs


@dataclass(frozen=True)
class Recording:
    """A sound file and what is said in it. speaker: "" if nobody says."""

    name: str
    path: str
    text: str
    speaker: str = ""
    split: Split | None = None


def speech_items(source: Source) -> list[FileItem]:
    """Raises DataError when the source is missing, empty or has no sound with a text."""
    only = None
    if os.path.isfile(source.path):  # one list: its sounds lie beside or below it
        only = os.path.basename(source.path)
        folder = os.path.dirname(source.path)
        source = dataclasses.replace(source, source=folder, folder=".")
    found = file_items(source, (*SUFFIXES, *LISTS, TEXT_SUFFIX), EXCLUDED)
    sounds = {item.path: item for item in found if _is_sound(item)}
    lists = _lists([item for item in found if item.is_read and _is_list(item, only)])
    items: list[FileItem] = []
    named: set[str] = set()
    for item in lists:
        rows = _rows(item, Places(item, lambda reason: None))
        paths = [row.path for row in rows if row.path in sounds]
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
            found=f"{len(sounds)} sound files, {len(lists)} lists",
            expected="metadata.csv and wavs/, *.tsv and clips/, a manifest of audio_filepath and "
            "text, or a .txt beside each sound",
        )
    alone = [item for item in left if item not in pairs]
    items += [item for item in found if not item.is_read]
    if alone:
        first = dataclasses.replace(alone[0], kind=PASSED_OVER, reason="sound without a text")
        items.append(dataclasses.replace(first, count=len(alone)))
    return items


def recordings(item: FileItem, reject: Reject) -> Iterator[tuple[Recording, Places]]:
    """Those of an item, and where each stands."""
    places = Places.of(item, reject)
    if not item.is_read:
        places.refuse_item()
    elif item.kind == PAIR:
        words = _text_beside(item, places)
        if words is not None:
            yield Recording(item.name, item.path, words), places
    elif item.kind == LIST:
        at, plain = 0, dataclasses.replace(item, start=0, end=None)
        places = Places(plain, places.reject)
        told = places if item.start == 0 else Places(plain, lambda reason: None)
        for row in _rows(plain, told):
            size = os.path.getsize(row.path) if os.path.isfile(row.path) else 0
            if item.start <= at and (item.end is None or at < item.end):
                places.at(told.line)
                if size:
                    yield row, places
                else:
                    places.refuse("no such sound file", shown_path(row.name))
            at += size


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


def _rows(item: FileItem, places: Places) -> Iterator[Recording]:
    """Rows that name a file inside the list's folder and have a text; others are refused."""
    here = os.path.dirname(item.path)
    split: Split | None = None
    if _stem(item).startswith((*TRAIN, *TEST)):
        split = "heldout" if _stem(item).startswith(TEST) else "train"
    for number, (file, text, speaker) in enumerate(_columns(item, places)):
        words = " ".join(text.split())
        path = _resolved(here, file)
        if path is None:
            places.refuse("sound file outside of the list's folder", shown_path(file)[:80])
        elif not words:
            places.refuse("sound without a text")
        elif len(words) > MAX_TEXT:
            places.refuse(f"text of more than {MAX_TEXT:,} signs")
        else:
            yield Recording(f"{item.name}@{number}: {file}", path, words, speaker, split)


def _resolved(here: str, file: str) -> str | None:
    """The file's path with links followed; None: it lies outside of the list's folder."""
    if not file or "\0" in file:
        return None
    names = [file] if file.lower().endswith(SUFFIXES) else [f"{file}.wav", f"{file}.mp3"]
    tried = [os.path.join(here, folder, name) for name in names for folder in FOLDERS]
    path = os.path.realpath(next((path for path in tried if os.path.isfile(path)), tried[0]))
    return path if path.startswith(os.path.join(os.path.realpath(here), "")) else None


def _columns(item: FileItem, places: Places) -> Iterator[tuple[str, str, str]]:
    """(file, text, speaker) of each row."""
    # num_bytes is that of the sounds here, of the list itself it is asked again
    item = dataclasses.replace(item, num_bytes=os.path.getsize(item.path), start=0, end=None)
    suffix = bare_suffix(item.name)
    if suffix == ".csv" and _has_bars(item):
        for line in lines_of(item, places):
            parts = line.split("|")
            if len(parts) not in (2, 3):
                places.refuse("row of other than two or three columns between bars")
            else:
                yield parts[0].strip(), parts[-1] or parts[1], ""
        return
    kind = ROW_FORMATS.get(suffix, "jsonl")
    for _, row in rows_of(dataclasses.replace(item, kind=kind), (), places):
        file, text, speaker = (_value(row, keys) for keys in (FILE_KEYS, TEXT_KEYS, SPEAKER_KEYS))
        if file is None or text is None:
            missing = FILE_KEYS if file is None else TEXT_KEYS
            places.refuse(f"row without {missing[0]}", f"its keys: {', '.join(map(str, row))}"[:80])
        else:
            yield file, text, speaker or ""


def _value(row: Mapping[str, object], keys: Sequence[str]) -> str | None:
    return next((str(row[key]) for key in keys if isinstance(row.get(key), str)), None)


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
