"""Cells and periodicity."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..data.frames import counted
from ..geometry import cell_heights
from .finding import Finding, named
from .survey import Survey

FAR_OUTSIDE = 5.0
"""Cell lengths that an atom may be outside its cell before it is told."""


def findings(survey: Survey, which: np.ndarray, cutoff: float) -> Iterator[Finding]:
    """Of the frame numbers `which`; `cutoff` Å is that of the model to come."""
    frames = [survey.frames[k] for k in which]
    periodic = np.array([f.pbc.sum() for f in frames])
    cells = np.array([f.cell for f in frames])
    whole = periodic == 3
    left = which[whole & (np.linalg.det(cells) < 0)]
    if len(left):
        yield Finding(
            "note",
            "cell-left-handed",
            f"{named(survey.sources(left))}: the lattice vectors are left-handed",
            "nothing here minds; other codes do",
            survey.sources(left),
        )
    yield from _small(survey, which[whole], cutoff)
    partial = which[(periodic > 0) & (periodic < 3)]
    if len(partial):
        yield Finding(
            "note",
            "periodicity-partial",
            f"{named(survey.sources(partial))}: periodic in {int(periodic[periodic > 0].min())} "
            "directions only",
            "right for wires and slabs (each direction counts by itself here); DFT codes that "
            "repeat the vacuum have three",
            survey.sources(partial),
        )
    if 0 < (periodic == 0).sum() < len(which):
        mixed = which[periodic == 0]
        yield Finding(
            "note",
            "periodicity-mixed",
            f"{named(survey.sources(mixed))}: not periodic, unlike the other "
            f"{counted(len(which) - len(mixed), 'frame')}",
            "check that a cell was not lost in a conversion",
            survey.sources(mixed),
        )
    yield from _outside(survey, which[whole])


def _small(survey: Survey, which: np.ndarray, cutoff: float) -> Iterator[Finding]:
    heights = np.array([cell_heights(survey.frames[k].cell).min() for k in which])
    small = which[heights < 2 * cutoff] if len(which) else which
    if len(small):
        yield Finding(
            "note",
            "cell-small",
            f"{named(survey.sources(small))}: the cell is narrower ({heights.min():.2f} Å) than "
            f"twice the cutoff of {cutoff:g} Å",
            "every periodic image is counted here, so this is exact; codes with the "
            "minimum-image convention need larger cells",
            survey.sources(small),
        )


def _outside(survey: Survey, which: np.ndarray) -> Iterator[Finding]:
    far = []
    for k in which:
        frame = survey.frames[k]
        scaled = frame.positions @ np.linalg.inv(frame.cell)
        if np.abs(scaled - 0.5).max() > FAR_OUTSIDE + 0.5:
            far.append(k)
    if far:
        yield Finding(
            "warning",
            "atoms-outside",
            f"{named(survey.sources(far))}: atoms lie more than {FAR_OUTSIDE:g} cell lengths "
            "outside their cell",
            "right for an unwrapped trajectory; otherwise check units of positions and cell",
            survey.sources(far),
        )
