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
LABELLED, QUESTION, LOG = "labelled.extxyz", "structures.extxyz", "label.log"
PARTIAL = "partial-{}.extxyz"
SAME = 1e-3
"""Å, by which a labelled structure may differ from the one that was asked for."""


@dataclass(frozen=True)
class Command:
    """Words, among them {input} and {output}; {python} is the interpreter of this process."""

    words: str
    folder: Path
    """Where it runs."""


def is_labelled(folder: Path) -> bool:
    """Whether the labels of a folder are there."""
    return (folder / LABELLED).exists()


def labelled(structures: Sequence[Atoms], how: Command | Labeller, folder: Path) -> list[Frame]:
    """Frames with energies and forces, kept in `folder`/labelled.extxyz; read from there where they
    are known already, whatever the `structures`.

    Frames of structures that were left out are missing. What a command had labelled before it
    failed is not asked for again. Raises InputError where the command fails, for a frame that is
    none of the `structures` or has no energy or forces, and where there is none.
    """
    path = folder / LABELLED
    if not path.exists():
        bare = [
            Atoms(a.get_chemical_symbols(), a.positions, cell=a.cell, pbc=a.pbc) for a in structures
        ]
        frames, left = _known(bare, folder)
        if not left:
            pass
        elif isinstance(how, Command):
            frames += _by_command(left, how, folder)
        else:
            found = enumerate(how(left))
            frames += [frame_from_atoms(a, f"labelled structure {k}") for k, a in found]
        if not frames:
            raise InputError("label: not one of the structures has been labelled")
        _rest(frames, bare)
        write_systems([System(str(path), frames)], path)
    return _read(path)


def _read(path: Path) -> list[Frame]:
    if not path.stat().st_size:
        return []
    return [frame for system in load(path) for frame in system.frames]


def _by_command(structures: Sequence[Atoms], command: Command, folder: Path) -> list[Frame]:
    question, log, answer = folder / QUESTION, folder / LOG, folder / "answer" / LABELLED
    answer.parent.mkdir(exist_ok=True)
    answer.unlink(missing_ok=True)
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
        n = _keep(answer, structures, folder)
        raise InputError(
            f"label: the command ended with status {run.returncode}, what it said is in {log}; "
            f"mend it and start again; {n} of {len(structures)} structures were labelled before "
            "and are kept"
        )
    if not answer.exists():
        raise InputError(
            f"label: the command did not write {{output}} ({answer}); what it said is in {log}"
        )
    return _read(answer)


def _keep(answer: Path, structures: Sequence[Atoms], folder: Path) -> int:
    """Put aside what a command had labelled before it failed; how many structures."""
    try:
        frames = _read(answer) if answer.exists() else []
        _rest(frames, structures)
    except InputError:  # cut off in the middle, or something else
        return 0
    if frames:
        path = folder / PARTIAL.format(len(list(folder.glob(PARTIAL.format("*")))))
        write_systems([System(str(path), frames)], path)
    return len(frames)


def _known(structures: Sequence[Atoms], folder: Path) -> tuple[list[Frame], list[Atoms]]:
    """What was put aside of these structures, and those that are not among it."""
    aside = [frame for path in sorted(folder.glob(PARTIAL.format("*"))) for frame in _read(path)]
    frames = [frame for frame in aside if any(_same(frame, atoms) for atoms in structures)]
    return frames, _rest(frames, structures)


def _rest(frames: Sequence[Frame], structures: Sequence[Atoms]) -> list[Atoms]:
    """The structures without a frame. Raises InputError for frames of no structure or that lack a
    label."""
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
    return left


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
