"""The atoms of one rank, and the quantities that follow from their masses and velocities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from ..units import BOLTZMANN, KINETIC
from .random import normals

CPU = torch.device("cpu")
VELOCITY_STREAM = 0
"""Stream of the random numbers of initial velocities."""

LAYOUT = {
    "ids": (1, torch.int64),
    "types": (1, torch.int32),
    "masses": (1, torch.float64),
    "positions": (3, torch.float64),
    "images": (3, torch.int64),
    "velocities": (3, torch.float64),
    "built": (3, torch.float64),
    "mobile": (1, torch.float64),
}
"""Columns and type of each array of a `State`, in the order of a packed row; what is carried
follows."""


@dataclass
class State:
    """The atoms that a rank owns; n of them, in no order that means anything, all on one device."""

    ids: torch.Tensor
    """(n,) int64: place in the structure as given, 0 .. N − 1."""
    types: torch.Tensor
    """(n,) int32, index into the model's type map."""
    masses: torch.Tensor
    """(n,) float64, u."""
    positions: torch.Tensor
    """(n, 3) float64, Å: wrapped when the list is built, then followed without wrapping."""
    images: torch.Tensor
    """(n, 3) int64: positions + images @ cell is the path without any wrapping."""
    velocities: torch.Tensor
    """(n, 3) float64, Å/fs."""
    built: torch.Tensor
    """(n, 3) float64, Å: positions for which the list was built."""
    mobile: torch.Tensor
    """(n,) float64: 1, or 0 for an atom that no force moves: it goes with the cell alone, or on at
    a given velocity."""
    carried: dict[str, torch.Tensor] = field(default_factory=dict)
    """(n, k) float64 each: what observables, groups and a search remember of an atom. It travels
    with the atom from rank to rank and into restarts; every rank has the same names, also where
    n = 0."""

    COLUMNS = sum(width for width, _ in LAYOUT.values())

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def widths(self) -> dict[str, int]:
        """Columns of each array of `carried`."""
        return {name: int(values.shape[1]) for name, values in self.carried.items()}

    @property
    def inverse_masses(self) -> torch.Tensor:
        """(n, 1) float64, 1/u; 0 for atoms that are held."""
        return (self.mobile / self.masses)[:, None]

    def pack(self) -> np.ndarray:
        """(n, COLUMNS + Σ widths) float64: everything, a row for each atom (an id is exact to
        2⁵³)."""
        columns = [
            getattr(self, name).double().reshape(len(self), width)
            for name, (width, _) in LAYOUT.items()
        ]
        return torch.cat([*columns, *self.carried.values()], dim=1).cpu().numpy()

    @classmethod
    def unpack(
        cls,
        rows: np.ndarray,
        widths: Mapping[str, int] | None = None,
        place: torch.device = CPU,
    ) -> State:
        """The atoms of rows from `pack`, on the device `place`; `widths` of what they carry."""
        t = torch.from_numpy(np.ascontiguousarray(rows)).to(place)
        all_widths = {**{name: width for name, (width, _) in LAYOUT.items()}, **(widths or {})}
        parts = dict(zip(all_widths, t.split(list(all_widths.values()), dim=1), strict=True))
        own = {}
        for name, (width, dtype) in LAYOUT.items():
            part = parts.pop(name)
            own[name] = (part[:, 0] if width == 1 else part).to(dtype, copy=True)  # not a view
        return cls(**own, carried={name: part.clone() for name, part in parts.items()})

    @classmethod
    def empty(cls, widths: Mapping[str, int] | None = None) -> State:
        """No atoms, which would carry columns of these `widths`."""
        widths = widths or {}
        return cls.unpack(np.empty((0, cls.COLUMNS + sum(widths.values()))), widths)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> State:
        """From `ids`, `types`, `masses`, `positions`, `images`, `velocities`, `built`, `mobile`
        (default: all are) and, under their names, the arrays (n, k) to be carried."""
        n = len(arrays["ids"])
        given = {"mobile": np.ones(n), **arrays}
        columns = [
            np.asarray(given.pop(k), dtype=np.float64).reshape(n, w) for k, (w, _) in LAYOUT.items()
        ]
        carried = {k: np.asarray(v, dtype=np.float64) for k, v in given.items()}
        widths = {k: v.shape[1] for k, v in carried.items()}
        return cls.unpack(np.concatenate([*columns, *carried.values()], axis=1), widths)

    def path(self, cell: np.ndarray) -> torch.Tensor:
        """(n, 3) Å: positions that are continuous in time, not wrapped into `cell` (3, 3) Å."""
        there = torch.from_numpy(cell).to(self.positions.device, non_blocking=True)
        return self.positions + self.images.double() @ there

    def to(self, place: torch.device) -> State:
        """These atoms on another device, in one copy; themselves where they are there."""
        if self.positions.device == place:
            return self
        return State.unpack(self.pack(), self.widths, place)

    def kinetic_energy(self) -> torch.Tensor:
        """() float64, eV."""
        return 0.5 * KINETIC * (self.masses * self.velocities.square().sum(dim=1)).sum()

    def kinetic_tensor(self) -> torch.Tensor:
        """(3, 3) float64, eV: Σ m v ⊗ v of these atoms; half its trace is the kinetic energy."""
        return KINETIC * (self.masses[:, None] * self.velocities).T @ self.velocities


def degrees_of_freedom(n_atoms: int, momentum_is_conserved: bool, is_still: bool = False) -> int:
    """3N, less the three of the centre of mass where they do not take part in the motion, and less
    those of the rotation of what `is_still`."""
    rotations = {1: 0, 2: 2}.get(n_atoms, 3) if is_still else 0
    return 3 * n_atoms - (3 if momentum_is_conserved and n_atoms > 1 else 0) - rotations


def temperature(kinetic_energy: float, freedom: int) -> float:
    """K, from a kinetic energy (eV) and the number of degrees of freedom."""
    return 2.0 * kinetic_energy / (freedom * BOLTZMANN)


def thermal_velocities(state: State, kelvin: float, seed: int) -> torch.Tensor:
    """(n, 3) Å/fs from the Maxwell-Boltzmann distribution, a function of id and seed alone."""
    spread = torch.sqrt(BOLTZMANN * kelvin / (KINETIC * state.masses))
    noise = normals(state.ids, seed, VELOCITY_STREAM, 0)
    return (state.mobile * spread)[:, None] * noise
