"""An embedding that is given by a table, its networks being lost: that of a compressed model.

Piecewise quintics of normalised s with two continuous derivatives. The potential tabulates them on
its own grid, as it does with networks, so nothing that evaluates a potential knows the difference.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from .activations import Jet
from .networks import Embedding
from .table import HERMITE, Grid


class TabulatedEmbedding(nn.Module):
    """G(s): scalar → features, one table for each network that there was. It has no parameters.

    Outside its knots a table continues as the parabola of its first or last one.
    """

    of_distance = False
    """Whether it is a function of −r (Å) in the place of s̃ (see `fading`)."""

    def __init__(self, knots: Sequence[torch.Tensor], pieces: Sequence[torch.Tensor]) -> None:
        """`knots` (K,) ascending, `pieces` (K, 6, M), of each table, float64.

        Row k of the pieces holds the coefficients of x⁰ … x⁵, x = s − knots[k] up to the next
        knot; of the last row only the first three count.
        """
        super().__init__()
        self.copies = len(knots)
        # plain attributes: the table stays float64 whatever the arithmetic of the potential
        self._knots = [k.double() for k in knots]
        self._pieces = [p.double() for p in pieces]
        for piece in self._pieces:
            piece[-1, 3:] = 0.0

    @classmethod
    def on_grid(cls, grid: Grid, nodes: torch.Tensor) -> TabulatedEmbedding:
        """From value, first and second derivative at the nodes: (n_tables, n_nodes, 3, M)."""
        powers = grid.spacing ** torch.arange(6, dtype=torch.float64)[:, None]
        scaled = nodes * powers[:3]
        ends = torch.cat([scaled[:, :-1], scaled[:, 1:]], dim=2)
        pieces = torch.einsum("kd,pidm->pikm", HERMITE, ends) / powers
        pieces = torch.nn.functional.pad(pieces, (0, 0, 0, 0, 0, 1))
        pieces[:, :, :3] = nodes * nodes.new_tensor([1.0, 1.0, 0.5])[:, None]
        made = cls([grid.nodes()] * len(nodes), list(pieces))
        made.of_distance = grid.of_distance
        return made

    @property
    def width(self) -> int:
        """M, the number of features."""
        return self._pieces[0].shape[-1]

    def table(self, grid: Grid, dtype: torch.dtype) -> torch.Tensor | None:
        """As `Embedding.table`; None where it has to be made of jets."""
        return None

    def jet(self, s_k: torch.Tensor) -> Jet:
        """Value, first and second derivative at `s_k` (n_nodes,), each (n_tables, n_nodes, M)."""
        each = [self._piece_at(p, s_k.double()) for p in range(self.copies)]
        jets = [
            (
                _polynomial(c, x),
                _polynomial(_derivative(c), x),
                _polynomial(_derivative(_derivative(c)), x),
            )
            for c, x in each
        ]
        value, slope, curvature = (torch.stack(parts) for parts in zip(*jets, strict=True))
        return value, slope, curvature

    def values(self, table_e: torch.Tensor, s_e: torch.Tensor) -> torch.Tensor:
        """(n_edges, M) float64 at each edge's s, differentiable in it."""
        out = torch.zeros(len(s_e), self.width, dtype=torch.float64, device=s_e.device)
        for p in range(self.copies):
            mine = (table_e == p).nonzero()[:, 0]
            out = out.index_put((mine,), _polynomial(*self._piece_at(p, s_e[mine].double())))
        return out

    def _piece_at(self, table: int, s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Coefficients (n, 6, M) of the piece that holds each s, and x (n, 1) in it."""
        knots = self._knots[table]
        index = (torch.searchsorted(knots, s.detach(), right=True) - 1).clamp(min=0)
        x = (s - knots[index])[:, None]
        coefficients = self._pieces[table][index]
        below = (x.detach() < 0)[:, :, None]
        parabola = torch.nn.functional.pad(coefficients[:, :3], (0, 0, 0, 3))
        return torch.where(below, parabola, coefficients), x


class ScaledEmbedding(TabulatedEmbedding):
    """G_p(s) = scale_p ⊙ G(s), one function with factors of its own for each table p.

    No network is such a product. It is exact as long as it lives; what a file keeps is its table.
    """

    def __init__(self, network: Embedding | TabulatedEmbedding, scale: torch.Tensor) -> None:
        """`network` of one copy; `scale` (n_tables, M) float64."""
        nn.Module.__init__(self)
        self.copies = len(scale)
        self._network = (network,)  # hidden: its weights are no parameters of the potential
        self._scale = scale.double()

    @property
    def width(self) -> int:
        """M, the number of features."""
        return int(self._scale.shape[1])

    def quick_table(self, grid: Grid, dtype: torch.dtype) -> torch.Tensor | None:
        """That of its jets to round-off: that of the one function, scaled; None as of `table`."""
        one = self._network[0].table(grid, torch.float64)
        if one is None:
            return None
        scale = torch.nn.functional.pad(self._scale, (0, one.shape[-1] - self.width))
        return (one * scale[:, None, None]).to(dtype)

    def jet(self, s_k: torch.Tensor) -> Jet:
        """As in `TabulatedEmbedding`."""
        value, slope, curvature = self._network[0].jet(s_k)
        scale = self._scale[:, None]
        return scale * value, scale * slope, scale * curvature

    def values(self, table_e: torch.Tensor, s_e: torch.Tensor) -> torch.Tensor:
        """As in `TabulatedEmbedding`."""
        return self._scale[table_e] * self._network[0].values(torch.zeros_like(table_e), s_e)


def _polynomial(coefficients: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """(n, M) from coefficients (n, order + 1, M) at x (n, 1)."""
    total = coefficients[:, -1]
    for k in range(coefficients.shape[1] - 2, -1, -1):
        total = total * x + coefficients[:, k]
    return total


def _derivative(coefficients: torch.Tensor) -> torch.Tensor:
    """Coefficients of the derivative, one order lower."""
    powers = torch.arange(1, coefficients.shape[1], dtype=coefficients.dtype)
    return coefficients[:, 1:] * powers[:, None]
