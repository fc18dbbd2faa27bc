"""Temperature and number density in slices along a lattice vector.

T of a slice is the ratio of the means of twice its kinetic energy and of its 3 k_B N: three degrees
of freedom for each atom that is free to move, whatever the whole system conserves.
"""

from __future__ import annotations

import numpy as np
import torch

from ...system import InputError
from ...units import BOLTZMANN, KINETIC
from ..engine import Engine
from ..state import CPU
from .base import Observable, System, Table, columns
from .settings import ProfileSettings


class TemperatureProfile(Observable):
    """`temperature_profile.csv`: middle of the slice along the vector, T, density, mean atoms.

    Along an open axis the first and the last slice hold what is further out.
    """

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
        state, axis, bins = engine.state.to(CPU), self.settings.axis, self.settings.bins
        inverse = torch.from_numpy(np.linalg.inv(engine.cell))
        along = state.positions @ inverse[:, axis]
        if self.system.pbc[axis]:
            along = along - along.floor()
        where = (along * bins).long().clamp(0, bins - 1)
        twice_kinetic = KINETIC * state.masses * (state.velocities**2).sum(dim=1)
        each = torch.stack([torch.ones_like(along), state.mobile, twice_kinetic], dim=1)
        own = torch.zeros(bins, 3, dtype=torch.float64).index_add_(0, where, each)
        self.slices += engine.comm.reduce(own.numpy(), "sum")
        cell = engine.cell
        self.size += [float(np.linalg.norm(cell[axis])), abs(float(np.linalg.det(cell)))]
        self.samples += 1

    def result(self) -> dict[str, Table]:
        if not self.samples:
            return {}
        length, volume = self.size / self.samples
        bins = self.settings.bins
        atoms, free, twice_kinetic = self.slices.T
        with np.errstate(invalid="ignore", divide="ignore"):
            kelvin = twice_kinetic / (3.0 * BOLTZMANN * free)
        middle = (np.arange(bins) + 0.5) * length / bins
        mean = atoms / self.samples
        head = ("position_A", "temperature_K", "density_per_A3", "atoms")
        rows = columns(middle, kelvin, mean * bins / volume, mean)
        return {"temperature_profile": Table(head, rows)}
