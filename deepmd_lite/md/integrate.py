"""Time integration: what happens to an atom between two evaluations of the forces.

An integrator has two halves, before and after the forces of the new positions. Atoms that are held
have no inverse mass: no force moves them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from ..units import ACCELERATION, BOLTZMANN, KINETIC
from .config import Ensemble
from .engine import Engine
from .random import normals

NOISE_STREAM = 1
"""Stream of the random numbers of the thermostat (see `state.VELOCITY_STREAM`)."""


class VelocityVerlet:
    """Newton's equations (NVE): kick half a step, drift a step, kick half a step."""

    conserves_momentum = True

    def __init__(self, timestep: float) -> None:
        """`timestep` in fs."""
        self.timestep = timestep

    def _kick(self, engine: Engine) -> None:
        """Half a step of acceleration."""
        state, half_step = engine.state, 0.5 * self.timestep * ACCELERATION
        state.velocities.addcmul_(engine.forces, half_step * state.inverse_masses)

    def before_forces(self, engine: Engine, step: int) -> None:
        """From the beginning of step number `step` to its new positions."""
        self._kick(engine)
        engine.state.positions.add_(engine.state.velocities, alpha=self.timestep)

    def after_forces(self, engine: Engine, step: int) -> None:
        """From the forces of the new positions to the end of step number `step`."""
        self._kick(engine)

    def extra_energy(self, engine: Engine) -> float:
        """eV, to be added to potential and kinetic energy for what the motion conserves.

        Every rank must ask.
        """
        return 0.0

    def memory(self, engine: Engine) -> dict[str, Any]:
        """What must survive a restart, ready for JSON, on every rank the same."""
        return {}

    def recall(self, memory: Mapping[str, Any]) -> None:
        """Go on from `memory`."""


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

    def before_forces(self, engine: Engine, step: int) -> None:
        """B A O A; the noise is a function of seed, step and atom id alone."""
        self._kick(engine)
        state = engine.state
        state.positions.add_(state.velocities, alpha=0.5 * self.timestep)
        if self.renewed:
            spread = torch.sqrt(BOLTZMANN * self.temperature / KINETIC * state.inverse_masses)
            noise = normals(state.ids, self.seed, NOISE_STREAM, step)
            state.velocities.mul_(self.kept).addcmul_(noise, self.renewed * spread)
        state.positions.add_(state.velocities, alpha=0.5 * self.timestep)


def integrator(ensemble: Ensemble, timestep: float) -> VelocityVerlet:
    """The integrator of an `Ensemble` for a `timestep` in fs."""
    if ensemble.type == "nve":
        return VelocityVerlet(timestep)
    assert ensemble.temperature is not None
    assert ensemble.friction is not None
    return LangevinBAOAB(timestep, ensemble.temperature, ensemble.friction, ensemble.seed)
