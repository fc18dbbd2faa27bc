"""Files of pair energies (DeePMD-kit's `use_srtab`), and the cubic splines through them.

A text of 1 + n (n + 1) / 2 columns: distance (Å), then the energy (eV) of each pair of elements in
the order 0-0, 0-1, …, 1-1, …; rows are equally far apart. The splines have slope 0 at both ends. A
table that ends before the cutoff goes on with zeros if its last row is 0, else with one cubic that
falls to 0 at the last row before the cutoff.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..system import InputError

UNEVEN = 0.01
"""How far a row may be from the even grid, in units of the spacing."""
MOST_ROWS = 1_000_000


@dataclass(frozen=True)
class PairTable:
    """Cubics of all pairs on one grid."""

    start: float
    """Å, of the first row."""
    spacing: float
    """Å."""
    coefficients: np.ndarray
    """(n_types, n_types, n_intervals, 4) float64 eV: Σ_k c_k t^k, t in [0, 1) of each interval."""


def read_pair_table(path: str | Path, type_map: Sequence[str], rcut: float) -> PairTable:
    """The table in a file, continued to `rcut` (Å).

    Raises InputError for a file that cannot be read, of another number of columns than the elements
    have pairs, or with rows that are not equally spaced.
    """
    rows = _rows(Path(path), len(type_map))
    spacing = float(rows[1, 0] - rows[0, 0])
    even = rows[0, 0] + spacing * np.arange(len(rows))
    wrong = np.abs(rows[:, 0] - even) > UNEVEN * spacing
    if rows[0, 0] < 0 or not spacing > 0 or wrong.any():
        k = int(wrong.argmax()) if spacing > 0 and wrong.any() else 1
        raise InputError(
            f"{path}: row {k + 1} is at {rows[k, 0]:g} Å; expected distances of at least 0 Å and "
            f"equal steps, as the first two rows have: {rows[0, 0]:g} and {rows[1, 0]:g} Å"
        )
    if rcut / spacing > MOST_ROWS:
        raise InputError(f"{path}: steps of {spacing:g} Å are too small to go on to {rcut:g} Å")
    return PairTable(
        float(rows[0, 0]), spacing, _cubics(_continued(rows, spacing, rcut), spacing, len(type_map))
    )


def _rows(path: Path, n_types: int) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # an empty file
            rows = np.loadtxt(path, dtype=np.float64, ndmin=2)
    except OSError as e:
        raise InputError(f"{path}: cannot be read: {e.strerror or e}") from None
    except ValueError as e:
        raise InputError(f"{path}: not a table of numbers: {str(e).splitlines()[0]}") from None
    columns = 1 + n_types * (n_types + 1) // 2
    if not 2 <= len(rows) <= MOST_ROWS or rows.shape[1] != columns:
        raise InputError(
            f"{path}: expected at least 2 rows of {columns} columns (distance, and the energy of "
            f"each pair of the {n_types} elements in model/type_map), found {len(rows)} rows of "
            f"{rows.shape[1]}"
        )
    if not np.isfinite(rows).all():
        raise InputError(f"{path}: holds numbers that are not finite")
    return rows


def _continued(rows: np.ndarray, spacing: float, rcut: float) -> np.ndarray:
    """With rows added up to the first one at or beyond `rcut`, as DeePMD-kit 3.2 adds them."""
    first, last = rows[0, 0], rows[-1, 0]
    n = math.ceil(rcut / spacing - first / spacing) - (len(rows) - 1)
    if rcut <= last or n < 1:
        return rows
    added = np.zeros((n, rows.shape[1]))
    added[:, 0] = np.linspace(last + spacing, last + spacing * n, n)
    if rows[-1, 1:].any():
        # two rows short of the end where there is room, so that it is 0 before the cutoff
        short = added[-1, 0] / spacing - last / spacing >= 2
        end = added[-2 if short else -1, 0]
        slope = rows[-1, 1:] - rows[-2, 1:]  # per row there, not per Å; so it has to be here
        t = ((added[:, 0] - last) / (end - last))[:, None]
        value, width = rows[-1, 1:], end - last
        added[:, 1:] = (1 - t) ** 2 * (value * (1 + 2 * t) + slope * width * t)
        if short:
            added = added[:-1]
    return np.concatenate([rows, added])


def _cubics(rows: np.ndarray, spacing: float, n_types: int) -> np.ndarray:
    """(n_types, n_types, n_intervals, 4) of the splines with slope 0 at both ends."""
    r, values = rows[:, 0], rows[:, 1:]
    slopes = spacing * _slopes(r, values)
    left, right, rise = slopes[:-1], slopes[1:], np.diff(values, axis=0)
    each = np.stack(
        [values[:-1], left, 3 * rise - 2 * left - right, left + right - 2 * rise], axis=-1
    )
    pairs = iter(range(values.shape[1]))
    cubics = np.empty((n_types, n_types, len(each), 4))
    for a in range(n_types):
        for b in range(a, n_types):
            cubics[a, b] = cubics[b, a] = each[:, next(pairs)]
    return cubics


def _slopes(r: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(n, columns): at the knots r (n,) of the splines through `values`, 0 at both ends.

    Continuous second derivatives, a tridiagonal system, by elimination.
    """
    h, n = np.diff(r), len(r)
    secant = np.diff(values, axis=0) / h[:, None]
    slopes, factor = np.zeros_like(values), np.zeros(n)
    for i in range(1, n - 1):
        known = 3 * (h[i] * secant[i - 1] + h[i - 1] * secant[i])
        pivot = 2 * (h[i - 1] + h[i]) - h[i] * factor[i - 1]
        factor[i] = h[i - 1] / pivot
        slopes[i] = (known - h[i] * slopes[i - 1]) / pivot
    for i in range(n - 2, 0, -1):
        slopes[i] -= factor[i] * slopes[i + 1]
    return slopes
