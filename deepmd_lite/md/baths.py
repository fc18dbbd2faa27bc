"""Two slabs of a cell in which atoms are kept hot and cold, so that heat flows between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from .engine import Engine


@dataclass(frozen=True)
class Baths:
    """A hot slab around the beginning of a lattice vector, a cold one around its middle.

    Atoms are in a slab as long as they are there.
    """

    axis: int
    """Of the lattice vector."""
    width: float
    """Å, of each, across its faces."""
    kelvins: tuple[float, float]
    """K, hot and cold."""
    given: Callable[[], tuple[float, float]]
    """eV given to the atoms in the hot and in the cold slab since the run began, over all ranks,
    which must all ask."""

    def share(self, cell: np.ndarray) -> float:
        """Width over that of the `cell` (3, 3) Å between its faces."""
        area = np.linalg.norm(np.cross(*np.delete(cell, self.axis, axis=0)))
        return float(self.width * area / abs(np.linalg.det(cell)))

    def inside(self, engine: Engine) -> tuple[torch.Tensor, torch.Tensor]:
        """(n,) bool each: atoms of this rank in the hot slab, and in the cold one."""
        place, half = engine.along(self.axis), 0.5 * self.share(engine.cell)
        return (place - place.round()).abs() < half, (place - 0.5).abs() < half
