"""The geometry of domain decomposition: which rank owns a point, who its neighbours are.

Pure geometry in fractional coordinates, numpy only, no communication. The cell (any
parallelepiped) is cut by planes parallel to its faces into a grid of subdomains, one for each
rank; the last axis runs fastest in the numbering of ranks.

No particle can get lost: `wrap` and `owner` together map every finite point to exactly one rank.
Along a periodic axis a point is first wrapped into the cell; along every axis the outermost
subdomains own all that lies beyond the outer planes, so the intervals cover the whole line, and
an interval holds its lower plane but not its upper one, so they do not overlap. `owner` is
evaluated in one place only (`Halo.migrate`) and by one rank only for each atom, the one that has
owned it until then; round-off can therefore decide *which* rank gets an atom on a plane, never
whether none or two do. `Halo.migrate` counts the atoms all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from ..geometry import cell_heights
from ..system import InputError

WRAP_TOLERANCE = 1e-12
"""Fractional: an atom this near to a face stays where it is, so that wrapping is idempotent."""
HISTOGRAM_BINS = 4096
"""Resolution, for each axis, at which `balanced` sees where the atoms are."""
MAX_IMAGES = 200
"""Largest number of periodic images along an axis before the cell is taken for a mistake."""


@dataclass(frozen=True)
class Domain:
    """A cell cut into a grid of subdomains."""

    cell: np.ndarray
    """(3, 3) Å, rows are lattice vectors; not singular, also along open axes."""
    pbc: tuple[bool, bool, bool]
    """Which axes are periodic; the others are open, without limit in space."""
    cuts: tuple[np.ndarray, np.ndarray, np.ndarray]
    """For each axis its planes (n + 1,), ascending fractional coordinates. Periodic: from 0 to 1;
    open: the outer two only record where the atoms were, the outer subdomains reach further."""

    @property
    def grid(self) -> tuple[int, int, int]:
        """Subdomains along each axis."""
        return tuple(len(c) - 1 for c in self.cuts)  # type: ignore[return-value]

    @property
    def size(self) -> int:
        """Number of subdomains."""
        return int(np.prod(self.grid))

    def grid_position(self, rank: int) -> tuple[int, int, int]:
        """Grid coordinates of `rank`."""
        return tuple(int(i) for i in np.unravel_index(rank, self.grid))  # type: ignore[return-value]

    def fractional(self, positions: np.ndarray) -> np.ndarray:
        """(n, 3) fractional coordinates of positions (n, 3) Å."""
        return positions @ np.linalg.inv(self.cell)

    def wrap(self, positions: np.ndarray) -> np.ndarray:
        """(n, 3) int64 lattice shifts that bring positions (n, 3) Å into the cell.

        Zero along open axes and for what is already inside, faces included, to round-off.
        """
        s = self.fractional(positions)
        outside = (s < -WRAP_TOLERANCE) | (s >= 1.0 + WRAP_TOLERANCE)
        return np.where(outside & np.array(self.pbc), -np.floor(s), 0.0).astype(np.int64)

    def owner(self, positions: np.ndarray) -> np.ndarray:
        """(n,) int64: the rank that owns each wrapped position (n, 3) Å."""
        s = self.fractional(positions)
        position = [
            np.searchsorted(cuts[1:-1], s[:, axis], side="right")
            for axis, cuts in enumerate(self.cuts)
        ]
        return np.ravel_multi_index(position, self.grid)

    def margins(self, cutoff: float) -> np.ndarray:
        """(3,) width in fractional coordinates of a halo that holds all within `cutoff` (Å).

        A little wider than that, for the tolerance of wrapping and for round-off.
        """
        return cutoff / cell_heights(self.cell) * (1.0 + 1e-9) + 1e-9

    def neighbor(self, rank: int, axis: int, direction: int) -> tuple[int | None, int]:
        """The rank next to `rank` along `axis` (direction −1 or +1) and the lattice shift that
        takes an atom from this rank's frame to the neighbour's; None beyond an open boundary."""
        position, n = list(self.grid_position(rank)), self.grid[axis]
        target = position[axis] + direction
        if not 0 <= target < n and not self.pbc[axis]:
            return None, 0
        position[axis] = target % n
        return int(np.ravel_multi_index(position, self.grid)), -(target // n)

    def hops(self, axis: int, margin: float) -> int:
        """Passes along `axis` until every subdomain has seen all within `margin` (fractional).

        One pass hands atoms on to the next subdomain; thin ones need several.
        """
        widths, n = np.diff(self.cuts[axis]), self.grid[axis]
        if self.pbc[axis] and margin > MAX_IMAGES:
            raise InputError(
                f"cell: the cutoff reaches over {margin:.0f} periodic images along lattice vector "
                f"{axis}; the cell is far too small, check its unit or replicate it"
            )
        most = 0
        for own, direction in product(range(n), (1, -1)):
            seen, hops, at = 0.0, 0, own
            while seen < margin:
                at += direction
                if not 0 <= at < n and not self.pbc[axis]:
                    break
                seen += widths[at % n]
                hops += 1
            most = max(most, hops)
        return most


def choose_grid(lengths: Sequence[float], n_ranks: int) -> tuple[int, int, int]:
    """The grid of `n_ranks` subdomains with the least surface.

    `lengths` (3,) Å: extent of the region that holds atoms, normal to the faces of the cell. A
    subdomain of the grid (a, b, c) has faces in proportion to a/L_a + b/L_b + c/L_c.
    """
    grids = [
        (a, b, n_ranks // (a * b))
        for a in range(1, n_ranks + 1)
        for b in range(1, n_ranks // a + 1)
        if n_ranks % (a * b) == 0
    ]
    return min(grids, key=lambda g: sum(n / length for n, length in zip(g, lengths, strict=True)))


def checked_grid(grid: Sequence[int], n_ranks: int) -> tuple[int, int, int]:
    """`grid` as three positive integers; raises InputError if they do not multiply to `n_ranks`."""
    a, b, c = (int(n) for n in grid)
    if min(a, b, c) < 1 or a * b * c != n_ranks:
        raise InputError(
            f"grid {[a, b, c]}: {a * b * c} subdomains for {n_ranks} ranks; "
            "give three numbers whose product is the number of ranks, or leave the key out"
        )
    return a, b, c


def bounds(pbc: Sequence[bool], low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The fractional range to cut along each axis: the cell if periodic, else where atoms are.

    `low`, `high` (3,): smallest and largest fractional coordinate of any atom.
    """
    periodic = np.array(pbc)
    high = np.where(high > low, high, low + 1.0)  # all atoms in one plane
    return np.where(periodic, 0.0, low), np.where(periodic, 1.0, high)


def histogram(fractional: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """(3, HISTOGRAM_BINS) int64 numbers of atoms along each axis between `low` and `high`."""
    scaled = (fractional - low) / (high - low) * HISTOGRAM_BINS
    bins = np.clip(np.floor(scaled), 0, HISTOGRAM_BINS - 1).astype(np.int64)
    return np.stack([np.bincount(bins[:, axis], minlength=HISTOGRAM_BINS) for axis in range(3)])


def occupied_lengths(cell: np.ndarray, counts: np.ndarray, span: np.ndarray) -> np.ndarray:
    """(3,) Å, normal to each pair of faces: length of the part of the range that holds atoms.

    `counts` (3, bins) of the whole system, `span` (3,) fractional width of the range. Coarse
    bins, so that the gaps between the planes of a crystal do not look like vacuum.
    """
    coarse = counts.reshape(3, 16, -1).sum(axis=2)
    return cell_heights(cell) * span * np.maximum((coarse > 0).mean(axis=1), 1 / 16)


def balanced(
    cell: np.ndarray,
    pbc: Sequence[bool],
    grid: Sequence[int],
    counts: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
) -> Domain:
    """A `Domain` whose planes divide the atoms, or what they cost, evenly along each axis.

    `counts` (3, bins) of the whole system between `low` and `high` (3,), see `histogram`. A plane
    goes to the middle of the gap between two atoms, where there is one, so that an atom of a
    crystal does not sit on it.
    """
    cuts = []
    for axis, n in enumerate(grid):
        cumulative = np.cumsum(counts[axis]) / counts[axis].sum()
        share = np.arange(1, n) / n
        before = np.searchsorted(cumulative, share - 1e-9, side="left") + 1
        after = np.searchsorted(cumulative, share + 1e-9, side="right")
        inner = (before + after) / (2.0 * counts.shape[1])
        line = np.concatenate([[0.0], inner, [1.0]])
        cuts.append(low[axis] + (high[axis] - low[axis]) * line)
    periodic = tuple(bool(p) for p in pbc)
    return Domain(np.array(cell, dtype=np.float64), periodic, tuple(cuts))  # type: ignore[arg-type]
