"""One descriptor: neighbourhoods → moments T → D, with its statistics, its embedding and its table.

With T = Σ G ⊗ R̃ / N_sel over the N_sel slots of an atom (DESIGN of DeepPot-SE, NeurIPS 2018), a
slot without a neighbour has R = 0 and contributes a constant, so the ragged sum over real
neighbours plus (sel_b − n_b) times that constant is the same T with nothing ever truncated.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from .. import kernels
from ..kernels import empty_slots, reference
from ..system import InputError, LocalEnv
from . import radial
from .activations import Jet
from .descriptor_config import DescriptorConfig
from .first_weights import spread_over_distances
from .networks import Embedding
from .statistics import Scales, seen_pairs
from .table import Grid, hermite_coefficients
from .tabulated import TabulatedEmbedding
from .typed_networks import StrippedEmbedding

AnyEmbedding = Embedding | StrippedEmbedding | TabulatedEmbedding


class Descriptor(nn.Module):
    """Moments of an atom's neighbours within its own cutoff, and the numbers D made of them."""

    davg: torch.Tensor
    dstd: torch.Tensor

    def __init__(
        self,
        config: DescriptorConfig,
        scales: Scales,
        generator: torch.Generator | None,
        grid: Grid | float,
        spacing: float,
        embedding: AnyEmbedding | None = None,
    ) -> None:
        """Networks with random weights of `generator`, uninitialised where it is None.

        `embedding` stands in for embedding networks that are lost, or shared. `grid`: that of the
        table, or the smallest distance (Å) that it is to cover from an empty slot on, in steps of
        `spacing`.
        """
        super().__init__()
        self.config = config
        self.sel = list(scales.sel)
        self.register_buffer("davg", scales.davg)
        self.register_buffer("dstd", scales.dstd)
        n_types = len(self.sel)
        copies = n_types if config.type_one_side else n_types**2
        self.embedding: AnyEmbedding = embedding or Embedding(
            copies,
            1,
            config.neuron,
            config.activation_function,
            config.resnet_dt,
            generator,
        )
        self._seen = seen_pairs(config.exclude_types, n_types)
        # excluding (a, b) distinguishes centres, so that every pair needs a table of its own
        self._one_side = config.type_one_side and self._seen is None
        self.grid = grid if isinstance(grid, Grid) else self._initial_grid(grid, spacing)
        self._frozen: torch.Tensor | None = None
        self.dtype = torch.float64

    # --- construction -----------------------------------------------------------------------

    def spread_over_distances(self, shortest: float, generator: torch.Generator) -> None:
        """First weights for a training: see `first_weights`; distances from `shortest` Å on."""
        d = self.config

        def mean_s(r: torch.Tensor) -> torch.Tensor:
            s = reference.switch(r, d.rcut_smth, d.rcut) / (r + d.env_protection)
            return ((s[..., None] - self.davg[:, 0]) / self.dstd[:, 0]).mean(-1)

        own = self.embedding
        embedding = own.network if isinstance(own, StrippedEmbedding) else self.embedding_networks()
        spread_over_distances(embedding, mean_s, shortest, d.rcut, self.grid.spacing, generator)

    @property
    def n_types(self) -> int:
        """Number of elements."""
        return len(self.sel)

    def to_precision(self, dtype: torch.dtype) -> None:
        """Arithmetic in `dtype`; weights are rounded."""
        self.embedding.to(dtype)
        self.dtype = dtype
        if self._frozen is not None:
            self._frozen = self._frozen.to(dtype)

    def freeze(self) -> None:
        """The table is made once."""
        self._frozen = None  # a table that was made in another precision is rounded to that
        self._frozen = self.coefficients()

    @property
    def frozen(self) -> bool:
        """Whether the table is made once for all."""
        return self._frozen is not None

    def embedding_networks(self) -> Embedding:
        """The embedding's networks, where they themselves are needed: to train or to export them.

        Raises InputError where only their table is left.
        """
        if not isinstance(self.embedding, Embedding):
            raise InputError(
                "the embedding of this model is a table without networks, as of a compressed "
                "model: it cannot be trained or exported; convert the uncompressed model"
            )
        return self.embedding

    @property
    def empty_slot(self) -> torch.Tensor:
        """(n_types,) float64: s̃ of a slot without neighbour, for each centre type."""
        return -self.davg[:, 0] / self.dstd[:, 0]

    @property
    def _shift(self) -> float:
        """Shift of the first entry of rows over s̃; not 0 for `se_e2_r` alone (see `radial`)."""
        return radial.shift_of(self.empty_slot) if self.config.radial else 0.0

    def _initial_grid(self, shortest: float, spacing: float) -> Grid:
        d = self.config
        if self.embedding.of_distance:
            return Grid.of_distances(d.rcut, d.rcut_smth, shortest, spacing)
        s = 1.0 / (shortest + d.env_protection)
        top = (s - self.davg[:, 0]) / self.dstd[:, 0]
        return Grid.covering(float(self.empty_slot.min()), float(top.max()), spacing)

    # --- pieces -----------------------------------------------------------------------------

    def environment(self) -> kernels.Environment:
        """The constants that the kernels need."""
        d, shift = self.config, self._shift
        return kernels.Environment(
            rcut=d.rcut,
            rcut_smth=d.rcut_smth,
            davg=radial.shifted(self.davg, self.dstd, shift) if d.radial else self.davg,
            dstd=self.dstd,
            type_one_side=self._one_side,
            table_start=self.grid.start + shift,
            table_spacing=self.grid.spacing,
            protection=d.env_protection,
            table_of_distance=self.grid.of_distance,
        )

    def jet(self) -> Jet:
        """Value, first and second derivative of every table at its nodes, (n_tables, n_nodes, M).

        Differentiable in the weights; zero for pairs of types that do not see each other. Of
        `se_e2_r` those of H (see `radial`).
        """
        jet = self.embedding.jet(self.grid.nodes())
        if self._seen is not None:
            network, seen = self._networks(), self._seen[:, None, None]
            value, slope, curvature = (x[network] * seen for x in jet)
            unseen = self._unseen(torch.arange(len(network)))
            jet = value + unseen[:, None], slope, curvature
        if self.config.radial:
            jet = radial.divided_jet(jet, self.grid.nodes() + self._shift)
        return jet

    def _unseen(self, table: torch.Tensor) -> torch.Tensor:
        """(n, M) float64: G of neighbours of `table` (n,) where these do not see each other.

        0 but for `se_e2_r` with networks of the neighbour alone: there DeePMD-kit sets s̃ to 0.
        """
        assert self._seen is not None
        d = self.config
        if not (d.radial and d.type_one_side):
            return torch.zeros(1, d.neuron[-1], dtype=torch.float64)
        zero = torch.zeros(len(table), dtype=torch.float64)
        values = self.embedding.values(self._networks()[table], zero)
        return values * (1.0 - self._seen[table])[:, None]

    def coefficients(self) -> torch.Tensor:
        """Table coefficients from the networks, differentiable in their weights."""
        if self._frozen is not None:
            return self._frozen
        grid, table = self.grid, None
        if self._seen is None and not self.config.radial:
            table = self.embedding.table(grid, self.dtype)
        if table is not None:
            return table
        return hermite_coefficients(self.jet(), grid.spacing).to(self.dtype)

    def _exact_values(self, table_e: torch.Tensor, y_e: torch.Tensor) -> torch.Tensor:
        """(n_edges, M) float64: what the tables approximate, at the first entry of each row.

        At −r where they are functions of the distance.
        """
        s_e = y_e - self._shift
        if self._seen is None:
            values = self.embedding.values(table_e, s_e)
        else:
            values = self.embedding.values(self._networks()[table_e], s_e)
            values = values * self._seen[table_e][:, None] + self._unseen(table_e)
        return radial.divided(values, y_e) if self.config.radial else values

    def _networks(self) -> torch.Tensor:
        """(n_types²,): embedding network of each (centre, neighbour) pair of types."""
        pair = torch.arange(self.n_types**2)
        return pair % self.n_types if self.config.type_one_side else pair

    def _empty_row(self) -> torch.Tensor:
        """(n_types,) float64: first entry of the row of an empty slot, for each centre type."""
        return self.empty_slot + self._shift

    def _normalised(
        self, raw: torch.Tensor, counts: torch.Tensor, types: torch.Tensor, empty: torch.Tensor
    ) -> torch.Tensor:
        """T (n, columns, M_padded): real neighbours plus the empty slots, over N_sel."""
        n_types = self.n_types
        left = (torch.tensor(self.sel, device=counts.device) - counts).to(raw.dtype)
        types, empty = types.to(raw.device), empty.to(raw.device)
        if n_types > 1:  # spread over (centre, neighbour) so that one product serves all types
            own = torch.nn.functional.one_hot(types.long(), n_types).to(raw.dtype)
            left = (own[:, :, None] * left[:, None, :]).reshape(-1, n_types**2)
        normalised: torch.Tensor = _Normalised.apply(raw, left, empty, 1.0 / sum(self.sel))
        return normalised

    # --- moments and what is made of them ------------------------------------------------------

    def moments(
        self, env: LocalEnv, positions: torch.Tensor, coefficients: torch.Tensor, on: Any = kernels
    ) -> torch.Tensor:
        """T (n_local, columns, M_padded), of `positions` (n_all, 3) and `coefficients`.

        Differentiable in both. `on`: where the operation of that name is found, on the processor or
        on a GPU.
        """
        atoms = (positions, env.types, env.offsets, env.indices)
        environment = self.environment()
        raw, counts, _ = on.moments(*atoms, coefficients, environment)
        empty = empty_slots.moments(coefficients, environment, self._empty_row())
        return self._normalised(raw, counts, env.types[: env.n_local], empty)

    def exact_moments(self, env: LocalEnv, positions: torch.Tensor) -> torch.Tensor:
        """(n_local, columns, M) float64: as `moments`, with networks in the place of tables."""
        atoms = (positions, env.types, env.offsets, env.indices)
        environment = self.environment()
        raw, counts = reference.moments_of(self._exact_values, *atoms, environment, torch.float64)
        table, y, s = empty_slots.slots(environment, self._empty_row())
        empty = self._exact_values(table, y) * s[:, None]
        return self._normalised(raw, counts, env.types[: env.n_local], empty)

    def numbers(self, moments: torch.Tensor) -> torch.Tensor:
        """D (n, width) of moments T (n, columns, M_padded)."""
        t = moments[:, :, : self.config.neuron[-1]]
        parts, shape = [], self.shape()
        for columns, n_axis in shape.degrees:
            own = t[:, columns]
            product = own.transpose(1, 2) @ own[:, :, :n_axis] if n_axis else own[:, 0]
            parts.append(product.flatten(1))
        if shape.n_cubic:
            parts.append(reference.cubic(t, shape.n_cubic))
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]

    def shape(self) -> kernels.Shape:
        """What the kernels make of moments."""
        d = self.config
        return kernels.Shape(d.neuron[-1], d.n_axis, d.columns, d.cubic_neuron)


class _Normalised(torch.autograd.Function):
    """(raw + left @ empty in column 0) · scale: linear in raw and empty, in one pass over raw."""

    @staticmethod
    def forward(
        ctx: Any, raw: torch.Tensor, left: torch.Tensor, empty: torch.Tensor, scale: float
    ) -> torch.Tensor:
        ctx.save_for_backward(left)
        ctx.scale = scale
        normalised = raw * scale
        normalised[:, 0].addmm_(left, empty, alpha=scale)
        return normalised

    @staticmethod
    def backward(
        ctx: Any, grad: torch.Tensor
    ) -> tuple[torch.Tensor, None, torch.Tensor | None, None]:
        (left,) = ctx.saved_tensors
        grad = grad * ctx.scale
        return grad, None, left.T @ grad[:, 0] if ctx.needs_input_grad[2] else None, None


class Descriptors(nn.ModuleList):
    """The descriptors of a potential, in the order of their numbers."""

    def __iter__(self) -> Iterator[Descriptor]:
        return super().__iter__()  # type: ignore[return-value]

    def __getitem__(self, k: int) -> Descriptor:  # type: ignore[override]
        found = super().__getitem__(k)
        assert isinstance(found, Descriptor)
        return found
