"""What general compressors make of the held-out text: baselines in bits per byte.

xz runs once over a stream of documents, and what each of them cost is read off its output as it
goes: LZMA writes its bytes a fixed distance behind its input. Containers and checksums are left
out, in the compressor's favour.
"""

from __future__ import annotations

import lzma
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from whorl.core.intervals import score_of
from whorl.core.metrics import BITS_PER_BYTE
from whorl.core.ports import Document, QualityMeasure, Score

__all__ = ["CONDITION_BYTES", "condition_text", "stream_bytes", "xz_baselines"]

CONDITION_BYTES = 8 * 2**20  # of training text that xz is given first
STEP_BYTES = 128  # how finely the output is watched
LAG_BYTES = 4096 + 273  # xz looks ahead so far before it writes (LOOP_INPUT_MAX, MATCH_LEN_MAX)
PRESET = 9 | lzma.PRESET_EXTREME
SHARED = "one stream: each document after the text before it, other held-out documents too"


def xz_baselines(train: Sequence[Document], heldout: Sequence[Document]) -> list[Score]:
    """xz -9e on each document alone, on all in one stream, and after 8 MiB of training text.

    Documents that are not text, or empty, give no baseline. Ten seconds for 0.6 MB.
    """
    texts = [(document.text or "").encode() for document in heldout]
    if not texts or not all(texts):
        return []
    before = condition_text(train)
    results = [
        ("xz -9, each document alone", _alone(texts), ""),
        ("xz -9, in one stream", stream_bytes(b"", texts), SHARED),
        (f"xz -9 after {len(before) / 2**20:.1f} MiB of training text", None, SHARED),
    ]
    names = tuple(document.name for document in heldout)
    sizes = np.array([len(text) for text in texts], np.float64)
    scores = []
    for name, found, note in results:
        if found is None and not before:
            continue
        num_bytes = stream_bytes(before, texts) if found is None else found
        measure = QualityMeasure(BITS_PER_BYTE, names, 8 * num_bytes, sizes)
        scores.append(score_of(name, measure, note=note))
    return scores


def condition_text(train: Sequence[Document], max_bytes: int = CONDITION_BYTES) -> bytes:
    """Whole training documents in a random order (seed 0) up to max_bytes; the last is cut."""
    order = list(range(len(train)))
    random.Random(0).shuffle(order)
    pieces: list[bytes] = []
    left_bytes = max_bytes
    for number in order:
        if left_bytes <= 0:
            break
        pieces.append((train[number].text or "").encode()[:left_bytes])
        left_bytes -= len(pieces[-1])
    return b"".join(pieces)


def stream_bytes(before: bytes, texts: Sequence[bytes]) -> NDArray[np.float64]:
    """Compressed bytes each text adds when all are compressed one after another after `before`.

    They sum to the size of the whole minus that of `before`. xz decides on up to 4 kB at once,
    so where one text ends and the next begins is only known to within as much.
    """
    whole_bytes = len(before) + sum(len(text) for text in texts)
    settings = [_filter(whole_bytes)]
    with ThreadPoolExecutor(1) as pool:  # liblzma runs without Python's lock
        alone = pool.submit(_size, before, settings)
        compressor = lzma.LZMACompressor(lzma.FORMAT_RAW, filters=settings)
        read, written = [len(before)], [len(compressor.compress(before))]
        rest = b"".join(texts)
        for start in range(0, len(rest), STEP_BYTES):
            piece = rest[start : start + STEP_BYTES]
            written.append(written[-1] + len(compressor.compress(piece)))
            read.append(read[-1] + len(piece))
        written.append(written[-1] + len(compressor.flush()))
        read.append(read[-1] + LAG_BYTES)
        ends = len(before) + np.cumsum([0, *(len(text) for text in texts)])
        marks = np.interp(ends + LAG_BYTES, read, written)
        marks[0] = alone.result()
    return np.asarray(np.diff(np.maximum(marks, marks[0])), np.float64)


def _size(data: bytes, settings: list[dict[str, int]]) -> int:
    return len(lzma.compress(data, lzma.FORMAT_RAW, filters=settings)) if data else 0


def _alone(texts: Sequence[bytes]) -> NDArray[np.float64]:
    sizes = [_size(text, [_filter(len(text))]) for text in texts]
    return np.array(sizes, np.float64)


def _filter(num_bytes: int) -> dict[str, int]:
    """xz -9e with a dictionary that holds everything, and no larger."""
    dictionary_bytes = 1 << max(12, (num_bytes - 1).bit_length())
    return {"id": lzma.FILTER_LZMA1, "preset": PRESET, "dict_size": dictionary_bytes}
