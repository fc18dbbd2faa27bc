"""A descriptor on a device: environment, table, and what makes numbers of moments."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch

from ...system import InputError
from .. import empty_slots
from ..fitting import Shape
from ..reference import Descriptor, Environment
from . import native
from .native import Device


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
                environment.columns,
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
class Chunk:
    """Some atoms of a list, which pass through the networks together."""

    begin: int
    """First row."""
    end: int
    """Last row + 1."""
    order: torch.Tensor
    """(n,) int64: theirs by element, from 0 on."""
    lengths: list[int]
    """How many there are of each element."""
    types: torch.Tensor
    """(n,) int32."""


class DeviceDescriptor:
    """A copy of a descriptor, and its place among the inputs of the networks."""

    def __init__(
        self, given: Descriptor, shape: Shape, first: int, width: int, torch_device: torch.device
    ) -> None:
        """`first`: place of its first number among the `width` numbers of all descriptors.

        Raises InputError for what does not fit.
        """
        environment, coefficients = given.environment, given.coefficients.detach().contiguous()
        if environment.davg[:, 1:].any():
            raise InputError("davg must be 0 but in the first column")
        self.dtype, self.n_types = coefficients.dtype, environment.n_types
        self.n_features, self.columns = coefficients.shape[3], environment.columns
        self._table = DeviceTable.of(coefficients, environment, torch_device)
        self._sel = torch.tensor(given.sel, dtype=self.dtype, device=torch_device)
        row = -environment.davg[:, 0] / environment.dstd[:, 0]
        self._empty = empty_slots.moments(coefficients, environment, row).to(torch_device)
        self._shape = native.Descriptor(
            int(self.dtype == torch.float64),
            self.n_types,
            self.n_features,
            shape.n_embedding,
            shape.n_axis,
            shape.columns,
            shape.n_cubic,
            width,
            first,
            self._sel.data_ptr(),
            self._empty.data_ptr(),
            1.0 / sum(given.sel),
        )

    def bytes_per_atom(self) -> int:
        """Moments and counts."""
        return self.columns * self.n_features * self.dtype.itemsize + 4 * self.n_types

    def describe(
        self,
        device: Device,
        atoms: native.Atoms,
        chunk: Chunk,
        descriptors: torch.Tensor,
        report: torch.Tensor,
    ) -> torch.Tensor:
        """Writes the numbers of the atoms of a chunk to their places in `descriptors` (n, width);
        returns their normalised moments (n, columns, n_features)."""
        n, where = chunk.end - chunk.begin, device.torch_device
        moments = torch.empty(n, self.columns, self.n_features, dtype=self.dtype, device=where)
        counts = torch.empty(n, self.n_types, dtype=torch.int32, device=where)
        rows = *self._given(atoms), chunk.begin, chunk.end
        device.call("moments", *rows, moments, counts, report)
        given = n, chunk.order, chunk.types, counts
        device.call("describe", ctypes.byref(self._shape), *given, moments, descriptors)
        return moments

    def add_forces(
        self,
        device: Device,
        atoms: native.Atoms,
        chunk: Chunk,
        gradient: torch.Tensor,
        moments: torch.Tensor,
        fixed: torch.Tensor,
        report: torch.Tensor,
    ) -> None:
        """Adds what `gradient` (n, width) of the numbers gives to `fixed`; `moments` are those that
        `describe` returned, and are used up."""
        shape, n = ctypes.byref(self._shape), chunk.end - chunk.begin
        device.call("describe_backward", shape, n, chunk.order, gradient, moments)
        rows = *self._given(atoms), chunk.begin, chunk.end
        device.call("moments_backward", *rows, moments, fixed, report)

    def _given(self, atoms: native.Atoms) -> list[object]:
        return [ctypes.byref(x) for x in (atoms, self._table.environment, self._table.table)]
