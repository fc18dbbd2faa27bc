"""Structures out, the same with energies and forces in: by a command of the user's."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms

from ..data import Frame, System, load
from ..data.ase_files import frame_from_atoms
from ..data.writing import write_systems
from ..system import InputError

Labeller = Callable[[list[Atoms]], Sequence[Atoms]]
"""Structures with the energies and forces of a calculator; what could not be computed is left
out."""
SAME = 1e-3
"""Å, by which a labelled structure may differ from the one that was asked for."""


@dataclass(frozen=True)
class Command:
    """Words, among them {input} and {output}; {python} is the interpreter of this process."""

    words: str
    folder: Path
    """Where it runs."""


def labelled(structures: Sequence[Atoms], how: Command | Labeller, folder: Path) -> list[Frame]:
    """Frames with energies and forces, kept in `folder`/labelled.extxyz; read from there where they
    are known already.

    Frames of structures that were left out are missing. Raises InputError where the command fails,
    for a frame that is none of the `structures` or has no energy or forces, and where there is
    none.
    """
    path = folder / "labelled.extxyz"
    if not path.exists():
        bare = [
            Atoms(a.get_chemical_symbols(), a.positions, cell=a.cell, pbc=a.pbc) for a in structures
        ]
        answer = folder / "answer" / "labelled.extxyz"
        answer.parent.mkdir(exist_ok=True)
        answer.unlink(missing_ok=True)
        if isinstance(how, Command):
            frames = _by_command(bare, how, folder, answer)
        else:
            found = enumerate(how(bare))
            frames = [frame_from_atoms(a, f"labelled structure {k}") for k, a in found]
        _check(frames, bare)
        write_systems([System(str(path), frames)], path)
    return [frame for system in load(path) for frame in system.frames]


def _by_command(
    structures: Sequence[Atoms], command: Command, folder: Path, answer: Path
) -> list[Frame]:
    question, log = folder / "structures.extxyz", folder / "label.log"
    ase.io.write(question, structures, format="extxyz", parallel=False)
    places = {
        "{input}": str(question.resolve()),
        "{output}": str(answer.resolve()),
        "{python}": sys.executable,
    }
    words = shlex.split(command.words)
    for place, value in places.items():
        words = [word.replace(place, value) for word in words]
    with open(log, "w", encoding="utf-8") as out:
        try:
            run = subprocess.run(words, cwd=command.folder, stdout=out, stderr=out, check=False)
        except OSError as e:
            raise InputError(f"label: '{words[0]}' cannot be started: {e.strerror or e}") from None
    if run.returncode:
        raise InputError(
            f"label: the command ended with status {run.returncode}, what it said is in {log}; "
            "mend it and start again: what is done is kept"
        )
    if not answer.exists():
        raise InputError(
            f"label: the command did not write {{output}} ({answer}); what it said is in {log}"
        )
    if not answer.stat().st_size:
        return []
    return [frame for system in load(answer) for frame in system.frames]


def _check(frames: Sequence[Frame], structures: Sequence[Atoms]) -> None:
    if not frames:
        raise InputError("label: not one of the structures has been labelled")
    left = list(structures)
    for frame in frames:
        if frame.energy is None or frame.forces is None:
            lacks = "energy" if frame.energy is None else "forces"
            raise InputError(f"label: {frame.source} has no {lacks}; expected energy and forces")
        if not np.isfinite(frame.energy) or not np.isfinite(frame.forces).all():
            raise InputError(f"label: {frame.source} has an energy or force that is not finite")
        found = next((k for k, atoms in enumerate(left) if _same(frame, atoms)), None)
        if found is None:
            raise InputError(
                f"label: {frame.source} is none of the {len(structures)} structures that were "
                "asked for; keep atoms, their order, positions and cell as they are"
            )
        left.pop(found)


def _same(frame: Frame, atoms: Atoms) -> bool:
    """Wrapped into the cell or not."""
    if frame.symbols != tuple(atoms.get_chemical_symbols()):
        return False
    if atoms.pbc.any() and np.abs(frame.cell - atoms.cell.array).max() > SAME:
        return False
    apart = frame.positions - atoms.positions
    if atoms.pbc.any():
        turns = np.round(apart @ np.linalg.inv(atoms.cell.complete().array)) * atoms.pbc
        apart = apart - turns @ atoms.cell.complete().array
    return bool(np.abs(apart).max() < SAME)
