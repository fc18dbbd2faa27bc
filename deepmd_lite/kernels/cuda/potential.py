"""The whole potential on a GPU: atoms in chunks, so that memory for descriptors does not grow."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from ...system import Evaluation, InputError, LocalEnv
from ..checks import checked
from ..fitting import Fitting
from ..reference import Descriptor, Repulsion
from ..short_range import ShortRange
from . import native
from .close_pairs import DeviceRepulsion, DeviceShortRange
from .descriptor import Chunk, DeviceDescriptor
from .native import Device
from .networks import DeviceFitting, full_precision
from .recorder import SMALL, Recorder, Repeated

CHUNK = 16384
"""Atoms at a time. It sets the shapes of the matrix products, and with them the last bits; only
where memory is short are there fewer."""
SMALLEST_CHUNK = 256
BYTES_OF_ROW, BYTES_OF_LOCAL, BYTES_OF_EDGE = 100, 32, 4
"""On the GPU at the peak: positions, integer sums, forces and what a product of them takes;
offsets, energies and the order of elements; the list."""
BYTES_OF_SWITCH = 16
"""Of a local atom in a model with a short-range table: its soft minimum and weight."""


@dataclass(frozen=True)
class Launched:
    """What an evaluation will have found once the GPU has done it."""

    energies: torch.Tensor
    """(n_local,) eV."""
    forces: torch.Tensor
    """(n_all, 3) eV/Å."""
    virial: torch.Tensor
    """(3, 3) eV."""
    reports: torch.Tensor
    """Faults, as of `Device.reports`."""


@dataclass(frozen=True)
class Repetition:
    """The launches of a small system, which stay the same as long as its list does."""

    positions: torch.Tensor
    """(n_all, 3) Å: where they read them."""
    launches: Repeated[Launched]


@dataclass(frozen=True)
class DeviceList:
    """What evaluation needs of a neighbour list, for as long as the list is the same."""

    copies: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None
    """Types, offsets and indices; None where those of the caller are on the device, who may then
    let go of a long list before there is another."""
    chunks: list[Chunk]
    source: tuple[tuple[weakref.ref[torch.Tensor], int], ...]
    """The tensors that this was made of, and how often they had been changed."""
    repetition: Repetition | None
    """None where there are many atoms."""

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
    """A whole model, its repulsion or table of close pairs included, on a GPU: a copy, it never
    changes."""

    def __init__(
        self,
        device: Device,
        descriptors: Sequence[Descriptor],
        fitting: Fitting,
        repulsion: Repulsion | None = None,
        short_range: ShortRange | None = None,
    ) -> None:
        """`descriptors`, `fitting` as of `kernels.CompiledPotential`.

        Raises InputError for what does not fit.
        """
        if not len(descriptors) == len(fitting.shapes) > 0:
            raise InputError(
                f"expected shapes of {len(descriptors)} descriptors, found {len(fitting.shapes)}"
            )
        for d in descriptors:
            d.check_elements(len(fitting.networks))
        dtypes = {d.coefficients.dtype for d in descriptors}
        if len(dtypes) > 1:
            raise InputError(f"expected tables of one precision, found {sorted(map(str, dtypes))}")
        (self.dtype,) = dtypes
        # checks the activation and the shapes of the networks
        fitting.compiled([d.coefficients.shape[3] for d in descriptors], self.dtype)
        self.device, self.n_types = device, len(fitting.networks)
        self._fitting = DeviceFitting(fitting, self.dtype, device.torch_device)
        sizes = [shape.n_inputs for shape in fitting.shapes]
        self._n_inputs = sum(sizes)
        self._descriptors = [
            DeviceDescriptor(d, shape, sum(sizes[:k]), self._n_inputs, device.torch_device)
            for k, (d, shape) in enumerate(zip(descriptors, fitting.shapes, strict=True))
        ]
        self._repulsion = (
            None if repulsion is None else DeviceRepulsion(repulsion, device.torch_device)
        )
        self._short_range = (
            None if short_range is None else DeviceShortRange(short_range, device.torch_device)
        )
        self._list: DeviceList | None = None
        self._recorder = Recorder(device.torch_device)

    def evaluate(self, env: LocalEnv) -> Evaluation:
        """Energies, forces on all rows and virial of `env`, on the device of its positions.

        The list may be on the GPU or not; it is copied there once, positions at each call. The
        same bits at each call. Raises InputError as `kernels.moments`, for forces beyond the range
        of the fixed-point sums, and for more atoms than memory can hold.
        """
        home = env.positions.device
        positions = env.positions.detach().to(self.device.torch_device)
        positions = checked(
            "positions", positions, torch.float64, (-1, 3), self.device.torch_device
        )
        if self._list is None or not self._list.serves(env):
            self._list = None  # the old one makes room
            self._list = self._prepared(env)
        found = self._list
        launch = partial(self._launch, *found.tensors(env), found.chunks)
        again = found.repetition
        if again is None:
            e = launch(positions)
        else:
            again.positions.copy_(positions)
            e = again.launches(partial(launch, again.positions))
        beyond = self.device.read(e.reports, env.n_all, self.n_types)
        energies, forces, virial = (
            x.to(home, copy=again is not None) for x in (e.energies, e.forces, e.virial)
        )
        return Evaluation(energies, forces, virial, beyond)

    def _launch(
        self,
        types: torch.Tensor,
        offsets: torch.Tensor,
        indices: torch.Tensor,
        chunks: Sequence[Chunk],
        positions: torch.Tensor,
    ) -> Launched:
        """Queue all work of an evaluation, on tensors of the device. Does not wait."""
        n_all, n_local = len(positions), len(offsets) - 1
        atoms = native.Atoms(
            n_all,
            n_local,
            positions.data_ptr(),
            types.data_ptr(),
            offsets.data_ptr(),
            indices.data_ptr(),
            len(indices),
        )
        reports = self.device.reports(len(self._descriptors))
        report = reports[0]  # of what belongs to no descriptor
        soft = None
        if self._short_range is not None:
            soft, weights = self._short_range.weights(self.device, atoms, report)
            atoms.weights = weights.data_ptr()
        fixed = torch.zeros(n_all, 3, dtype=torch.int64, device=self.device.torch_device)
        energies = torch.empty(n_local, dtype=torch.float64, device=self.device.torch_device)
        with torch.no_grad(), full_precision():
            for chunk in chunks:
                energies[chunk.begin : chunk.end] = self._chunk(atoms, chunk, fixed, reports)
        if self._repulsion is not None:
            self._repulsion.add(self.device, atoms, energies, fixed, report)
        if self._short_range is not None and soft is not None:
            self._short_range.add(self.device, atoms, soft, energies, fixed, report)
        forces = torch.empty_like(positions)
        self.device.call("from_fixed", n_all, positions, fixed, forces, report)
        return Launched(energies, forces, positions.T @ forces, reports)

    def _chunk(
        self, atoms: native.Atoms, chunk: Chunk, fixed: torch.Tensor, reports: torch.Tensor
    ) -> torch.Tensor:
        """Energies of the rows of a chunk, whose forces are added to `fixed`."""
        n, where = chunk.end - chunk.begin, self.device.torch_device
        descriptors = torch.empty(n, self._n_inputs, dtype=self.dtype, device=where)
        gradient = torch.empty_like(descriptors)
        own = list(zip(self._descriptors, reports, strict=True))
        moments = [d.describe(self.device, atoms, chunk, descriptors, report) for d, report in own]
        parts, first = [], 0
        for element, length in enumerate(chunk.lengths):
            rows = slice(first, first + length)
            parts.append(self._fitting.energies(descriptors[rows], element, gradient[rows]))
            first += length
        energies = torch.empty(n, dtype=torch.float64, device=where)
        energies[chunk.order] = torch.cat(parts)
        for (d, report), t in zip(own, moments, strict=True):
            d.add_forces(self.device, atoms, chunk, gradient, t, fixed, report)
        return energies

    def _prepared(self, env: LocalEnv) -> DeviceList:
        where = self.device.torch_device
        if len(env.offsets) != env.n_local + 1:
            raise InputError(
                f"offsets: expected {env.n_local + 1} entries for {env.n_local} local atoms, found "
                f"{len(env.offsets)}"
            )
        if int(env.offsets[-1]) != len(env.indices):
            raise InputError(
                f"offsets end at {int(env.offsets[-1])}, but there are {len(env.indices)} indices"
            )
        if env.n_local > SMALL:
            self._recorder = Recorder(
                self.device.torch_device
            )  # without the memory of the last recording
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
            chunks.append(Chunk(begin, end, order, lengths, types[begin:end]))
        sources, tensors = (env.types, env.offsets, env.indices), (types, offsets, indices)
        own = all(a is b for a, b in zip(sources, tensors, strict=True))
        source = tuple((weakref.ref(x), x._version) for x in sources)
        again = None
        if env.n_local <= SMALL:
            held = torch.empty(env.n_all, 3, dtype=torch.float64, device=where)
            again = Repetition(held, Repeated(self._recorder))
        return DeviceList(None if own else tensors, chunks, source, again)

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
        each += sum(d.bytes_per_atom() for d in self._descriptors)
        list_bytes = forecast(env.n_local, env.n_all - env.n_local, env.n_edges)
        list_bytes += BYTES_OF_SWITCH * env.n_local if self._short_range else 0
        # what is there already is not in `free` any more
        given = env.positions, env.types, env.offsets, env.indices
        list_bytes -= sum(x.nbytes for x in given if x.device == self.device.torch_device)
        size = CHUNK
        while size > SMALLEST_CHUNK and list_bytes + each * size > free:
            size //= 2
        _check_room(list_bytes + each * size, free, env.n_local, env.n_all, env.n_edges)
        return size


def forecast(n_local: float, n_ghosts: float, n_edges: float) -> float:
    """Bytes that grow with the system, on the GPU; chunks of atoms come to them."""
    rows = BYTES_OF_ROW * (n_local + n_ghosts)
    return rows + BYTES_OF_LOCAL * n_local + BYTES_OF_EDGE * n_edges


def _check_room(
    needed: float, free: float, n_local: int, n_all: int, n_edges: int | None = None
) -> None:
    """Raises InputError where `needed` bytes are more than are `free` on the GPU."""
    if needed > free:
        neighbors = "" if n_edges is None else f"with {n_edges} neighbours "
        raise InputError(
            f"GPU memory: {n_local} atoms {neighbors}and {n_all - n_local} ghosts need "
            f"{needed / 1e9:.3g} GB, {free / 1e9:.3g} GB are free; use fewer atoms, or several "
            "GPUs with one rank each"
        )


def neighbor_list(
    device: Device, positions: torch.Tensor, types: torch.Tensor, n_local: int, cutoff: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """`kernels.neighbor_list` on a GPU, to which the tensors are copied, where the list stays.

    Raises InputError where memory does not suffice for it.
    """
    where, n_all = device.torch_device, len(positions)
    positions = checked("positions", positions.detach().to(where), torch.float64, (-1, 3), where)
    types = checked("types", types.to(where), torch.int32, (n_all,), where)
    if not 0 <= n_local <= n_all:
        raise InputError(f"n_local: expected 0 to {n_all}, found {n_local}")
    size = device.native.dpl_cuda_neighbors_scratch(n_all, n_local)
    _check_room(size + 8 * n_local, device.free_bytes(), n_local, n_all)
    scratch = torch.empty(size, dtype=torch.uint8, device=where)
    offsets = torch.empty(n_local + 1, dtype=torch.int64, device=where)
    n_edges = ctypes.c_int64()
    atoms = n_all, n_local, positions, types, cutoff, scratch, offsets
    device.call("neighbors_count", *atoms, ctypes.byref(n_edges))
    _check_room(4 * n_edges.value, device.free_bytes(), n_local, n_all, n_edges.value)
    indices = torch.empty(n_edges.value, dtype=torch.int32, device=where)
    device.call("neighbors_fill", *atoms, indices)
    return offsets, indices
