"""Stochastic thermostats, and what any thermostat may do in a step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ...units import BOLTZMANN, KINETIC
from ..engine import Engine
from ..groups import BATH, chosen
from ..random import generator, normals
from ..selection import Selection, one_alone
from .ledger import Energy
from .ramp import Ramp

NOISE_STREAM = 1
"""Stream of the random numbers of the atoms' thermostat (see `state.VELOCITY_STREAM`)."""
SCALING_STREAM = 2
"""Stream of the random numbers of velocity rescaling."""


class Thermostat:
    """Exchanges heat with the atoms at three moments of a step, each on all ranks.

    What the methods return, eV, is the heat given to the atoms of this rank, unless
    `extended_energy` keeps account of it.
    """

    conserves_momentum = True
    scales = True
    """Whether all velocities are multiplied by a common factor, and nothing else is done."""
    carries: tuple[str, ...] = ()
    """Names of what atoms carry for it."""

    def __init__(self, temperature: Ramp) -> None:
        """`temperature` in K."""
        self.temperature = temperature
        self.freedom = 0
        """Degrees of freedom of the atoms; set before the first step."""

    def prepare(self, engine: Engine) -> None:
        """Learn of the system once its forces are known."""

    def first(self, engine: Engine, step: int, half_step: float) -> Energy:
        """At the beginning of step number `step`, for half a step (fs)."""
        return 0.0

    def middle(self, engine: Engine, step: int, timestep: float) -> Energy:
        """Between two half drifts, for a whole step (fs)."""
        return 0.0

    def last(self, engine: Engine, step: int, half_step: float) -> Energy:
        """At the end of a step, for half a step (fs)."""
        return 0.0

    def extended_energy(self) -> float:
        """eV, of variables of the thermostat's own."""
        return 0.0

    def memory(self, engine: Engine) -> dict[str, Any]:
        """What must survive a restart, ready for JSON, on every rank the same."""
        return {}

    def recall(self, memory: Mapping[str, Any]) -> None:
        """Go on from `memory`."""


class Langevin(Thermostat):
    """Friction and noise; in velocity Verlet this is the BAOAB splitting.

    Leimkuhler & Matthews, "Robust and efficient configurational molecular sampling via Langevin
    dynamics", J. Chem. Phys. 138, 174102 (2013). Averages over positions are accurate to higher
    order in the timestep than velocities show; with friction 0 it is velocity Verlet. It may act
    on some of the atoms alone, which are chosen where it comes to act.
    """

    conserves_momentum = False
    scales = False

    def __init__(
        self,
        temperature: Ramp,
        friction: float,
        seed: int,
        atoms: Sequence[Selection] | None = None,
    ) -> None:
        """`temperature` K, `friction` 1/fs; `atoms`: those that any of them means; None: all."""
        super().__init__(temperature)
        self.friction, self.seed, self.atoms = friction, seed, atoms
        self.carries = () if atoms is None else (BATH,)
        self._acted_on: Any = None

    def prepare(self, engine: Engine) -> None:
        """Raises SharedError (InputError with one rank) for a selection that means no atom."""
        if self.atoms is None:
            return
        asked = one_alone([selection.conditions for selection in self.atoms])
        if self._acted_on == asked:
            return
        self._acted_on = asked
        cell, type_map = (engine.cell, engine.pbc), engine.model.type_map
        system = engine.state, *cell, engine.n_atoms, type_map, engine.comm
        each = [chosen("ensemble: atoms", selection, *system) for selection in self.atoms]
        engine.state.carried[BATH] = torch.stack(each).any(dim=0).double()[:, None]

    def middle(self, engine: Engine, step: int, timestep: float) -> Energy:
        """The noise is a function of seed, step and atom id alone."""
        if not self.friction:
            return 0.0
        kept = math.exp(-self.friction * timestep)
        renewed = math.sqrt(-math.expm1(-2.0 * self.friction * timestep))
        state = engine.state
        before = state.kinetic_tensor().trace()
        spread = torch.sqrt(BOLTZMANN * self.temperature(step) / KINETIC * state.inverse_masses)
        noise = normals(state.ids, self.seed, NOISE_STREAM, step)
        if self.atoms is None:
            state.velocities.mul_(kept).addcmul_(noise, renewed * spread)
        else:
            inside = state.carried[BATH]
            state.velocities.mul_(1.0 - (1.0 - kept) * inside)
            state.velocities.addcmul_(noise, renewed * spread * inside)
        return 0.5 * (state.kinetic_tensor().trace() - before)

    def memory(self, engine: Engine) -> dict[str, Any]:
        return {} if self.atoms is None else {"atoms": self._acted_on}

    def recall(self, memory: Mapping[str, Any]) -> None:
        self._acted_on = memory.get("atoms")


class Bussi(Thermostat):
    """Stochastic velocity rescaling: the kinetic energy follows its own Langevin equation.

    Bussi, Donadio & Parrinello, "Canonical sampling through velocity rescaling", J. Chem. Phys.
    126, 014101 (2007), eqs. A7 and A8: exact for any step.
    """

    def __init__(self, temperature: Ramp, time: float, seed: int) -> None:
        """`temperature` K, `time` constant fs."""
        super().__init__(temperature)
        self.time, self.seed = time, seed

    def last(self, engine: Engine, step: int, half_step: float) -> Energy:
        """All of a step's rescaling at its end."""
        energy, own = engine.kinetic()
        target = BOLTZMANN * self.temperature(step)
        factor = self._factor(2.0 * energy / target, 2.0 * half_step, step)
        engine.state.velocities.mul_(factor)
        return own * (factor**2 - 1.0)

    def _factor(self, reduced: float, timestep: float, step: int) -> float:
        """The factor of the velocities, where 2 E_kin / kT is `reduced`."""
        noise = generator(self.seed, SCALING_STREAM, step)
        kept = math.exp(-timestep / self.time)
        own = noise.standard_normal()
        others = noise.chisquare(self.freedom - 1) if self.freedom > 1 else 0.0
        renewed = -math.expm1(-timestep / self.time) / reduced
        square = kept + renewed * (own**2 + others) + 2.0 * own * math.sqrt(kept * renewed)
        return math.copysign(math.sqrt(square), own + math.sqrt(kept / renewed))
