"""Which field data is of, where nobody says: by the names of its files, and by the columns of rows.

Only the beginning of one list or table is read. What nothing speaks for is text.
"""

from __future__ import annotations

import glob
import itertools
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from whorl.core.errors import DataError
from whorl.core.ports import Source
from whorl.core.sources import FileItem

__all__ = ["field_of_files", "files_of"]

MAX_ENTRIES = 20_000  # of a folder, looked at
HEAD_BYTES = 2**16  # of a list of boxes
BOX_KEYS = (b'"annotations"', b'"images"')
GAMES = (".pgn", ".epd")
LABELS = frozenset({"label", "class", "category"})
TEXTS = frozenset({"text", "sentence", "content", "body", "message", "review"})
# The codes of ISO 639-1: columns of these names hold a text and its translations.
CODES = (
    "aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy "
    "da de dv dz ee el en eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu "
    "hy hz ia id ie ig ii ik io is it iu ja jv ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb "
    "lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb nd ne ng nl nn no nr nv ny oc oj om "
    "or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg si sk sl sm sn so sq sr ss st su sv sw "
    "ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu"
)
LANGUAGES = frozenset(CODES.split())
# Columns that speak for a field: one of each set is there.
BY_COLUMNS: Mapping[str, tuple[frozenset[str], ...]] = {
    "interactions": (
        frozenset({"user", "user_id", "userid", "reviewerid", "reviewer_id"}),
        frozenset({"item", "item_id", "itemid", "movieid", "movie_id", "asin", "parent_asin"}),
    ),
    "chess": (frozenset({"fen"}), frozenset({"move", "best_move", "bestmove", "uci", "san"})),
    "triples": (frozenset({"head", "subject"}), frozenset({"relation", "predicate"})),
    "episodes": (frozenset({"observation", "observations"}), frozenset({"action", "actions"})),
    "labels": (TEXTS, LABELS),
}


def files_of(data: str) -> Iterator[str]:
    """Files of a source as prepare finds them; of the first entries of a folder."""
    try:
        path = Source(data, "text").path
        if os.path.isfile(path):
            yield path
        elif os.path.isdir(path):
            yield path  # it exists, even if empty
            yield from _below(path)
        else:
            yield from itertools.islice(glob.iglob(path, recursive=True), MAX_ENTRIES)
    except (OSError, ValueError):  # a name that no file system has
        return


def _below(folder: str) -> Iterator[str]:
    seen = 0
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (os.path.join(root, name) for name in files)
        seen += 1 + len(files)
        if seen >= MAX_ENTRIES:
            return


def field_of_files(data: str) -> str:
    """Images and sounds decide where they are more than what else is read, less the lists and texts
    that belong to them; then games, code and text by number, and rows by their columns.

    Raises MissingExtra where a package is needed to see the columns of rows.
    """
    from whorl.codecs.audio_files import SUFFIXES as SOUNDS
    from whorl.fields.code import CODE_SUFFIXES
    from whorl.fields.files import NAMED_FORMATS, ROW_FORMATS, TEXT_SUFFIXES, bare_suffix
    from whorl.fields.image_sources import IMAGE_SUFFIXES

    paths = [path for path in files_of(data) if not os.path.isdir(path)]
    suffixes = {path: bare_suffix(path) for path in paths}
    kinds = {"image": IMAGE_SUFFIXES, "sound": SOUNDS, "game": GAMES, "code": CODE_SUFFIXES}
    kinds |= {"text": TEXT_SUFFIXES, "rows": tuple(ROW_FORMATS), "list": tuple(NAMED_FORMATS)}
    by_kind = {
        kind: [path for path in paths if suffixes[path] in wanted] for kind, wanted in kinds.items()
    }
    num = Counter({kind: len(mine) for kind, mine in by_kind.items()})
    for kind in ("image", "sound"):
        stems = {os.path.splitext(path)[0] for path in by_kind[kind]}
        beside = sum(os.path.splitext(path)[0] in stems for path in by_kind["text"])
        if num[kind] > num["game"] + num["code"] + num["text"] - beside + num[_other(kind)]:
            return "speech" if kind == "sound" else _of_images(by_kind, beside)
    if 2 * num["game"] > len(paths):
        return "chess"
    if num["code"] > num["text"] + num["rows"]:
        return "code"
    return "text" if num["text"] > num["rows"] else _of_rows(by_kind["rows"])


def _other(kind: str) -> str:
    return "sound" if kind == "image" else "image"


def _of_images(by_kind: Mapping[str, Sequence[str]], num_beside: int) -> str:
    """By what says what is on them: lists of boxes, a text beside most of them, tables, folders."""
    if any(map(_lists_boxes, by_kind["list"])):
        return "boxes"
    if 2 * num_beside > len(by_kind["image"]):
        return "ocr"
    for path in by_kind["rows"][:1]:
        columns = _columns(path).keys()
        if columns & {"text", "transcription", "transcript", "ground_truth"}:
            return "images" if columns & LABELS else "ocr"
    return "images"


def _lists_boxes(path: str) -> bool:
    """Whether it begins as COCO's json does."""
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError:
        return False
    return any(key in head for key in BOX_KEYS)


def _of_rows(paths: Sequence[str]) -> str:
    """By the columns of the first of them that has any."""
    from whorl.fields.files import JSONL_SUFFIXES, bare_suffix

    for path in paths:
        if columns := _columns(path):
            return _of_columns(columns, bare_suffix(path) not in JSONL_SUFFIXES)
    return "text"


def _of_columns(columns: Mapping[str, Any], is_table: bool) -> str:
    for field, wanted in BY_COLUMNS.items():
        if all(columns.keys() & names for names in wanted):
            return field
    if columns.keys() & TEXTS or len(columns) < 2:
        return "text"
    if columns.keys() <= LANGUAGES and all(map(_is_text, columns.values())):
        return "translation"
    return "table" if is_table else "text"


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and any(map(str.isalpha, value))


def _columns(path: str) -> dict[str, Any]:
    """The first row's, names in small letters; {} of what is no row. Raises MissingExtra."""
    from whorl.fields.files import ROW_FORMATS, bare_suffix
    from whorl.fields.formats import rows_of

    folder, name = os.path.split(path)
    kind = ROW_FORMATS[bare_suffix(path)]
    try:
        item = FileItem(path, folder, name, kind, os.path.getsize(path))
        rows = rows_of(item, (), lambda reason: None)
        first = next((row for _, row in rows), {})
        return {str(key).strip().lower(): value for key, value in first.items()}
    except (DataError, OSError):  # prepare says what is wrong with it
        return {}
