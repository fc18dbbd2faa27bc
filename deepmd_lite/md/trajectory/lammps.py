"""LAMMPS text dumps in LAMMPS' units 'metal': Å, Å/ps, eV/Å.

Positions are wrapped into the cell along periodic axes; the image counts ix iy iz tell the path.
Cells are in the orientation of LAMMPS (`orientation`).
"""

from __future__ import annotations

from typing import TextIO

import numpy as np

from .base import Trajectory
from .frame import Moment, Slab
from .orientation import Oriented

COLUMNS = "id type element mass x y z ix iy iz vx vy vz fx fy fz"
BLOCK = 8192
"""Atoms that are Python objects at a time."""
_LINE = "%d %d %s %.10g %.9f %.9f %.9f %d %d %d %.10g %.10g %.10g %.10g %.10g %.10g\n"


class LammpsDump(Trajectory):
    """`dump custom` with the `COLUMNS` above, atoms in order of id from 1 on."""

    def begin(self, moment: Moment) -> None:
        self._moment = moment
        self._oriented = Oriented.of(moment.cell)
        self._file: TextIO = open(self.path, "a", encoding="utf-8")  # noqa: SIM115
        order, cell = self._oriented.order, self._oriented.cell
        pbc = [moment.pbc[axis] for axis in order]
        bounds = np.array([np.zeros(3), np.diag(cell)])
        if moment.extent is not None:  # a vector that is absent is normal to the others
            absent = np.array(moment.absent)[order]
            bounds[:, absent] = moment.extent[:, order][:, absent] * np.diag(cell)[absent]
        self._file.write(
            f"ITEM: TIMESTEP\n{moment.step}\nITEM: NUMBER OF ATOMS\n{moment.n_atoms}\n"
            f"{_box(cell, bounds, pbc)}ITEM: ATOMS {COLUMNS}\n"
        )

    def add(self, slab: Slab) -> None:
        positions, images = slab.wrapped(self._moment.cell, self._moment.pbc)
        turn = self._oriented.rotation
        columns = [
            *(np.arange(slab.first, slab.first + len(slab)) + 1, slab.types + 1),
            np.array(self._moment.type_map)[slab.types],
            slab.masses,
            *(positions @ turn).T,
            *images[:, self._oriented.order].T,
            *(1000.0 * slab.velocities @ turn).T,  # Å/ps
            *(slab.forces @ turn).T,
        ]
        for start in range(0, len(slab), BLOCK):
            lists = (c[start : start + BLOCK].tolist() for c in columns)
            self._file.writelines(_LINE % row for row in zip(*lists, strict=True))

    def end(self) -> None:
        self._file.close()


def _box(cell: np.ndarray, bounds: np.ndarray, pbc: list[bool]) -> str:
    """The box around a lower triangular cell between `bounds` (2, 3) Å, with tilts where there are
    any."""
    xy, (xz, yz) = cell[1, 0], cell[2, :2]
    edges = " ".join("pp" if periodic else "ff" for periodic in pbc)
    if xy == xz == yz == 0.0:
        lines = "".join(f"{low:.10f} {high:.10f}\n" for low, high in bounds.T)
        return f"ITEM: BOX BOUNDS {edges}\n{lines}"
    (x_low, y_low, z_low), (x_high, y_high, z_high) = bounds
    x_low, x_high = x_low + min(0.0, xy, xz, xy + xz), x_high + max(0.0, xy, xz, xy + xz)
    y_low, y_high = y_low + min(0.0, yz), y_high + max(0.0, yz)
    return (
        f"ITEM: BOX BOUNDS xy xz yz {edges}\n{x_low:.10f} {x_high:.10f} {xy:.10f}\n"
        f"{y_low:.10f} {y_high:.10f} {xz:.10f}\n{z_low:.10f} {z_high:.10f} {yz:.10f}\n"
    )
