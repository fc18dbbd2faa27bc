"""The whole potential on a GPU: atoms in chunks, so that memory for descriptors does not grow."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ...system import Evaluation, InputError, LocalEnv
from ..checks import checked
from ..fitting import ACTIVATIONS, Fitting
from ..reference import COLUMNS, Environment, Repulsion, table_values
from . import native
from .native import Device
from .networks import DeviceFitting, full_precision

CHUNK = 16384
"""Atoms at a time. It sets the shapes of the matrix products, and with them the last bits; only
where memory is short are there fewer."""
SMALLEST_CHUNK = 256
BYTES_OF_ROW, BYTES_OF_LOCAL, BYTES_OF_EDGE = 100, 32, 4
"""On the GPU at the peak: positions, integer sums, forces and what a product of them takes;
offsets, energies and the order of elements; the list."""


Chunk = tuple[int, int, torch.Tensor, list[int]]
"""First row of some atoms, last row + 1; their order by element, int64, and how many of each."""


@dataclass(frozen=True)
class DeviceTable:
    """Environment and table on a device, as the kernels take them."""

    environment: native.Environment
    table: native.Table
    kept: tuple[torch.Tensor, ...]
    """What the two point to."""

    @classmethod
    def of(
        cls, coefficients: torch.Tensor, environment: Environment, device: torch.device
    ) -> DeviceTable:
        """Raises InputError for davg or dstd that are not finite, or widths that are not > 0."""
        davg, dstd = environment.davg, environment.dstd
        if not (davg.isfinite().all() and dstd.isfinite().all() and (dstd > 0).all()):
            raise InputError("davg must be finite and dstd positive")
        kept = coefficients.detach().to(device), davg.to(device), dstd.to(device)
        n_tables, n_intervals, _, n_features = coefficients.shape
        return cls(
            native.Environment(
                environment.rcut,
                environment.rcut_smth,
                environment.n_types,
                int(environment.type_one_side),
                kept[1].data_ptr(),
                kept[2].data_ptr(),
                environment.table_start,
                environment.table_spacing,
                environment.protection,
                int(environment.table_of_distance),
            ),
            native.Table(
                int(coefficients.dtype == torch.float64),
                n_tables,
                n_intervals,
                n_features,
                kept[0].data_ptr(),
            ),
            kept,
        )


@dataclass(frozen=True)
class DeviceList:
    """What evaluation needs of a neighbour list, for as long as the list is the same."""

    copies: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None
    """Types, offsets and indices; None where those of the caller are on the device, who may then
    let go of a long list before there is another."""
    chunks: list[Chunk]
    source: tuple[tuple[weakref.ref[torch.Tensor], int], ...]
    """The tensors that this was made of, and how often they had been changed."""

    def tensors(self, env: LocalEnv) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Types, offsets and indices of `env`, which this serves, on the device."""
        return self.copies or (env.types, env.offsets, env.indices)

    def serves(self, env: LocalEnv) -> bool:
        """Whether `env` has the same types and list."""
        tensors = env.types, env.offsets, env.indices
        return all(
            of() is x and x._version == version
            for x, (of, version) in zip(tensors, self.source, strict=True)
        )


class CudaPotential:
    """A whole model, its repulsion included, on a GPU: a copy, it never changes."""

    def __init__(
        self,
        device: Device,
        coefficients: torch.Tensor,
        environment: Environment,
        sel: Sequence[float],
        fitting: Fitting,
        repulsion: Repulsion | None = None,
    ) -> None:
        """Arguments as of `kernels.Descriptor`, the only one, and of `kernels.CompiledPotential`.

        Raises InputError for what does not fit.
        """
        n_types = environment.n_types
        if len(sel) != n_types or len(fitting.networks) != n_types:
            raise InputError(
                f"expected sel and networks of {n_types} elements, found {len(sel)} and "
                f"{len(fitting.networks)}"
            )
        if fitting.activation not in ACTIVATIONS:
            raise InputError(
                f"activation {fitting.activation!r}: expected one of {sorted(ACTIVATIONS)}"
            )
        if environment.davg[:, 1:].any():
            raise InputError("davg of x, y and z must be 0")
        coefficients = coefficients.detach().contiguous()
        fitting.compiled([coefficients.shape[3]], coefficients.dtype)  # checks its shapes
        (shape,) = fitting.shapes
        self.device = device
        self.dtype, self.n_types = coefficients.dtype, n_types
        self.n_features = coefficients.shape[3]
        self._table = DeviceTable.of(coefficients, environment, device.place)
        self._fitting = DeviceFitting(fitting, self.dtype, device.place)
        self._n_inputs = shape.n_inputs
        self._sel = torch.tensor(sel, dtype=self.dtype, device=device.place)
        self._empty = _empty_slots(coefficients, environment).to(device.place)
        self._descriptor = native.Descriptor(
            int(self.dtype == torch.float64),
            n_types,
            self.n_features,
            shape.n_embedding,
            shape.n_axis,
            self._sel.data_ptr(),
            self._empty.data_ptr(),
            1.0 / sum(sel),
        )
        self._repulsion = None if repulsion is None else _DeviceRepulsion(repulsion, device.place)
        self._list: DeviceList | None = None

    def evaluate(self, env: LocalEnv) -> Evaluation:
        """Energies, forces on all rows and virial of `env`, on the device of its positions.

        The list may be on the GPU or not; it is copied there once, positions at each call. The
        same bits at each call. Raises InputError as `kernels.moments`, for forces beyond the range
        of the fixed-point sums, and for more atoms than memory can hold.
        """
        home, n_all = env.positions.device, env.n_all
        positions = env.positions.detach().to(self.device.place)
        positions = checked("positions", positions, torch.float64, (-1, 3), self.device.place)
        if self._list is None or not self._list.serves(env):
            self._list = None  # the old one makes room
            self._list = self._prepared(env)
        found = self._list
        types, offsets, indices = found.tensors(env)
        atoms = native.Atoms(
            n_all,
            env.n_local,
            positions.data_ptr(),
            types.data_ptr(),
            offsets.data_ptr(),
            indices.data_ptr(),
            len(indices),
        )
        report = self.device.report()
        fixed = torch.zeros(n_all, 3, dtype=torch.int64, device=self.device.place)
        energies = torch.empty(env.n_local, dtype=torch.float64, device=self.device.place)
        with torch.no_grad(), full_precision():
            for chunk in found.chunks:
                energies[chunk[0] : chunk[1]] = self._chunk(atoms, types, chunk, fixed, report)
        if self._repulsion is not None:
            pairs = ctypes.byref(self._repulsion.pairs)
            self.device.call("repulsion_add", pairs, ctypes.byref(atoms), energies, fixed, report)
        forces = torch.empty_like(positions)
        self.device.call("from_fixed", n_all, positions, fixed, forces, report)
        beyond = self.device.read(report, n_all, self.n_types)
        virial = positions.T @ forces
        return Evaluation(energies.to(home), forces.to(home), virial.to(home), beyond)

    def _chunk(
        self,
        atoms: native.Atoms,
        types: torch.Tensor,
        chunk: Chunk,
        fixed: torch.Tensor,
        report: torch.Tensor,
    ) -> torch.Tensor:
        """Energies of the rows of a chunk, whose forces are added to `fixed`."""
        begin, end, order, lengths = chunk
        n, where = end - begin, self.device.place
        raw = torch.empty(n, COLUMNS, self.n_features, dtype=self.dtype, device=where)
        counts = torch.empty(n, self.n_types, dtype=torch.int32, device=where)
        table = [ctypes.byref(x) for x in (atoms, self._table.environment, self._table.table)]
        self.device.call("moments", *table, begin, end, raw, counts, report)
        descriptors = raw.new_empty(n, self._n_inputs)
        gradient = torch.empty_like(descriptors)
        shape, types = ctypes.byref(self._descriptor), types[begin:end]
        self.device.call("describe", shape, n, order, types, counts, raw, descriptors)
        parts, first = [], 0
        for element, length in enumerate(lengths):
            rows = slice(first, first + length)
            parts.append(self._fitting.energies(descriptors[rows], element, gradient[rows]))
            first += length
        energies = torch.empty(n, dtype=torch.float64, device=where)
        energies[order] = torch.cat(parts)
        self.device.call("describe_backward", shape, n, order, gradient, raw)
        self.device.call("moments_backward", *table, begin, end, raw, fixed, report)
        return energies

    def _prepared(self, env: LocalEnv) -> DeviceList:
        where = self.device.place
        if len(env.offsets) != env.n_local + 1:
            raise InputError(
                f"offsets: expected {env.n_local + 1} entries for {env.n_local} local atoms, found "
                f"{len(env.offsets)}"
            )
        if int(env.offsets[-1]) != len(env.indices):
            raise InputError(
                f"offsets end at {int(env.offsets[-1])}, but there are {len(env.indices)} indices"
            )
        size = self._chunk_size(env)
        types = checked("types", env.types.to(where), torch.int32, (env.n_all,), where)
        self._check_types(types)
        offsets = checked("offsets", env.offsets.to(where), torch.int64, (-1,), where)
        indices = checked("indices", env.indices.to(where), torch.int32, (-1,), where)
        chunks = []
        for begin in range(0, env.n_local, size):
            end = min(begin + size, env.n_local)
            order = torch.argsort(types[begin:end], stable=True)
            lengths = torch.bincount(types[begin:end], minlength=self.n_types).tolist()
            chunks.append((begin, end, order, lengths))
        sources, tensors = (env.types, env.offsets, env.indices), (types, offsets, indices)
        own = all(a is b for a, b in zip(sources, tensors, strict=True))
        source = tuple((weakref.ref(x), x._version) for x in sources)
        return DeviceList(None if own else tensors, chunks, source)

    def _check_types(self, types: torch.Tensor) -> None:
        wrong = ((types < 0) | (types >= self.n_types)).nonzero()
        if len(wrong):
            row = int(wrong[0])
            raise InputError(
                f"the type of row {row} is {int(types[row])}; the table has {self.n_types} types"
            )

    def _chunk_size(self, env: LocalEnv) -> int:
        """Atoms of a chunk for the memory that is free; InputError where it is too little."""
        free = self.device.free_bytes()
        each = self._fitting.bytes_per_atom()
        each += COLUMNS * self.n_features * self._sel.element_size() + 4 * self.n_types
        list_bytes = forecast(env.n_local, env.n_all - env.n_local, env.n_edges)
        size = CHUNK
        while size > SMALLEST_CHUNK and list_bytes + each * size > free:
            size //= 2
        if list_bytes + each * size > free:
            raise InputError(
                f"GPU memory: {env.n_local} atoms with {env.n_edges} neighbours and "
                f"{env.n_all - env.n_local} ghosts need {(list_bytes + each * size) / 1e9:.3g} GB, "
                f"{free / 1e9:.3g} GB are free; use fewer atoms, or several GPUs with one rank each"
            )
        return size


def forecast(n_local: float, n_ghosts: float, n_edges: float) -> float:
    """Bytes that grow with the system, on the GPU; chunks of atoms come to them."""
    rows = BYTES_OF_ROW * (n_local + n_ghosts)
    return rows + BYTES_OF_LOCAL * n_local + BYTES_OF_EDGE * n_edges


class _DeviceRepulsion:
    """The radii on a device."""

    def __init__(self, repulsion: Repulsion, device: torch.device) -> None:
        r_in, r_out = repulsion.r_in, repulsion.r_out
        if not ((r_in >= 0).all() and (r_out > r_in).all() and r_out.isfinite().all()):
            raise InputError("repulsion: expected 0 <= r_in < r_out of every pair of types")
        arrays = repulsion.atomic_numbers, r_in, r_out
        self.kept = [x.detach().to(device, torch.float64).contiguous() for x in arrays]
        self.pairs = native.Repulsion(len(r_in), *(x.data_ptr() for x in self.kept))


def _empty_slots(coefficients: torch.Tensor, environment: Environment) -> torch.Tensor:
    """(n_types, n_types, n_features): column 0 of what an empty slot of (a, b) adds to moments."""
    n = environment.n_types
    a, b = torch.arange(n).repeat_interleave(n), torch.arange(n).repeat(n)
    s = (-environment.davg[:, 0] / environment.dstd[:, 0])[a]
    y = torch.full_like(s, -environment.rcut) if environment.table_of_distance else s
    place = ((y - environment.table_start) / environment.table_spacing).to(coefficients.dtype)
    values, _ = table_values(coefficients, b if environment.type_one_side else a * n + b, place)
    return (values * s.to(values.dtype)[:, None]).reshape(n, n, -1)


def neighbor_list(
    device: Device, positions: torch.Tensor, types: torch.Tensor, n_local: int, cutoff: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """`kernels.neighbor_list` on a GPU, to which the tensors are copied, where the list stays."""
    where, n_all = device.place, len(positions)
    positions = checked("positions", positions.detach().to(where), torch.float64, (-1, 3), where)
    types = checked("types", types.to(where), torch.int32, (n_all,), where)
    if not 0 <= n_local <= n_all:
        raise InputError(f"n_local: expected 0 to {n_all}, found {n_local}")
    size = device.native.dpl_cuda_neighbors_scratch(n_all, n_local)
    scratch = torch.empty(size, dtype=torch.uint8, device=where)
    offsets = torch.empty(n_local + 1, dtype=torch.int64, device=where)
    n_edges = ctypes.c_int64()
    atoms = n_all, n_local, positions, types, cutoff, scratch, offsets
    device.call("neighbors_count", *atoms, ctypes.byref(n_edges))
    indices = torch.empty(n_edges.value, dtype=torch.int32, device=where)
    device.call("neighbors_fill", *atoms, indices)
    return offsets, indices
