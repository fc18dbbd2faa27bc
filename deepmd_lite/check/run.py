"""A whole check: read what can be read, measure every frame once, ask each family of checks."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..data import Frame, System, load_each
from ..data.formats import BrokenFrames
from ..data.frames import MANY
from ..system import InputError
from . import cells, consistency, copies, distances, elements, energies, forces, labels, sizes
from .finding import SEVERITIES, Finding, named
from .report import Report
from .survey import Survey

Paths = Sequence[str | Path]
QUICK_FRAMES = 400
"""Frames of each set, evenly spread, that a training looks at before it starts."""


def check_data(
    sets: Mapping[str, Paths],
    *,
    cutoff: float = 6.0,
    type_map: Sequence[str] | None = None,
    quiet: bool = True,
    source: str | None = None,
) -> Report:
    """Everything that can be said about data without a model.

    `sets`: paths as `deepmd_lite.data.load` takes them, by the name of their set ('training',
    'validation', 'test' or 'data'). `cutoff` (Å) and `type_map` are those of the model to come.
    `quiet`: without progress. `source`: dpdata's name of the format of all. What cannot be read, a
    frame say, is a finding, and the rest is checked without it. Raises InputError where nothing is
    named.
    """
    started = time.monotonic()
    if not any(sets.values()):
        raise InputError("no data: expected at least one path")
    read: dict[str, list[System]] = {}
    found: list[Finding] = []
    for role, paths in sets.items():
        systems = []
        for item in load_each(paths, type_map, source, quiet=quiet):
            if isinstance(item, InputError):
                frames = item.sources if isinstance(item, BrokenFrames) else ()
                found.append(Finding("error", "unreadable", str(item), frames=frames))
            elif item.frames:
                systems.append(item)
        if systems:
            read[role] = systems
        found += _read_notes(systems)
    counting = {role: left for role, systems in read.items() if (left := _counting(systems))}
    survey = Survey.of(counting, quiet) if counting else None
    if survey is not None:
        found += _findings(survey, cutoff, type_map)
        for k in range(len(survey.roles)):
            found += copies.unlike_others(survey, np.flatnonzero(survey.role == k))
        found += _type_maps(read)
    found.sort(key=lambda f: SEVERITIES.index(f.severity))
    return Report(found, read, survey, time.monotonic() - started)


def findings_in_sample(frames: Sequence[Frame], name: str, *, cutoff: float) -> list[Finding]:
    """Errors and warnings found on some hundred frames of one set in about a second.

    `name` of the set, as the findings call it; `cutoff` Å, that of the model to come.
    """
    frames = [frame for frame in frames if frame.weight]
    if not frames:
        return []
    survey = Survey.of({name: _sample(frames)})
    found = [f for f in _findings(survey, cutoff, None) if f.severity != "note"]
    return sorted(found, key=lambda f: SEVERITIES.index(f.severity))


def _sample(frames: Sequence[Frame]) -> list[System]:
    """Frames from all over a set, grouped by the file or folder that they are from."""
    n = min(len(frames), QUICK_FRAMES)
    groups: dict[str, list[Frame]] = {}
    for i in np.linspace(0, len(frames) - 1, n).astype(int) if n else ():
        name = frames[i].source.rpartition(", frame ")[0]
        groups.setdefault(name, []).append(frames[i])
    return [System(name, members) for name, members in groups.items()]


def _findings(survey: Survey, cutoff: float, type_map: Sequence[str] | None) -> Iterator[Finding]:
    everything = np.arange(len(survey))
    for role in range(len(survey.roles)):
        own = everything[survey.role == role]
        yield from labels.findings(survey, own)
        yield from forces.findings(survey, own)
    if survey.unknown:
        names = ", ".join(survey.unknown)
        yield Finding(
            "warning",
            "element-unknown",
            f"{names}: no chemical element, so that distances cannot be judged",
            "name elements in the type map: structures, masses and the repulsion go by them",
        )
    else:
        yield from distances.findings(survey, everything)
    yield from cells.findings(survey, everything, cutoff)
    yield from elements.findings(survey, type_map)
    of_energies = list(energies.findings(survey, everything))
    yield from of_energies
    apart = {source for f in of_energies if f.code == "energy-zeros" for source in f.frames}
    deep = sizes.too_deep(survey, everything)
    some = 0 < len(deep) < len(survey)  # in another unit than the rest
    alike = np.setdiff1d(everything, deep if some else deep[:0])
    yield from consistency.findings(survey, alike, apart)
    yield from copies.findings(survey)


def _counting(systems: Sequence[System]) -> list[System]:
    """Without the frames of weight 0, which somebody has left out."""
    kept = [replace(s, frames=[f for f in s.frames if f.weight]) for s in systems]
    return [system for system in kept if system.frames]


def _read_notes(systems: Sequence[System]) -> Iterator[Finding]:
    for system in systems:
        without = sum(not frame.weight for frame in system.frames)
        if without:
            of = f"{without} of {len(system.frames)} frames"
            yield Finding("note", "weight", f"{system.name}: {of} have weight 0: not looked at")
    names: dict[tuple[str, str], list[str]] = {}
    for system in systems:
        for note in system.notes:
            each = system.name if len(systems) <= MANY else ""
            names.setdefault((each, note), []).append(system.name)
    for (_, note), those in names.items():
        yield Finding("note", "reading", f"{named(those)}: {note}")


def _type_maps(sets: Mapping[str, Sequence[System]]) -> Iterator[Finding]:
    """Elements that a folder's type_map.raw lists and no frame of the folder has."""
    unused: dict[tuple[str, ...], list[str]] = {}
    for system in (s for systems in sets.values() for s in systems):
        path = Path(system.name) / "type_map.raw"
        if path.is_file():
            names = path.read_text(encoding="utf-8").split()
            missing = tuple(n for n in names if n not in system.elements)
            if missing:
                unused.setdefault(missing, []).append(str(path))
    for missing, paths in unused.items():
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        yield Finding(
            "note",
            "element-unused",
            f"{paths[0]}{more}: {', '.join(missing[:8])}{' …' if len(missing) > 8 else ''} "
            "listed and not used",
            "harmless if meant; numbers in type.raw count from 0 in this order",
        )
