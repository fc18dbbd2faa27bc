"""What training asks of the kernels, on a GPU: the functions of `kernels` under the same names.

Tensors are moved there where they are not, and results stay there; both are seen by autograd, so
that weights, and their gradients, may live on the host.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from ...system import InputError
from ..autograd import Moments, MomentsBackward
from ..checks import checked
from ..fitting import Fitting
from ..reference import POWERS, Environment
from . import native
from .descriptor import DeviceTable
from .native import Device
from .networks import DeviceFitting, full_precision

PARTS = 4
"""DPL_CUDA_PARTS."""


@dataclass(frozen=True)
class DeviceCall:
    """Atoms, their list and a table on a device: what the operations of `autograd` are made of."""

    device: Device
    rows: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
    """Positions, types, offsets and indices."""
    coefficients: torch.Tensor
    environment: Environment

    @property
    def n_local(self) -> int:
        """Atoms whose moments are wanted."""
        return len(self.rows[2]) - 1

    @property
    def n_types(self) -> int:
        """Elements."""
        return self.environment.n_types

    @property
    def n_columns(self) -> int:
        """Columns of the environment row."""
        return self.environment.columns

    @cached_property
    def _table(self) -> DeviceTable:
        """Made once for all orders."""
        return DeviceTable.of(self.coefficients, self.environment, self.device.torch_device)

    def with_coefficients(self, coefficients: torch.Tensor) -> DeviceCall:
        """The same with another table."""
        return replace(self, coefficients=coefficients)

    def moments(self, moments: torch.Tensor, counts: torch.Tensor) -> int:
        """dpl_moments; returns the edges beyond the table."""
        report = self.device.reports()
        self._call("moments", 0, self.n_local, moments, counts, report)
        return self._read(report)

    def backward(
        self,
        grad_moments: torch.Tensor,
        grad_positions: torch.Tensor | None,
        grad_coefficients: torch.Tensor | None,
    ) -> None:
        """dpl_moments_backward; derivatives with respect to positions are multiples of 2^-40."""
        if grad_positions is not None:
            fixed = torch.zeros_like(grad_positions, dtype=torch.int64)
            given, report = (self.rows[0], fixed, grad_positions), self.device.reports()
            self._call("moments_backward", 0, self.n_local, grad_moments, fixed, report)
            self.device.call("from_fixed", len(fixed), *given, report)
            self._read(report)
        if grad_coefficients is not None:
            self._table_gradient(None, grad_moments, grad_coefficients)

    def double_backward(
        self,
        grad_moments: torch.Tensor,
        tangent: torch.Tensor,
        grad_grad_moments: torch.Tensor | None,
        grad_positions: torch.Tensor | None,
        grad_coefficients: torch.Tensor | None,
    ) -> None:
        """dpl_moments_double_backward. Raises InputError where the positions' part is wanted."""
        if grad_positions is not None:
            raise InputError(
                "positions: their second derivatives are not computed on a GPU; use device 'cpu'"
            )
        if grad_grad_moments is not None:
            self._call("moments_tangent", tangent, grad_grad_moments, self.device.reports())
        if grad_coefficients is not None:
            self._table_gradient(tangent, grad_moments, grad_coefficients)

    def _table_gradient(
        self, tangent: torch.Tensor | None, grad_moments: torch.Tensor, out: torch.Tensor
    ) -> None:
        """Σ S_kc g_cm over the runs of each bin, or of their changes along the tangent.

        Nobody waits for the report, nor for that of a tangent: what is wrong with the atoms, their
        list or the table was found by what these are derivatives of.
        """
        n_edges, n_bins = len(self.rows[3]), out.shape[0] * out.shape[1]
        bins, rows = (out.new_empty(n_edges, dtype=torch.int32) for _ in range(2))
        sums = out.new_empty(n_edges, POWERS, self.n_columns)
        self._call("runs", tangent, bins, rows, sums, self.device.reports())
        ordered, order = torch.sort(bins, stable=True)
        numbers = torch.arange(n_bins + 1, dtype=torch.int32, device=out.device)
        first = torch.searchsorted(ordered, numbers)
        parts = out.new_empty(PARTS, *out.shape, dtype=torch.float64)
        arrays = first, order, rows, sums, grad_moments, parts
        given = ctypes.byref(self._table.environment), ctypes.byref(self._table.table)
        self.device.call("accumulate", *given, *arrays)
        out.copy_(parts.sum(dim=0))

    def _call(self, name: str, *arguments: Any) -> None:
        """The function for these atoms and this table."""
        pointers = [x.data_ptr() for x in self.rows]
        atoms = native.Atoms(len(self.rows[0]), self.n_local, *pointers, len(self.rows[3]))
        table = self._table
        given = [ctypes.byref(x) for x in (atoms, table.environment, table.table)]
        self.device.call(name, *given, *arguments)

    def _read(self, report: torch.Tensor) -> int:
        """Edges beyond the table. Waits; raises InputError for a fault."""
        return self.device.read(report, len(self.rows[0]), self.n_types)


@dataclass(frozen=True)
class Operations:
    """`kernels.moments`, `moments_gradient` and `energies_and_gradients` on a device."""

    device: Device
    shared: Sequence[torch.Tensor] = ()
    """What several calls are given: it is moved once, by the first of them."""

    @cached_property
    def _copies(self) -> dict[int, torch.Tensor]:
        """Of what is shared, by its id."""
        return {id(x): x.to(self.device.torch_device) for x in self.shared}

    def _there(self, x: torch.Tensor) -> torch.Tensor:
        copy = self._copies.get(id(x))
        return x.to(self.device.torch_device) if copy is None else copy

    def moments(
        self,
        positions: torch.Tensor,
        types: torch.Tensor,
        offsets: torch.Tensor,
        indices: torch.Tensor,
        coefficients: torch.Tensor,
        environment: Environment,
    ) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Twice differentiable in the coefficients, once in the positions."""
        call = self._prepared(positions, types, offsets, indices, coefficients, environment)
        result: tuple[torch.Tensor, torch.Tensor, int] = Moments.apply(
            self._there(positions), self._there(coefficients), call
        )
        return result

    def moments_gradient(
        self,
        grad_moments: torch.Tensor,
        positions: torch.Tensor,
        types: torch.Tensor,
        offsets: torch.Tensor,
        indices: torch.Tensor,
        coefficients: torch.Tensor,
        environment: Environment,
    ) -> torch.Tensor:
        """Differentiable once more, in grad_moments and coefficients."""
        call = self._prepared(positions, types, offsets, indices, coefficients, environment)
        torch_device = self.device.torch_device
        shape = (call.n_local, call.n_columns, coefficients.shape[3])
        grad = checked(
            "grad_moments", grad_moments.to(torch_device), coefficients.dtype, shape, torch_device
        )
        given = self._there(positions), self._there(coefficients)
        found, _ = MomentsBackward.apply(grad, *given, call, (True, False))
        result: torch.Tensor = found
        return result

    def energies_and_gradients(
        self, moments: Sequence[torch.Tensor], types: torch.Tensor, fitting: Fitting
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """By torch's own operations, which autograd differentiates."""
        if len(moments) != len(fitting.shapes):
            raise InputError(
                f"moments: expected those of {len(fitting.shapes)} descriptors, found "
                f"{len(moments)}"
            )
        torch_device = self.device.torch_device
        given, types = [t.to(torch_device) for t in moments], types.to(torch_device)
        networks = DeviceFitting(fitting, given[0].dtype, torch_device, trained=True)
        parts = [t[:, :, : s.n_embedding] for t, s in zip(given, fitting.shapes, strict=True)]
        with full_precision():
            if len(networks.networks) == 1:
                energies, gradients = networks(parts, 0)
            else:
                energies = given[0].new_zeros(len(types), dtype=torch.float64)
                gradients = [torch.zeros_like(t) for t in parts]
                for element in range(len(networks.networks)):
                    rows = (types == element).nonzero()[:, 0]
                    own, slopes = networks([t[rows] for t in parts], element)
                    energies = energies.index_add(0, rows, own)
                    gradients = [
                        g.index_add(0, rows, s) for g, s in zip(gradients, slopes, strict=True)
                    ]
        padding = [t.shape[2] - g.shape[2] for t, g in zip(given, gradients, strict=True)]
        padded = [
            torch.nn.functional.pad(g, (0, n)) for g, n in zip(gradients, padding, strict=True)
        ]
        return energies, padded

    def _prepared(
        self,
        positions: torch.Tensor,
        types: torch.Tensor,
        offsets: torch.Tensor,
        indices: torch.Tensor,
        coefficients: torch.Tensor,
        environment: Environment,
    ) -> DeviceCall:
        torch_device, n_all = self.device.torch_device, len(positions)
        if int(offsets[-1]) != len(indices):
            raise InputError(
                f"offsets end at {int(offsets[-1])}, but there are {len(indices)} indices"
            )
        rows = (
            checked(
                "positions",
                self._there(positions).detach(),
                torch.float64,
                (-1, 3),
                torch_device,
            ),
            checked("types", self._there(types), torch.int32, (n_all,), torch_device),
            checked("offsets", self._there(offsets), torch.int64, (-1,), torch_device),
            checked("indices", self._there(indices), torch.int32, (-1,), torch_device),
        )
        return DeviceCall(self.device, rows, self._there(coefficients).detach(), environment)
