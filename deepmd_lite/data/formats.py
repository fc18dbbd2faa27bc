"""Finding data and handing each piece of it to its reader."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..system import InputError
from .deepmd_npy import NpyFolder, Store, read_deepmd_npy, read_system
from .frames import System
from .hdf5 import Hdf5Group, groups, is_hdf5, opened
from .places import Place, place_of


def load(
    paths: str | Path | Sequence[str | Path],
    type_map: Sequence[str] | None = None,
    *,
    labelled: bool = True,
    source: str | None = None,
) -> list[System]:
    """Every system that `paths` name, in order.

    A path is a file in a format that ASE reads, a deepmd/npy folder (plain or mixed), a folder
    below which all deepmd/npy folders are taken, an HDF5 file or `FILE#/GROUP` likewise, or a glob
    pattern of such paths; it may say which frames and labels are wanted (`places`). `type_map`:
    elements that may occur, and the meaning of `type.raw` in folders without `type_map.raw`.
    `source`: dpdata's name of the format that all are in; a folder is then one piece of data.

    Raises InputError, naming file and frame, for data that is missing or wrong, for data that two
    paths name, and, where `labelled`, if no frame has an energy or forces.
    """
    paths = [paths] if isinstance(paths, (str, Path)) else list(paths)
    if not paths:
        raise InputError("no data: expected at least one path")
    named: dict[tuple[str, str], str] = {}
    systems = []
    for given in paths:
        place = place_of(given)
        for path in _expanded(place.path, whole=source is not None):
            system, real = _read(path, type_map, place, source), os.path.realpath(path)
            for frame in system.frames:
                key = real, frame.source.removeprefix(str(path))
                if key in named:
                    raise InputError(
                        f"{frame.source}: is named twice, by '{named[key]}' and by '{given}'; "
                        "it would count double"
                    )
                named[key] = str(given)
            systems.append(system)
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
) -> Iterator[System | InputError]:
    """Every system that `paths` name, in order; in place of one that is wrong, what is wrong.

    As `load`, except that nothing is raised and that frames without labels are returned.
    """
    for given in paths:
        try:
            place = place_of(given)
            paths_of_it = _expanded(place.path, whole=source is not None)
        except InputError as e:
            yield e
            continue
        for path in paths_of_it:
            try:
                yield _read(path, type_map, place, source)
            except InputError as e:
                yield e


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
    path: Path, type_map: Sequence[str] | None, place: Place, source: str | None = None
) -> System:
    if place.labels and (source is not None or path.is_dir() or is_hdf5(path)):
        raise InputError(f"{path}{place.rest}: its labels have names of their own; leave out '#'")
    if source is not None:
        from .dpdata_files import read_with_dpdata

        return place.of(read_with_dpdata(path, source, type_map))
    if path.is_dir():
        return place.of(read_deepmd_npy(path, type_map))
    if is_hdf5(path):
        with opened(str(path).partition("#")[0]) as file:
            return place.of(read_system(Hdf5Group(file, str(path)), type_map))
    from .ase_files import read_ase_file  # ASE is slow to import and npy does without it

    return place.of(read_ase_file(path, type_map, place.labels))


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
