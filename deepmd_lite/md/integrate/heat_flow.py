"""Two Langevin thermostats side by side, between which heat flows through the atoms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from ...system import InputError
from ...units import BOLTZMANN, KINETIC
from ..baths import Baths
from ..comm import agreement
from ..engine import Engine
from ..random import normals
from .ledger import Energy, Ledger
from .ramp import Ramp
from .thermostat import NOISE_STREAM, Thermostat


class HeatFlow(Thermostat):
    """Friction and noise in a hot and in a cold slab (`Baths`), Newton's equations elsewhere.

    What the two give is counted: in a steady state as much goes in at the one as comes out at the
    other, half of it on either side.
    """

    conserves_momentum = False
    scales = False

    def __init__(
        self, axis: int, hot: float, cold: float, width: float, friction: float, seed: int
    ) -> None:
        """`axis`: number of the lattice vector; K, Å and 1/fs."""
        super().__init__(Ramp(hot, hot, 0, 0))
        self.kelvins = hot, cold
        self.axis, self.width, self.friction, self.seed = axis, width, friction, seed
        self._ledgers = Ledger(), Ledger()

    def prepare(self, engine: Engine) -> None:
        """Raises SharedError (InputError with one rank) for a cell that has no place for them."""

        def given() -> tuple[float, float]:
            hot, cold = (ledger.total(engine.comm) for ledger in self._ledgers)
            return hot, cold

        baths = engine.baths = Baths(self.axis, self.width, self.kelvins, given)
        with agreement(engine.comm):
            if not engine.pbc[self.axis]:
                raise InputError(
                    f"ensemble 'heat-flow': axis {'abc'[self.axis]} is not periodic: heat flows "
                    "both ways from the hot slab to the cold one; give a periodic axis"
                )
            if baths.share(engine.cell) > 0.25:
                raise InputError(
                    f"ensemble 'heat-flow': two slabs of width {self.width:g} Å take "
                    f"{2 * baths.share(engine.cell):.0%} of the cell along "
                    f"{'abc'[self.axis]}, at most half is left to them: give a longer cell or a "
                    "smaller width"
                )

    def middle(self, engine: Engine, step: int, timestep: float) -> Energy:
        """The noise is a function of seed, step and atom id alone."""
        assert engine.baths is not None
        state, inside = engine.state, torch.stack(engine.baths.inside(engine)).double()
        kept = math.exp(-self.friction * timestep)
        renewed = math.sqrt(-math.expm1(-2.0 * self.friction * timestep))
        noise = normals(state.ids, self.seed, NOISE_STREAM, step)
        kelvin = (inside[0] * self.kelvins[0] + inside[1] * self.kelvins[1])[:, None]
        spread = torch.sqrt(BOLTZMANN / KINETIC * kelvin * state.inverse_masses)
        new = kept * state.velocities + renewed * spread * noise
        new = torch.where(kelvin > 0, new, state.velocities)
        gained = (
            0.5 * KINETIC * state.masses * (new.square() - state.velocities.square()).sum(dim=1)
        )
        state.velocities.copy_(new)
        hot, cold = (gained * inside).sum(dim=1).unbind()
        for ledger, heat in zip(self._ledgers, (hot, cold), strict=True):
            ledger.add(heat)
        return hot + cold

    def memory(self, engine: Engine) -> dict[str, Any]:
        return {"heats": [ledger.units(engine.comm) for ledger in self._ledgers]}

    def recall(self, memory: Mapping[str, Any]) -> None:
        for ledger, units in zip(self._ledgers, memory["heats"], strict=True):
            ledger.recall(units)
