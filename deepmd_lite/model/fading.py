"""An embedding whose share of the pair of types fades with the distance: DPA-1's smoothed `strip`.

    G_ab(r) = G(s̃) ⊙ (1 + f(r) g_ab),   s̃ = (w(r)/(r + c) − davg_a) / dstd_a

with one network G of all types, factors g_ab of each pair and a fading f that is 0 at the cutoff.
f is no smooth function of s̃ there (r goes like its cube root), so the tables of such a model are
functions of the distance: of y = −r, which grows towards the end of a table as s̃ does. They have
two continuous derivatives in r; the third jumps at rcut_smth, which `Grid.of_distances` makes a
node.

Formulas: Zhang et al., "Pretraining of attention-based deep learning potential model", npj Comput.
Mater. 10, 94 (2024), and DeePMD-kit's `se_atten_v2`, whose backends differ in f.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from ..kernels.reference import switch
from .activations import Jet
from .networks import Embedding
from .table import Grid, hermite_coefficients
from .tabulated import TabulatedEmbedding

Fading = Literal["switch", "cubic"]
"""f: the switch w itself (PyTorch), or 1 − (1 − rcut_smth s)³ up to s = 1/rcut_smth and 1 beyond
(TensorFlow)."""


@dataclass(frozen=True)
class Distances:
    """How s̃ and the fading follow from the distance."""

    rcut: float
    """Å."""
    rcut_smth: float
    """Å."""
    protection: float
    """Å: `env_protection`."""
    davg: torch.Tensor
    """(n_types,) float64: mean of s of each centre."""
    dstd: torch.Tensor
    """(n_types,) float64."""
    fading: Fading

    def s_and_fading(self, r: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """s and f at distances r (Å), differentiable."""
        w = switch(r, self.rcut_smth, self.rcut)
        s = w / (r + self.protection)
        if self.fading == "switch":
            return s, w
        return s, 1.0 - (1.0 - self.rcut_smth * s).clamp(min=0.0) ** 3

    def jets(self, r: torch.Tensor) -> tuple[Jet, Jet]:
        """s and f with their first two derivatives with respect to r."""
        width = self.rcut - self.rcut_smth
        u = ((r - self.rcut_smth) / width).clamp(0.0, 1.0)
        w = switch(r, self.rcut_smth, self.rcut)
        dw = -30.0 * (u * (1.0 - u)) ** 2 / width
        d2w = -60.0 * u * (1.0 - u) * (1.0 - 2.0 * u) / width**2
        q = r + self.protection
        s = w / q
        ds = (dw - s) / q
        d2s = (d2w - 2.0 * ds) / q
        if self.fading == "switch":
            return (s, ds, d2s), (w, dw, d2w)
        k = self.rcut_smth
        v = (1.0 - k * s).clamp(min=0.0)
        df = 3.0 * k * v**2 * ds
        d2f = 3.0 * k * v**2 * d2s - 6.0 * v * (k * ds) ** 2
        return (s, ds, d2s), (1.0 - v**3, df, d2f)


class FadingEmbedding(TabulatedEmbedding):
    """It is exact as long as it lives; what a file keeps is its tables, (centre, neighbour)."""

    of_distance = True

    def __init__(
        self, network: Embedding | TabulatedEmbedding, factors: torch.Tensor, distances: Distances
    ) -> None:
        """`network` of one copy, a function of s̃; `factors` (n_types², M) float64: g_ab."""
        nn.Module.__init__(self)
        self.copies = len(factors)
        self._network = (network,)  # hidden: its weights are no parameters of the potential
        self._factors = factors.double()
        self._distances = distances

    @property
    def width(self) -> int:
        """M, the number of features."""
        return int(self._factors.shape[1])

    def _jets(self, y_k: torch.Tensor) -> tuple[Jet, Jet]:
        """Jets of G and f G at `y_k` = −r for each centre, each (n_types, n_nodes, M)."""
        d, n_types = self._distances, len(self._distances.davg)
        (s, ds, d2s), fading = d.jets(-y_k.double())
        f, df, d2f = (x[:, None] for x in fading)
        s_tilde = (s - d.davg[:, None]) / d.dstd[:, None]
        first, second = ((x / d.dstd[:, None])[..., None] for x in (ds, d2s))
        found = self._network[0].jet(s_tilde.flatten())
        value, slope, curvature = (x.view(n_types, len(s), -1) for x in found)
        curvature = curvature * first**2 + slope * second
        slope = slope * first
        faded = f * value, f * slope + df * value, f * curvature + 2.0 * df * slope + d2f * value
        own, other = (
            (v, 0.0 - v1, v2)  # against y, and no -0
            for v, v1, v2 in ((value, slope, curvature), faded)
        )
        return own, other

    def _of_pairs(self, own: torch.Tensor, faded: torch.Tensor) -> torch.Tensor:
        """own_a + g_ab faded_a of what is linear in G, its features last."""
        n_types = len(own)
        g = torch.nn.functional.pad(self._factors, (0, own.shape[-1] - self.width))
        g = g.view(n_types, n_types, *[1] * (own.dim() - 2), -1)
        return (own[:, None] + g * faded[:, None]).flatten(0, 1)

    def quick_table(self, grid: Grid, dtype: torch.dtype) -> torch.Tensor:
        """That of its jets to round-off, made of those of each centre."""
        own, faded = (hermite_coefficients(x, grid.spacing) for x in self._jets(grid.nodes()))
        return self._of_pairs(own, faded).to(dtype)

    def jet(self, y_k: torch.Tensor) -> Jet:
        """Value, first and second derivative at `y_k` = −r, each (n_types², n_nodes, M)."""
        value, slope, curvature = map(self._of_pairs, *self._jets(y_k))
        return value, slope, curvature

    def values(self, table_e: torch.Tensor, y_e: torch.Tensor) -> torch.Tensor:
        """(n_edges, M) float64 at each edge's y = −r, differentiable in it."""
        d = self._distances
        s, fading = d.s_and_fading(-y_e.double())
        centre = table_e // len(d.davg)
        s = (s - d.davg[centre]) / d.dstd[centre]
        values = self._network[0].values(torch.zeros_like(table_e), s)
        return values * (1.0 + fading[:, None] * self._factors[table_e])
