"""Systems in HDF5 files, as `FILE#/GROUP` names them: groups and data sets for folders and files.

/H2O/type.raw  (n,) integers    /H2O/type_map.raw  (elements,) text    /H2O/nopbc  optional
/H2O/set.000/coord.npy  (frames, 3n) and so on: see `deepmd_npy`
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..system import InputError
from .checks import matching

SUFFIXES = (".hdf5", ".h5")
DENSEST = 2000
"""No compression makes numbers so many times smaller: a data set that claims it is damaged."""


def is_hdf5(path: str | Path) -> bool:
    """Whether a path names an HDF5 file, or a group in one that exists."""
    name, mark, _ = str(path).partition("#")
    if not mark:
        return Path(name).suffix in SUFFIXES and Path(name).is_file()
    return not Path(path).exists() and Path(name).is_file()


_ERRNO = re.compile(r"\berrno = (\d+)")


@contextmanager
def opened(path: str | Path) -> Iterator[Any]:
    """The file, as h5py has it, to be read.

    Raises InputError if it cannot be opened or, within the block, turns out to be damaged, and
    where h5py is not installed.
    """
    h5py = h5py_for(path)
    try:
        file = h5py.File(path, "r")
    except OSError as e:
        reason = str(e).split("(")[-1].rstrip(")") or "not an HDF5 file"
        raise InputError(f"{path}: cannot be opened as HDF5: {reason}") from None
    with file:
        try:
            yield file
        except InputError:
            raise
        except (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError) as e:
            raise InputError(f"{path}: is damaged, or holds no systems: {_one_line(e)}") from None


def h5py_for(path: str | Path) -> Any:
    """h5py, to read or write `path`. Raises InputError where it is not installed."""
    try:
        import h5py
    except ImportError:
        raise InputError(
            f"{path}: HDF5 files need h5py: pip install 'deepmd_lite[hdf5]' or pip install h5py"
        ) from None
    return h5py


def member(group: Any, path: Sequence[str]) -> Any:
    """The piece at `path` of a group; None where it does not lie in this very file.

    A link may lead to any other file.
    """
    for name in path:
        if not hasattr(group, "get"):
            return None
        if type(group.get(name, getlink=True)).__name__ != "HardLink":
            return None
        group = group[name]
    return group


def is_stored(dataset: Any) -> bool:
    """Whether a data set is stored in enough bytes to hold the numbers that it claims."""
    return bool(dataset.nbytes <= DENSEST * dataset.id.get_storage_size())


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def groups(path: str | Path) -> list[str]:
    """`FILE#/GROUP` of every system at or below what `path` names, in order of name.

    Raises InputError where there is none.
    """
    name, _, inside = str(path).partition("#")
    found = []
    with opened(name) as file:
        top = file.get(inside or "/")
        if top is None or not hasattr(top, "visit"):
            raise InputError(
                f"{name}: no group '{inside}' in it; it has {', '.join(file) or 'none'}"
            )
        paths = [""]
        top.visit(paths.append)
        for group in paths:
            if f"{group}/type.raw".lstrip("/") in top:
                found.append(f"{name}#/{'/'.join(p for p in (top.name.strip('/'), group) if p)}")
    if not found:
        raise InputError(f"{path}: no system (a group with type.raw) in it")
    return sorted(found)


class Hdf5Group:
    """A system in a group of an open HDF5 file (a `deepmd_npy.Store`)."""

    def __init__(self, file: Any, name: str) -> None:
        """`name`: FILE#/GROUP of the open `file`."""
        self.name = name
        self._group = file[name.partition("#")[2] or "/"]

    def where(self, *path: str) -> str:
        return "/".join((self.name.rstrip("/"), *path))

    def has(self, *path: str) -> bool:
        return "/".join(path) in self._group

    def words(self, name: str) -> list[str]:
        if name not in self._group:
            raise InputError(f"{self.where(name)}: is missing")
        values = np.ravel(self._read(self._member(name), self.where(name)))
        return [v.decode() if isinstance(v, bytes) else str(v) for v in values.tolist()]

    def sets(self) -> list[str]:
        return sorted(n for n in self._group if n.startswith("set."))

    def arrays(self, part: str) -> list[str]:
        return sorted(n for n in self._group[part] if n.endswith(".npy"))

    def array(self, part: str, name: str, shapes: Sequence[tuple[int | None, ...]]) -> np.ndarray:
        where = self.where(part, name)
        if not self.has(part, name):
            raise InputError(f"{where}: is missing")
        dataset = self._member(part, name)
        matching(dataset.shape, shapes, where)
        if dataset.dtype.kind not in "fiu":
            raise InputError(f"{where}: expected real numbers, found dtype {dataset.dtype}")
        return np.asarray(self._read(dataset, where))

    def _member(self, *path: str) -> Any:
        """A piece of the system that lies in this very file."""
        found = member(self._group, path)
        if found is None:
            raise InputError(f"{self.where(*path)}: is a link; copy the data into the file")
        return found

    def _read(self, dataset: Any, where: str) -> Any:
        """All of a data set, if what is stored is enough to hold it."""
        if not is_stored(dataset):
            stored = dataset.id.get_storage_size()
            raise InputError(f"{where}: is damaged: {stored} bytes stored for {dataset.nbytes}")
        return dataset[()]


def write_groups(path: Path, systems: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the pieces of each system to a group of its own in a new file.

    Pieces by their path in a system: arrays, lists of words, or None for an empty marker. Raises
    OSError, in the words of the system, where the file cannot be written.
    """
    h5py = h5py_for(path)
    try:
        with h5py.File(path, "w") as file:
            for name, pieces in systems.items():
                for piece, value in pieces.items():
                    data = np.array([], dtype=np.int8) if value is None else value
                    if isinstance(value, list):
                        data = np.array([word.encode() for word in value])
                    file[f"{name}/{piece}"] = data
    except (OSError, RuntimeError) as e:  # h5py's have the state of its library in them
        number = getattr(e, "errno", None)
        if number is None:
            number = int(found[1]) if (found := _ERRNO.search(str(e))) else errno.EIO
        raise OSError(number, os.strerror(number)) from None
