"""The embedding as a quintic Hermite spline: nodes with two derivatives, six numbers per interval.

The interpolant is linear in the node values, so gradients reach the network's weights through the
nodes. Layout of the coefficients: table, interval, power, feature; features are padded with zeros
to the vector width of the kernels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from ..kernels import FEATURE_PADDING


@dataclass(frozen=True)
class Grid:
    """Uniform nodes start + k · spacing, k = 0 … n_intervals, in normalised s or in −r (Å)."""

    start: float
    spacing: float
    n_intervals: int
    of_distance: bool = False
    """Whether nodes are minus distances (see `fading`)."""

    @classmethod
    def covering(cls, low: float, high: float, spacing: float) -> Grid:
        """The coarsest grid on [low, high] whose spacing does not exceed `spacing`."""
        n = max(1, math.ceil((high - low) / spacing - 1e-9))
        return cls(low, (high - low) / n, n)

    @classmethod
    def of_distances(cls, rcut: float, rcut_smth: float, shortest: float, spacing: float) -> Grid:
        """From rcut to `shortest` or a little below, Å, with a node at rcut_smth."""
        anchor = rcut_smth if shortest < rcut_smth < rcut else shortest
        step = cls.covering(-rcut, -anchor, min(spacing, shortest / 2)).spacing
        n = max(1, math.ceil((rcut - shortest) / step - 1e-9))
        return cls(-rcut, step, n, of_distance=True)

    def refined(self, factor: float) -> Grid:
        """The same range with `factor` times as many intervals, or more.

        Of distances a whole number of times: what was a node stays one.
        """
        n = self.n_intervals * math.ceil(factor)
        if not self.of_distance:
            n = math.ceil(self.n_intervals * factor)
        return replace(self, spacing=self.spacing * self.n_intervals / n, n_intervals=n)

    def nodes(self) -> torch.Tensor:
        """(n_intervals + 1,) float64."""
        steps = torch.arange(self.n_intervals + 1, dtype=torch.float64)
        return self.start + self.spacing * steps


HERMITE = torch.tensor(
    [
        [1.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        [0.0, 1.0, 0.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.5, 0.0, 0.0, 0.0],
        [-10.0, -6.0, -1.5, 10.0, -4.0, 0.5],
        [15.0, 8.0, 1.5, -15.0, 7.0, -1.0],
        [-6.0, -3.0, -0.5, 6.0, -3.0, 0.5],
    ],
    dtype=torch.float64,
)
"""Powers of t (rows) from value, slope and curvature at t = 0 and at t = 1 (columns)."""


def hermite_coefficients(
    jet: tuple[torch.Tensor, torch.Tensor, torch.Tensor], spacing: float
) -> torch.Tensor:
    """(n_tables, n_intervals + 1, 6, M_padded) float64 from a jet at the nodes.

    `jet`: value, first and second derivative, each (n_tables, n_intervals + 1, M). The last entry
    continues the table beyond its end as the parabola of the last node, so that the function
    keeps two continuous derivatives there.
    """
    value, slope, curvature = jet
    nodes = torch.stack([value, spacing * slope, spacing**2 * curvature], dim=2)
    both_ends = torch.cat([nodes[:, :-1], nodes[:, 1:]], dim=2)
    inner = torch.einsum("kd,pqdm->pqkm", HERMITE.to(nodes.device), both_ends)
    parabola = nodes[:, -1:] * nodes.new_tensor([1.0, 1.0, 0.5])[:, None]
    last = torch.nn.functional.pad(parabola, (0, 0, 0, 3))
    coefficients = torch.cat([inner, last], dim=1)
    padding = -coefficients.shape[-1] % FEATURE_PADDING
    return torch.nn.functional.pad(coefficients, (0, padding))
