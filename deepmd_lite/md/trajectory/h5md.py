"""H5MD 1.1 (de Buyl, Colberg & Höfling, Comput. Phys. Commun. 185, 1546 (2014)), by h5py.

particles/all holds position, image, velocity, force and box/edges as time series that share their
step and time, and species, mass and id, which do not change. Positions are wrapped into the cell
along periodic axes; position + image @ edges is the path. Cells are turned as in `orientation`,
because readers keep their lengths and angles alone (MDAnalysis). Units stand in the attributes, in
words that readers know: Angstrom, Angstrom fs-1, fs, u, and for forces kJ mol-1 Angstrom-1 (there
is no word with eV that MDAnalysis understands).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ase.units import kJ, mol

from ... import __version__
from ...system import InputError
from .base import Trajectory
from .frame import Moment, Slab
from .journal import JournalledFile
from .orientation import Oriented

try:
    import h5py
except ImportError:
    h5py = None

CHUNK = 32768
"""Atoms that are stored together."""
FORCE = mol / kJ
"""1 eV/Å in kJ/mol/Å."""
_SERIES = {
    "position": (np.float64, "Angstrom"),
    "image": (np.int32, None),
    "velocity": (np.float64, "Angstrom fs-1"),
    "force": (np.float64, "kJ mol-1 Angstrom-1"),
}
"""Type and unit of the (frames, N, 3) time series."""


class H5md(Trajectory):
    """Written slab by slab; the file is open only while a frame is written."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        if h5py is None:
            raise InputError(
                "output: format 'h5md' needs the package h5py: pip install 'deepmd_lite[hdf5]', "
                "or choose extxyz, traj or lammps"
            )

    def begin(self, moment: Moment) -> None:
        new = not self.path.exists()
        self._moment, self._raw = moment, JournalledFile(self.journal)
        self._oriented = Oriented.of(moment.cell)
        self._file = h5py.File(self._raw, "w" if new else "r+")
        if new:
            _lay_out(self._file, moment)
        group = self._file["particles/all"]
        self._new, self._frame = new, len(group["position/step"])
        boxed = "edges" in group["box"]
        for name in (*_SERIES, *(["box/edges"] if boxed else [])):
            group[f"{name}/value"].resize(self._frame + 1, axis=0)
        for name, value in (("step", moment.step), ("time", moment.time)):
            series = group[f"position/{name}"]
            series.resize(self._frame + 1, axis=0)
            series[self._frame] = value
        if boxed:
            group["box/edges/value"][self._frame] = self._oriented.cell
        self._raise_failure()

    def add(self, slab: Slab) -> None:
        group, rows = self._file["particles/all"], slice(slab.first, slab.first + len(slab))
        positions, images = slab.wrapped(self._moment.cell, self._moment.pbc)
        turn = self._oriented.rotation
        series = {
            "position": positions @ turn,
            "image": images[:, self._oriented.order],
            "velocity": slab.velocities @ turn,
            "force": slab.forces * FORCE @ turn,
        }
        for name, values in series.items():
            group[f"{name}/value"][self._frame, rows] = values
        if self._new:
            group["species"][rows] = slab.types
            group["mass"][rows] = slab.masses
            group["id"][rows] = np.arange(rows.start, rows.stop)
        self._raise_failure()

    def end(self) -> None:
        self._file.close()
        self._raise_failure()
        self._raw.close()

    def _raise_failure(self) -> None:
        """What went wrong with the file since HDF5 began this frame."""
        if self._raw.failure is not None:
            self._file.close()
            self._raw.close()
            raise self._raw.failure

    def is_whole(self) -> bool:
        try:
            with h5py.File(self.path) as file:
                group = file["particles/all"]
                last = "box/edges" if "edges" in group["box"] else "force"
                return len(group[f"{last}/value"]) == len(group["position/step"])
        except (OSError, KeyError):
            return False


def _lay_out(file: Any, moment: Moment) -> None:
    """Groups, empty time series and attributes of a new file."""
    n = moment.n_atoms
    about = file.create_group("h5md")
    about.attrs["version"] = np.array([1, 1], dtype=np.int32)
    about.create_group("author").attrs["name"] = "unknown"
    about.create_group("creator").attrs.update(name="deepmd_lite", version=__version__)
    about.create_group("modules/units").attrs["version"] = np.array([1, 0], dtype=np.int32)
    group = file.create_group("particles/all")
    names = {symbol: k for k, symbol in enumerate(moment.type_map)}
    group.create_dataset("species", (n,), h5py.enum_dtype(names, basetype=np.int16))
    group.create_dataset("mass", (n,), np.float64).attrs["unit"] = "u"
    group.create_dataset("id", (n,), np.int64)
    box = group.create_group("box")
    box.attrs["dimension"] = 3
    pbc = [moment.pbc[axis] for axis in Oriented.of(moment.cell).order]
    box.attrs["boundary"] = ["periodic" if p else "none" for p in pbc]
    chunk = (1, min(n, CHUNK), 3)
    for name, (kind, unit) in _SERIES.items():
        shape, longest = (0, n, 3), (None, n, 3)
        values = group.create_dataset(f"{name}/value", shape, kind, maxshape=longest, chunks=chunk)
        if unit:
            values.attrs["unit"] = unit
    others = ["image", "velocity", "force"]
    if any(pbc):  # readers take edges for a periodic cell, whatever the boundary says
        edges = box.create_dataset("edges/value", (0, 3, 3), np.float64, maxshape=(None, 3, 3))
        edges.attrs["unit"] = "Angstrom"
        others.append("box/edges")
    for name, kind in (("step", np.int64), ("time", np.float64)):
        series = group.create_dataset(f"position/{name}", (0,), kind, maxshape=(None,))
        for other in others:
            group[f"{other}/{name}"] = series
    group["position/time"].attrs["unit"] = "fs"
