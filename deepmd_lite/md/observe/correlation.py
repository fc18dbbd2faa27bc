"""Autocorrelation of a few numbers of the whole system, and its running integral (Green-Kubo)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from .base import Observable, System
from .settings import Correlating


class Correlated(Observable):
    """Every sample is an origin; the last `window` of them are kept."""

    SUMS: ClassVar[tuple[str, ...]] = ("recent", "products", "counts")
    settings: Correlating

    def __init__(self, settings: Correlating, system: System, components: int) -> None:
        super().__init__(settings, system)
        self.recent = np.zeros((settings.window, components))
        """The last samples, sample s in row s modulo window."""
        self.products = np.zeros((settings.window, components))
        """By lag, summed over origins."""
        self.counts = np.zeros(settings.window)

    def take(self, now: np.ndarray) -> None:
        """The (components,) of a sample."""
        window = self.settings.window
        self.recent[self.samples % window] = now
        lags = np.arange(min(self.samples + 1, window))
        self.products[lags] += now * self.recent[(self.samples - lags) % window]
        self.counts[lags] += 1
        self.samples += 1

    @property
    def lags(self) -> int:
        """How many time differences are known so far, 0 included."""
        return int((self.counts > 0).sum())

    def correlation(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Times (lags,) fs; C(t) (lags, components); its integral from 0 to t."""
        known = self.counts > 0
        c = self.products[known] / self.counts[known, None]
        steps = 0.5 * self.interval * (c[1:] + c[:-1])
        integral = np.concatenate([np.zeros((1, c.shape[1])), np.cumsum(steps, axis=0)])
        return np.arange(len(c)) * self.interval, c, integral
