"""Distances and neighbourhoods of every frame, in one pass over the frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..data import Frame
from ..elements import covalent_radius
from ..neighbors import periodic_env
from ..progress import progress
from ..system import InputError

FEATURES = 6
"""Radial functions of each pair of elements in a fingerprint."""
REACH, LEAST_REACH, MOST_REACH = 1.9, 3.0, 5.0
"""The scan goes out to 1.9 times the largest sum of covalent radii, 3 to 5 Å."""
MOST_NEIGHBORS = 600
"""Ten times what the scan meets in ordinary matter."""
BONDED = 1.2
"""Two atoms within 1.2 times the sum of their covalent radii count as bonded."""


@dataclass
class Geometry:
    """What one pass over the neighbour lists tells of F frames; E elements, P pairs of them."""

    reach: float
    """Å: pairs beyond it are not seen."""
    fingerprint: np.ndarray
    """(F, P·FEATURES): sums over pairs of smooth radial functions, divided by the number of atoms;
    it does not change when a frame is turned, mirrored, moved or listed in another order."""
    ratio: np.ndarray
    """(F,) the smallest distance over the sum of covalent radii; inf where no pair is seen."""
    closest: np.ndarray
    """(F, 3) float: element, element, Å of the pair that `ratio` is of; NaN without one."""
    typical: np.ndarray
    """(F,) median over the atoms of the distance to the nearest neighbour over the sum of radii."""
    smallest: np.ndarray
    """(E, E) Å: the smallest distance of each pair of elements, inf where none is seen."""
    refused: dict[int, str] = field(default_factory=dict)
    """Frames without a neighbour list, and why: atoms that coincide."""


def scan(frames: Sequence[Frame], elements: Sequence[str], quiet: bool = True) -> Geometry:
    """Measure all frames, and tell how far that is unless `quiet`."""
    radii = radii_of(elements)
    n, n_pairs = len(elements), len(elements) * (len(elements) + 1) // 2
    sums = radii[:, None] + radii
    reach = float(np.clip(REACH * sums.max(), LEAST_REACH, MOST_REACH))
    result = Geometry(
        reach=reach,
        fingerprint=np.zeros((len(frames), n_pairs * FEATURES)),
        ratio=np.full(len(frames), np.inf),
        closest=np.full((len(frames), 3), np.nan),
        typical=np.full(len(frames), np.inf),
        smallest=np.full((n, n), np.inf),
    )
    index = {e: i for i, e in enumerate(elements)}
    types_of: dict[tuple[str, ...], np.ndarray] = {}
    for k, frame in enumerate(progress(frames, "checking", quiet=quiet)):
        types = types_of.get(frame.symbols)
        if types is None:
            types = types_of[frame.symbols] = np.array([index[s] for s in frame.symbols])
        try:
            center, neighbor, r = edges(frame, types, reach)
        except InputError as e:
            result.refused[k] = str(e)
            continue
        if len(r):
            _measure(result, k, types, types[center], types[neighbor], center, r, sums)
    return result


def edges(
    frame: Frame, types: np.ndarray, cutoff: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `neighbors`, with distances (n_edges,) in place of vectors."""
    center, neighbor, vectors = neighbors(frame, types, cutoff)
    return center, neighbor, np.sqrt(np.einsum("ij,ij->i", vectors, vectors))


def neighbors(
    frame: Frame, types: np.ndarray, cutoff: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every pair nearer than `cutoff` (Å), both ways round: atom and atom, each (n_edges,), and the
    vector (n_edges, 3) from the first to the second.

    In matter far denser than any, where units are wrong, the cutoff is shorter, so that an atom
    has about `MOST_NEIGHBORS`. Raises InputError for atoms that coincide.
    """
    cutoff = min(cutoff, dense_cutoff(frame))
    periodic = periodic_env(frame.positions, frame.cell, frame.pbc, types, cutoff, frame.source)
    env = periodic.env
    rows, neighbor = env.positions.numpy(), env.indices.numpy()
    center = np.repeat(np.arange(env.n_local), np.diff(env.offsets.numpy()))
    return center, periodic.owner.numpy()[neighbor], rows[neighbor] - rows[center]


def dense_cutoff(frame: Frame) -> float:
    """Å: within it an atom has about `MOST_NEIGHBORS`; infinite where not periodic throughout."""
    if not frame.pbc.all():
        return float("inf")
    volume = abs(float(np.linalg.det(frame.cell))) / frame.n_atoms
    return float((MOST_NEIGHBORS * volume * 3 / (4 * np.pi)) ** (1 / 3))


def _measure(
    result: Geometry,
    k: int,
    types: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    center: np.ndarray,
    r: np.ndarray,
    sums: np.ndarray,
) -> None:
    """Enter frame `k`, whose pairs have elements `a`, `b` and distances `r`."""
    n, n_atoms = len(sums), len(types)
    ratio = r / sums[a, b]
    least = int(np.argmin(ratio))
    result.ratio[k] = ratio[least]
    result.closest[k] = a[least], b[least], r[least]
    nearest = np.full(n_atoms, np.inf)
    np.minimum.at(nearest, center, ratio)
    result.typical[k] = np.median(nearest)
    pair = a * n + b
    flat = result.smallest.reshape(-1)
    np.minimum.at(flat, pair, r)
    low, high = np.minimum(a, b), np.maximum(a, b)
    unordered = low * n - low * (low - 1) // 2 + high - low
    n_pairs = n * (n + 1) // 2
    x = r / result.reach
    value, x2 = (1 - x**2) ** 2, 2 * x - 1
    before, now = np.ones_like(x), x2
    columns = []
    for _ in range(FEATURES):  # Chebyshev polynomials of the distance, smoothly cut off
        columns.append(np.bincount(unordered, weights=value * before, minlength=n_pairs))
        before, now = now, 2 * x2 * now - before
    result.fingerprint[k] = np.array(columns).T.reshape(-1) / n_atoms


def radii_of(elements: Sequence[str]) -> np.ndarray:
    """(n,) covalent radii, Å; 1.2 Å for a name that is no element: nobody judges its distances."""
    from ase.data import atomic_numbers

    known = [atomic_numbers.get(e, 0) for e in elements]
    return np.array([covalent_radius(z) if z else 1.2 for z in known])
