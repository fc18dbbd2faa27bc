"""Atoms and their temperature in slices of the cell along a lattice vector.

T of a slice is the ratio of the means of twice its kinetic energy and of its 3 k_B N: three degrees
of freedom for each atom that is free to move, whatever the whole system conserves.
"""

from __future__ import annotations

import numpy as np
import torch

from ...units import BOLTZMANN, KINETIC
from ..engine import Engine


def slices(engine: Engine, axis: int, bins: int) -> np.ndarray:
    """(bins, 3): atoms, atoms free to move, Σ m v² (eV) of all ranks, which must all ask.

    Along an open axis the first and the last slice hold what is further out.
    """
    state = engine.state
    where = (engine.along(axis) * bins).long().clamp(0, bins - 1).cpu()
    twice_kinetic = KINETIC * state.masses * state.velocities.square().sum(dim=1)
    each = torch.stack([torch.ones_like(state.mobile), state.mobile, twice_kinetic], dim=1).cpu()
    own = torch.zeros(bins, 3, dtype=torch.float64).index_add_(0, where, each)
    return engine.comm.reduce(own.numpy(), "sum")


def middles(bins: int, length: float) -> np.ndarray:
    """(bins,) Å: where slices of a `length` (Å) have their middle."""
    found: np.ndarray = (np.arange(bins) + 0.5) * length / bins
    return found


def kelvin(free: np.ndarray, twice_kinetic: np.ndarray) -> np.ndarray:
    """(bins,) K from atoms that are free to move and Σ m v² (eV); nan where none has been."""
    with np.errstate(invalid="ignore", divide="ignore"):
        found: np.ndarray = twice_kinetic / (3.0 * BOLTZMANN * free)
    return found
