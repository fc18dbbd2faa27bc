"""The errors in data that must never be silent: every frame passes here before anyone uses it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from tokenize import TokenError
from typing import IO

import numpy as np

from ..elements import no_elements
from ..geometry import checked_cell
from ..system import InputError
from .frames import Frame

_HEADER_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


class OfModel(tuple[str, ...]):
    """The elements of a model, as the type map of data: nobody can add any to it."""


def read_npy(path: Path, shapes: Sequence[tuple[int | None, ...]]) -> np.ndarray:
    """The array of numbers in `path`, of one of `shapes` (None: any length), unchanged in dtype.

    Nothing is allocated before the declared shape is known to be wanted and to agree with the size
    of the file, and nothing is unpickled. Raises InputError naming the file for a file that is
    missing, damaged or truncated, or whose content is not numbers of that shape.
    """
    try:
        with path.open("rb") as stream:
            shape, dtype = _header(stream, path)
            payload = path.stat().st_size - stream.tell()
            matching(shape, shapes, str(path))
            declared = math.prod(shape) * dtype.itemsize
            if payload != declared:
                problem = "truncated" if payload < declared else "damaged"
                raise InputError(
                    f"{path}: {problem}: shape {_shown(shape)} of {dtype} needs {declared} bytes, "
                    f"found {payload}; copy or export the file again"
                )
            stream.seek(0)
            return np.load(stream, allow_pickle=False)
    except OSError as e:
        raise InputError(f"{path}: cannot be read: {e.strerror or e}") from None


def _header(stream: IO[bytes], path: Path) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype that an npy file declares."""
    try:
        version = np.lib.format.read_magic(stream)
        if version not in _HEADER_READERS:
            raise ValueError(f"version {version}")
        shape, _, dtype = _HEADER_READERS[version](stream)
    except (ValueError, TypeError, EOFError, SyntaxError, TokenError, RecursionError) as e:
        reason = str(e).splitlines()[0]
        raise InputError(
            f"{path}: is not a numpy array file or its header is damaged ({reason})"
        ) from None
    if dtype.hasobject:
        raise InputError(
            f"{path}: holds pickled Python objects, which are not loaded because they can run any "
            "code; save it again as an array of numbers (all frames of equal length)"
        )
    if dtype.kind not in "fiu":
        raise InputError(f"{path}: expected real numbers, found dtype {dtype}")
    if min(shape, default=0) < 0:
        raise InputError(f"{path}: header is damaged: shape {shape}")
    return shape, dtype


def matching(shape: tuple[int, ...], shapes: Sequence[tuple[int | None, ...]], where: str) -> None:
    """Raise InputError, naming `where`, unless `shape` is one of `shapes` (None: any length)."""
    if not any(_matches(shape, wanted) for wanted in shapes):
        expected = " or ".join(_shown(wanted) for wanted in shapes)
        raise InputError(f"{where}: expected shape {expected}, found {_shown(shape)}")


def _matches(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(
        w is None or n == w for n, w in zip(shape, wanted, strict=True)
    )


def _shown(shape: tuple[int | None, ...]) -> str:
    free = "frames" if shape[0] is None and len(shape) > 1 else "any"
    inner = ", ".join(free if n is None else str(n) for n in shape)
    return f"({inner},)" if len(shape) == 1 else f"({inner})"


def check_frame(frame: Frame, type_map: Sequence[str] | None = None) -> None:
    """Raise InputError, naming file and frame, for a frame that cannot be trained on.

    Checked: at least one atom; positions and forces of shape (n, 3), virial and cell (3, 3); every
    number finite, and one at least of an `fparam`; the weight not negative; a periodic cell with a
    volume; elements, which must be in `type_map` or, without one, be chemical symbols.
    """
    n, where = frame.n_atoms, frame.source
    if n == 0:
        raise InputError(f"{where}: has no atoms; remove the frame")
    _check_rows(frame.positions, n, where, "positions")
    if frame.forces is not None:
        _check_rows(frame.forces, n, where, "forces")
    if frame.energy is not None and not math.isfinite(frame.energy):
        raise InputError(f"{where}: the energy is not finite ({frame.energy}); remove the frame")
    if frame.virial is not None:
        if np.shape(frame.virial) != (3, 3):
            raise InputError(
                f"{where}: virial: expected shape (3, 3), found {_shown(np.shape(frame.virial))}"
            )
        if not np.isfinite(frame.virial).all():
            raise InputError(
                f"{where}: the virial is not finite ({frame.virial.tolist()}); remove the frame"
            )
    if frame.fparam is not None:
        _check_fparam(frame.fparam, where)
    if not (math.isfinite(frame.weight) and frame.weight >= 0):
        raise InputError(f"{where}: weight: expected a number ≥ 0, found {frame.weight}")
    if frame.pbc.any():
        checked_cell(frame.cell, frame.pbc, where)
    check_elements(frame.symbols, type_map, where)


def _check_fparam(values: np.ndarray, where: str) -> None:
    """`values` is (k,), with k at least 1, and finite."""
    if values.ndim != 1 or not len(values):
        raise InputError(
            f"{where}: fparam: expected one number or a list of them, found shape "
            f"{_shown(np.shape(values))}"
        )
    if not np.isfinite(values).all():
        raise InputError(f"{where}: fparam is not finite ({values.tolist()}); remove the frame")


def _check_rows(values: np.ndarray, n: int, where: str, what: str) -> None:
    """`values` is (n, 3) and finite."""
    if np.shape(values) != (n, 3):
        raise InputError(
            f"{where}: {what}: expected shape ({n}, 3), a row for each atom, "
            f"found {_shown(np.shape(values))}"
        )
    if not np.isfinite(values).all():
        atom = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
        raise InputError(
            f"{where}: {what} of atom {atom} are not finite ({values[atom].tolist()}); "
            "remove the frame"
        )


def check_elements(symbols: Sequence[str], type_map: Sequence[str] | None, where: str) -> None:
    """Every symbol is in `type_map` or, without one, is that of a chemical element."""
    present = set(symbols)
    if type_map is not None:
        unknown = sorted(present - set(type_map))
        if unknown and isinstance(type_map, OfModel):
            raise InputError(
                f"{where}: the model has no element {', '.join(unknown)} (it has "
                f"{', '.join(type_map)}), and cannot be given new ones; leave this data out, or "
                "train a model on data with all of them"
            )
        if unknown:
            raise InputError(
                f"{where}: element {', '.join(unknown)} is not in the type map {list(type_map)}; "
                "add it there or leave this data out"
            )
        return
    unknown = sorted(no_elements(present))
    if unknown:
        raise InputError(
            f"{where}: {', '.join(unknown)} is not a chemical symbol; give a type map that has it"
        )
