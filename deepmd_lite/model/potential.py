"""The potential: neighbourhoods → moments → descriptor → atomic energies → forces and virial.

With T = Σ G ⊗ R̃ / N_sel over the N_sel slots of an atom (DESIGN of DeepPot-SE, NeurIPS 2018), a
slot without a neighbour has R = 0 and contributes a constant, so the ragged sum over real
neighbours plus (sel_b − n_b) times that constant is the same T with nothing ever truncated.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from .. import kernels
from ..kernels import reference
from ..system import Evaluation, InputError, LocalEnv
from . import radial
from .activations import Jet
from .config import ModelConfig
from .networks import Embedding, Fitting, generator_of
from .statistics import Statistics, seen_pairs
from .structures import Structure
from .table import Grid, hermite_coefficients
from .tabulated import TabulatedEmbedding

TABLE_REACH = 0.75
"""The table ends at this fraction of the smallest distance in the training data."""


class Potential(nn.Module):
    """A Deep Potential: energies of local atoms, forces on all rows, virial."""

    davg: torch.Tensor
    dstd: torch.Tensor
    energy_bias: torch.Tensor

    def __init__(
        self,
        config: ModelConfig,
        statistics: Statistics,
        seed: int | None = 0,
        grid: Grid | None = None,
        embedding: TabulatedEmbedding | None = None,
    ) -> None:
        """Networks with random weights from `seed`, or left uninitialised where it is None.

        `embedding` stands in for embedding networks that are lost.

        `grid` defaults to one that covers s̃ from an empty slot to `TABLE_REACH` times the
        smallest distance of `statistics` (or `table/min_distance`).
        """
        super().__init__()
        self.config = config
        self.type_map = list(config.type_map)
        self.rcut = config.descriptor.rcut
        self.sel = list(statistics.sel)
        self.min_distance = statistics.min_distance
        self.register_buffer("davg", statistics.davg)
        self.register_buffer("dstd", statistics.dstd)
        self.register_buffer("energy_bias", statistics.energy_bias)
        if (config.repulsion is None) != (statistics.repulsion is None):
            raise InputError(
                f"model/repulsion is {config.repulsion or 'null'}, but the statistics "
                f"{'lack' if statistics.repulsion is None else 'hold'} its radii"
            )
        self.repulsion = statistics.repulsion
        d, f, n_types = config.descriptor, config.fitting_net, len(config.type_map)
        copies = n_types if d.type_one_side else n_types**2
        self.embedding = embedding or Embedding(
            copies, 1, d.neuron, d.activation_function, d.resnet_dt, generator_of(seed, d.seed, 1)
        )
        self._seen = seen_pairs(d.exclude_types, n_types)
        # excluding (a, b) distinguishes centres, so that every pair needs a table of its own
        self._one_side = d.type_one_side and self._seen is None
        generator = generator_of(seed, f.seed, 2)
        self.fitting = nn.ModuleList(
            Fitting(d.width, f.neuron, f.activation_function, f.resnet_dt, generator)
            for _ in range(n_types)
        )
        self.grid = grid or self._initial_grid()
        self.table_error: dict[str, float] = {}
        self.provenance: dict[str, Any] = {}
        self.reference_frames: tuple[Structure, ...] = ()
        """What the model's file remembers, with what the model says about it."""
        self._frozen: torch.Tensor | None = None
        self._compiled: kernels.CompiledPotential | kernels.cuda.CudaPotential | None = None
        self.device = "cpu"
        """Where `evaluate` and `energies_and_forces` compute; everything else is on the CPU."""
        self.to_precision(config.precision)

    def __getstate__(self) -> dict[str, Any]:
        """A copy, in memory or in another process, compiles its networks anew."""
        return {**super().__getstate__(), "_compiled": None}

    # --- construction -----------------------------------------------------------------------

    def to_precision(self, precision: str) -> Potential:
        """Arithmetic in 'float64' or 'float32'; positions and sums over atoms stay float64.

        Weights are rounded: going back to float64 does not restore them.
        """
        dtype = {"float64": torch.float64, "float32": torch.float32}[precision]
        self.embedding.to(dtype)
        self.fitting.to(dtype)
        self.dtype = dtype
        if self._frozen is not None:
            self._frozen = self._frozen.to(dtype)
        self._compiled = None
        return self

    def to_device(self, name: str) -> Potential:
        """Evaluate on 'cpu', or on a GPU: 'cuda' or 'cuda:N'. Parameters stay on the CPU.

        Raises InputError, saying what is missing, where there is no such device.
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
        """Energies of the elements, (n_types,) float64 eV."""
        self.energy_bias = bias.detach().clone()
        self._compiled = None

    def freeze(self) -> Potential:
        """No more training: parameters lose their gradients and the table is made once."""
        self.requires_grad_(False)
        self._frozen = None  # a table that was made in another precision is rounded to that
        self._frozen = self.coefficients()
        return self

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
        """Of the first entry of rows over s̃; not 0 for `se_e2_r` alone (see `radial`)."""
        return radial.shift_of(self.empty_slot) if self.config.descriptor.radial else 0.0

    def table_min_distance(self) -> float:
        """Smallest pair distance that the table covers, Å."""
        return self.config.table.min_distance or TABLE_REACH * self.min_distance

    def _initial_grid(self) -> Grid:
        d, shortest = self.config.descriptor, self.table_min_distance()
        if self.embedding.of_distance:
            return Grid.of_distances(d.rcut, d.rcut_smth, shortest, self.config.table.spacing)
        shortest += d.env_protection
        top = (1.0 / shortest - self.davg[:, 0]) / self.dstd[:, 0]
        low = float(self.empty_slot.min())
        return Grid.covering(low, float(top.max()), self.config.table.spacing)

    # --- pieces -----------------------------------------------------------------------------

    def environment(self) -> kernels.Environment:
        """The constants that the kernels need."""
        d, shift = self.config.descriptor, self._shift
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
        if self.config.descriptor.radial:
            jet = radial.divided_jet(jet, self.grid.nodes() + self._shift)
        return jet

    def _unseen(self, table: torch.Tensor) -> torch.Tensor:
        """(n, M) float64: G of neighbours of `table` (n,) where these do not see each other.

        0 but for `se_e2_r` with networks of the neighbour alone: there DeePMD-kit sets s̃ to 0.
        """
        assert self._seen is not None
        d = self.config.descriptor
        if not (d.radial and d.type_one_side):
            return torch.zeros(1, d.neuron[-1], dtype=torch.float64)
        zero = torch.zeros(len(table), dtype=torch.float64)
        values = self.embedding.values(self._networks()[table], zero)
        return values * (1.0 - self._seen[table])[:, None]

    def coefficients(self) -> torch.Tensor:
        """Table coefficients from the networks, differentiable in their weights."""
        if self._frozen is not None:
            return self._frozen
        return hermite_coefficients(self.jet(), self.grid.spacing).to(self.dtype)

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
        return radial.divided(values, y_e) if self.config.descriptor.radial else values

    def _networks(self) -> torch.Tensor:
        """(n_types²,): embedding network of each (centre, neighbour) pair of types."""
        n = len(self.type_map)
        pair = torch.arange(n * n)
        return pair % n if self.config.descriptor.type_one_side else pair

    def _slots(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of an empty slot, for each (centre, neighbour) pair: table, place y, first entry s."""
        n = len(self.type_map)
        a, b = torch.arange(n).repeat_interleave(n), torch.arange(n).repeat(n)
        table = b if self._one_side else a * n + b
        s = self.empty_slot[a] + self._shift
        return table, torch.full_like(s, -self.rcut) if self.grid.of_distance else s, s

    def _empty_moments(self, coefficients: torch.Tensor) -> torch.Tensor:
        """(n_types², M_padded): column 0 of what one empty slot of (a, b) adds to the moments."""
        table, y, s = self._slots()
        start = self.grid.start + self._shift
        position = ((y - start) / self.grid.spacing).to(coefficients.dtype)
        values, _ = reference.table_values(coefficients, table, position)
        return values * s.to(values.dtype)[:, None]

    def _normalised(
        self, raw: torch.Tensor, counts: torch.Tensor, types: torch.Tensor, empty: torch.Tensor
    ) -> torch.Tensor:
        """T (n, 4, M_padded): real neighbours plus the empty slots, over N_sel."""
        n_types = len(self.type_map)
        left = (torch.tensor(self.sel, device=counts.device) - counts).to(raw.dtype)
        types, empty = types.to(raw.device), empty.to(raw.device)
        if n_types > 1:  # spread over (centre, neighbour) so that one product serves all types
            own = torch.nn.functional.one_hot(types.long(), n_types).to(raw.dtype)
            left = (own[:, :, None] * left[:, None, :]).reshape(-1, n_types**2)
        constant = torch.nn.functional.pad((left @ empty)[:, None, :], (0, 0, 0, 3))
        return (raw + constant) / sum(self.sel)

    def _fit(self, moments: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
        """(n,) float64 eV from moments T (n, 4, M_padded) of atoms of `types` (n,)."""
        d = self.config.descriptor
        t = moments[:, :, : d.neuron[-1]]
        descriptor = t[:, 0]
        if not d.radial:
            descriptor = (t.transpose(1, 2) @ t[:, :, : d.axis_neuron]).flatten(1)
        if len(self.fitting) == 1:
            return self.fitting[0](descriptor).double() + self.energy_bias[0]
        energies = self.energy_bias[types.long()]
        for a, fitting in enumerate(self.fitting):
            mine = (types == a).nonzero()[:, 0]
            energies = energies.index_add(0, mine, fitting(descriptor[mine]).double())
        return energies

    # --- energies and forces ----------------------------------------------------------------

    def energies(self, env: LocalEnv, positions: torch.Tensor | None = None) -> torch.Tensor:
        """(n_local,) float64 eV, differentiable in positions and parameters.

        `positions` (n_all, 3) float64 Å replaces those of `env` where gradients are wanted.
        """
        positions = env.positions if positions is None else positions
        types = env.types[: env.n_local]
        coefficients = self.coefficients()
        raw, counts, _ = kernels.moments(
            positions, env.types, env.offsets, env.indices, coefficients, self.environment()
        )
        moments = self._normalised(raw, counts, types, self._empty_moments(coefficients))
        return self._repelled(self._fit(moments, types), env, positions)

    def _repelled(
        self, energies: torch.Tensor, env: LocalEnv, positions: torch.Tensor
    ) -> torch.Tensor:
        """With the repulsion of close pairs, if the model has it."""
        if self.repulsion is None:
            return energies
        return energies + self.repulsion.energies(env, positions)

    def energies_and_forces(self, env: LocalEnv) -> tuple[torch.Tensor, torch.Tensor]:
        """(n_local,) float64 eV and (n_all, 3) float64 eV/Å, differentiable in the parameters.

        What training is made of: the same as `energies` and minus its gradient, in fewer passes.
        """
        types, home = env.types[: env.n_local], env.positions.device
        coefficients, environment = self.coefficients(), self.environment()
        atoms = (env.positions.detach(), env.types, env.offsets, env.indices)
        on: Any = kernels  # the same functions there and on a GPU
        if self.device != "cpu":
            on = kernels.cuda.Operations(kernels.cuda.device(self.device))
        raw, counts, _ = on.moments(*atoms, coefficients, environment)
        moments = self._normalised(raw, counts, types, self._empty_moments(coefficients))
        energies, gradient = on.energies_and_gradients(moments, types, self._fitting())
        gradient = gradient / sum(self.sel)
        forces = -on.moments_gradient(gradient, *atoms, coefficients, environment).to(home)
        energies = energies.to(home) + self.energy_bias[types.long()]
        if self.repulsion is not None:  # a constant, as far as the parameters are concerned
            constant = Evaluation(
                torch.zeros(env.n_local, dtype=torch.float64),
                torch.zeros_like(env.positions),
                torch.zeros(3, 3, dtype=torch.float64),
            )
            self.repulsion.add_to(constant, env)
            energies, forces = energies + constant.energies, forces + constant.forces
        return energies, forces

    def exact_energies(self, env: LocalEnv, positions: torch.Tensor) -> torch.Tensor:
        """As `energies`, with the embedding networks at every pair instead of the table."""
        types = env.types[: env.n_local]
        raw, counts = reference.moments_of(
            self._exact_values,
            positions,
            env.types,
            env.offsets,
            env.indices,
            self.environment(),
            torch.float64,
        )
        table, y, s = self._slots()
        empty = self._exact_values(table, y) * s[:, None]
        moments = self._normalised(raw, counts, types, empty)
        return self._repelled(self._fit(moments.to(self.dtype), types), env, positions)

    def evaluate(self, env: LocalEnv) -> Evaluation:
        """Energies, forces on all rows and virial of `env`, by the compiled potential on `device`.

        A frozen potential compiles its networks at the first call, another one at each.
        """
        compiled = self._compiled or self._compile()
        if self._frozen is not None:
            self._compiled = compiled
        evaluation = compiled.evaluate(env)
        if self.repulsion is not None and self.device == "cpu":
            self.repulsion.add_to(evaluation, env)
        return evaluation

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
            coefficients = self.coefficients()
        fitting = self._fitting()
        with_bias = [
            replace(network, bias_out=network.bias_out.double() + bias)
            for network, bias in zip(fitting.networks, self.energy_bias, strict=True)
        ]
        fitting = replace(fitting, networks=with_bias)
        model = coefficients, self.environment(), self.sel, fitting
        if self.device == "cpu":
            return kernels.CompiledPotential(*model)
        repulsion = None if self.repulsion is None else self.repulsion.pairs()
        return kernels.cuda.CudaPotential(kernels.cuda.device(self.device), *model, repulsion)

    def _fitting(self) -> kernels.Fitting:
        """Descriptor and networks as the kernels take them, differentiable in the parameters."""
        d = self.config.descriptor
        activation = self.config.fitting_net.activation_function
        return kernels.Fitting(d.neuron[-1], d.n_axis, activation, self.fitting_networks())

    def fitting_networks(self) -> list[kernels.Network]:
        """The network from descriptor to energy of each element, without its bias."""
        networks = []
        for fitting in self.fitting:
            assert isinstance(fitting, Fitting)
            networks.append(fitting.as_network())
        return networks
