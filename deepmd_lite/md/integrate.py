"""Time integration: what happens to an atom between two evaluations of the forces.

An integrator has two halves, before and after the forces of the new positions. Both touch only
the atoms that a rank owns and need no communication.
"""

from __future__ import annotations

import math

import torch

from ..units import ACCELERATION, BOLTZMANN, KINETIC
from .config import Ensemble
from .random import normals
from .state import State

NOISE_STREAM = 1
"""Stream of the random numbers of the thermostat (see `state.VELOCITY_STREAM`)."""


class VelocityVerlet:
    """Newton's equations (NVE): kick half a step, drift a step, kick half a step."""

    conserves_momentum = True

    def __init__(self, timestep: float) -> None:
        """`timestep` in fs."""
        self.timestep = timestep

    def _kick(self, state: State, forces: torch.Tensor) -> None:
        """Half a step of acceleration; forces (n, 3) eV/Å."""
        half_step_over_mass = (0.5 * self.timestep * ACCELERATION) / state.masses
        state.velocities.addcmul_(forces, half_step_over_mass[:, None])

    def before_forces(self, state: State, forces: torch.Tensor, step: int) -> None:
        """From the beginning of step number `step` to its new positions."""
        self._kick(state, forces)
        state.positions.add_(state.velocities, alpha=self.timestep)

    def after_forces(self, state: State, forces: torch.Tensor) -> None:
        """From the forces of the new positions to the end of the step."""
        self._kick(state, forces)


class LangevinBAOAB(VelocityVerlet):
    """Langevin dynamics (NVT) by the BAOAB splitting.

    Leimkuhler & Matthews, "Robust and efficient configurational molecular sampling via Langevin
    dynamics", J. Chem. Phys. 138, 174102 (2013). Averages over positions are accurate to higher
    order in the timestep than velocities show; with friction 0 it is velocity Verlet.
    """

    conserves_momentum = False

    def __init__(self, timestep: float, temperature: float, friction: float, seed: int) -> None:
        """`timestep` fs, `temperature` K, `friction` 1/fs."""
        super().__init__(timestep)
        self.temperature = temperature
        self.seed = seed
        self.kept = math.exp(-friction * timestep)
        self.renewed = math.sqrt(-math.expm1(-2.0 * friction * timestep))

    def before_forces(self, state: State, forces: torch.Tensor, step: int) -> None:
        """B A O A; the noise is a function of seed, step and atom id alone."""
        self._kick(state, forces)
        state.positions.add_(state.velocities, alpha=0.5 * self.timestep)
        if self.renewed:
            spread = torch.sqrt(BOLTZMANN * self.temperature / (KINETIC * state.masses))
            noise = normals(state.ids, self.seed, NOISE_STREAM, step)
            state.velocities.mul_(self.kept).addcmul_(noise, self.renewed * spread[:, None])
        state.positions.add_(state.velocities, alpha=0.5 * self.timestep)


def integrator(ensemble: Ensemble, timestep: float) -> VelocityVerlet:
    """The integrator of an `Ensemble` for a `timestep` in fs."""
    if ensemble.type == "nve":
        return VelocityVerlet(timestep)
    assert ensemble.temperature is not None
    assert ensemble.friction is not None
    return LangevinBAOAB(timestep, ensemble.temperature, ensemble.friction, ensemble.seed)
