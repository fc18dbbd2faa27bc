"""Energies of a block of frames that need other constants of the elements than the rest.

In an alloy another pseudopotential of one element adds the same energy for each of its atoms. It
shows where compositions vary: the slope of the energy with the share of the element is another one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from .survey import robust_fit

CELLS = 20
"""Parts of the file that blocks are put together of."""
LEAST_FRAMES = 15
"""Of a block, and of the rest."""
COMPARABLE, CHANCE = 0.3, 2.5
"""Standard deviations, and standard errors on top, between the mean compositions and structures of
a block and the rest: beyond, bonding may be what differs."""
MOST_FRAMES = 1000
"""Of more, so many are looked at, evenly spread."""
EXPLAINS = 0.5
"""Part of the spread of energies that other constants leave at most."""
SURE = 8.0
"""Standard errors of an offset: the best of two hundred blocks is looked at."""
DOMINANT = 3.0
"""Times the offset of every other element by which the one that is named is larger."""


@dataclass
class Offset:
    """An element whose zero of energy differs in a block of frames."""

    block: np.ndarray
    """Frame numbers."""
    element: int
    offset: float
    """eV for each atom of the element, above the rest."""
    error: float


def of_block(
    per_atom: np.ndarray, columns: np.ndarray, n_elements: int, typical: np.ndarray
) -> Offset | None:
    """The block and element that explain the energies far better; None where nothing does.

    `per_atom` (n,) eV/atom in the order of the files; `columns` (n, k): shares of the elements and
    fingerprints, which explain them; `typical` (n,): reduced distance to the nearest neighbours.
    """
    n, k = columns.shape
    if n_elements < 2 or n < 2 * max(LEAST_FRAMES, k + n_elements):
        return None
    if not _varied(columns[:, :n_elements]):
        return None
    described = np.column_stack([columns, np.where(np.isfinite(typical), typical, 0.0)])
    some = np.linspace(0, n - 1, min(n, MOST_FRAMES)).astype(int)
    block = _best_block(per_atom[some], columns[some], n_elements, described[some])
    if block is None:
        return None
    found = _offset(per_atom[some], columns[some], n_elements, block)
    if found is None:
        return None
    constants, by_block, offset = found
    left = per_atom - columns @ constants
    nearer = np.abs(left - columns[:, :n_elements] @ by_block) - np.abs(left)
    return replace(offset, block=_stretch(nearer))


def _varied(shares: np.ndarray) -> bool:
    """Whether compositions vary enough to tell the constants of all elements."""
    rank = np.linalg.matrix_rank(shares, tol=1e-2 * np.sqrt(len(shares)))
    return bool(rank == shares.shape[1])


def _best_block(
    per_atom: np.ndarray, columns: np.ndarray, n_elements: int, described: np.ndarray
) -> np.ndarray | None:
    """(n,) bool: the frames whose own constants explain most; None where no block is like the rest.

    `described` (n, m): compositions and structures.
    """
    n, k = columns.shape
    best, least = None, np.inf
    for start, stop in combinations(np.linspace(0, n, CELLS + 1).astype(int), 2):
        inside = np.zeros(n, dtype=bool)
        inside[start:stop] = True
        if min(inside.sum(), n - inside.sum()) < max(LEAST_FRAMES, k):
            continue
        if not _comparable(described, inside):
            continue
        wide = np.column_stack([columns, columns[:, :n_elements] * inside[:, None]])
        left = per_atom - wide @ np.linalg.lstsq(wide, per_atom, rcond=1e-10)[0]
        if (size := float(left @ left)) < least:
            best, least = inside, size
    return best


def _stretch(nearer: np.ndarray) -> np.ndarray:
    """Numbers of the consecutive frames over which the sum of `nearer` (n,) is least."""
    total = np.concatenate([[0.0], np.cumsum(nearer)])
    fall = total - np.maximum.accumulate(total)
    stop = int(np.argmin(fall))
    return np.arange(int(np.argmax(total[: stop + 1])), stop)


def _comparable(described: np.ndarray, inside: np.ndarray) -> bool:
    """Whether the frames inside a block are like those outside."""
    one, other = described[inside], described[~inside]
    width = np.sqrt(0.5 * (one.var(axis=0) + other.var(axis=0)))
    apart = np.abs(one.mean(axis=0) - other.mean(axis=0))
    most = COMPARABLE + CHANCE * np.sqrt(1 / len(one) + 1 / len(other))
    return bool((apart <= most * width + 1e-9).all())


def _offset(
    per_atom: np.ndarray, columns: np.ndarray, n_elements: int, inside: np.ndarray
) -> tuple[np.ndarray, np.ndarray, Offset] | None:
    """What the frames `inside` (n,) bool need, if it is beyond doubt an offset of one element.

    The coefficients of `columns`, the constants of the elements that are added inside, the offset.
    """
    k, shares = columns.shape[1], columns[:, :n_elements]
    wide = np.column_stack([columns, shares * inside[:, None]])
    _, before = robust_fit(columns, per_atom)
    coefficients, after = robust_fit(wide, per_atom)
    if not _varied(shares[inside]) or not _varied(shares[~inside]) or after > EXPLAINS * before:
        return None
    found = coefficients[k:]
    errors = after * np.sqrt(np.diag(np.linalg.pinv(wide.T @ wide))[k:])
    element = int(np.argmax(np.abs(found)))
    size, error = abs(float(found[element])), float(errors[element])
    if size < max(SURE * error, DOMINANT * float(np.delete(np.abs(found), element).max())):
        return None
    block = np.flatnonzero(inside)
    return coefficients[:k], found, Offset(block, element, float(found[element]), error)
