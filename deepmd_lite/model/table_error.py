"""How well tables stand for their networks, and how fine that asks them to be."""

from __future__ import annotations

import copy

import torch

from ..system import LocalEnv
from .frame_parameters import at_mean
from .potential import Potential

TABLE_TOLERANCE = 1e-6
"""eV/Å: largest error of a force that the table may cause."""
FINEST = 4096
"""Intervals at which refining gives up: a network that rough is not worth a table."""
Derivatives = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Energies (n_local,) eV, forces (n_all, 3) eV/Å, virial (3, 3) eV."""


def measure_table(potential: Potential, env: LocalEnv) -> dict[str, float]:
    """Largest difference between table and networks on `env`, in the potential's own precision.

    At the mean frame parameters of a model that takes some, by the processor.
    Keys: `energy_ev_per_atom`, `force_ev_per_a`, `virial_ev_per_atom`.
    """
    return _difference(_of_table(potential, env), _of_networks(potential, env), env.n_local)


def refine_table(
    potential: Potential, env: LocalEnv, tolerance: float = TABLE_TOLERANCE
) -> dict[str, float]:
    """Shrink the node spacing until forces on `env` are within `tolerance` eV/Å of the networks'.

    The error of a force falls with the fifth power of the spacing (a quintic's slope), from which
    the next spacing follows, at least half the one before.

    The comparison is made in float64 whatever the precision of the training, so that it sees the
    table and not round-off. Returns, and stores in `potential.table_error`, the error reached.
    """
    own = potential.precision
    potential.to_precision("float64")
    try:
        exact = _of_networks(potential, env)  # whatever the table: most of the time goes there
        error = _difference(_of_table(potential, env), exact, env.n_local)
        while error["force_ev_per_a"] > tolerance and not _finest(potential):
            factor = 1.1 * (error["force_ev_per_a"] / tolerance) ** 0.2
            for d in potential.descriptors:
                d.grid = d.grid.refined(min(2.0, factor))
            error = _difference(_of_table(potential, env), exact, env.n_local)
    finally:
        potential.to_precision(own)
    potential.table_error = error
    return error


def _of_table(potential: Potential, env: LocalEnv) -> Derivatives:
    host = copy.copy(at_mean(potential))
    host.device = "cpu"
    with torch.no_grad():
        energies, forces = host.energies_and_forces(env)
    return energies, forces, env.positions.T @ forces


def _of_networks(potential: Potential, env: LocalEnv) -> Derivatives:
    positions = env.positions.detach().requires_grad_()
    energies = at_mean(potential).exact_energies(env, positions)
    (gradient,) = torch.autograd.grad(energies.sum(), positions)
    return energies.detach(), -gradient, -env.positions.T @ gradient


def _difference(found: Derivatives, exact: Derivatives, n_local: int) -> dict[str, float]:
    energy, force, virial = (float((a - b).abs().max()) for a, b in zip(found, exact, strict=True))
    return {
        "energy_ev_per_atom": energy,
        "force_ev_per_a": force,
        "virial_ev_per_atom": virial / n_local,
    }


def _finest(potential: Potential) -> bool:
    return any(d.grid.n_intervals >= FINEST for d in potential.descriptors)
