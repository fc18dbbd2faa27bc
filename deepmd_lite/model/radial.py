"""The descriptor `se_e2_r`, D = (1/N_sel) Σ_slots G(s̃), as the first column of moments.

The first column is Σ y H(y) for a table H of the row's first entry y. With H(y) = G(s̃)/y every
term is G itself. y may be any linear function of s: it is s̃ + shift, at least 1 for every slot, so
that the quotient is smooth. Rows are normalised to y by another mean, davg − shift·dstd.

DeePMD-kit divides by `RESCALE` as well (`res_rescale` of its `se_r`).
"""

from __future__ import annotations

import torch

from .activations import Jet

RESCALE = 5.0


def shift_of(empty_slot: torch.Tensor) -> float:
    """What is added to s̃, from `empty_slot` (n_types,), the smallest s̃ around each type."""
    return 1.0 - float(empty_slot.min())


def shifted(davg: torch.Tensor, dstd: torch.Tensor, shift: float) -> torch.Tensor:
    """(n_types, 4): means that normalise rows to y instead of s̃."""
    mean = davg.clone()
    mean[:, 0] -= shift * dstd[:, 0]
    return mean


def divided(values: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """(n, M) of H from those of G, at `y` (n,)."""
    return values / (RESCALE * y[:, None])


def divided_jet(jet: Jet, y_k: torch.Tensor) -> Jet:
    """H and its derivatives with respect to y from those of G, (n_tables, n_nodes, M)."""
    y = y_k[:, None]
    value, slope, curvature = (x / RESCALE for x in jet)
    h = value / y
    dh = (slope - h) / y
    return h, dh, (curvature - 2 * dh) / y
