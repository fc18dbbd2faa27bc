"""Readers of DeePMD-kit's `deepmd/npy` folders, plain and mixed, and of the like in HDF5 files.

    type.raw        (n,) integers              type_map.raw   element names, optional if plain
    nopbc           optional, empty: open boundaries
    set.*/coord.npy (frames, 3n) Å             set.*/box.npy  (frames, 9) Å, rows lattice vectors
    set.*/energy.npy (frames,) eV              set.*/force.npy (frames, 3n) eV/Å
    set.*/virial.npy (frames, 9) eV, −volume · stress, positive under compression
    set.*/fparam.npy (frames, k): frame parameters; also (frames, 1, k) and (frames,)
    set.*/real_atom_types.npy (frames, n): mixed format; −1 marks a virtual atom, which is dropped

Arrays may be float32 or float64, and (frames, n, 3), (frames, 3, 3), (frames, 1) are understood.
Where these are files of a folder and where they are data sets of a group, a `Store` knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from ..system import InputError
from .checks import check_frame, read_npy
from .frames import Frame, System

_READ = {"coord", "box", "energy", "force", "virial", "fparam", "real_atom_types"}


class Store(Protocol):
    """What holds a system; `where` is how messages name a piece of it."""

    name: str

    def where(self, *path: str) -> str:
        """A piece, as a person would name it."""

    def has(self, *path: str) -> bool:
        """Whether a piece is there."""

    def words(self, name: str) -> list[str]:
        """The words of `type.raw` or `type_map.raw`."""

    def sets(self) -> list[str]:
        """Names of the parts `set.*`, in order."""

    def arrays(self, part: str) -> list[str]:
        """Names of all `*.npy` of a part."""

    def array(self, part: str, name: str, shapes: Sequence[tuple[int | None, ...]]) -> np.ndarray:
        """One of them, of one of `shapes` (None: any length)."""


class NpyFolder:
    """A system in the files of a folder."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.name = str(folder)

    def where(self, *path: str) -> str:
        return str(self.folder.joinpath(*path))

    def has(self, *path: str) -> bool:
        return self.folder.joinpath(*path).exists()

    def words(self, name: str) -> list[str]:
        path = self.folder / name
        try:
            return path.read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError) as e:
            reason = getattr(e, "strerror", None) or "not a text file"
            raise InputError(f"{path}: cannot be read: {reason}") from None

    def sets(self) -> list[str]:
        return sorted(p.name for p in self.folder.glob("set.*") if p.is_dir())

    def arrays(self, part: str) -> list[str]:
        return sorted(p.name for p in (self.folder / part).glob("*.npy"))

    def array(self, part: str, name: str, shapes: Sequence[tuple[int | None, ...]]) -> np.ndarray:
        return read_npy(self.folder / part / name, shapes)


@dataclass
class _Set:
    """Arrays of one `set.*` folder; a label it does not have is None."""

    positions: np.ndarray
    """(frames, n, 3) Å."""
    cells: np.ndarray
    """(frames, 3, 3) Å."""
    types: np.ndarray | None
    """(frames, n) int, mixed format only."""
    energies: np.ndarray | None
    """(frames,) eV."""
    forces: np.ndarray | None
    """(frames, n, 3) eV/Å."""
    virials: np.ndarray | None
    """(frames, 3, 3) eV."""
    fparams: np.ndarray | None
    """(frames, k)."""


def read_deepmd_npy(
    folder: str | Path,
    type_map: Sequence[str] | None = None,
    broken: list[InputError] | None = None,
) -> System:
    """The system in `folder`; see `read_system`."""
    return read_system(NpyFolder(folder), type_map, broken)


def read_system(
    store: Store,
    type_map: Sequence[str] | None = None,
    broken: list[InputError] | None = None,
) -> System:
    """The system in a folder or an HDF5 group.

    One without `type_map.raw` means `type_map`, against which every frame's elements are
    checked in any case. Raises InputError naming the file (and frame) for whatever is wrong; with a
    list `broken`, single frames that are wrong are left out, and entered there with what is wrong.
    """
    types = _read_types(store)
    sets = store.sets()
    if not sets:
        raise InputError(
            f"{store.name}: has type.raw but no folder set.*; convert raw text first: "
            f"dpl convert-data {store.name} NEW --from deepmd/raw"
        )
    mixed = [part for part in sets if store.has(part, "real_atom_types.npy")]
    if mixed and len(mixed) < len(sets):
        missing = next(part for part in sets if part not in mixed)
        raise InputError(
            f"{store.where(missing)}: real_atom_types.npy is missing, but {store.where(mixed[0])} "
            "has one; a system is mixed in all of its sets or in none"
        )
    names = _names(store, type_map, mixed=bool(mixed))
    if not mixed:
        _check_types(types, names, 0, store.where("type.raw"))
    periodic = not store.has("nopbc")
    read: list[Frame] = []
    for part in sets:
        arrays = _read_set(store, part, len(types), periodic, bool(mixed))
        read += _frames(store.where(part), arrays, types, names, periodic)
    frames = []
    for frame in read:
        try:
            check_frame(frame, type_map)
        except InputError as e:
            if broken is None:
                raise
            broken.append(e)
        else:
            frames.append(frame)
    notes = _notes(store, sets)
    if not store.has("type_map.raw"):
        meaning = ", ".join(f"{k} = {name}" for k, name in enumerate(names))
        notes.append(f"no type_map.raw: types taken as {meaning}")
    return System(store.name, frames, notes)


def _read_types(store: Store) -> np.ndarray:
    """(n,) integers of `type.raw`."""
    words = store.words("type.raw")
    if not words:
        raise InputError(f"{store.where('type.raw')}: is empty; expected the type of each atom")
    try:
        return np.array([int(word) for word in words], dtype=np.int64)
    except (ValueError, OverflowError) as e:
        raise InputError(
            f"{store.where('type.raw')}: expected one small integer for each atom ({e})"
        ) from None


def _names(store: Store, type_map: Sequence[str] | None, mixed: bool) -> list[str]:
    """What the integers of the system stand for."""
    where = store.where("type_map.raw")
    if store.has("type_map.raw"):
        names = store.words("type_map.raw")
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise InputError(f"{where}: {', '.join(doubled)} is listed more than once")
        return names
    if mixed:
        raise InputError(f"{where}: is missing; the mixed format needs it")
    if type_map is None:
        raise InputError(f"{where}: is missing; add it (one element a line) or give a type map")
    return list(type_map)


def _check_types(types: np.ndarray, names: Sequence[str], lowest: int, where: str) -> None:
    """`types` are integers from `lowest` to the last of `names`."""
    wrong = (types < lowest) | (types >= len(names)) | (types != np.floor(types))
    if wrong.any():
        at = np.unravel_index(int(np.argmax(wrong)), types.shape)
        frame = f", frame {at[0]}" if types.ndim == 2 else ""
        raise InputError(
            f"{where}{frame}: atom {at[-1]} has type {types[at]:g}, expected {lowest} to "
            f"{len(names) - 1} ({len(names)} elements: {' '.join(names)})"
        )


def _read_set(store: Store, part: str, n: int, periodic: bool, mixed: bool) -> _Set:
    """The arrays of one `set.*` of n atoms (virtual ones included)."""
    vectors = [(None, 3 * n), (None, n, 3)]
    positions = store.array(part, "coord.npy", vectors)
    n_frames = len(positions)
    if n_frames == 0:
        raise InputError(f"{store.where(part, 'coord.npy')}: has no frames; remove the folder")

    def read(name: str, shapes: list[tuple[int, ...]]) -> np.ndarray:
        array = store.array(part, f"{name}.npy", [(n_frames, *shape) for shape in shapes])
        return array.reshape(n_frames, *shapes[-1]).astype(np.float64)

    def parameters() -> np.ndarray:
        shapes: list[tuple[int | None, ...]] = [(n_frames, None), (n_frames, 1, None), (None,)]
        found = store.array(part, "fparam.npy", shapes)
        if found.size % n_frames:
            raise InputError(
                f"{store.where(part, 'fparam.npy')}: {found.size} numbers are not as many for each "
                f"of {n_frames} frames; give an array of shape ({n_frames}, numb_fparam)"
            )
        return found.reshape(n_frames, found.size // n_frames).astype(np.float64)

    def optional(name: str, shapes: list[tuple[int, ...]]) -> np.ndarray | None:
        return read(name, shapes) if store.has(part, f"{name}.npy") else None

    if periodic and not store.has(part, "box.npy"):
        raise InputError(
            f"{store.where(part, 'box.npy')}: is missing; an open system needs an empty file "
            f"{store.where('nopbc')}"
        )
    matrices: list[tuple[int, ...]] = [(9,), (3, 3)]
    types = read("real_atom_types", [(n,)]) if mixed else None
    return _Set(
        positions=positions.reshape(n_frames, n, 3).astype(np.float64),
        cells=read("box", matrices) if periodic else np.zeros((n_frames, 3, 3)),
        types=types,
        energies=optional("energy", [(1,), ()]),
        forces=optional("force", [(3 * n,), (n, 3)]),
        virials=optional("virial", matrices),
        fparams=parameters() if store.has(part, "fparam.npy") else None,
    )


def _frames(
    path: str, arrays: _Set, types: np.ndarray, names: list[str], periodic: bool
) -> list[Frame]:
    if arrays.types is not None:
        _check_types(arrays.types, names, -1, f"{path}/real_atom_types.npy")
    shared = tuple(names[t] for t in types) if arrays.types is None else ()
    pbc = np.full(3, periodic)
    frames = []
    for i, positions in enumerate(arrays.positions):
        forces = None if arrays.forces is None else arrays.forces[i]
        symbols = shared
        if arrays.types is not None:
            real = arrays.types[i] >= 0
            symbols = tuple(names[int(t)] for t in arrays.types[i][real])
            positions = positions[real]
            forces = None if forces is None else forces[real]
        frames.append(
            Frame(
                symbols=symbols,
                positions=positions,
                cell=arrays.cells[i],
                pbc=pbc,
                energy=None if arrays.energies is None else float(arrays.energies[i]),
                forces=forces,
                virial=None if arrays.virials is None else arrays.virials[i],
                fparam=None if arrays.fparams is None else arrays.fparams[i],
                source=f"{path}, frame {i}",
            )
        )
    return frames


def _notes(store: Store, sets: Sequence[str]) -> list[str]:
    """Label files that nothing here uses."""
    found = {name for part in sets for name in store.arrays(part)}
    extra = sorted(name for name in found if name.removesuffix(".npy") not in _READ)
    return [f"not used: {', '.join(extra)}"] if extra else []
