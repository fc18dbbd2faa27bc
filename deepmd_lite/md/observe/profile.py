"""Temperature and number density in slices along a lattice vector."""

from __future__ import annotations

import numpy as np

from ...system import InputError
from ..engine import Engine
from .base import Observable, System, Table, columns
from .settings import ProfileSettings
from .slices import kelvin, middles, slices


class TemperatureProfile(Observable):
    """`temperature_profile.csv`: middle of the slice along the vector, T, density, mean atoms."""

    name = "temperature_profile"
    SUMS = ("slices", "size")
    settings: ProfileSettings

    def __init__(self, settings: ProfileSettings, system: System) -> None:
        super().__init__(settings, system)
        if system.absent[settings.axis]:
            raise InputError(
                f"output/observe/temperature_profile: axis {settings.axis}: the structure has no "
                "such lattice vector; give it a cell or choose another axis"
            )
        self.slices = np.zeros((settings.bins, 3))
        """Atoms, atoms free to move, Σ m v² (eV), over samples."""
        self.size = np.zeros(2)
        """Length of the lattice vector (Å) and volume of the cell (Å³), over samples."""

    def sample(self, engine: Engine, step: int, time: float) -> None:
        axis, cell = self.settings.axis, engine.cell
        self.slices += slices(engine, axis, self.settings.bins)
        self.size += [float(np.linalg.norm(cell[axis])), abs(float(np.linalg.det(cell)))]
        self.samples += 1

    def result(self) -> dict[str, Table]:
        if not self.samples:
            return {}
        length, volume = self.size / self.samples
        bins = self.settings.bins
        atoms, free, twice_kinetic = self.slices.T
        mean = atoms / self.samples
        head = ("position_A", "temperature_K", "density_per_A3", "atoms")
        known = middles(bins, length), kelvin(free, twice_kinetic)
        rows = columns(*known, mean * bins / volume, mean)
        return {"temperature_profile": Table(head, rows)}
