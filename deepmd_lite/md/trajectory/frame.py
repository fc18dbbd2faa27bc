"""One frame of a trajectory: what all atoms share, and the atoms in slabs, in order of id.

Files list atoms by id, ranks own them by place. So that no rank ever holds them all, each first
gets its share of the ids, and then one share after the other comes to rank 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.stress import full_3x3_to_voigt_6_stress
from ase.units import fs

from ..engine import Engine


@dataclass(frozen=True)
class Moment:
    """What all atoms share."""

    step: int
    time: float
    """fs."""
    cell: np.ndarray
    """(3, 3) Å, rows are lattice vectors."""
    absent: tuple[bool, bool, bool]
    """Lattice vectors that the structure lacks and `cell` fills in."""
    pbc: tuple[bool, bool, bool]
    type_map: Sequence[str]
    n_atoms: int
    potential: float
    """eV."""
    stress: np.ndarray | None
    """(3, 3) eV/Å³, tension positive, without the kinetic part; None without a volume."""
    extent: np.ndarray | None = None
    """(2, 3) smallest and largest fractional coordinates of all atoms; None where no lattice vector
    is absent."""


def extent(engine: Engine, absent: Sequence[bool]) -> np.ndarray | None:
    """That of a `Moment`; all ranks must ask."""
    if not any(absent):
        return None
    s = engine.state.positions.cpu().numpy() @ np.linalg.inv(engine.cell)
    largest = np.max([-s, s], axis=1, initial=-np.inf).ravel()
    found = engine.comm.reduce(largest, "max").reshape(2, 3)
    found[0] *= -1.0
    return found


@dataclass(frozen=True)
class Slab:
    """Atoms `first`, `first` + 1, …; n of them."""

    first: int
    types: np.ndarray
    """(n,) int64, index into the type map."""
    masses: np.ndarray
    """(n,) u."""
    positions: np.ndarray
    """(n, 3) Å, near the cell but perhaps outside."""
    images: np.ndarray
    """(n, 3) int64: positions + images @ cell is the path without any wrapping."""
    velocities: np.ndarray
    """(n, 3) Å/fs."""
    forces: np.ndarray
    """(n, 3) eV/Å, of the model."""
    energies: np.ndarray
    """(n,) eV."""
    deviations: np.ndarray | None = None
    """(n,) eV/Å, of the forces over several models, where they were asked at this step."""
    held: np.ndarray | None = None
    """(n,) bool: atoms that no force moves; None where all move."""

    @classmethod
    def from_rows(cls, first: int, rows: np.ndarray) -> Slab:
        """From rows (n, 17) or (n, 18) of `ordered_slabs`."""
        return cls(
            first=first,
            types=rows[:, 1].astype(np.int64),
            masses=rows[:, 2],
            positions=rows[:, 3:6],
            images=rows[:, 6:9].astype(np.int64),
            velocities=rows[:, 9:12],
            forces=rows[:, 12:15],
            energies=rows[:, 15],
            held=rows[:, 16] == 0,
            deviations=rows[:, 17] if rows.shape[1] > 17 else None,
        )

    def __len__(self) -> int:
        return len(self.types)

    def path(self, cell: np.ndarray) -> np.ndarray:
        """(n, 3) Å: positions that are continuous in time, not wrapped."""
        return self.positions + self.images @ cell

    def wrapped(self, cell: np.ndarray, pbc: Sequence[bool]) -> tuple[np.ndarray, np.ndarray]:
        """Positions (n, 3) Å inside the cell along periodic axes, and images (n, 3) int64."""
        shifts = np.where(pbc, np.floor(self.positions @ np.linalg.inv(cell)), 0.0)
        return self.positions - shifts @ cell, self.images + shifts.astype(np.int64)


def ordered_slabs(engine: Engine, deviations: np.ndarray | None = None) -> Iterator[Slab]:
    """All atoms in order of id, a slab at a time, on rank 0; nothing on other ranks.

    `deviations` (n,) eV/Å of the atoms of this rank, or None on all. Every rank must go through to
    the end.
    """
    comm, state, velocities = engine.comm, engine.state, engine.state.velocities
    if engine.drive is not None:
        velocities = velocities + engine.drive.velocities(engine)
    narrow = (state.ids, state.types, state.masses)
    wide = (state.positions, state.images, velocities, engine.model_forces)
    columns = [x.double()[:, None] for x in (*narrow, engine.energies, state.mobile)]
    columns[3:3] = [x.double() for x in wide]
    rows = torch.cat(columns, dim=1).cpu().numpy()
    if deviations is not None:
        rows = np.column_stack([rows, deviations])
    firsts = np.arange(comm.size + 1) * engine.n_atoms // comm.size
    rows = rows[np.argsort(rows[:, 0])]
    rows = comm.redistribute(rows, np.diff(np.searchsorted(rows[:, 0], firsts)))
    rows = rows[np.argsort(rows[:, 0])]
    if comm.rank == 0:
        yield Slab.from_rows(0, rows)
        nothing = rows[:0].copy()
        del rows
        for rank in range(1, comm.size):
            arrived = comm.swap_rows(nothing, None, rank, tag=rank)
            yield Slab.from_rows(int(firsts[rank]), arrived)
    else:
        comm.swap_rows(rows, 0, None, tag=comm.rank)


def assemble(moment: Moment, slabs: Sequence[Slab]) -> Atoms:
    """All atoms for ASE, with energy and forces, held ones as its constraint; positions are not
    wrapped."""

    def whole(name: str) -> np.ndarray:
        return np.concatenate([getattr(s, name) for s in slabs])

    symbols = np.array(moment.type_map)[whole("types")]
    path = np.concatenate([s.path(moment.cell) for s in slabs])
    shown = np.where(np.array(moment.absent)[:, None], 0.0, moment.cell)
    atoms = Atoms(symbols.tolist(), path, cell=shown, pbc=moment.pbc)
    masses = whole("masses")
    if not np.allclose(atoms.get_masses(), masses):
        atoms.set_masses(masses)
    atoms.set_velocities(whole("velocities") / fs)  # ASE: Å per its own unit of time
    if slabs[0].held is not None and (held := whole("held")).any():
        atoms.set_constraint(FixAtoms(mask=held))
    atoms.info.update(step=moment.step, time_fs=moment.time)
    if slabs[0].deviations is not None:
        atoms.set_array("forces_std", whole("deviations"))
    results = {
        "energy": moment.potential,
        "forces": whole("forces"),
        "energies": whole("energies"),
    }
    if moment.stress is not None:
        results["stress"] = full_3x3_to_voigt_6_stress(moment.stress)
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms
