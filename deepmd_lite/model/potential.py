"""The potential: neighbourhoods → descriptors → atomic energies → forces and virial.

D = [D_1 | D_2 | …] of one or several descriptors (DeePMD-kit's `hybrid`), each with a cutoff of its
own; one list of neighbours within the largest of them serves all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import nn

from .. import kernels
from ..system import Evaluation, InputError, LocalEnv
from .atomic_virials import atomic_virials, weighted_gradient
from .config import ModelConfig
from .descriptor import AnyEmbedding, Descriptor, Descriptors
from .frame_parameters import at, distinct, fparam_of
from .members import Members, member
from .networks import Fitting, generator_of
from .statistics import Statistics
from .structures import Structure
from .table import Grid
from .typed_networks import Shared, TypedFitting, TypeVectors

TABLE_REACH = 0.75
"""The table ends at this fraction of the smallest distance in the training data."""
STREAMS = 2
"""Random numbers of the first descriptor come from stream 1, those of the fitting from 2, those of
another descriptor k from 2 + k."""
FIRST_LAYERS = 500
"""Those of the first layer of embedding k, where it is spread over distances, from 500 + k."""
_ONLY = "descriptors.0."


def prefixes_of(n: int) -> list[str]:
    """What the names of the arrays of each of `n` descriptors begin with."""
    return [f"descriptors.{k}." for k in range(n)] if n > 1 else [""]


class Potential(nn.Module):
    """A Deep Potential: energies of local atoms, forces on all rows, virial."""

    energy_bias: torch.Tensor

    def __init__(
        self,
        config: ModelConfig,
        statistics: Statistics,
        seed: int | None = 0,
        grids: Sequence[Grid] | None = None,
        embeddings: Sequence[AnyEmbedding | None] | None = None,
    ) -> None:
        """Networks with random weights from `seed`, or left uninitialised where it is None.

        Of each descriptor: `embeddings` stand in for embedding networks that are lost, or shared;
        `grids` default to ones that cover s̃ from an empty slot to `TABLE_REACH` times the smallest
        distance of `statistics` (or `table/min_distance`).
        """
        super().__init__()
        self.config = config
        self.type_map = list(config.type_map)
        self.min_distance, self.known_pairs = statistics.min_distance, statistics.known_pairs
        self.register_buffer("energy_bias", statistics.energy_bias)
        statistics.check_against(config)
        self.repulsion, self.short_range = statistics.repulsion, statistics.short_range
        self.frame_parameters = statistics.frame_parameters
        """Scales of the numbers of a frame that its energy depends on; None without any."""
        parts = list(zip(config.descriptors, statistics.scales, strict=True))
        self.descriptors = Descriptors(
            Descriptor(
                d,
                scales,
                generator_of(seed, d.seed, STREAMS + k if k else 1),
                grids[k] if grids else self.table_min_distance(),
                config.table.spacing,
                embeddings[k] if embeddings else None,
            )
            for k, (d, scales) in enumerate(parts)
        )
        self.rcut = max(d.rcut for d in config.descriptors)
        f, width = config.fitting_net, sum(d.width for d in config.descriptors)
        generator = generator_of(seed, f.seed, 2)
        self.fitting: nn.ModuleList | TypedFitting = nn.ModuleList(
            Fitting(
                *(width, f.neuron, f.activation_function, f.resnet_dt, generator, f.numb_fparam)
            )
            for _ in self.type_map
        )
        self.type_embedding: TypeVectors | None = None
        """In a training whose elements share their networks: see `typed`."""
        self.shared: Shared | None = None
        """The networks that all elements shared in such a training."""
        self.table_error: dict[str, float] = {}
        self.provenance: dict[str, Any] = {}
        self.reference_frames: tuple[Structure, ...] = ()
        """What the model's file remembers, with what the model says about it."""
        self.members: Members | None = None
        """Last layers beside its own, whose spread says how far to trust it."""
        self._compiled: kernels.CompiledPotential | kernels.cuda.CudaPotential | None = None
        self.device = "cpu"
        """Where `evaluate` and `energies_and_forces` compute; everything else is on the CPU."""
        self.to_precision(config.precision)

    def __getstate__(self) -> dict[str, Any]:
        """A copy, in memory or in another process, compiles its networks anew."""
        return {**super().__getstate__(), "_compiled": None}

    # --- names: those of the only descriptor have no prefix -----------------------------------

    @property
    def prefixes(self) -> list[str]:
        """What the names of each descriptor's arrays begin with."""
        return prefixes_of(len(self.descriptors))

    def _public(self, name: str) -> str:
        return name.removeprefix(_ONLY) if len(self.descriptors) == 1 else name

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """As in torch, under the names of the model file."""
        for name, parameter in super().named_parameters(*args, **kwargs):
            yield self._public(name), parameter

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """As in torch, under the names of the model file."""
        return {self._public(k): x for k, x in super().state_dict(*args, **kwargs).items()}

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As in torch, from what `state_dict` gives."""
        own = {self._public(name): name for name in super().state_dict()}
        arrays = {own.get(name, name): x for name, x in state_dict.items()}
        return super().load_state_dict(arrays, *args, **kwargs)

    # --- construction -----------------------------------------------------------------------

    @property
    def descriptor(self) -> Descriptor:
        """The only descriptor. Raises InputError where there are several."""
        if len(self.descriptors) != 1:
            raise InputError(f"expected one descriptor, found {len(self.descriptors)}")
        return self.descriptors[0]

    def spread_over_distances(self, seed: int) -> Potential:
        """First weights of the embeddings for a training, from `seed`: see `first_weights`."""
        for k, d in enumerate(self.descriptors):
            generator = generator_of(seed, d.config.seed, FIRST_LAYERS + k)
            assert generator is not None
            d.spread_over_distances(self.table_min_distance(), generator)
        return self

    def to_precision(self, precision: str) -> Potential:
        """Arithmetic in 'float64' or 'float32'; positions and sums over atoms stay float64.

        In place, for all who have this potential. Weights are rounded: going back to float64 does
        not restore them.
        """
        dtype = {"float64": torch.float64, "float32": torch.float32}[precision]
        for descriptor in self.descriptors:
            descriptor.to_precision(dtype)
        self.fitting.to(dtype)
        self.dtype = dtype
        self._compiled = None
        return self

    def to_device(self, name: str) -> Potential:
        """Evaluate on 'cpu', or on a GPU: 'cuda' or 'cuda:N'. Parameters stay on the CPU.

        Raises InputError, saying what is missing, where there is none.
        """
        if name != "cpu":
            kernels.cuda.device(name)
        if name != self.device:
            self.device, self._compiled = name, None
        return self

    @property
    def precision(self) -> str:
        """'float64' or 'float32'."""
        return str(self.dtype).removeprefix("torch.")

    def set_energy_bias(self, bias: torch.Tensor) -> None:
        """Energies of the elements, (n_types,) float64 eV; with them those of the table's atoms."""
        if self.short_range is not None and self.config.srtab_add_bias:
            self.short_range.bias = self.short_range.bias + (bias.detach() - self.energy_bias)
        self.energy_bias = bias.detach().clone()
        self._compiled = None

    def freeze(self) -> Potential:
        """No more training: parameters lose their gradients and the tables are made once."""
        self.requires_grad_(False)
        for descriptor in self.descriptors:
            descriptor.freeze()
        return self

    def table_min_distance(self) -> float:
        """Smallest pair distance that the tables cover, Å."""
        return self.config.table.min_distance or TABLE_REACH * self.min_distance

    # --- energies -----------------------------------------------------------------------------

    def _fit(self, moments: Sequence[torch.Tensor], types: torch.Tensor) -> torch.Tensor:
        """(n,) float64 eV from each descriptor's moments (n, columns, M); atoms of `types` (n,)."""
        descriptor, networks = self._joined(moments), self._networks()
        if len(networks) == 1:
            return networks[0](descriptor).double() + self.energy_bias[0]
        energies = self.energy_bias[types.long()]
        for a, fitting in enumerate(networks):
            mine = (types == a).nonzero()[:, 0]
            energies = energies.index_add(0, mine, fitting(descriptor[mine]).double())
        return energies

    def _joined(self, moments: Sequence[torch.Tensor]) -> torch.Tensor:
        """(n, W): all that the fitting networks see of each atom."""
        parts = [d.numbers(t) for d, t in zip(self.descriptors, moments, strict=True)]
        return torch.cat(parts, dim=1)

    @torch.no_grad()
    def invariants(self, env: LocalEnv) -> torch.Tensor:
        """(n_local, W): the descriptor of each atom, which the fitting networks are given; by the
        processor, whatever the device.

        No translation, rotation, reflection or exchange of like atoms changes it.
        """
        positions = env.positions.detach()
        moments = [d.moments(env, positions, d.coefficients()) for d in self.descriptors]
        return self._joined(moments)

    def energies(self, env: LocalEnv, positions: torch.Tensor | None = None) -> torch.Tensor:
        """(n_local,) float64 eV, differentiable in positions and parameters.

        `positions` (n_all, 3) float64 Å replaces those of `env` where gradients are wanted.
        """
        positions = env.positions if positions is None else positions
        moments = [d.moments(env, positions, d.coefficients()) for d in self.descriptors]
        return self._repelled(self._fit(moments, env.types[: env.n_local]), env, positions)

    def _repelled(
        self, energies: torch.Tensor, env: LocalEnv, positions: torch.Tensor
    ) -> torch.Tensor:
        """With the repulsion or the table of close pairs, if the model has one."""
        if self.short_range is not None:
            return self.short_range.energies(energies, env, positions)
        if self.repulsion is None:
            return energies
        return energies + self.repulsion.energies(env, positions)

    @kernels.cuda.full_precision()
    def energies_and_forces(
        self,
        env: LocalEnv,
        fparam: torch.Tensor | None = None,
        frame_of_atom: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(n_local,) float64 eV and (n_all, 3) float64 eV/Å, differentiable in the parameters.

        What training is made of: `energies` and minus its gradient, in fewer passes. `fparam`
        (n_frames, k) of the frames in `env`, of which each atom is in `frame_of_atom` (n_local,)
        int64: taken by a model with frame parameters, and ignored by others.
        """
        types, positions = env.types[: env.n_local], env.positions.detach()
        values, places = None, types
        if self.frame_parameters is not None and fparam is not None and frame_of_atom is not None:
            values, places = distinct(fparam, frame_of_atom, types, len(self.type_map))
        atoms = (positions, env.types, env.offsets, env.indices)
        tables = [d.coefficients() for d in self.descriptors]
        on: Any = kernels  # the same functions there and on a GPU
        if self.device != "cpu":
            on = kernels.cuda.Operations(kernels.cuda.device(self.device), (*atoms, *tables))
        parts = list(zip(self.descriptors, tables, strict=True))
        moments = [d.moments(env, positions, table, on) for d, table in parts]
        energies, gradients = on.energies_and_gradients(moments, places, self._fitting(values))
        weights = None if self.short_range is None else self.short_range.weights(env)
        forces = torch.zeros_like(positions)
        for (d, table), gradient in zip(parts, gradients, strict=True):
            if weights is not None:
                gradient = gradient * weights.to(gradient)[:, None, None]
            found = on.moments_gradient(gradient, *atoms, table, d.environment())
            forces = forces - found.to(positions.device) / sum(d.sel)
        energies = energies.to(positions.device) + self.energy_bias[types.long()]
        if self.repulsion is not None:
            energies, forces = self.repulsion.added(energies, forces, env)
        if self.short_range is not None and weights is not None:
            energies, forces = self.short_range.blended(energies, forces, env, weights)
        return energies, forces

    def exact_energies(self, env: LocalEnv, positions: torch.Tensor) -> torch.Tensor:
        """As `energies`, with the embedding networks at every pair instead of the table."""
        moments = [d.exact_moments(env, positions).to(self.dtype) for d in self.descriptors]
        return self._repelled(self._fit(moments, env.types[: env.n_local]), env, positions)

    def evaluate(self, env: LocalEnv) -> Evaluation:
        """Energies, forces on all rows and virial of `env`, by the compiled potential on `device`.

        A frozen potential compiles its networks at the first call, another one at each.
        """
        compiled = self._compiled or self._compile()
        if all(d.frozen for d in self.descriptors):
            self._compiled = compiled
        if self.short_range is not None and isinstance(compiled, kernels.CompiledPotential):
            return self.short_range.evaluated(compiled, env)
        evaluation = compiled.evaluate(env)
        if self.repulsion is not None and self.device == "cpu":
            self.repulsion.add_to(evaluation, env)
        return evaluation

    def atomic_virials(self, env: LocalEnv, forces: torch.Tensor | None = None) -> torch.Tensor:
        """(n_all, 3, 3) float64 eV of every row, see `model.atomic_virials`; their sum is the
        virial of `env`. Takes as long as four evaluations, as three where the `forces` (n_all, 3)
        eV/Å of `env` are known. Raises InputError on a GPU.
        """
        if self.device != "cpu":
            raise InputError(
                f"virials of single atoms are not computed on device '{self.device}'; use 'cpu'"
            )
        forces = self.evaluate(env).forces if forces is None else forces
        compiled = self._compiled or self._compile()
        assert isinstance(compiled, kernels.CompiledPotential)
        share = torch.ones(env.n_local, dtype=torch.float64)
        positions, close = env.positions.detach().clone().requires_grad_(), None
        if self.short_range is not None:
            share = self.short_range.weights(env)
            networks = compiled.evaluate(env, share).energies
            networks[share == 0] = 0.0  # whatever they say there, infinite or not
            close = self.short_range.energies(networks, env, positions)
        elif self.repulsion is not None:
            close = self.repulsion.energies(env, positions)

        def weighted(weights: torch.Tensor) -> torch.Tensor:
            own = compiled.evaluate(env, share * weights).forces
            return own if close is None else own - weighted_gradient(close, positions, weights)

        return atomic_virials(env, forces, weighted)

    def at(self, fparam: float | Sequence[float] | torch.Tensor | None = None) -> Potential:
        """The potential without frame parameters that this one is at `fparam` (k,), by default at
        `default_fparam`; it shares all else. See `frame_parameters.at`."""
        return at(self, fparam)

    def member(self, k: int) -> Potential:
        """Member k of `members`, as a potential of its own that shares all but the last layer."""
        return member(self, k)

    @property
    def torch_device(self) -> torch.device:
        """Where atoms are best kept for `evaluate`: it takes them as they are, and leaves what it
        finds there."""
        if self.device == "cpu":
            return torch.device("cpu")
        return kernels.cuda.device(self.device).torch_device

    def neighbor_list(
        self, positions: torch.Tensor, types: torch.Tensor, n_local: int, cutoff: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`kernels.neighbor_list`, made on `device`, where it stays for `evaluate`."""
        if self.device == "cpu":
            return kernels.neighbor_list(positions, types, n_local, cutoff)
        device = kernels.cuda.device(self.device)
        return kernels.cuda.neighbor_list(device, positions, types, n_local, cutoff)

    def _compile(self) -> kernels.CompiledPotential | kernels.cuda.CudaPotential:
        with torch.no_grad():
            parts = [
                kernels.Descriptor(d.coefficients(), d.environment(), d.sel)
                for d in self.descriptors
            ]
        fitting = self._fitting()
        with_bias = [
            replace(network, bias_out=network.bias_out.double() + bias)
            for network, bias in zip(fitting.networks, self.energy_bias, strict=True)
        ]
        fitting = replace(fitting, networks=with_bias)
        if self.device == "cpu":
            return kernels.CompiledPotential(parts, fitting)
        repulsion = None if self.repulsion is None else self.repulsion.pairs()
        short_range = None if self.short_range is None else self.short_range.table()
        device = kernels.cuda.device(self.device)
        return kernels.cuda.CudaPotential(device, parts, fitting, repulsion, short_range)

    def _fitting(self, values: torch.Tensor | None = None) -> kernels.Fitting:
        """Descriptors and networks as the kernels take them, differentiable in the parameters."""
        shapes = [d.shape() for d in self.descriptors]
        activation = self.config.fitting_net.activation_function
        return kernels.Fitting(shapes, activation, [n.as_network() for n in self._networks(values)])

    def _networks(self, values: torch.Tensor | None = None) -> list[Fitting]:
        """That of each element, at the default frame parameters; or of all elements at the first of
        `values` (m, k), then at the second and so on."""
        networks = cast(list[Fitting], list(self.fitting))
        if self.frame_parameters is None:
            return networks
        if values is None:
            values = fparam_of(self.config.fitting_net, None)[None]
        return [n.at(x) for x in self.frame_parameters.inputs(values) for n in networks]

    def fitting_networks(self) -> list[kernels.Network]:
        """The network from descriptor to energy of each element, without its bias."""
        return [network.as_network() for network in self._networks()]
