"""What a frame says about the last layers of the networks, in which energies and all derivatives of
them are linear.

With the last hidden layer h of each atom, E = Σ_a (w_a · H_a + b_a n_a), where H_a is the sum of h
over the atoms of element a and n_a their number. The row of the energy is (H_a, n_a) of all
elements; that of the forces along a displacement v of all atoms is the derivative of the energy's
along v. A whole matrix of forces would take a backward pass for each feature; a few random
directions v give its square AᵀA right in the mean, at the price of a few passes. Rows of the virial
are derivatives along random strains.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .. import kernels
from ..data import Frame, PreparedFrame, prepare
from ..kernels.short_range import switched
from ..model import Potential
from ..model.networks import Fitting

ROWS_PER_PARAMETER = 4
"""Of the forces, at least."""
MOST = 64
"""Directions of a frame."""
COMPONENTS = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
"""Those of the virial that count: it is symmetric."""


@dataclass(frozen=True)
class FrameRows:
    """The rows of one frame; P parameters: (width + 1) of each element."""

    energy: torch.Tensor
    """(P,): Σ parameters · row is the networks' share of the total energy, eV."""
    forces: torch.Tensor
    """(n_directions, P): minus the same of the forces along each direction, eV/Å."""
    virial: torch.Tensor
    """(n_strains, P): minus the same of the virial's `COMPONENTS` along each strain, eV."""


def n_parameters(potential: Potential) -> int:
    """P."""
    return len(potential.type_map) * (potential.config.fitting_net.neuron[-1] + 1)


def rows_of(
    potential: Potential,
    prepared: PreparedFrame,
    n_directions: int,
    n_strains: int,
    rng: np.random.Generator,
) -> FrameRows:
    """Rows of a frame, along so many displacements of its atoms and strains of its cell, whose
    components are normal numbers. `potential` is frozen."""
    env = prepared.env
    parts = [(d, d.coefficients()) for d in potential.descriptors]
    moments = [t.requires_grad_() for t in _moments(potential, prepared)]
    positions = env.positions.detach().clone().requires_grad_()
    sums = _sums(potential, prepared, moments, positions)
    # The gradient of sums · u with respect to positions is linear in u: the derivative of its
    # product with displacements v with respect to u is that of the sums along v.
    u = torch.zeros_like(sums, requires_grad=True)
    wanted = [*moments, positions]  # positions themselves where a short-range table takes over
    *to_moments, direct = torch.autograd.grad(sums, wanted, u, create_graph=True, allow_unused=True)
    atoms = (env.positions, env.types, env.offsets, env.indices)
    gradient = torch.zeros_like(env.positions) if direct is None else direct
    for (d, table), each in zip(parts, to_moments, strict=True):
        found = kernels.moments_gradient(each, *atoms, table, d.environment())
        gradient = gradient + found / sum(d.sel)

    def along(v: torch.Tensor) -> torch.Tensor:
        """The change of the sums with displacements v (n_all, 3) of the rows."""
        return torch.autograd.grad(gradient, u, v, retain_graph=True)[0]

    shape = (n_directions, env.n_local, 3)
    directions = torch.from_numpy(rng.standard_normal(shape))
    forces = [along(v[prepared.periodic.owner]) for v in directions]
    virial = []
    for components in torch.from_numpy(rng.standard_normal((n_strains, len(COMPONENTS)))):
        strain = torch.zeros(3, 3, dtype=torch.float64)
        for (a, b), value in zip(COMPONENTS, components, strict=True):
            strain[a, b] = value
        virial.append(along(env.positions @ strain))
    none = sums.new_empty(0, len(sums))
    return FrameRows(sums.detach(), *(torch.stack(x) if x else none for x in (forces, virial)))


@torch.no_grad()
def energy_row(potential: Potential, prepared: PreparedFrame) -> torch.Tensor:
    """(P,): that of the energy alone."""
    return _sums(potential, prepared, _moments(potential, prepared), prepared.env.positions)


@torch.no_grad()
def _moments(potential: Potential, prepared: PreparedFrame) -> list[torch.Tensor]:
    env = prepared.env
    return [d.moments(env, env.positions, d.coefficients()) for d in potential.descriptors]


def _sums(
    potential: Potential,
    prepared: PreparedFrame,
    moments: list[torch.Tensor],
    positions: torch.Tensor,
) -> torch.Tensor:
    """The energy's row (P,) from the moments of each descriptor and the positions (n_all, 3),
    differentiable in these."""
    env = prepared.env
    types = env.types[: env.n_local]
    share = torch.ones(env.n_local, dtype=torch.float64)
    if potential.short_range is not None:
        share = 1.0 - switched(env, positions, potential.short_range.table())[0]
    share = share.to(potential.dtype)
    parts = zip(potential.descriptors, moments, strict=True)
    numbers = torch.cat([d.numbers(t) for d, t in parts], dim=1)
    found = []
    for a, fitting in enumerate(potential.fitting):
        assert isinstance(fitting, Fitting)
        mine = (types == a).nonzero()[:, 0]
        found += [share[mine] @ fitting.hidden(numbers[mine]), share[mine].sum()[None]]
    return torch.cat(found)


def directions_for(potential: Potential, n_frames: int) -> int:
    """Directions of each of the frames with forces, so that all rows are several times as many as
    parameters."""
    rows = ROWS_PER_PARAMETER * n_parameters(potential)
    return int(np.clip(-(-rows // max(n_frames, 1)), 1, MOST))


def each_frame(
    potential: Potential, frames: Sequence[Frame], seed: int
) -> Iterator[tuple[PreparedFrame, FrameRows]]:
    """Frames with the rows of their labels, each with random numbers of its own."""
    most = directions_for(potential, sum(frame.forces is not None for frame in frames))
    for k, frame in enumerate(frames):
        (prepared,) = prepare([frame], potential.type_map, potential.rcut)
        n = most if frame.forces is not None else 0
        m = min(most, len(COMPONENTS)) if frame.virial is not None else 0
        yield prepared, rows_of(potential, prepared, n, m, np.random.default_rng([seed, k]))
