"""The structure that a run begins from: a file that ASE reads, LAMMPS data files among them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.data import atomic_masses, atomic_numbers

from ..data.places import place_of
from ..system import DeepmdLiteError, InputError

LAMMPS_SUFFIXES = (".data", ".lmp", ".lammps", ".lmpdat")
HEADER_LINES = 1000
"""Of a LAMMPS data file, in which its counts, masses and labels are looked for."""
MASS_TOLERANCE = 0.5
"""u, by which a mass may differ from that of the element it stands for."""


def read_structure(path: str, elements: Sequence[str] | None = None) -> Atoms:
    """The last frame of a file, or the one that `path@index` names.

    A file with one of `LAMMPS_SUFFIXES` is a LAMMPS data file in units metal; `elements` names its
    atom types 1, 2, …, which otherwise follow from its type labels or masses. Raises InputError for
    what cannot be read, and where the elements are not certain.
    """
    place = place_of(path)
    name = place.path
    if place.labels or place.head is not None:
        raise InputError(f"structure: {path}: what follows '#' chooses data; name one frame by @")
    if not Path(name).exists():
        raise InputError(f"structure: {path}: no such file")
    lammps = Path(name).suffix.lower() in LAMMPS_SUFFIXES
    if elements is not None and not lammps:
        raise InputError(
            f"elements {list(elements)}: they name the atom types of a LAMMPS data file "
            f"({', '.join(LAMMPS_SUFFIXES)}); {name} has its own names, leave the key out"
        )
    try:
        found = _read_lammps(name, elements) if lammps else _read_frame(path)
    except DeepmdLiteError:
        raise
    except Exception as e:
        if name != path and isinstance(e, (StopIteration, IndexError)):
            raise InputError(
                f"structure: {path}: {name} has no such frame; they are counted from 0, and @-1 is "
                "the last one"
            ) from None
        reason = " ".join(str(e).split()) or type(e).__name__
        raise InputError(f"structure: {path}: ASE cannot read it: {reason}") from None
    if isinstance(found, list):
        raise InputError(f"structure: {path}: names {len(found)} frames, expected one")
    return found


def _read_frame(path: str) -> Atoms | list[Atoms]:
    """As ASE reads it, but where `path@-3` goes back beyond the first frame ASE takes that one."""
    name, _, index = path.rpartition("@")
    if name and not Path(path).exists() and re.fullmatch(r"-0*[1-9]\d*", index):
        from_there = _read(f"{name}@{index}:")
        if not isinstance(from_there, list) or len(from_there) != -int(index):
            raise IndexError(index)
        return from_there[0]
    return _read(path)


def _read(name: str, **options: Any) -> Atoms | list[Atoms]:
    """What ASE reads; under MPI it would send all of it to ranks that do not listen."""
    whole = Path(name).exists()  # whatever its name has an @ for
    return ase.io.read(name, parallel=False, do_not_split_by_at_sign=whole, **options)


def _read_lammps(name: str, elements: Sequence[str] | None) -> Atoms:
    """ASE would take types for H, He, … where a file names no elements; here that is an error."""
    with open(name, encoding="utf-8") as f:
        head = "".join(islice(f, HEADER_LINES))
    count = re.search(r"^\s*(\d+)\s+atom\s+types\b", head, re.MULTILINE)
    if count is None:
        raise InputError(f"structure: {name}: is not a LAMMPS data file: no line 'N atom types'")
    n_types = int(count.group(1))
    if elements is None:
        if not re.search(r"^\s*(Masses|Atom Type Labels)\b", head, re.MULTILINE):
            raise InputError(
                f"structure: {name}: neither masses nor type labels say which elements its "
                f"{n_types} atom types are; give them in order, for example elements: [O, H]"
            )
        atoms = _read(name, format="lammps-data")
        assert isinstance(atoms, Atoms)
        _check_masses(name, atoms)
        return atoms
    unknown = [e for e in elements if e not in atomic_numbers or e == "X"]
    if unknown or len(elements) != n_types:
        raise InputError(
            f"elements {list(elements)}: expected {n_types} element symbols, one for each atom "
            f"type of {name}" + (f"; {unknown[0]!r} is none" if unknown else "")
        )
    numbers = {k + 1: atomic_numbers[e] for k, e in enumerate(elements)}
    named = _read(name, format="lammps-data", Z_of_type=numbers)
    assert isinstance(named, Atoms)
    return named


def _check_masses(name: str, atoms: Atoms) -> None:
    """Elements were guessed as the nearest in mass; it must be near."""
    off = np.abs(atoms.get_masses() - atomic_masses[atoms.numbers])
    if len(off) and off.max() > MASS_TOLERANCE:
        k = int(off.argmax())
        raise InputError(
            f"structure: {name}: a mass of {atoms.get_masses()[k]:g} u is that of no element "
            f"({atoms.symbols[k]}, the nearest, has {atomic_masses[atoms.numbers[k]]:.3f} u); "
            "give the elements of the atom types in order, for example elements: [O, H]"
        )
