"""Thermal conductivity from the heat that flows between a hot and a cold slab, by Fourier's law.

κ = q / |dT/dx|: half of what the thermostats give and take in a time, through two cross-sections,
over the slope of the temperature between the slabs, the mean of both sides. Slopes are those of
straight lines through slices that touch no slab, by their numbers of atoms. Crystals conduct by
waves that these cells cut short: their κ grows with the length of the cell, and 1/κ against
1/length leads to the limit (Schelling, Phillpot & Keblinski, Phys. Rev. B 65, 144306 (2002)).
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from ...system import InputError
from ...units import BOLTZMANN
from ..comm import agreement
from ..engine import Engine
from .base import Observable, System, Table, columns
from .heat_flux import W_PER_M_K
from .settings import ConductionSettings
from .slices import kelvin, middles, slices

SAMPLES_OF_BLOCK = 50
MOST_PARTS = 10
"""Parts of a run whose spread is the error."""
FEWEST_SLICES = 3
"""On either side, for a line."""
W_PER_M2 = 1e10 * W_PER_M_K
"""1 eV/(fs Å²) in W/m²."""


class Conduction(Observable):
    """`conduction.csv`: heats, flux, slope and κ of the run so far, a row for each block of
    samples; `conduction_profile.csv`: the temperature along the axis. In a run that goes on with
    other slabs or temperatures they begin anew."""

    name = "conduction"
    SUMS = ("slices", "block", "heats", "shape")
    settings: ConductionSettings

    def __init__(self, settings: ConductionSettings, system: System) -> None:
        super().__init__(settings, system)
        system.need_volume(self.name)
        self.shape = np.zeros(6)
        """Å and Å³ of the cell: height along the axis and volume; the share of a slab; number of
        the axis, hot and cold K."""
        self._forget()

    def _forget(self) -> None:
        """Begin anew."""
        self.samples, bins = 0, self.settings.bins
        self.slices = np.zeros((0, bins, 2))
        """Of each block: atoms that are free to move, Σ m v² (eV), over samples."""
        self.block = np.zeros((bins, 2))
        """The same of the block that is not complete."""
        self.heats = np.zeros((0, 3))
        """fs, eV given to the hot and to the cold slab, at the end of each block; first: when
        sampling began."""

    def sample(self, engine: Engine, step: int, time: float) -> None:
        if step < self.settings.after:
            return
        shape = self._shape(engine)
        if not len(self.heats) or not np.allclose(shape, self.shape, rtol=1e-12):
            self._forget()
            self.shape = shape
            self._check(engine)
            self._note(engine, time)
            return
        assert engine.baths is not None
        self.block += slices(engine, engine.baths.axis, self.settings.bins)[:, 1:]
        self.samples += 1
        if self.samples % SAMPLES_OF_BLOCK == 0:
            self.slices = np.concatenate([self.slices, self.block[None]])
            self.block = np.zeros_like(self.block)
            self._note(engine, time)

    @staticmethod
    def _shape(engine: Engine) -> np.ndarray:
        """`shape` of this moment; the cell stays the same in this ensemble."""
        b = engine.baths
        if b is None:  # `_check` will say so
            return np.zeros(6)
        share = b.share(engine.cell)
        return np.array([b.width / share, engine.volume, share, b.axis, *b.kelvins])

    def _check(self, engine: Engine) -> None:
        """Raises SharedError (InputError with one rank) where there is no flow to be measured."""
        with agreement(engine.comm):
            if engine.baths is None:
                raise InputError(f"output/observe/{self.name}: needs ensemble 'heat-flow'")
            found = int(self._free(0.0).sum())
            if found < FEWEST_SLICES:
                raise InputError(
                    f"output/observe/{self.name}: {found} of {self.settings.bins} slices lie "
                    f"between the slabs on either side, expected {FEWEST_SLICES} for a line: give "
                    "more bins, or narrower slabs (ensemble/width)"
                )

    def _free(self, start: float) -> np.ndarray:
        """(bins,) bool: slices between the middle of a slab at `start` (0 or ½) and the next that
        touch neither."""
        edges, half = np.linspace(0.0, 1.0, self.settings.bins + 1), 0.5 * self.shape[2]
        after = edges[:-1] >= start + half - 1e-9
        return after & (edges[1:] <= start + 0.5 - half + 1e-9)

    def _note(self, engine: Engine, time: float) -> None:
        assert engine.baths is not None
        self.heats = np.concatenate([self.heats, [[time, *engine.baths.given()]]])

    def result(self) -> dict[str, Table]:
        n = len(self.slices)
        if not n:
            return {}
        profile = columns(
            middles(self.settings.bins, self.shape[0]), kelvin(*self.slices.sum(axis=0).T)
        )
        given = self.heats[1:] - self.heats[0]
        rows = [[*given[k], *self._conductivity(k + 1)] for k in range(n)]
        head = ("time_fs", "heat_hot_eV", "heat_cold_eV", "flux_W_per_m2", "slope_K_per_A")
        last = ("conductivity_W_per_m_K", "error_W_per_m_K")
        return {
            "conduction": Table((*head, *last), rows),
            "conduction_profile": Table(("position_A", "temperature_K"), profile),
        }

    def _conductivity(self, n: int) -> tuple[float, float, float, float]:
        """Flux W/m², slope K/Å, κ and its error W/(m K) of the first `n` blocks."""
        flux, steep = self._flux_and_slope(0, n)
        kappa = flux / steep * W_PER_M_K
        edges = np.linspace(0, n, min(n, MOST_PARTS) + 1).round().astype(int)
        parts = np.array([self._flux_and_slope(a, b) for a, b in pairwise(edges)])
        error = np.nan
        if len(parts) > 1:
            relative = parts.std(axis=0, ddof=1) / np.sqrt(len(parts)) / [flux, steep]
            error = abs(kappa) * float(np.hypot(*relative))
        return flux * W_PER_M2, steep, kappa, error

    def _flux_and_slope(self, first: int, last: int) -> tuple[float, float]:
        """eV/(fs Å²) and K/Å of the blocks `first` to `last`, that not included."""
        height, volume = self.shape[:2]
        time, hot, cold = self.heats[last] - self.heats[first]
        flux = 0.5 * (hot - cold) / (2.0 * volume / height * time)
        sums = self.slices[first:last].sum(axis=0)
        middle = middles(len(sums), height)
        free = self._free(0.0), self._free(0.5)
        down, up = (_slope(middle[between], sums[between]) for between in free)
        return float(flux), 0.5 * (up - down)


def _slope(middle: np.ndarray, sums: np.ndarray) -> float:
    """K/Å: of the line through the temperatures of slices (k, 2), each by its number of atoms, at
    `middle` (k,) Å. Slices between the planes of a crystal may hold none."""
    atoms, twice_kinetic = sums.T
    with np.errstate(invalid="ignore", divide="ignore"):
        x = middle - (atoms @ middle) / atoms.sum()
        return float(x @ twice_kinetic / (3.0 * BOLTZMANN * (atoms @ x**2)))
