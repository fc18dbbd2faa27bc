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
        pbc = [moment.pbc[axis] for axis in self._oriented.order]
        self._file.write(
            f"ITEM: TIMESTEP\n{moment.step}\nITEM: NUMBER OF ATOMS\n{moment.n_atoms}\n"
            f"{_box(self._oriented.cell, pbc)}ITEM: ATOMS {COLUMNS}\n"
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
