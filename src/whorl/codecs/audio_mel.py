"""Sound to log-mel frames and back.

Axes: H hops, K mel bands, F frequencies of a spectrum, N samples of a window.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

__all__ = ["Mel"]

Floats = NDArray[np.float64]
LOWEST_HZ = 60.0
FLOOR = 1e-7  # of a band's power; a full-scale sine has about 1
HOP_S, WINDOW_S = 0.010, 0.032
STEPS = 32  # of Griffin and Lim
MOMENTUM = 0.99  # "fast Griffin-Lim": Perraudin, Balazs and Søndergaard 2013
TINY = 1e-12
LEAST_WEIGHT = 1e-3  # of a sample that lies at the edge of its only window


@dataclass(frozen=True)
class Mel:
    """Bands of one rate: a hop of 10 ms, windows of 32 ms in the middle of their hops."""

    rate: int
    num_bands: int

    @property
    def hop(self) -> int:
        """Samples."""
        return round(self.rate * HOP_S)

    @property
    def window(self) -> int:
        """Samples; an even number."""
        return 2 * round(self.rate * WINDOW_S / 2)

    def analyse(self, samples: Floats) -> Floats:
        """[H, K]: natural logarithm of each band's power. samples: whole hops, -1 to 1."""
        spectra_HF = self._transform(samples)
        power_HF = np.abs(spectra_HF) ** 2
        return np.asarray(np.log(power_HF @ self._bands_FK + FLOOR))

    def invert(self, mel_HK: Floats) -> Floats:
        """Samples whose bands are about these; the phases are found by Griffin and Lim."""
        power_HF = np.maximum(np.exp(mel_HK) - FLOOR, 0.0) @ self._inverse_KF
        size_HF = np.sqrt(np.maximum(power_HF, 0.0))
        count = len(mel_HK) * self.hop
        rng = np.random.default_rng(0)
        phase_HF = np.exp(2j * np.pi * rng.random(size_HF.shape))
        before_HF = np.zeros_like(phase_HF)
        for _ in range(STEPS):
            now_HF = self._transform(self._sum(size_HF * phase_HF, count))
            ahead_HF = now_HF - MOMENTUM / (1 + MOMENTUM) * before_HF
            phase_HF = ahead_HF / (np.abs(ahead_HF) + TINY)
            before_HF = now_HF
        return self._sum(size_HF * phase_HF, count)

    # ---------------------------------------------------------------- spectra

    def _transform(self, samples: Floats) -> NDArray[np.complex128]:
        """[H, F]."""
        before = (self.window - self.hop) // 2
        padded = np.pad(samples, (before, self.window - self.hop - before))
        windows_HN = np.lib.stride_tricks.sliding_window_view(padded, self.window)[:: self.hop]
        return np.asarray(np.fft.rfft(windows_HN * self._window_N, axis=1) * self._scale)

    def _sum(self, spectra_HF: NDArray[np.complex128], count: int) -> Floats:
        """The sound whose windows are nearest to these: overlap and add, by least squares."""
        windows_HN = np.fft.irfft(spectra_HF / self._scale, self.window, axis=1) * self._window_N
        starts_H1 = self.hop * np.arange(len(windows_HN))[:, None]
        places = (starts_H1 + np.arange(self.window)).ravel()
        weights_HN = np.broadcast_to(self._window_N**2, windows_HN.shape)
        total = np.bincount(places, windows_HN.ravel())
        weight = np.maximum(np.bincount(places, weights_HN.ravel()), LEAST_WEIGHT)
        before = (self.window - self.hop) // 2
        return np.asarray((total / weight)[before : before + count])

    @cached_property
    def _window_N(self) -> Floats:
        turns = np.arange(self.window) / self.window
        return np.asarray(0.5 - 0.5 * np.cos(2 * np.pi * turns))

    @cached_property
    def _scale(self) -> float:
        return float(2 / self._window_N.sum())

    @cached_property
    def _bands_FK(self) -> Floats:
        """Triangles that overlap by half, even on the mel scale, each of sum 1."""
        places = _mel(np.linspace(0, self.rate / 2, self.window // 2 + 1))
        edges = np.linspace(_mel(np.array(LOWEST_HZ)), places[-1], self.num_bands + 2)
        width = edges[1] - edges[0]
        away_FK = np.abs(places[:, None] - edges[None, 1:-1]) / width
        bands_FK = np.maximum(0.0, 1 - away_FK)
        sums = bands_FK.sum(axis=0)
        for band in np.flatnonzero(sums == 0):  # narrower than two frequencies are apart
            bands_FK[np.abs(places - edges[band + 1]).argmin(), band] = 1.0
        return np.asarray(bands_FK / bands_FK.sum(axis=0))

    @cached_property
    def _inverse_KF(self) -> Floats:
        """Power of a frequency from its neighbouring bands, by their overlap: never negative."""
        shares_FK = self._bands_FK / np.maximum(self._bands_FK.sum(axis=1, keepdims=True), TINY)
        return np.asarray(shares_FK.T)


def _mel(hz: Floats) -> Floats:
    return np.asarray(2595 * np.log10(1 + hz / 700))
