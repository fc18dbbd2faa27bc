"""Frames from whatever ASE reads: extended XYZ, trajectories, VASP output, databases, ..."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.io import iread
from ase.io.extxyz import key_val_str_to_dict, read_xyz
from ase.io.formats import UnknownFileTypeError, filetype

from ..system import InputError
from .ase_labels import (
    HEAD_KEY,
    NO_CHOICE,
    differences,
    frame_from_atoms,
    state_of,
    unlabelled,
)
from .checks import check_frame
from .dft_output import check_steps, code_of, converged, other_readers
from .frames import Frame, System
from .text_files import DAMAGED, OPENERS, lines_of, open_text
from .xyz_blocks import Block, blocks

_VOIGT_STRESS = re.compile(r'(?<!\S)stress\s*=\s*(["\'{\[])([^"\'}\]]*)["\'}\]]')
_STRUCTURE = re.compile(r"(?<!\S)(lattice|properties|pbc)(?=\s*=)", re.IGNORECASE)
_SPELLED = {"lattice": "Lattice", "properties": "Properties", "pbc": "pbc"}
DUMP = "lammps-dump"
"""ASE's formats of LAMMPS: text and binary."""
Heard = Callable[[float | None], None]
"""What is told of each frame: the share of the file that was read; None where nobody knows."""


def read_ase_file(
    path: str | Path,
    type_map: Sequence[str] | None = None,
    labels: Mapping[str, str] = NO_CHOICE,
    kind: str | None = None,
    heard: Heard = lambda share: None,
    broken: list[InputError] | None = None,
    head: str | None = None,
) -> System:
    """Every frame of the file, or of one `head` in it; elements are checked against `type_map`.

    `labels`: names that are the labels whatever other names the file has (`places.LABELS`).
    `kind`: ASE's name of the format, where the file's name does not tell. Steps of a DFT code that
    did not converge are left out. `heard` is told of each frame. Raises InputError naming the file
    (and frame) for whatever is wrong; with a list `broken`, frames that are wrong are left out, and
    entered there with what is wrong.
    """
    path = Path(path)
    frames: list[Frame] = []
    notes: Counter[str] = Counter()
    found: set[str] = set()
    states: set[tuple[str, ...]] = set()
    heads: set[str] = set()
    asked = False
    kind = _kind(path) if kind is None else kind
    for number, atoms, share in _images(path, kind, broken):
        heard(share)  # which may end it all
        state = state_of(atoms)
        if head not in (None, state[-1]):
            heads.add(state[-1])
            continue
        asked = True
        source = f"{path}, frame {number}"
        try:
            frame = frame_from_atoms(atoms, source, notes, chosen=kind == "extxyz", labels=labels)
            check_frame(frame, type_map)
        except InputError as e:
            if broken is None:
                raise
            broken.append(e)
            continue
        results = {} if atoms.calc is None else atoms.calc.results
        found |= {*atoms.arrays, *atoms.info, *results} - {"numbers", "positions"}
        states.add(state)
        frames.append(frame)
    n_read = len(frames)
    code = None if kind == "extxyz" else code_of(path)
    of_steps: list[str] = []
    if code is not None:
        check_steps(frames, code)
        frames, of_steps = converged(frames, path, code)
    if heads and not asked:
        found_heads = ", ".join(sorted(heads)[:6])
        raise InputError(f"{path}: no frame has {HEAD_KEY}={head}; it has: {found_heads}")
    if not frames and broken:
        return System(str(path), [])
    if not frames:
        raise InputError(
            f"{path}: has no frames: ASE finds none, reading it as {kind}{other_readers(code)}"
        )
    for label, name in labels.items():
        if name not in found:
            raise InputError(
                f"{path}: no frame has '{name}', which is to be the {label}; the file has: "
                f"{', '.join(sorted(found)) or 'nothing'}"
            )
    lines = [f"{text} ({count} of {n_read} frames)" for text, count in notes.items()]
    lines += unlabelled(frames, found, labels)
    return System(str(path), frames, lines + differences(states) + of_steps)


def _kind(path: Path) -> str:
    """ASE's name of a file's format."""
    try:
        return str(filetype(str(path)))
    except Exception as e:
        raise InputError(_reading_error(path, 0, "unknown format", e)) from None


def _images(
    path: Path, kind: str, broken: list[InputError] | None
) -> Iterator[tuple[int, Atoms, float | None]]:
    """Images of a file in order: number, image, and the share of the file up to it, where it is
    known. What a reader raises becomes an InputError."""
    number = 0
    try:
        if kind.startswith(DUMP):
            _check_dump(path)
        if kind == "extxyz":
            yield from _extxyz_images(path, broken)
            return
        # parallel=False: under MPI, ASE would otherwise read on one rank and broadcast
        for atoms in iread(str(path), ":", kind, parallel=False, do_not_split_by_at_sign=True):
            if kind.startswith(DUMP) and atoms.calc is not None:
                atoms.calc.results.pop("energy", None)  # which ASE says is 0
            yield number, atoms, None
            number += 1
    except InputError:
        raise
    except Exception as e:  # readers of ASE raise whatever their parser stumbled over
        raise InputError(_reading_error(path, number, kind, e)) from None


def _reading_error(path: Path, number: int, kind: str, error: Exception) -> str:
    """One line for an exception raised on the way to frame `number`."""
    reason = " ".join(str(error).split()) or "no reason given"
    if isinstance(error, UnknownFileTypeError):
        return f"{path}: ASE does not know this format ({reason}){other_readers(code_of(path))}"
    if isinstance(error, OSError) and error.errno is not None:
        return f"{path}: cannot be read: {error.strerror}"
    if path.suffix in OPENERS and isinstance(error, DAMAGED):
        return f"{path}: is damaged or truncated: {reason}"
    name = type(error).__name__
    hint = "; expected nine numbers, row by row" if "3x3 matrix" in reason else ""
    # most readers yield the first frame when they have read the last
    known = number or kind == "extxyz"
    where = f"{path}, frame {number}" if known else str(path)
    hint = hint or other_readers(None if kind in ("extxyz", "vasp-xml") else code_of(path))
    return f"{where}: ASE cannot read it as {kind}: {name}: {reason}{hint}"


def _check_dump(path: Path) -> None:
    """Raise InputError for a dump of LAMMPS whose elements are not named."""
    with lines_of(path) as stream:
        columns = next((line.split() for line in stream if line.startswith("ITEM: ATOMS")), [])
    if "element" not in columns:
        raise InputError(
            f"{path}: a dump of LAMMPS without a column 'element', whose types could be anything; "
            "write it with 'dump … custom … element x y z fx fy fz' and 'dump_modify … element …'"
        )


def _extxyz_images(
    path: Path, broken: list[InputError] | None
) -> Iterator[tuple[int, Atoms, float]]:
    """As `_images`, of an extended XYZ file, all of it and frame by frame: ASE itself stops in
    silence at an empty line, and cannot say which frame of many it does not understand."""
    with open_text(path) as stream:
        size = stream.seek(0, io.SEEK_END)
        stream.seek(0)
        number = 0
        try:
            for block in blocks(stream):
                number = block.number
                try:
                    atoms = _image_of(block, path)
                except InputError as e:
                    if broken is None:
                        raise
                    broken.append(e)
                else:
                    yield number, atoms, block.end / size
        except InputError:
            raise
        except (OSError, ValueError) as e:  # of the file, not of a frame: no text
            raise InputError(_reading_error(path, number, "extxyz", e)) from None


def _image_of(block: Block, path: Path) -> Atoms:
    """Raises InputError, naming frame and line, for one that ASE cannot read."""
    if block.problem:
        raise InputError(f"{path}, frame {block.number}: {block.problem}")
    try:
        (atoms,) = read_xyz(io.StringIO(block.text), slice(None), _comment_line)
    except Exception as e:  # its parser raises whatever it stumbled over
        message = _reading_error(path, block.number, "extxyz", e)
        raise InputError(f"{message}; {block.odd_row()}") from None
    return atoms


def _comment_line(line: str) -> dict[str, Any]:
    """ASE's parser of the comment line, which by itself wants nine numbers as `stress` and takes
    no heed of a `lattice` in small letters."""

    def nine(match: re.Match[str]) -> str:
        words = match[2].replace(",", " ").split()
        if len(words) == 6:
            xx, yy, zz, yz, xz, xy = words
            words = [xx, xy, xz, xy, yy, yz, xz, yz, zz]
        return f'stress="{" ".join(words)}"'

    line = _STRUCTURE.sub(lambda match: _SPELLED[match[1].lower()], line)
    return key_val_str_to_dict(_VOIGT_STRESS.sub(nine, line))
