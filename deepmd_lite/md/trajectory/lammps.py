"""LAMMPS text dumps in LAMMPS' units 'metal': Å, Å/ps, eV/Å.

Positions are wrapped into the cell along periodic axes; the image counts ix iy iz tell the path.
LAMMPS wants the first lattice vector along x and the second in the xy plane: other cells are
rotated there, and positions, velocities and forces with them. A left-handed cell, which no rotation
brings there, first has its vectors a and b exchanged: the lattice is the same.
"""

from __future__ import annotations

from typing import TextIO

import numpy as np

from .base import Trajectory
from .frame import Moment, Slab

COLUMNS = "id type element mass x y z ix iy iz vx vy vz fx fy fz"
BLOCK = 8192
"""Atoms that are Python objects at a time."""
_LINE = "%d %d %s %.10g %.9f %.9f %.9f %d %d %d %.10g %.10g %.10g %.10g %.10g %.10g\n"


class LammpsDump(Trajectory):
    """`dump custom` with the `COLUMNS` above, atoms in order of id from 1 on."""

    def begin(self, moment: Moment) -> None:
        self._moment = moment
        self._order, self._cell, self._rotation = lammps_frame(moment.cell)
        self._file: TextIO = open(self.path, "a", encoding="utf-8")  # noqa: SIM115
        pbc = [moment.pbc[axis] for axis in self._order]
        self._file.write(
            f"ITEM: TIMESTEP\n{moment.step}\nITEM: NUMBER OF ATOMS\n{moment.n_atoms}\n"
            f"{_box(self._cell, pbc)}ITEM: ATOMS {COLUMNS}\n"
        )

    def add(self, slab: Slab) -> None:
        positions, images = slab.wrapped(self._moment.cell, self._moment.pbc)
        turn = self._rotation
        columns = [
            *(np.arange(slab.first, slab.first + len(slab)) + 1, slab.types + 1),
            np.array(self._moment.type_map)[slab.types],
            slab.masses,
            *(positions @ turn).T,
            *images[:, self._order].T,
            *(1000.0 * slab.velocities @ turn).T,  # Å/ps
            *(slab.forces @ turn).T,
        ]
        for start in range(0, len(slab), BLOCK):
            lists = (c[start : start + BLOCK].tolist() for c in columns)
            self._file.writelines(_LINE % row for row in zip(*lists, strict=True))

    def end(self) -> None:
        self._file.close()


def lammps_frame(cell: np.ndarray) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Order of the lattice vectors (3), cell (3, 3) Å as LAMMPS has it, and R with x' = x R.

    The new cell is lower triangular with a positive diagonal and equals cell[order] @ R.
    """
    order = [0, 1, 2] if np.linalg.det(cell) > 0 else [1, 0, 2]
    q, r = np.linalg.qr(cell[order].T)
    signs = np.sign(np.diag(r))
    lower, rotation = (signs[:, None] * r).T, q * signs
    if np.allclose(lower, cell[order], rtol=0, atol=1e-12):  # it is there: not one bit changes
        return order, np.tril(cell[order]), np.eye(3)
    return order, lower, rotation


def _box(cell: np.ndarray, pbc: list[bool]) -> str:
    """Bounds of the box around a lower triangular cell, with tilts where there are any."""
    (lx, _, _), (xy, ly, _), (xz, yz, lz) = cell.tolist()
    edges = " ".join("pp" if periodic else "ff" for periodic in pbc)
    if xy == xz == yz == 0.0:
        bounds = "".join(f"0 {length:.10f}\n" for length in (lx, ly, lz))
        return f"ITEM: BOX BOUNDS {edges}\n{bounds}"
    x_low, x_high = min(0.0, xy, xz, xy + xz), lx + max(0.0, xy, xz, xy + xz)
    y_low, y_high = min(0.0, yz), ly + max(0.0, yz)
    return (
        f"ITEM: BOX BOUNDS xy xz yz {edges}\n{x_low:.10f} {x_high:.10f} {xy:.10f}\n"
        f"{y_low:.10f} {y_high:.10f} {xz:.10f}\n0 {lz:.10f} {yz:.10f}\n"
    )
