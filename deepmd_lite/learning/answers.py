"""What comes back from labelling, frame by frame: a wrong one spoils no other."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from ase import Atoms

from ..data import Frame
from ..data.ase_files import frame_from_atoms, read_ase_file
from ..data.checks import check_frame
from ..system import InputError

SAME = 1e-3
"""Å, by which a labelled structure may differ from the one that was asked for."""
_COUNT = re.compile(rb"^(?=[ \t]*\d+[ \t\r]*$)", re.MULTILINE)
"""Before a line with nothing but a number, of atoms: there a frame of extended XYZ begins."""


def frames_in(path: Path) -> Iterator[Frame | InputError]:
    """The frames of an extended XYZ file, in the place of one that is cut off or wrong what is
    wrong with it.

    Raises InputError where the file cannot be read at all.
    """
    try:
        content = path.read_bytes()
    except OSError as e:
        raise InputError(f"{path}: cannot be read: {e.strerror or e}") from None
    blocks = [block for block in _COUNT.split(content) if block.strip()]
    for k, block in enumerate(blocks):
        try:
            yield from _read(block, f"{path}, frame {k}")
        except InputError as e:
            yield e


def _read(block: bytes, source: str) -> list[Frame]:
    """A frame, by the reader of files: nothing is read here that a training would not read."""
    if not block.endswith(b"\n"):  # the last number may lack digits
        raise InputError(f"{source}: is cut off, its last line has no end")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frame.extxyz"
        path.write_bytes(block)
        try:
            frames = read_ase_file(path).frames
        except InputError as e:
            message = str(e).replace(f"{path}, frame 0", source).replace(str(path), source)
            raise InputError(message) from None
    return [replace(frame, source=source) for frame in frames]


def frames_of(found: Iterable[Atoms]) -> Iterator[Frame | InputError]:
    """The same from structures with calculators."""
    for k, atoms in enumerate(found):
        try:
            frame = frame_from_atoms(atoms, f"labelled structure {k}")
            check_frame(frame)
            yield frame
        except InputError as e:
            yield e


def judged(
    found: Iterable[Frame | InputError], structures: Sequence[Atoms]
) -> tuple[dict[int, Frame], list[str]]:
    """Labels by the place of their structure, and what is wrong with the frames that are none.

    A structure that comes back twice counts once where its labels agree, and not at all where they
    do not: one of them is wrong, nobody knows which.
    """
    faults: list[str] = []
    by_place: dict[int, list[Frame]] = {}
    for frame in found:
        if isinstance(frame, InputError):
            faults.append(str(frame))
        elif frame.energy is None or frame.forces is None:
            lacks = "energy" if frame.energy is None else "forces"
            faults.append(f"{frame.source} has no {lacks}; expected energy and forces")
        elif places := [k for k, atoms in enumerate(structures) if same(frame, atoms)]:
            # equal structures may have been asked for
            place = next((k for k in places if k not in by_place), places[0])
            by_place.setdefault(place, []).append(frame)
        else:
            faults.append(
                f"{frame.source} is none of the {len(structures)} structures that were asked for; "
                "keep atoms, their order, positions, cell and pbc as they are"
            )
    labels = {}
    for place, (first, *others) in by_place.items():
        other = next((f for f in others if not _agree(first, f)), None)
        if other is None:
            labels[place] = first
        else:
            faults.append(
                f"{other.source} is the structure of {first.source} once more, with other labels; "
                "write each structure once"
            )
    return labels, faults


def same(frame: Frame, atoms: Atoms) -> bool:
    """Whether a frame is this structure, wrapped into the cell or not."""
    if frame.symbols != tuple(atoms.get_chemical_symbols()) or (frame.pbc != atoms.pbc).any():
        return False
    if atoms.pbc.any() and np.abs(frame.cell - atoms.cell.array).max() > SAME:
        return False
    apart = frame.positions - atoms.positions
    if atoms.pbc.any():
        turns = np.round(apart @ np.linalg.inv(atoms.cell.complete().array)) * atoms.pbc
        apart = apart - turns @ atoms.cell.complete().array
    return bool(np.abs(apart).max() < SAME)


def _agree(one: Frame, other: Frame) -> bool:
    """Energies to 1e-5 eV/atom, forces to 1e-4 eV/Å: rounding in files."""
    energies = np.array([one.energy, other.energy], dtype=float)
    forces = np.array([one.forces, other.forces], dtype=float)
    return bool(np.ptp(energies) <= 1e-5 * one.n_atoms and np.ptp(forces, axis=0).max() <= 1e-4)
