"""Cells that change, and stochastic cell rescaling."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...units import BOLTZMANN, EV_PER_A3_IN_GPA
from ..comm import SharedError
from ..engine import Engine
from ..random import generator
from .ramp import Ramp

CELL_STREAM = 3
"""Stream of the random numbers of the barostat."""
LARGEST = 0.05
"""Strain in one step at which a barostat has lost control."""


def modes(coupling: str) -> np.ndarray:
    """(k, 3, 3): orthonormal symmetric strains that a cell may undergo, change of volume first.

    `coupling`: 'isotropic', 'anisotropic' (along x, y and z), 'flexible' (without rotation),
    'semi-isotropic' (x and y alike, and z), or those of x, y and z that change.
    """
    if set(coupling) <= set("xyz"):
        return np.array([np.diag([float(x == axis) for x in "xyz"]) for axis in coupling])
    if coupling == "semi-isotropic":
        return np.array([np.diag([1.0, 1.0, 0.0]) / math.sqrt(2.0), np.diag([0.0, 0.0, 1.0])])
    found = [np.eye(3) / math.sqrt(3.0)]
    if coupling == "isotropic":
        return np.array(found)
    axes = np.eye(3)
    found += [
        np.diag([1.0, -1.0, 0.0]) / math.sqrt(2.0),
        np.diag([1.0, 1.0, -2.0]) / math.sqrt(6.0),
    ]
    if coupling == "flexible":
        pairs = ((axes[i], axes[j]) for i, j in ((1, 2), (0, 2), (0, 1)))
        found += [(np.outer(a, b) + np.outer(b, a)) / math.sqrt(2.0) for a, b in pairs]
    return np.array(found)


def projected(matrix: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """The part of a (3, 3) matrix that lies in the `allowed` modes (k, 3, 3)."""
    return np.einsum("kij,kab,ab->ij", allowed, allowed, matrix)


def checked(strain: np.ndarray, step: int) -> np.ndarray:
    """The (3, 3) strain of a step, on all ranks the same; raises SharedError if it is too large."""
    largest = float(np.abs(strain).max())
    if not largest <= LARGEST:
        raise SharedError(
            f"step {step}: the barostat would strain the cell by {largest:.2g} in one step: "
            "raise barostat_time, lower compressibility or the timestep, or relax the structure"
        )
    return strain


class CellMotion:
    """Deforms the cell once in a step."""

    def check(self, cell: np.ndarray) -> None:
        """Raise InputError if a `cell` (3, 3) Å cannot be deformed in this way."""

    def strain(self, engine: Engine, step: int) -> np.ndarray:
        """(3, 3) logarithmic strain of step number `step`, from the state at its beginning; a row
        of the cell is multiplied by its exponential from the right. All ranks call."""
        raise NotImplementedError

    def memory(self) -> dict[str, Any]:
        """What must survive a restart, ready for JSON, on every rank the same."""
        return {}

    def recall(self, memory: Mapping[str, Any]) -> None:
        """Go on from `memory` of an integrator, which may have been of another ensemble."""


class StochasticCellRescaling(CellMotion):
    """A barostat of first order that samples the constant-pressure ensemble.

    Bernetti & Bussi, "Pressure control using stochastic cell rescaling", J. Chem. Phys. 153, 114107
    (2020), in ε = ln V; anisotropic and flexible: Del Tatto, Raiteri, Bernetti & Bussi, "Molecular
    dynamics of solids at constant pressure and stress using anisotropic stochastic cell rescaling",
    Appl. Sci. 12, 1139 (2022). With h' = h exp(L) and the measure V^-2 dh of the flexible cell
    the equation becomes, for every coupling, dL = P[β/(3τ) (p_int − p) dt + √(2 kT β/(3 V τ)) dW]
    with P the projection onto the strains that are allowed.
    """

    def __init__(
        self,
        timestep: float,
        temperature: Ramp,
        pressure: Ramp,
        time: float,
        compressibility: float,
        seed: int,
        allowed: np.ndarray | None = None,
    ) -> None:
        """`timestep` fs, `temperature` K, `pressure` GPa, `time` constant fs, `compressibility`
        1/GPa, `allowed` strains (see `modes`); None: each step is told."""
        self.temperature, self.pressure = temperature, pressure
        self.pace = timestep * compressibility * EV_PER_A3_IN_GPA / (3.0 * time)  # Å³/eV
        self.allowed, self.seed = allowed, seed

    def strain(self, engine: Engine, step: int, allowed: np.ndarray | None = None) -> np.ndarray:
        """`allowed`: strains of this step, in place of those that it was made with."""
        allowed = self.allowed if allowed is None else allowed
        assert allowed is not None
        target = self.pressure(step) / EV_PER_A3_IN_GPA
        thermal = BOLTZMANN * self.temperature(step)
        excess = -engine.totals().stress(engine.volume) - target * np.eye(3)
        noise = generator(self.seed, CELL_STREAM, step).standard_normal((3, 3))
        amount = math.sqrt(2.0 * thermal * self.pace / engine.volume)
        return checked(projected(self.pace * excess + amount * noise, allowed), step)
