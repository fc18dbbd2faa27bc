"""What every reader returns: frames (a structure with its labels) grouped into systems."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

MANY, FIRST, MOST_ODD = 20, 5, 10
"""Of more systems than that, so many are described, and so many of those that are odd."""
NAMED = 3
"""Systems that a line names before it counts the others."""
LABELS = ("energy", "forces", "virial")
ANOTHER_ZERO = 0.5
"""eV/atom between data and a model of them, in all frames alike, that no accuracy explains."""


@dataclass
class Frame:
    """One structure and whatever of energy, forces and virial is known of it."""

    symbols: tuple[str, ...]
    """(n,) element of each atom."""
    positions: np.ndarray
    """(n, 3) float64, Å; atoms may lie outside the cell."""
    cell: np.ndarray
    """(3, 3) float64, Å, rows are lattice vectors; all zero where no direction is periodic."""
    pbc: np.ndarray
    """(3,) bool."""
    energy: float | None = None
    """Total energy, eV."""
    forces: np.ndarray | None = None
    """(n, 3) float64, eV/Å."""
    virial: np.ndarray | None = None
    """(3, 3) float64, eV: +Σ r ⊗ f = −volume · stress (ASE's sign), positive under compression."""
    fparam: np.ndarray | None = None
    """(k,) float64: what the energy depends on beside the atoms, an electronic temperature say, in
    whatever units the data have."""
    weight: float = 1.0
    """Factor of the frame's terms in the loss."""
    config_type: str | None = None
    """Group the frame belongs to, where the file names one."""
    head: str | None = None
    """Level of theory of the labels, where the file names one; a model knows of none."""
    source: str = "frame"
    """File and frame number (from 0), as error messages name it."""

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return len(self.symbols)


@dataclass
class System:
    """The frames of one file or of one deepmd/npy folder; sizes and elements may vary."""

    name: str
    """Path as the user would write it."""
    frames: list[Frame]
    notes: list[str] = field(default_factory=list)
    """What was left out or decided while reading, one line each."""

    @property
    def elements(self) -> list[str]:
        """Elements present, in alphabetical order."""
        return elements_of(self.frames)

    def summary(self) -> str:
        """Frames, sizes, elements and labels in one line."""
        sizes = {frame.n_atoms for frame in self.frames}
        atoms = f"{min(sizes)}-{max(sizes)}" if len(sizes) > 1 else f"{min(sizes, default=0)}"
        return (
            f"{self.name}: {counted(len(self.frames), 'frame')}, "
            f"{atoms} atom{'' if atoms == '1' else 's'}, "
            f"elements {' '.join(self.elements)}, {_labels(self.frames)}"
        )


def elements_of(frames: Iterable[Frame]) -> list[str]:
    """Elements present in the frames, in alphabetical order."""
    return sorted({symbol for symbols in {f.symbols for f in frames} for symbol in symbols})


def describe(systems: Sequence[System]) -> str:
    """One line for each system, its notes indented below it, and a line of totals.

    Of many systems: the first ones, those that are odd (with a note that none before has, or
    without a label that others have) as far as they are few, and the number of the others.
    """
    shown = list(systems) if len(systems) <= MANY else _telling(systems)
    lines = []
    for system in shown:
        lines.append(system.summary())
        lines += [f"  note: {note}" for note in system.notes]
    if len(shown) < len(systems):
        lines.append(f"… and {counted(len(systems) - len(shown), 'system')} more")
    frames = [frame for system in systems for frame in system.frames]
    n_atoms = sum(frame.n_atoms for frame in frames)
    lines.append(
        f"total: {counted(len(systems), 'system')}, {counted(len(frames), 'frame')}, "
        f"{counted(n_atoms, 'atom')}, elements {' '.join(elements_of(frames))}, {_labels(frames)}"
    )
    return "\n".join(lines)


def _telling(systems: Sequence[System]) -> list[System]:
    """Those that `describe` shows of many."""
    shown = list(systems[:FIRST])
    told = {note for system in shown for note in system.notes}
    without = {id(s) for label in LABELS for s in lacking(systems, label)}
    for system in systems[FIRST:]:
        if len(shown) == FIRST + MOST_ODD:
            break
        if id(system) in without or not told.issuperset(system.notes):
            shown.append(system)
            told |= set(system.notes)
    return shown


def lacking(systems: Sequence[System], label: str) -> list[System]:
    """Systems no frame of which has a label that most of them have.

    Single atoms have no forces to be missed, and open systems no virial.
    """
    able = _able(systems, label)
    without = [s for s in able if all(getattr(f, label) is None for f in s.frames)]
    return without if 2 * len(without) < len(able) else []


def _able(systems: Sequence[System], label: str) -> list[System]:
    return [s for s in systems if any(_may_have(frame, label) for frame in s.frames)]


def _may_have(frame: Frame, label: str) -> bool:
    if label == "forces":
        return frame.n_atoms > 1
    return label != "virial" or bool(frame.pbc.all())


def lacking_in_words(systems: Sequence[System], label: str) -> str:
    """A line on the systems that lack a label which others have; empty where none does."""
    without = lacking(systems, label)
    if not without:
        return ""
    names = ", ".join(system.name for system in without[:NAMED])
    more = f" and {len(without) - NAMED} more" if len(without) > NAMED else ""
    n = sum(len(system.frames) for system in without)
    others = counted(len(_able(systems, label)) - len(without), "other system")
    return f"{names}{more}: no {label} in {counted(n, 'frame')}, which {others} have"


def counted(n: int, noun: str) -> str:
    """'1 frame', '2 frames'."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _labels(frames: Sequence[Frame]) -> str:
    n = len(frames)
    energies = sum(frame.energy is not None for frame in frames)
    forces = sum(frame.forces is not None for frame in frames)
    virials = sum(frame.virial is not None for frame in frames)
    fparams = sum(frame.fparam is not None for frame in frames)
    return f"energy {energies}/{n} frames, forces {forces}/{n}, virial {virials}/{n}" + (
        f", fparam {fparams}/{n}" if fparams else ""
    )
