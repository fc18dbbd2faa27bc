"""The embedding of a compressed model: DeePMD-kit's tables as ours.

Its table is a quintic for each interval, of width stride0 from lower to upper and of stride1 from
there to max (`tabulate_fusion_se_a`; see `nodes`). Outside it repeats the first or last value; here
it continues smoothly, and the potential ends where the table does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..model.tabulated import TabulatedEmbedding
from .nodes import Tree


def embedding_of(tables: Sequence[Tree | None], width: int) -> TabulatedEmbedding:
    """The embedding of `width` features; a table that is None (an excluded pair) gives zero.

    `tables` in the order of the embedding: by neighbour type, or by centre, then neighbour.
    """
    found = [_pieces(table, width) for table in tables]
    return TabulatedEmbedding([knots for knots, _ in found], [pieces for _, pieces in found])


def closest_distance(
    tables: Sequence[Tree | None], davg: torch.Tensor, dstd: torch.Tensor
) -> float:
    """Å: how near two atoms may come so that s̃ stays inside every table, for every centre.

    davg, dstd (n_types, 4). s < 1/r, so that 1/r may reach what the tables end at.
    """
    end = min(table["max"] for table in tables if table is not None)
    return float((1.0 / (end * dstd[:, 0] + davg[:, 0])).max())


def _pieces(table: Tree | None, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Knots (K,) and coefficients (K, 6, M), the last row that of the end."""
    if table is None:
        return torch.zeros(1), torch.zeros(1, 6, width)
    lower, upper, stride0, stride1 = (table[k] for k in ("lower", "upper", "stride0", "stride1"))
    coefficients = table["@variables"]["coefficients"].astype(np.float64).transpose(0, 2, 1)
    n = len(coefficients)
    first = round((upper - lower) / stride0)
    k = np.arange(n + 1)
    knots = np.where(k < first, lower + stride0 * k, upper + stride1 * (k - first))
    last = np.zeros_like(coefficients[:1])
    last[0, :3] = _taylor(coefficients[-1], knots[-1] - knots[-2])
    pieces = np.concatenate([coefficients, last])
    return torch.from_numpy(knots), torch.from_numpy(pieces)


def _taylor(coefficients: np.ndarray, x: float) -> list[np.ndarray]:
    """Value, first and half the second derivative of a quintic (6, M) at x."""
    powers = x ** np.arange(6)
    k = np.arange(6)
    first = k[1:] * powers[:-1]
    second = k[2:] * (k[2:] - 1) / 2 * powers[:-2]
    return [powers @ coefficients, first @ coefficients[1:], second @ coefficients[2:]]
