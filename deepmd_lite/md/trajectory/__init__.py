"""Trajectory files: extended XYZ, ASE's .traj, H5MD and LAMMPS text dumps."""

from __future__ import annotations

from pathlib import Path

from .base import Trajectory
from .frame import Moment, Slab, assemble, extent, ordered_slabs

NAMES = {
    "extxyz": "trajectory.extxyz",
    "traj": "trajectory.traj",
    "h5md": "trajectory.h5md",
    "lammps": "trajectory.lammpstrj",
}
"""File of each format in the output folder."""

__all__ = [
    "NAMES",
    "Moment",
    "Slab",
    "Trajectory",
    "assemble",
    "extent",
    "open_trajectory",
    "ordered_slabs",
]


def open_trajectory(kind: str, directory: Path) -> Trajectory:
    """The trajectory of format `kind` (a key of `NAMES`) in `directory`; makes no file yet.

    Raises InputError where the format needs a package that is not there.
    """
    path = directory / NAMES[kind]
    if kind == "h5md":
        from .h5md import H5md

        return H5md(path)
    if kind == "lammps":
        from .lammps import LammpsDump

        return LammpsDump(path)
    from .ase_frames import AseTraj, ExtXyz

    return AseTraj(path) if kind == "traj" else ExtXyz(path)
