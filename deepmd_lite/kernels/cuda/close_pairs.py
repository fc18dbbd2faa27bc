"""What acts between close atoms alone, on a device: repulsion, and the table of pairs."""

from __future__ import annotations

import ctypes

import torch

from ...system import InputError
from ..checks import checked
from ..reference import Repulsion
from ..short_range import ShortRange
from . import native
from .native import Device


class DeviceRepulsion:
    """The radii on a device."""

    def __init__(self, repulsion: Repulsion, torch_device: torch.device) -> None:
        """Raises InputError for radii that are not 0 ≤ r_in < r_out."""
        r_in, r_out = repulsion.r_in, repulsion.r_out
        if not ((r_in >= 0).all() and (r_out > r_in).all() and r_out.isfinite().all()):
            raise InputError("repulsion: expected 0 <= r_in < r_out of every pair of types")
        arrays = repulsion.atomic_numbers, r_in, r_out
        self._kept = [x.detach().to(torch_device, torch.float64).contiguous() for x in arrays]
        self._pairs = native.Repulsion(len(r_in), *(x.data_ptr() for x in self._kept))

    def add(
        self,
        device: Device,
        atoms: native.Atoms,
        energies: torch.Tensor,
        fixed: torch.Tensor,
        report: torch.Tensor,
    ) -> None:
        """To energies (n_local,) eV and to the sums of forces `fixed` (n_all, 3)."""
        given = ctypes.byref(self._pairs), ctypes.byref(atoms)
        device.call("repulsion_add", *given, energies, fixed, report)


class DeviceShortRange:
    """The table on a device."""

    def __init__(self, table: ShortRange, torch_device: torch.device) -> None:
        """Raises InputError for arrays of a wrong shape or that are not finite."""
        n_types = len(table.bias)
        shape = (n_types, n_types, -1, 4)
        coefficients = checked("coefficients", table.coefficients, torch.float64, shape)
        bias = checked("bias", table.bias, torch.float64, (n_types,))
        for name, array in (("table of pairs", coefficients), ("bias", bias)):
            if not array.isfinite().all():
                raise InputError(f"short-range table: a number of the {name} is not finite")
        self._kept = [x.detach().to(torch_device) for x in (coefficients, bias)]
        self._table = native.ShortRange(
            n_types,
            coefficients.shape[2],
            table.rcut,
            table.smin_alpha,
            table.sw_rmin,
            table.sw_rmax,
            table.start,
            table.spacing,
            *(x.data_ptr() for x in self._kept),
        )

    def weights(
        self, device: Device, atoms: native.Atoms, report: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(n_local,) float64 each: the soft minima, Å, and what the networks count, 1 − λ."""
        n, where = atoms.n_local, device.torch_device
        soft, weights = (torch.empty(n, dtype=torch.float64, device=where) for _ in range(2))
        given = ctypes.byref(self._table), ctypes.byref(atoms)
        device.call("short_range_weights", *given, soft, weights, report)
        return soft, weights

    def add(
        self,
        device: Device,
        atoms: native.Atoms,
        soft: torch.Tensor,
        energies: torch.Tensor,
        fixed: torch.Tensor,
        report: torch.Tensor,
    ) -> None:
        """Energies (n_local,) eV of the networks become those of networks and table; forces of λ
        and the table are added to `fixed` (n_all, 3)."""
        given = ctypes.byref(self._table), ctypes.byref(atoms)
        device.call("short_range_add", *given, soft, energies, fixed, report)
