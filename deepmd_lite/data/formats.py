"""Finding data and handing each piece of it to its reader."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..progress import Progress, Watch
from ..system import InputError
from .deepmd_npy import NpyFolder, Store, read_deepmd_npy, read_system
from .frames import System
from .hdf5 import Hdf5Group, groups, is_hdf5, opened
from .places import Place, place_of

MOST_NAMED = 10
"""Pieces of data that are wrong, of many, that messages name."""


class BrokenFrames(InputError):
    """Frames of a file that are left out, beside those that were named one by one."""

    def __init__(self, message: str, sources: Sequence[str]) -> None:
        super().__init__(message)
        self.sources = tuple(sources)
        """File and number of each."""


def load(
    paths: str | Path | Sequence[str | Path],
    type_map: Sequence[str] | None = None,
    *,
    labelled: bool = True,
    source: str | None = None,
    quiet: bool = True,
    watch: Watch | None = None,
) -> list[System]:
    """Every system that `paths` name, in order.

    A path is a file in a format that ASE reads, a deepmd/npy folder (plain or mixed), a folder
    below which all deepmd/npy folders are taken, an HDF5 file or `FILE#/GROUP` likewise, or a glob
    pattern of such paths; it may say which frames and labels are wanted (`places`). `type_map`:
    elements that may occur, and the meaning of `type.raw` in folders without `type_map.raw`.
    `source`: dpdata's name of the format that all are in; a folder is then one piece of data.
    How far it is, is told unless `quiet`, and `watch` is asked.

    Raises InputError, naming file and frame, for data that is missing or wrong (a line for each of
    several files or folders), for data that two paths name, and, where `labelled`, if no frame has
    an energy or forces.
    """
    paths = [paths] if isinstance(paths, (str, Path)) else list(paths)
    if not paths:
        raise InputError("no data: expected at least one path")
    others = [type(path).__name__ for path in paths if not isinstance(path, (str, os.PathLike))]
    if others:
        raise InputError(
            f"data: expected paths, found {others[0]}; write structures with "
            "ase.io.write('data.extxyz', structures), and give the name of that file"
        )
    found = list(_pieces(paths, source))
    refuse([x for x in found if isinstance(x, InputError)], len(paths), "paths")
    pieces = [x for x in found if isinstance(x, _Piece)]
    wrong: list[InputError] = []
    named: dict[tuple[str, str], str] = {}
    systems = []
    with _Reading(pieces, quiet, watch) as reading:
        for piece in pieces:
            reading.begin(piece)
            try:
                system = _read(piece, type_map, source, reading.heard)
            except InputError as e:
                wrong.append(e)
                continue
            reading.done(len(system.frames))
            real = os.path.realpath(piece.path)
            for frame in system.frames:
                key = real, frame.source.removeprefix(str(piece.path))
                if key in named:
                    raise InputError(
                        f"{frame.source}: is named twice, by '{named[key]}' and by "
                        f"'{piece.given}'; it would count double"
                    )
                named[key] = str(piece.given)
            systems.append(system)
    refuse(wrong, len(pieces), "files or folders")
    frames = [frame for system in systems for frame in system.frames]
    if labelled and all(f.energy is None and f.forces is None for f in frames):
        notes = list(dict.fromkeys(note for system in systems for note in system.notes))
        raise InputError(
            f"{', '.join(map(str, paths))}: none of {len(frames)} frames has an energy or forces"
            + "".join(f"; {note}" for note in notes)
        )
    return systems


def load_each(
    paths: Sequence[str | Path],
    type_map: Sequence[str] | None = None,
    source: str | None = None,
    *,
    quiet: bool = True,
) -> Iterator[System | InputError]:
    """Every system that `paths` name, in order; in place of one that is wrong, what is wrong.

    As `load`, except that nothing is raised and that frames without labels are returned. Single
    frames that are wrong are left out of their system and come before it: the first ones by what is
    wrong with each, further ones together.
    """
    found = list(_pieces(paths, source))
    with _Reading([x for x in found if isinstance(x, _Piece)], quiet) as reading:
        for piece in found:
            if isinstance(piece, InputError):
                yield piece
                continue
            reading.begin(piece)
            broken: list[InputError] = []
            try:
                system = _read(piece, type_map, source, reading.heard, broken)
            except InputError as e:
                yield e
                continue
            reading.done(len(system.frames))
            if not system.frames:  # most often one reason for all
                yield from broken[:1]
                continue
            yield from broken[:MOST_NAMED]
            if len(broken) > MOST_NAMED:
                yield BrokenFrames(
                    f"{piece.path}: {len(broken) - MOST_NAMED} more frames cannot be read and are "
                    f"left out ({len(broken)} in all, {len(system.frames)} are looked at)",
                    [str(e).partition(": ")[0] for e in broken[MOST_NAMED:]],
                )
            yield system


def refuse(wrong: Sequence[InputError], n: int, what: str) -> None:
    """Raise InputError with what is wrong with some of `n` pieces of data; nothing for none."""
    if len(wrong) == 1:
        raise wrong[0]
    if wrong:
        more = len(wrong) - MOST_NAMED
        lines = [str(e) for e in wrong[:MOST_NAMED]] + ([f"and {more} more"] if more > 0 else [])
        raise InputError(
            f"{len(wrong)} of {n} {what} cannot be read:" + "".join(f"\n  {x}" for x in lines)
        )


@dataclass(frozen=True)
class _Piece:
    """One file or system folder."""

    given: str | Path
    place: Place
    path: Path
    size: float
    """Bytes: the share of the reading that it is."""


def _pieces(paths: Sequence[str | Path], source: str | None) -> Iterator[_Piece | InputError]:
    """What is to be read; in place of a path that names nothing, what is wrong with it."""
    for given in paths:
        try:
            place = place_of(given)
            expanded = _expanded(place.path, whole=source is not None)
        except InputError as e:
            yield e
            continue
        for path in expanded:
            yield _Piece(given, place, path, _size(path))


def _size(path: Path) -> int:
    """Bytes of a file, or of the arrays of a folder; 1 of what is neither."""
    files = [path] if path.is_file() else path.glob("set.*/*.npy")
    return sum(file.stat().st_size for file in files) or 1


class _Reading:
    """How far the reading of some pieces of data is; a context."""

    def __init__(self, pieces: Sequence[_Piece], quiet: bool, watch: Watch | None = None) -> None:
        self._total = sum(piece.size for piece in pieces) or 1.0
        self._before = self._own = 0.0
        """Sizes of what was read, and of what is being read."""
        self._heard = 0
        self._progress = Progress("reading data", None, quiet=quiet, watch=watch)

    def __enter__(self) -> _Reading:
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.close()

    def begin(self, piece: _Piece) -> None:
        """The next one; what was before is behind, read or not."""
        self._before += self._own
        self._own, self._heard = piece.size, 0

    def heard(self, share: float | None) -> None:
        """A frame of a file was read, and with it this share of the file."""
        self._heard += 1
        known = None if share is None else (self._before + share * self._own) / self._total
        self._progress.advance(1, known)

    def done(self, n: int) -> None:
        """All `n` frames of a piece were read."""
        share = (self._before + self._own) / self._total
        self._progress.advance(max(0, n - self._heard), share)


def type_maps(paths: Sequence[str | Path]) -> dict[str, list[str]]:
    """Name of every system that `paths` name → the words of its `type_map.raw`, none without one.

    Files of other formats have no integers to give a meaning to, and none either. Raises InputError
    for paths that lead nowhere.
    """

    def words(store: Store) -> list[str]:
        return store.words("type_map.raw") if store.has("type_map.raw") else []

    found = {}
    for given in paths:
        for path in _expanded(place_of(given).path):
            if path.is_dir():
                found[str(path)] = words(NpyFolder(path))
            elif is_hdf5(path):
                with opened(str(path).partition("#")[0]) as file:
                    found[str(path)] = words(Hdf5Group(file, str(path)))
            else:
                found[str(path)] = []
    return found


def _read(
    piece: _Piece,
    type_map: Sequence[str] | None,
    source: str | None,
    heard: Callable[[float | None], None],
    broken: list[InputError] | None = None,
) -> System:
    path, place = piece.path, piece.place
    if place.frames != slice(None):  # their numbers would be others
        broken = None
    if (place.labels or place.head) and (source is not None or path.is_dir() or is_hdf5(path)):
        raise InputError(f"{path}{place.rest}: its labels have names of their own; leave out '#'")
    if source is not None:
        from .dpdata_files import read_with_dpdata

        return place.of(read_with_dpdata(path, source, type_map))
    if path.is_dir():
        return place.of(read_deepmd_npy(path, type_map, broken))
    if is_hdf5(path):
        with opened(str(path).partition("#")[0]) as file:
            return place.of(read_system(Hdf5Group(file, str(path)), type_map, broken))
    from .ase_files import read_ase_file  # ASE is slow to import and npy does without it

    system = read_ase_file(
        path, type_map, place.labels, heard=heard, broken=broken, head=place.head
    )
    return place.of(system) if system.frames else system


def _expanded(given: str | Path, whole: bool = False) -> list[Path]:
    """Files and system folders that one entry names; folders themselves if they are `whole`."""
    path = Path(given)
    if path.exists() or is_hdf5(path):
        return [path] if whole else _below(path)
    text = str(given)
    if glob.has_magic(text):
        matches = sorted(glob.glob(text, recursive=True))
        if not matches:
            raise InputError(f"{text}: the pattern matches no file or folder")
        if whole:
            return [Path(match) for match in matches]
        found = {p: None for match in matches for p in _below(Path(match))}
        return list(found)
    raise InputError(f"{text}: no such file or folder")


def _below(path: Path) -> list[Path]:
    """`path` itself if it is a file, else the system folders in it, itself included."""
    if is_hdf5(path):
        return [Path(name) for name in groups(path)]
    if not path.is_dir():
        return [path]
    systems = sorted(_system_folders(path))
    if not systems:
        raise InputError(
            f"{path}: no deepmd/npy system (a folder with type.raw) in it; name other files "
            f"one by one or by a pattern, as in '{path}/*.extxyz'"
        )
    return systems


def _system_folders(top: Path) -> Iterator[Path]:
    """Folders with `type.raw`, links followed, each once."""
    seen: set[str] = set()
    for folder, subfolders, files in os.walk(top, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        if "type.raw" in files:
            yield Path(folder)
