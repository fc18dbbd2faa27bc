"""Velocity autocorrelation of each element and the vibrational density of states.

C(t) = ⟨v(0) · v(t)⟩, with the centre of mass at rest; where atoms are held, of the others as they
are. The density of states is its cosine transform, S(ν) = 4 ∫ C(t)/C(0) w(t) cos(2πνt) dt,
∫ S dν = 1 (Dickey & Paskin, Phys. Rev. 188, 1407 (1969)), with Hann's window w, which ends the
correlation smoothly where it was followed no further. The total weights the elements by mass, so
that each mode counts alike.
"""

from __future__ import annotations

import numpy as np

from ..engine import Engine
from .base import Origins, System, Table, columns
from .settings import VacfSettings

THZ = 1.0e3
"""1/fs in THz."""
PER_CM = 33.3564095198152
"""1 THz in cm⁻¹."""
PADDING = 4
"""The spectrum has this many points in each resolved interval."""


class Vacf(Origins):
    """`vacf.csv`: time_fs and C of each element; `vdos.csv`: S of each and in total."""

    name = "vacf"
    SUMS = ("products", "counts")
    settings: VacfSettings

    def __init__(self, settings: VacfSettings, system: System) -> None:
        super().__init__(settings, system)
        self.products = np.zeros((settings.window, len(system.elements)))
        """(Å/fs)² by lag, summed over origins, averaged over the atoms of an element that move."""
        self.counts = np.zeros(settings.window)

    def sample(self, engine: Engine, step: int, time: float) -> None:
        velocities = self.system.at_rest(engine.state.velocities, engine)
        lags, then = self.follow(engine, velocities)
        products = (then * velocities[:, None, :]).sum(dim=2)
        means = self.system.sums(products, engine) / self.system.free.clip(1)[:, None]
        for k, lag in enumerate(lags):
            if lag >= 0:
                self.products[lag] += means[:, k]
                self.counts[lag] += 1

    def result(self) -> dict[str, Table]:
        known = self.counts > 0
        if known.sum() < 2:
            return {}
        system = self.system
        moving = system.moving
        elements = [system.elements[e] for e in moving]
        c = self.products[known][:, moving] / self.counts[known, None]
        units = [f"vacf_{e}_A2_per_fs2" for e in elements]
        tables = {"vacf": Table(("time_fs", *units), columns(self.lags[known], c))}
        weights = (system.free * system.masses)[moving]
        together = np.column_stack([c, c @ weights])
        if (together[0] > 0).all():
            frequency, density = spectrum(together / together[0], self.interval)
            names = [f"vdos_{e}_per_THz" for e in (*elements, "total")]
            head = ("frequency_THz", "wavenumber_per_cm", *names)
            rows = columns(frequency, frequency * PER_CM, density)
            tables["vdos"] = Table(head, rows)
        return tables


def spectrum(correlation: np.ndarray, interval: float) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies (k,) THz and S (k, columns) 1/THz of correlations (lags, columns).

    `correlation` is 1 at lag 0; `interval` between lags in fs.
    """
    n = len(correlation)
    smooth = correlation * (np.cos(0.5 * np.pi * np.arange(n) / n) ** 2)[:, None]
    length = 2 * PADDING * n
    transform = np.fft.rfft(smooth, n=length, axis=0).real - 0.5 * smooth[0]
    return THZ * np.fft.rfftfreq(length, interval), 4.0 * interval / THZ * transform
