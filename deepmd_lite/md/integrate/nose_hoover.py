"""Nosé–Hoover chains."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ...units import BOLTZMANN
from ..engine import Engine
from .ledger import Energy
from .ramp import Ramp
from .thermostat import Thermostat

_OUTER = 1.0 / (2.0 - 2.0 ** (1.0 / 3.0))
WEIGHTS = (_OUTER, 1.0 - 2.0 * _OUTER, _OUTER)
"""Of Suzuki and Yoshida's three steps, together of fourth order."""


class Chain:
    """Thermostat variables coupled to a kinetic energy, the first to it, each to the next.

    Martyna, Klein & Tuckerman, J. Chem. Phys. 97, 2635 (1992); integrated as in Martyna,
    Tuckerman, Tobias & Klein, Mol. Phys. 87, 1117 (1996), section 4.
    """

    def __init__(self, length: int, time: float) -> None:
        """`length` variables with time constant `time` (fs)."""
        self.time = time
        self.positions = np.zeros(length)
        """Without unit."""
        self.velocities = np.zeros(length)
        """1/fs."""

    def _masses(self, freedom: int, thermal: float) -> list[float]:
        """eV fs²; `thermal` is kT in eV."""
        each = thermal * self.time**2
        return [freedom * each] + [each] * (len(self.velocities) - 1)

    def energy(self, freedom: int, thermal: float) -> float:
        """eV, kinetic and potential."""
        kinetic = 0.5 * np.dot(self._masses(freedom, thermal), self.velocities**2)
        return float(kinetic + thermal * (freedom * self.positions[0] + self.positions[1:].sum()))

    def advance(self, twice_kinetic: float, freedom: int, thermal: float, time: float) -> float:
        """Go on by `time` (fs); returns the factor for the velocities that are coupled.

        `twice_kinetic` eV: twice their kinetic energy, of `freedom` degrees of freedom. The factor
        is nan, which guards notice, where that is too far from `thermal` for the time constant.
        """
        # Plain numbers: numpy would take ten times as long for arrays of three.
        x, v = self.positions.tolist(), self.velocities.tolist()
        masses = self._masses(freedom, thermal)
        try:
            factor = _advanced(x, v, masses, twice_kinetic, freedom * thermal, thermal, time)
        except OverflowError:
            return math.nan
        self.positions[:], self.velocities[:] = x, v
        return factor

    def memory(self) -> list[list[float]]:
        """Positions and velocities, ready for JSON."""
        return [self.positions.tolist(), self.velocities.tolist()]

    def recall(self, memory: list[list[float]]) -> None:
        """Go on from `memory`, of a chain of any length."""
        n = min(len(self.positions), len(memory[0]))
        self.positions[:n], self.velocities[:n] = memory[0][:n], memory[1][:n]


def _advanced(
    x: list[float],
    v: list[float],
    masses: list[float],
    twice_kinetic: float,
    target: float,
    thermal: float,
    time: float,
) -> float:
    """Positions and velocities of a chain go on by `time`; `target` is that of `twice_kinetic`."""
    factor = 1.0
    for weight in WEIGHTS:
        part = weight * time
        pull = twice_kinetic * factor**2 - target
        _kick(v, masses, thermal, pull, 0.5 * part, range(len(v) - 1, -1, -1))
        factor *= math.exp(-v[0] * part)
        for k, velocity in enumerate(v):
            x[k] += velocity * part
        pull = twice_kinetic * factor**2 - target
        _kick(v, masses, thermal, pull, 0.5 * part, range(len(v)))
    return factor


def _kick(
    v: list[float],
    masses: list[float],
    thermal: float,
    first_pull: float,
    time: float,
    order: Iterable[int],
) -> None:
    """Accelerate the velocities `v` of a chain, one after the other."""
    for k in order:
        pull = masses[k - 1] * v[k - 1] ** 2 - thermal if k else first_pull
        drag = math.exp(-0.5 * time * v[k + 1]) if k + 1 < len(v) else 1.0
        v[k] = (v[k] * drag + time * pull / masses[k]) * drag


class NoseHooverChain(Thermostat):
    """A chain that scales the velocities at both ends of a step (NVT, deterministic)."""

    def __init__(self, temperature: Ramp, time: float, length: int) -> None:
        """`temperature` K, `time` constant fs, `length` of the chain."""
        super().__init__(temperature)
        self.chain = Chain(length, time)
        self._thermal = BOLTZMANN * temperature(-1)
        self._work = 0.0  # eV, done on the chain by a ramp

    def first(self, engine: Engine, step: int, half_step: float) -> Energy:
        """With the temperature of this step, which may be another than that of the one before."""
        before = self.extended_energy()
        self._thermal = BOLTZMANN * self.temperature(step)
        self._work += self.extended_energy() - before
        return self.last(engine, step, half_step)

    def last(self, engine: Engine, step: int, half_step: float) -> Energy:
        energy, _ = engine.kinetic()
        factor = self.chain.advance(2.0 * energy, self.freedom, self._thermal, half_step)
        engine.state.velocities.mul_(factor)
        return 0.0

    def extended_energy(self) -> float:
        return self.chain.energy(self.freedom, self._thermal) - self._work

    def memory(self, engine: Engine) -> dict[str, Any]:
        return {"chain": self.chain.memory(), "thermal": self._thermal, "work": self._work}

    def recall(self, memory: Mapping[str, Any]) -> None:
        self.chain.recall(memory["chain"])
        self._thermal, self._work = memory["thermal"], memory["work"]
