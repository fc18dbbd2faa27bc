"""Periodic images and the policy of reusing a list: frames with a cell become a `LocalEnv`.

Atoms are wrapped into the cell, every image within the cutoff of the cell is made explicit as a
ghost, and an open-boundary list is built over atoms and ghosts. Cells smaller than the cutoff
and skewed cells need nothing special: they just have more ghosts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np
import torch

from . import kernels
from .free_memory import available_bytes
from .geometry import cell_heights, checked_cell
from .system import InputError, LocalEnv

MANY_IMAGES = 2**20
"""From which on it is asked whether there is memory for them."""
BYTES_OF_IMAGE = 250
"""At the peak, with its share of the list."""


@dataclass
class PeriodicEnv:
    """A `LocalEnv` together with what its ghosts are images of."""

    env: LocalEnv
    owner: torch.Tensor
    """(n_all,) int64: the local row that each row is an image of (itself for a local row)."""
    shifts: torch.Tensor
    """(n_all, 3) float64 integers: row = positions[owner] + shifts @ cell. A local row has a
    shift as well where the caller's atom lies outside the cell and was wrapped into it."""
    _translations: tuple[torch.Tensor, torch.Tensor] | None = field(default=None, repr=False)
    """A cell, and shifts @ cell: most structures move in a cell that stays."""

    @property
    def bytes(self) -> int:
        """Of its arrays."""
        e = self.env
        arrays = (e.positions, e.types, e.offsets, e.indices, self.owner, self.shifts)
        return sum(x.element_size() * x.numel() for x in arrays)

    def moved(self, positions: torch.Tensor, cell: torch.Tensor) -> LocalEnv:
        """The same list for new positions (n_local, 3) and cell (3, 3) of the same atoms, Å."""
        if self._translations is None or not torch.equal(self._translations[0], cell):
            # no matrix product, which wakes a team of threads for the smallest cell
            x, y, z = self.shifts.unbind(dim=1)
            translations = x[:, None] * cell[0] + y[:, None] * cell[1] + z[:, None] * cell[2]
            self._translations = cell.clone(), translations
        rows = positions[self.owner] + self._translations[1]
        e = self.env
        return LocalEnv(rows, e.types, e.n_local, e.offsets, e.indices)

    def fold(self, forces: torch.Tensor) -> torch.Tensor:
        """(n_local, 3): forces of all rows (n_all, 3) added up onto the atoms that own them.

        Likewise of anything else that has columns.
        """
        folded = torch.zeros(self.env.n_local, forces.shape[1], dtype=forces.dtype)
        return folded.index_add_(0, self.owner, forces)


_ROWS = re.compile(r"rows (\d+) and (\d+)")


def periodic_env(
    positions: np.ndarray,
    cell: np.ndarray,
    pbc: np.ndarray,
    types: np.ndarray,
    cutoff: float,
    where: str = "structure",
) -> PeriodicEnv:
    """Ghosts and neighbour list of one frame.

    `positions` (n, 3) Å, anywhere; `cell` (3, 3) Å, rows are lattice vectors; `pbc` (3,) bool;
    `types` (n,) int; `cutoff` Å, skin included. Raises InputError for a cell without volume,
    positions that are not finite, atoms that coincide, or a cell so small that the images cannot be
    held.
    """
    positions = np.asarray(positions, dtype=np.float64).reshape(-1, 3)
    pbc = np.asarray(pbc, dtype=bool)
    if not np.isfinite(positions).all():
        bad = int(np.flatnonzero(~np.isfinite(positions).all(axis=1))[0])
        raise InputError(f"{where}: position of atom {bad} is not finite: {positions[bad]}")
    cell = checked_cell(cell, pbc, where)
    fractional = positions @ np.linalg.inv(cell)
    wrap = np.where(pbc, -np.floor(fractional), 0.0)
    owner, shifts = _images(fractional + wrap, cell, pbc, cutoff, where)
    owner = np.concatenate([np.arange(len(positions)), owner])
    shifts = np.concatenate([wrap, shifts + wrap[owner[len(positions) :]]])
    rows = torch.from_numpy(positions[owner] + shifts @ cell)
    row_types = torch.from_numpy(np.asarray(types, dtype=np.int32)[owner])
    try:
        offsets, indices = kernels.neighbor_list(rows, row_types, len(positions), cutoff)
    except InputError as e:  # of rows, an order of atoms and images that no user knows
        named = _ROWS.sub(
            lambda m: "atoms {} and {}".format(*owner[[int(m[1]), int(m[2])]]), str(e)
        )
        raise InputError(f"{where}: {named}") from None
    env = LocalEnv(rows, row_types, len(positions), offsets, indices)
    return PeriodicEnv(env, torch.from_numpy(owner), torch.from_numpy(shifts))


def _images(
    fractional: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float, where: str
) -> tuple[np.ndarray, np.ndarray]:
    """Images within `cutoff` of the cell's faces: owners (n_ghost,), shifts (n_ghost, 3).

    An atom in the cell can only see points nearer than `cutoff` to every face plane, so the test
    is made one axis at a time, each time on the images kept so far.
    """
    if not pbc.any():
        return np.zeros(0, dtype=np.int64), np.zeros((0, 3))
    margin = cutoff / cell_heights(cell)
    estimate = len(fractional) * np.prod(np.where(pbc, 1.0 + 2.0 * margin, 1.0))
    free = available_bytes() if estimate > MANY_IMAGES else None
    if estimate > 2**31 or (free is not None and estimate * BYTES_OF_IMAGE > free):
        raise InputError(
            f"{where}: cutoff {cutoff} Å needs about {estimate:.1e} periodic images of this cell, "
            "more than there is memory for; the cell is far too small, check its unit"
        )
    owner = np.arange(len(fractional))
    shifts = np.zeros((len(fractional), 3))
    for axis in np.flatnonzero(pbc):
        reach = int(np.ceil(margin[axis]))
        steps = np.array([*range(-reach, 0), *range(1, reach + 1)])
        places = fractional[owner, axis] + steps[:, None]
        near = (places >= -margin[axis]) & (places < 1.0 + margin[axis])
        step, rows = np.nonzero(near)
        moved = shifts[rows]
        moved[:, axis] = steps[step]
        owner = np.concatenate([owner, owner[rows]])
        shifts = np.concatenate([shifts, moved])
    n = len(fractional)
    return owner[n:], shifts[n:]
