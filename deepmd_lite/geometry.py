"""Cells: rows are lattice vectors, Å."""

from __future__ import annotations

import numpy as np

from .system import InputError


def cell_heights(cell: np.ndarray) -> np.ndarray:
    """(3,) distances between opposite faces of the cell (rows are lattice vectors), Å; 0 of one
    without volume."""
    try:
        dual = np.linalg.inv(cell)  # its columns; np.cross takes longer
    except np.linalg.LinAlgError:
        return np.zeros(3)
    heights: np.ndarray = 1.0 / np.sqrt((dual * dual).sum(axis=0))
    return heights


def checked_cell(cell: np.ndarray, pbc: np.ndarray, where: str) -> np.ndarray:
    """The (3, 3) cell with directions that are not periodic made harmless.

    A zero vector along an open direction is replaced by a unit vector normal to the others.
    Raises InputError, naming `where`, when the periodic directions span no volume.
    """
    cell = np.array(cell, dtype=np.float64).reshape(3, 3)
    pbc = np.asarray(pbc, dtype=bool)
    if not np.isfinite(cell).all():
        raise InputError(f"{where}: the cell has a value that is not finite: {cell.tolist()}")
    if not cell.any() and not pbc.any():
        return np.eye(3)
    for axis in range(3):
        if not pbc[axis] and not cell[axis].any():
            cell[axis] = _completing_vector(cell, axis)
    lengths = np.linalg.norm(cell, axis=1)
    if not lengths.all() or abs(np.linalg.det(cell)) < 1e-6 * lengths.prod():
        raise InputError(
            f"{where}: the cell has zero volume (vectors {cell.tolist()}, pbc {pbc.tolist()}); "
            "give three independent lattice vectors or turn pbc off"
        )
    return cell


def _completing_vector(cell: np.ndarray, axis: int) -> np.ndarray:
    """A unit vector independent of the other rows (rows still zero count as absent)."""
    others = [cell[(axis + k) % 3] for k in (1, 2) if cell[(axis + k) % 3].any()]
    if len(others) == 2:
        normal = np.cross(others[0], others[1])
        norm = np.linalg.norm(normal)
        return normal / norm if norm > 0 else np.eye(3)[axis]
    if len(others) == 1:
        seed = np.eye(3)[np.argmin(np.abs(others[0]))]
        normal = np.cross(others[0], seed)
        return normal / np.linalg.norm(normal)
    return np.eye(3)[axis]
