"""Writing frames: deepmd/npy (plain and mixed), the like in HDF5, and extended XYZ.

Everything is float64. Frames of unlike atoms, periodicity or labels, or of another number of frame
parameters, become systems of their own, named by their formula (mixed: by their number of atoms).
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..elements import no_elements
from ..files import check_writable, temporary_name, writing
from ..system import InputError
from .frames import Frame, System, elements_of
from .hdf5 import SUFFIXES, write_groups

OF_OTHERS = (
    *(".traj", ".json", ".db", ".vasp", ".cif", ".pdb", ".lammpstrj", ".npz", ".npy"),
    *(".gz", ".xz", ".bz2", ".zip", ".tar"),
)
"""Suffixes that nobody gives to a folder."""
FORMATS = ("extxyz", "deepmd/npy", "deepmd/npy/mixed", "deepmd/hdf5")


def format_of(path: Path) -> str:
    """The format that a name stands for: a suffix of extended XYZ or HDF5, else deepmd/npy.

    Raises InputError for a suffix of another format.
    """
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return "deepmd/hdf5"
    if suffix in OF_OTHERS:
        raise InputError(
            f"{path}: {path.suffix} is not written; expected .extxyz, .h5, or a folder's name for "
            "deepmd/npy (--to says which whatever the name)"
        )
    return "extxyz" if suffix in (".extxyz", ".xyz") else "deepmd/npy"


def target_of(path: str | Path, kind: str | None = None) -> tuple[Path, str]:
    """Where and in which format (default: by the name) `write_systems` writes.

    Raises InputError where something is there already, or nothing can be written.
    """
    path = Path(path).resolve() if Path(path).name in ("", "..") else Path(path)
    kind = kind or format_of(path)
    if kind not in FORMATS:
        raise InputError(f"--to {kind}: expected one of {', '.join(FORMATS)}")
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise InputError(f"{path}: exists already; give another name, or remove it")
    check_writable(path, file=True)
    return path, kind


def write_systems(
    systems: Sequence[System],
    path: str | Path,
    kind: str | None = None,
    type_map: Sequence[str] | None = None,
) -> list[str]:
    """Write all frames to `path` in the format `kind` (default: by the name); returns notes.

    `type_map`: order of the elements in type_map.raw (default: alphabetical). Nothing is there, or
    all of it. Raises InputError where something is there already, for elements that `type_map`
    lacks, and for frames that the format cannot hold.
    """
    path, kind = target_of(path, kind)
    frames = [frame for system in systems for frame in system.frames]
    temporary = temporary_name(path)
    notes: list[str] = []
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if kind == "extxyz":
                _write_extxyz(frames, temporary)
            else:
                names = _elements(frames, type_map)
                pieces = _pieces(frames, names, mixed=kind.endswith("mixed"))
                notes = _lost(frames)
                if kind == "deepmd/hdf5":
                    write_groups(temporary, pieces)
                else:
                    _write_folders(temporary, pieces)
            if path.is_dir():
                path.rmdir()
            os.replace(temporary, path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
    return notes


def _elements(frames: Sequence[Frame], type_map: Sequence[str] | None) -> list[str]:
    present = elements_of(frames)
    missing = [e for e in present if type_map is not None and e not in type_map]
    if missing:
        raise InputError(f"--type-map {' '.join(type_map or ())}: lacks {', '.join(missing)}")
    return present if type_map is None else list(type_map)


def _lost(frames: Sequence[Frame]) -> list[str]:
    """What deepmd/npy cannot hold."""
    notes = []
    if any(frame.weight != 1.0 for frame in frames):
        notes.append("weights of frames are not written: deepmd/npy has no place for them")
    if any(frame.config_type is not None for frame in frames):
        notes.append("config_type is not written: deepmd/npy has no place for it")
    if any(frame.head is not None for frame in frames):
        notes.append("head is not written: deepmd/npy has no place for it")
    return notes


# --- deepmd/npy -------------------------------------------------------------------------------


def _pieces(
    frames: Sequence[Frame], names: Sequence[str], mixed: bool
) -> dict[str, dict[str, Any]]:
    """Of each system, by the path of each piece: an array, a list of words, or None (a marker)."""
    groups: dict[Hashable, list[Frame]] = {}
    for frame in frames:
        if frame.pbc.any() != frame.pbc.all():
            axes = "".join(a for a, p in zip("xyz", frame.pbc, strict=True) if p)
            raise InputError(
                f"{frame.source}: is periodic along {axes} only, but deepmd/npy knows all or none; "
                "write extended XYZ"
            )
        labels = tuple(x is not None for x in (frame.energy, frame.forces, frame.virial))
        n_fparam = 0 if frame.fparam is None else len(frame.fparam)
        atoms = frame.n_atoms if mixed else frame.symbols
        groups.setdefault((atoms, bool(frame.pbc.all()), labels, n_fparam), []).append(frame)
    systems: dict[str, dict[str, Any]] = {}
    for group in groups.values():
        name = str(group[0].n_atoms) if mixed else _formula(group[0].symbols)
        alike = sum(1 for known in systems if known.partition(".")[0] == name)
        systems[f"{name}.{alike}" if alike else name] = _system(group, names, mixed)
    return systems


def _formula(symbols: Sequence[str]) -> str:
    """Elements in alphabetical order, each with its number of atoms."""
    return "".join(f"{element}{n}" for element, n in sorted(Counter(symbols).items()))


def _system(group: Sequence[Frame], names: Sequence[str], mixed: bool) -> dict[str, Any]:
    """The pieces of one system from frames that are alike."""
    first, n = group[0], len(group)
    types = np.array([[names.index(s) for s in frame.symbols] for frame in group])
    shared = np.zeros(first.n_atoms, dtype=int) if mixed else types[0]
    pieces: dict[str, Any] = {"type.raw": shared, "type_map.raw": list(names)}
    if not first.pbc.all():
        pieces["nopbc"] = None
    part = "set.000"
    pieces[f"{part}/coord.npy"] = np.stack([f.positions for f in group]).reshape(n, -1)
    pieces[f"{part}/box.npy"] = np.stack([f.cell for f in group]).reshape(n, 9)
    if mixed:
        pieces[f"{part}/real_atom_types.npy"] = types
    if first.energy is not None:
        pieces[f"{part}/energy.npy"] = np.array([f.energy for f in group], dtype=np.float64)
    for name, label in (("force", "forces"), ("virial", "virial"), ("fparam", "fparam")):
        if getattr(first, label) is not None:
            values = np.stack([getattr(f, label) for f in group])
            pieces[f"{part}/{name}.npy"] = values.reshape(n, -1)
    return pieces


def _write_folders(top: Path, systems: Mapping[str, Mapping[str, Any]]) -> None:
    for name, pieces in systems.items():
        for piece, value in pieces.items():
            path = top / name / piece
            path.parent.mkdir(parents=True, exist_ok=True)
            if piece.endswith(".npy"):
                np.save(path, value)
            else:  # text, a word a line
                words = () if value is None else value
                path.write_text("".join(f"{word}\n" for word in words), encoding="utf-8")


# --- extended XYZ -----------------------------------------------------------------------------


def _write_extxyz(frames: Sequence[Frame], path: Path) -> None:
    """With energy, forces and stress (eV/Å³, tension positive) where ASE looks for them.

    ASE itself would write eight decimals; these numbers are read as they were.
    """
    with path.open("w", encoding="utf-8") as stream:
        for frame in frames:
            unknown = no_elements(sorted(set(frame.symbols)))
            if unknown:
                raise InputError(
                    f"{frame.source}: {', '.join(unknown)} is no chemical symbol, which extended "
                    "XYZ needs; write deepmd/npy"
                )
            rows = frame.positions
            if frame.forces is not None:
                rows = np.concatenate([rows, frame.forces], axis=1)
            stream.write(f"{frame.n_atoms}\n{_comment(frame)}\n")
            stream.writelines(
                f"{symbol} {_numbers(row)}\n"
                for symbol, row in zip(frame.symbols, rows, strict=True)
            )


def _comment(frame: Frame) -> str:
    """The second line of a frame.

    A virial that is no stress (an open system, or not symmetric) stays a virial (eV, by rows).
    """
    from ase.io.extxyz import key_val_dict_to_str

    forces = "" if frame.forces is None else ":forces:R:3"
    words = [f"Properties=species:S:1:pos:R:3{forces}"]
    if frame.cell.any():
        words.append(f'Lattice="{_numbers(frame.cell)}"')
    words.append('pbc="{} {} {}"'.format(*("FT"[int(p)] for p in frame.pbc)))
    if frame.energy is not None:
        words.append(f"energy={float(frame.energy)!r}")
    virial = frame.virial
    if virial is not None:
        if frame.pbc.all() and np.allclose(virial, virial.T, rtol=1e-6, atol=1e-9):
            stress = -0.5 * (virial + virial.T) / abs(np.linalg.det(frame.cell))
            words.append(f'stress="{_numbers(stress)}"')
        else:
            words.append(f'virial="{_numbers(virial)}"')
    if frame.fparam is not None:
        numbers = _numbers(frame.fparam)
        words.append(f'fparam="{numbers}"' if len(frame.fparam) > 1 else f"fparam={numbers}")
    if frame.weight != 1.0:
        words.append(f"weight={float(frame.weight)!r}")
    if frame.config_type is not None:
        words.append(key_val_dict_to_str({"config_type": frame.config_type}))
    if frame.head is not None:
        words.append(key_val_dict_to_str({"head": frame.head}))
    return " ".join(words)


def _numbers(values: np.ndarray) -> str:
    """With the digits that give the same float64 again."""
    return " ".join(map(repr, np.asarray(values, dtype=np.float64).ravel().tolist()))
