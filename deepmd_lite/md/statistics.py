"""Means of correlated series with their errors, and slopes."""

from __future__ import annotations

import numpy as np

FEWEST_BLOCKS = 16
"""Blocks that are still enough to estimate an error from."""


def block_average(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard error of a series (n,) whose neighbours are correlated.

    Blocking (Flyvbjerg & Petersen, J. Chem. Phys. 91, 461 (1989)): neighbours are merged in pairs
    again and again; the error that the blocks show grows until they are independent. Taken is the
    largest with at least 16 blocks, nan of fewer than 16 values.
    """
    blocks, error = np.asarray(values, dtype=np.float64), np.nan
    mean = float(blocks.mean()) if len(blocks) else np.nan
    while len(blocks) >= FEWEST_BLOCKS:
        error = np.fmax(error, blocks.std(ddof=1) / np.sqrt(len(blocks)))
        n = len(blocks) // 2 * 2
        blocks = 0.5 * (blocks[:n:2] + blocks[1:n:2])
    return mean, float(error)


def slope(x: np.ndarray, y: np.ndarray) -> float:
    """Slope of the line through points (n,), (n,) by least squares; nan of fewer than two."""
    centred = x - x.mean() if len(x) else x
    square = float(centred @ centred)
    return float(centred @ y) / square if square > 0 else np.nan


def with_error(mean: float, error: float) -> str:
    """`mean ± error`, the error with two digits; the mean alone where there is no error."""
    if not np.isfinite(error) or error <= 0:
        return f"{mean:.6g}"
    decimals = 1 - int(np.floor(np.log10(error)))
    if decimals > 9 or decimals < -3:
        return f"{mean:.6g} ± {error:.2g}"
    decimals = max(decimals, 0)
    return f"{mean:.{decimals}f} ± {error:.{decimals}f}"
