"""Hashes of all 24-byte windows of texts, and what follows from them: repetition, likeness.

Texts come as `comparable.letters`, which treats every script alike. Many are handled in one go.

Legend of shapes: N texts, W windows, P permutations, B bands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whorl.core.order import splitmix64

__all__ = [
    "NUM_BANDS",
    "WINDOW_BYTES",
    "Sketches",
    "distinct_windows",
    "jaccard",
    "repeated_share",
    "repeated_windows",
    "sketch",
]

WINDOW_BYTES = 24  # without blanks: in prose as much as 29 with them
NUM_BANDS, ROWS_PER_BAND = 24, 4  # two texts of Jaccard 0.8 miss each other 3 times in a million
NUM_PERMUTATIONS = NUM_BANDS * ROWS_PER_BAND
SAMPLE_BITS = 2  # repetition is counted in windows whose hash ends in as many zeros: one in four
CHUNK_BYTES = 2**16  # hashed at a time, to stay in the cache
CHUNK_WINDOWS = 4096  # permuted at a time
TEXT_BITS = 20  # texts per call of `sketch`: less than 2**20

U64 = NDArray[np.uint64]
WORD_BYTES = 8
# Odd constants of xxHash64, used as multipliers.
PRIMES = (0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9)


@dataclass(frozen=True)
class Sketches:
    """What is kept of N texts. has_windows: the text has at least one."""

    bands: U64  # [N, NUM_BANDS]
    has_windows: NDArray[np.bool_]  # [N]
    repeated_share: NDArray[np.float64]  # [N], of the sampled windows


def window_hashes(data: bytes) -> U64:
    """A 64-bit hash of each WINDOW_BYTES bytes of data: uint64 [len(data) - WINDOW_BYTES + 1]."""
    count = max(0, len(data) - WINDOW_BYTES + 1)
    hashes = np.empty(count, np.uint64)
    words = np.ndarray((max(0, len(data) - WORD_BYTES + 1),), "<u8", data, 0, (1,))
    offsets = range(0, WINDOW_BYTES, WORD_BYTES)
    for start in range(0, count, CHUNK_BYTES):
        stop = min(start + CHUNK_BYTES, count)
        part = hashes[start:stop]
        part[:] = 0
        for offset, prime in zip(offsets, PRIMES, strict=True):
            part ^= part >> np.uint64(29)
            part += words[start + offset : stop + offset]
            part *= np.uint64(prime)
        part ^= part >> np.uint64(32)
    return hashes


def sketch(texts: Sequence[bytes]) -> Sketches:
    """Bands of MinHash values and repetition of N texts (fewer than 2**20)."""
    lengths = np.array([len(text) for text in texts], np.int64)
    counts = np.maximum(0, lengths - WINDOW_BYTES + 1)
    owners = np.repeat(np.arange(len(texts)), counts)
    firsts = np.cumsum(lengths) - lengths - (np.cumsum(counts) - counts)
    hashes = window_hashes(b"".join(texts))[firsts[owners] + np.arange(len(owners))]
    bands = _bands(_signatures(hashes, owners, len(texts)))
    return Sketches(bands, counts > 0, _repeated(hashes, owners, len(texts)))


def _signatures(hashes: U64, owners: NDArray[np.int64], num_texts: int) -> NDArray[np.uint32]:
    """MinHash values [N, P]: the least hash of each text under each multiplier.

    hashes, owners: those of all windows and the text each belongs to (ascending).
    """
    seeds = np.arange(1, NUM_PERMUTATIONS + 1, dtype=np.uint64)
    multipliers = (splitmix64(seeds) | np.uint64(1)).astype(np.uint32)
    signature_NP = np.full((num_texts, NUM_PERMUTATIONS), 2**32 - 1, np.uint32)
    low = (hashes ^ (hashes >> np.uint64(31))).astype(np.uint32)
    buffer_PW = np.empty((NUM_PERMUTATIONS, min(len(low), CHUNK_WINDOWS)), np.uint32)
    for start in range(0, len(low), CHUNK_WINDOWS):
        chunk = low[start : start + CHUNK_WINDOWS]
        values_PW = buffer_PW[:, : len(chunk)]
        np.multiply(chunk[None], multipliers[:, None], out=values_PW)
        texts = owners[start : start + CHUNK_WINDOWS]
        if texts[0] == texts[-1]:
            least_PN = values_PW.min(axis=1, keepdims=True)
            present = texts[:1]
        else:
            first = np.flatnonzero(np.concatenate([[True], texts[1:] != texts[:-1]]))
            least_PN = np.minimum.reduceat(values_PW, first, axis=1)
            present = texts[first]
        signature_NP[present] = np.minimum(signature_NP[present], least_PN.T)
    return signature_NP


def _bands(signature_NP: NDArray[np.uint32]) -> U64:
    """One hash per band: equal where ROWS_PER_BAND MinHash values are equal."""
    rows = signature_NP.reshape(len(signature_NP), NUM_BANDS, ROWS_PER_BAND).astype(np.uint64)
    bands = np.zeros(rows.shape[:2], np.uint64)
    for number in range(ROWS_PER_BAND):
        bands = splitmix64(bands + rows[:, :, number] + np.uint64(PRIMES[0]))
    return bands


def _repeated(hashes: U64, owners: NDArray[np.int64], num_texts: int) -> NDArray[np.float64]:
    """Share of each text's windows that occurred before in it, of a sample: [N]."""
    sampled = np.flatnonzero((hashes & np.uint64(2**SAMPLE_BITS - 1)) == 0)
    counts = np.bincount(owners[sampled], minlength=num_texts)
    keys = (owners[sampled].astype(np.uint64) << np.uint64(64 - TEXT_BITS)) | (
        hashes[sampled] >> np.uint64(TEXT_BITS)
    )
    keys.sort()
    again = keys[1:][keys[1:] == keys[:-1]] >> np.uint64(64 - TEXT_BITS)
    repeats = np.bincount(again.astype(np.int64), minlength=num_texts)
    return repeats / np.maximum(counts, 1)


def repeated_share(data: bytes) -> float:
    """Share of all windows of one text that occurred before in it; 0 if it has none."""
    hashes = window_hashes(data)
    if not len(hashes):
        return 0.0
    hashes.sort()
    return float(np.count_nonzero(hashes[1:] == hashes[:-1])) / len(hashes)


def repeated_windows(data: bytes) -> NDArray[np.bool_]:
    """Which windows of one text occurred before in it: [number of windows]."""
    hashes = window_hashes(data)
    order = np.argsort(hashes, kind="stable")
    repeated = np.zeros(len(hashes), np.bool_)
    repeated[order[1:]] = hashes[order[1:]] == hashes[order[:-1]]
    return repeated


def distinct_windows(data: bytes) -> U64:
    """Hashes of the distinct windows of a text, ascending."""
    hashes = window_hashes(data)
    hashes.sort()
    return hashes[np.concatenate([[True], hashes[1:] != hashes[:-1]])] if len(hashes) else hashes


def jaccard(first: U64, second: U64) -> float:
    """Shared over all elements of two sets given as ascending arrays; 0 for two empty ones."""
    together = np.concatenate([first, second])
    together.sort(kind="stable")  # merges the two ascending runs
    shared = int(np.count_nonzero(together[1:] == together[:-1]))
    return shared / max(1, len(together) - shared)
