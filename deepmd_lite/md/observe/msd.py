"""Mean-square displacement and diffusion coefficient of each element.

Displacements are those of the path without wrapping, less that of the centre of mass (of all
atoms), which is no diffusion; where atoms are held, those of the others, as they are. Einstein:
D = lim MSD / 6t, from a linear fit over the later part of the window. The error is that of the mean
over independent windows; with a single one, that of the mean over the three directions, which
supposes an isotropic system. In a cell that changes, the path follows the cell.
"""

from __future__ import annotations

import numpy as np

from ..engine import Engine
from .base import Origins, System, Table, columns
from .settings import MsdSettings

CM2_PER_S = 0.1
"""1 Å²/fs in cm²/s."""


class Msd(Origins):
    """`msd.csv`: time_fs and the MSD of each element; `diffusion.csv`: D of each."""

    name = "msd"
    SUMS = ("squares", "counts", "moments", "slopes")
    settings: MsdSettings

    def __init__(self, settings: MsdSettings, system: System) -> None:
        super().__init__(settings, system)
        n = len(system.elements)
        self.squares = np.zeros((settings.window, n, 3))
        """Å² by lag, summed over origins, averaged over the atoms of an element that move."""
        self.counts = np.zeros(settings.window)
        self.moments = np.zeros((self.n_origins, n, 3))
        """Σ (t − t̄) MSD(t), fs Å², over the part of the present window that is fitted."""
        self.slopes = np.zeros((0, n, 3))
        """Å²/fs of each window that is complete."""

    def sample(self, engine: Engine, step: int, time: float) -> None:
        state, system = engine.state, self.system
        path = state.path(engine.cell)
        lags, then = self.follow(engine, path)
        moved = system.at_rest(path[:, None, :] - then, engine)
        free = (moved**2).flatten(1) * state.mobile[:, None]  # driven atoms come far as well
        squares = system.sums(free, engine) / system.free.clip(1)[:, None]
        for k, lag in enumerate(lags):
            if lag < 0:
                continue
            own = squares[:, 3 * k : 3 * k + 3]
            self.squares[lag] += own
            self.counts[lag] += 1
            self._fit(k, lag, own)

    def _fit(self, k: int, lag: int, own: np.ndarray) -> None:
        """One more point (elements, 3) Å² of the line through the window of origin k."""
        t = self._fitted(self.settings.window)
        if lag == 0:
            self.moments[k] = 0.0
        self.moments[k] += t[lag] * own
        if lag == len(t) - 1:
            self.slopes = np.concatenate([self.slopes, self.moments[None, k] / (t @ t)])

    def _fitted(self, n: int) -> np.ndarray:
        """(n,) fs: t − t̄ of the lags that are fitted, 0 before. The slope of y(t) is t·y / t·t."""
        t, first = self.lags[:n].copy(), int(self.settings.fit_from * n)
        t[first:] -= t[first:].mean()
        t[:first] = 0.0
        return t

    def result(self) -> dict[str, Table]:
        known = self.counts > 0
        if known.sum() < 2:
            return {}
        moving = self.system.moving
        elements = [self.system.elements[e] for e in moving]
        mean = self.squares[known][:, moving] / self.counts[known, None, None]
        names = [f"msd_{e}_A2" for e in elements]
        tables = {"msd": Table(("time_fs", *names), columns(self.lags[known], mean.sum(axis=2)))}
        slopes = self.slopes[:, moving]
        if not len(slopes):  # no window is complete: the mean, as far as it reaches
            t = self._fitted(len(mean))
            slopes = np.tensordot(t, mean, axes=1)[None] / (t @ t)
        by_axis = 0.5 * CM2_PER_S * slopes
        found, independent = by_axis.mean(axis=(0, 2)), len(slopes) / self.n_origins
        if independent >= 2:
            error = by_axis.mean(axis=2).std(axis=0, ddof=1) / np.sqrt(independent)
        else:
            error = by_axis.mean(axis=0).std(axis=1, ddof=1) / np.sqrt(3.0)
        axes = by_axis.mean(axis=0)
        rows = [
            [element, d, e, *axis, float(len(self.slopes))]
            for element, d, e, axis in zip(
                elements, found.tolist(), error.tolist(), axes.tolist(), strict=True
            )
        ]
        head = ("element", "D_cm2_per_s", "error_cm2_per_s")
        axes_head = (f"D_{x}_cm2_per_s" for x in "xyz")
        tables["diffusion"] = Table((*head, *axes_head, "windows"), rows)
        return tables
