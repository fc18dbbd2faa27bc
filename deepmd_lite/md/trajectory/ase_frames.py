"""Formats that ASE writes: extended XYZ and .traj. A frame is whole in memory, on rank 0.

Positions are continuous in time: not wrapped into the cell. ASE is told that this process is the
only one: left alone it finds MPI and waits for ranks that do not write.
"""

from __future__ import annotations

from abc import abstractmethod

import ase.io
from ase import Atoms
from ase.io.trajectory import TrajectoryReader, TrajectoryWriter
from ase.io.ulm import read_header

from .base import Trajectory
from .frame import Moment, Slab, assemble


class AseFrames(Trajectory):
    """Collects the slabs of a frame."""

    def begin(self, moment: Moment) -> None:
        self._moment: Moment = moment
        self._slabs: list[Slab] = []

    def add(self, slab: Slab) -> None:
        self._slabs.append(slab)

    def end(self) -> None:
        atoms = assemble(self._moment, self._slabs)
        self._slabs = []
        self.append(atoms)

    @abstractmethod
    def append(self, atoms: Atoms) -> None:
        """Write a whole frame."""


class ExtXyz(AseFrames):
    """Extended XYZ: text, eight digits."""

    def append(self, atoms: Atoms) -> None:
        ase.io.write(self.path, atoms, format="extxyz", append=True, parallel=False)


class AseTraj(AseFrames):
    """ASE's own binary format."""

    def append(self, atoms: Atoms) -> None:
        if self.path.exists() and self.path.stat().st_size:
            # ASE overwrites the header and one entry of the index, nothing else.
            with open(self.path, "rb") as f:
                _, _, n_items, index, _ = read_header(f)
            self.journal.keep(0, 56)
            self.journal.keep(index, index + 8 * (n_items + 1))
        with TrajectoryWriter(self.path, mode="a", master=True) as writer:
            writer.write(atoms)

    def is_whole(self) -> bool:
        try:
            with TrajectoryReader(self.path) as frames:
                return len(frames) == 0 or frames[-1] is not None
        except (OSError, ValueError, IndexError):
            return False
