"""Networks that all elements share, which are told the element by a vector t_a of each.

    G_ab(s) = G(s, t_b, t_a)                 'concat'
    G_ab(s) = G(s) ⊙ (1 + f g(t_b, t_a))     'strip': g a second network, f 1 or falling to 0
    E_a(D)  = E(D, t_a)

(`type_one_side`: without t_a.) Beside a scalar or a descriptor the vectors are a bias of the first
layer, z = x w + t_b W_b + t_a W_a + b: to everything else these are networks of each element, or
pair of elements, whose weights are equal but for that bias.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from .activations import Jet
from .config import FittingConfig, ModelConfig
from .descriptor_config import DescriptorConfig
from .fading import Distances, FadingEmbedding
from .networks import Embedding, Fitting, Layers, Shifted, random_weights
from .statistics import Scales
from .table import Grid
from .tabulated import ScaledEmbedding
from .type_embedding_config import TypeEmbeddingConfig


@dataclass
class Shared:
    """The networks that all elements of a plain potential shared in its training."""

    type_embedding: TypeEmbeddingConfig
    type_one_side: bool
    """That of the descriptor."""
    arrays: dict[str, torch.Tensor]
    """Under the names of `potential_for_training(…).state_dict()`."""

    def config(self, plain: ModelConfig) -> ModelConfig:
        """What the input of that training said, where the plain potential has `plain`."""
        (d,) = plain.descriptors
        own = d.model_copy(update={"type_one_side": self.type_one_side})
        update = {"descriptor": own, "type_embedding": self.type_embedding}
        return plain.model_copy(update=update)


class TypeVectors(Layers):
    """t_a: a network at the unit vector of each element."""

    def __init__(
        self,
        n_types: int,
        config: TypeEmbeddingConfig,
        one_side: bool,
        generator: torch.Generator | None,
    ) -> None:
        """`one_side`: whether embeddings are told the neighbour alone."""
        activation, resnet_dt = config.activation_function, config.resnet_dt
        super().__init__(1, n_types, config.neuron, activation, resnet_dt, generator)
        self.config, self.n_types, self.one_side = config, n_types, one_side
        if not config.use_tebd_bias:
            for layer in range(len(config.neuron)):
                bias = self.get_parameter(f"bias_{layer}")
                delattr(self, f"bias_{layer}")
                self.register_buffer(f"bias_{layer}", torch.zeros_like(bias), persistent=False)

    def forward(self) -> torch.Tensor:
        """(n_types, width)."""
        return self.outputs(torch.eye(self.n_types, dtype=self.parameters_of(0)[0].dtype))

    def of_tables(self) -> torch.Tensor:
        """What the embedding of each table is told: t_b, or of (a, b) both, t_b first."""
        t, n = self(), self.n_types
        if self.one_side:
            return t
        return torch.hstack([t.repeat(n, 1), t.repeat_interleave(n, dim=0)])

    @property
    def n_tables(self) -> int:
        """Embeddings that are told apart."""
        return self.n_types if self.one_side else self.n_types**2

    @property
    def n_told(self) -> int:
        """Numbers that each is told."""
        return self.widths[-1] if self.one_side else 2 * self.widths[-1]


class TypedEmbedding(Embedding):
    """'concat'. Its parameters are those of one network, and `type_weight` (n_told, width)."""

    def __init__(
        self,
        types: TypeVectors,
        d: DescriptorConfig,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__(1, 1, d.neuron, d.activation_function, d.resnet_dt, generator)
        self.copies = types.n_tables
        self._types = (types,)  # in a tuple, where torch does not count it as a part
        n_told, n_out = types.n_told, d.neuron[0]
        self.type_weight = random_weights((n_told, n_out), (1 + n_told + n_out) ** -0.5, generator)

    def told(self) -> torch.Tensor:
        """(n_tables, n_told): what each of them is told."""
        return self._types[0].of_tables()

    def parameters_of(
        self, layer: int, dtype: torch.dtype | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """As those of one network for each table."""
        weight, bias, step = super().parameters_of(layer, dtype)
        if layer == 0:
            bias = bias + (self.told() @ self.type_weight)[:, None].to(bias.dtype)
        weight, bias = (x.expand(self.copies, -1, -1) for x in (weight, bias))
        return weight, bias, None if step is None else step.expand(self.copies, -1, -1)


class StrippedEmbedding(nn.Module):
    """'strip'. `network`: G(s), `of_types`: g."""

    def __init__(
        self,
        types: TypeVectors,
        d: DescriptorConfig,
        scales: Scales,
        generator: torch.Generator | None,
    ) -> None:
        """`scales`: those of the descriptor, which may change."""
        super().__init__()
        self.of_distance = types.config.fades
        self.copies = types.n_types**2 if self.of_distance else types.n_tables
        self._config, self._scales = d, scales
        self._types = (types,)  # in a tuple, where torch does not count it as a part
        made_of = (d.neuron, d.activation_function, d.resnet_dt, generator)
        self.network = Embedding(1, 1, *made_of)
        self.of_types = Layers(1, types.n_told, *made_of)

    def now(self) -> ScaledEmbedding | FadingEmbedding:
        """With the weights that they have now, in which it is differentiable."""
        types, d = self._types[0], self._config
        factors = self.of_types.outputs(types.of_tables()).double()
        if not self.of_distance:
            return ScaledEmbedding(self.network, 1.0 + factors)
        if types.one_side:
            factors = factors.repeat(types.n_types, 1)
        centre = self._scales.davg[:, 0], self._scales.dstd[:, 0]
        distances = Distances(d.rcut, d.rcut_smth, d.env_protection, *centre, "switch")
        return FadingEmbedding(self.network, factors, distances)

    def table(self, grid: Grid, dtype: torch.dtype) -> torch.Tensor | None:
        """As `TabulatedEmbedding.table`."""
        return self.now().quick_table(grid, dtype)

    def jet(self, s_k: torch.Tensor) -> Jet:
        """As `TabulatedEmbedding.jet`."""
        return self.now().jet(s_k)

    def values(self, table_e: torch.Tensor, s_e: torch.Tensor) -> torch.Tensor:
        """As `TabulatedEmbedding.values`."""
        return self.now().values(table_e, s_e)


class TypedFitting(nn.Module):
    """`network`, and for each element a view of it with the bias of that element."""

    def __init__(
        self,
        types: TypeVectors,
        width: int,
        f: FittingConfig,
        generator: torch.Generator | None,
    ) -> None:
        """`width`: numbers of the descriptor."""
        super().__init__()
        made_of = (f.neuron, f.activation_function, f.resnet_dt, generator)
        self.network = Fitting(width, *made_of)
        self._types = (types,)  # in a tuple, where torch does not count it as a part
        self.type_weight: nn.Parameter | None = None
        if types.config.concat_output_tebd:
            n_told, n_out = types.widths[-1], f.neuron[0]
            std = (width + n_told + n_out) ** -0.5
            self.type_weight = random_weights((n_told, n_out), std, generator)

    def __len__(self) -> int:
        return self._types[0].n_types

    def __getitem__(self, a: int) -> Fitting:
        return list(self)[a]

    def __iter__(self) -> Iterator[Fitting]:
        shifts = None if self.type_weight is None else self.told() @ self.type_weight
        for a in range(len(self)):
            yield Shifted(self.network, None if shifts is None else shifts[a])

    def told(self) -> torch.Tensor:
        """(n_types, n_told): what each of them is told."""
        return self._types[0]()
