"""The orientation of a cell that formats and programs expect which know it by lengths and angles.

The first lattice vector lies along x, the second in the xy plane: other cells are rotated there,
and positions, velocities and forces with them. A left-handed cell, which no rotation brings there,
first has its vectors a and b exchanged: the lattice is the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Oriented:
    """A cell in that orientation, and the way there."""

    order: list[int]
    """Order of the lattice vectors: 0 1 2, or 1 0 2."""
    cell: np.ndarray
    """(3, 3) Å, lower triangular with a positive diagonal: the cell as it was[order] @ rotation."""
    rotation: np.ndarray
    """(3, 3) R with x' = x R."""

    @classmethod
    def of(cls, cell: np.ndarray) -> Oriented:
        """From lattice vectors (3, 3) Å."""
        order = [0, 1, 2] if np.linalg.det(cell) > 0 else [1, 0, 2]
        q, r = np.linalg.qr(cell[order].T)
        signs = np.sign(np.diag(r))
        lower, rotation = (signs[:, None] * r).T, q * signs
        if np.allclose(lower, cell[order], rtol=0, atol=1e-12):  # it is there: not one bit changes
            return cls(order, np.tril(cell[order]), np.eye(3))
        return cls(order, lower, rotation)
