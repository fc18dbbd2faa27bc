"""Constant pressure by the equations of motion of Martyna, Tobias and Klein."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...system import InputError
from ...units import ACCELERATION, BOLTZMANN, EV_PER_A3_IN_GPA
from ..engine import Engine, Totals
from .cell_motion import checked, projected
from .nose_hoover import Chain
from .ramp import Ramp
from .verlet import VelocityVerlet, forget, prepare_scaling


class MartynaTobiasKlein(VelocityVerlet):
    """NPT, deterministic: cell velocities with a mass, and Nosé–Hoover chains, one for the atoms
    and one for each strain of the cell.

    Martyna, Tobias & Klein, "Constant pressure molecular dynamics algorithms", J. Chem. Phys. 101,
    4177 (1994); reversible as in Martyna, Tuckerman, Tobias & Klein, Mol. Phys. 87, 1117 (1996).
    With the rate of deformation g (3, 3), symmetric, so that the cell does not rotate:
    q' = v + q g, v' = f/m − v (g + tr g / N_f), W g' = V (p_int − p) + 2 E_kin / N_f,
    each projected onto the strains that are allowed; W = (N_f + 3) kT τ² / 3. Strains of a crystal
    are nearly harmonic and hardly exchange energy: a chain that sees only their sum would leave
    them whatever shares they began with.
    """

    def __init__(
        self,
        timestep: float,
        temperature: Ramp,
        pressure: Ramp,
        *,
        thermostat_time: float,
        barostat_time: float,
        chain_length: int,
        allowed: np.ndarray,
    ) -> None:
        """`timestep` and time constants fs, `temperature` K, `pressure` GPa; `allowed` strains
        (see `cell_motion.modes`)."""
        super().__init__(timestep)
        self.temperature, self.pressure = temperature, pressure
        self.barostat_time, self.allowed = barostat_time, allowed
        self.rate = np.zeros((3, 3))
        """1/fs: g above."""
        self.atoms_chain = Chain(chain_length, thermostat_time)
        self.cell_chains = [Chain(chain_length, barostat_time) for _ in allowed]
        self.freedom = 0
        self._thermal = BOLTZMANN * temperature(-1)
        self._target = pressure(-1) / EV_PER_A3_IN_GPA
        self._work = 0.0  # eV, done on chains and barostat by a ramp
        self._spectrum = np.linalg.eigh(self.rate)  # of the rate, while atoms move

    @property
    def scales(self) -> bool:
        return True

    def prepare(self, engine: Engine, freedom: int) -> None:
        self.freedom = freedom
        forget(engine)
        if self.begins:
            prepare_scaling(engine, self.conserves_momentum)

    @property
    def _mass(self) -> float:
        """eV fs²."""
        return (self.freedom + 3) * self._thermal * self.barostat_time**2 / 3.0

    def before_forces(self, engine: Engine, step: int) -> None:
        self._follow_ramps(engine, step)
        totals = engine.totals()
        factor = self._advance_chains(engine, totals.kinetic_energy)
        self._push_cell(engine, totals, factor**2)
        checked(self.rate * self.timestep, step)
        self._spectrum = np.linalg.eigh(self.rate)
        self._kick(engine)
        self._drift(engine)

    def after_forces(self, engine: Engine, step: int) -> None:
        self._kick(engine)
        totals = engine.totals()
        self._push_cell(engine, totals, 1.0)
        self._advance_chains(engine, totals.kinetic_energy)

    def _follow_ramps(self, engine: Engine, step: int) -> None:
        """Temperature and pressure of this step."""
        thermal = BOLTZMANN * self.temperature(step)
        target = self.pressure(step) / EV_PER_A3_IN_GPA
        if (thermal, target) != (self._thermal, self._target):
            before = self.extra_energy(engine)
            self._thermal, self._target = thermal, target
            self._work += self.extra_energy(engine) - before

    def _advance_chains(self, engine: Engine, kinetic_energy: float) -> float:
        """Half a step of both; returns the factor of the atoms' velocities."""
        half_step = 0.5 * self.timestep
        factor = self.atoms_chain.advance(
            2.0 * kinetic_energy, self.freedom, self._thermal, half_step
        )
        engine.state.velocities.mul_(factor)
        rates = np.einsum("kab,ab->k", self.allowed, self.rate)
        rates *= [
            chain.advance(self._mass * rate**2, 1, self._thermal, half_step)
            for chain, rate in zip(self.cell_chains, rates, strict=True)
        ]
        self.rate = np.einsum("k,kab->ab", rates, self.allowed)
        return factor

    def _push_cell(self, engine: Engine, totals: Totals, scaled: float) -> None:
        """Half a step of the stress on the cell; `scaled`: what the kinetic energy of `totals`
        must be multiplied by."""
        kinetic = scaled * totals.kinetic
        internal = 0.5 * (totals.virial + totals.virial.T) + kinetic
        further = np.trace(kinetic) / self.freedom - self._target * engine.volume
        excess = internal + further * np.eye(3)
        self.rate += 0.5 * self.timestep / self._mass * projected(excess, self.allowed)

    def _kick(self, engine: Engine) -> None:
        """Half a step of v' = f/m − v k with k = g + tr g / N_f, exact for constant f and g."""
        state, half_step = engine.state, 0.5 * self.timestep
        rates, axes = self._spectrum
        x = -half_step * (rates + rates.sum() / self.freedom)
        decay = engine.there(_matrix(np.exp(x), axes))
        push = engine.there(_matrix(ACCELERATION * half_step * _mean_exponential(x), axes))
        acceleration = engine.forces * state.inverse_masses
        state.velocities.copy_(state.velocities @ decay + acceleration @ push)

    def _drift(self, engine: Engine) -> None:
        """A step of q' = v + q g and of the cell, exact for constant v and g."""
        rates, axes = self._spectrum
        x = self.timestep * rates
        engine.deform(engine.cell @ _matrix(np.exp(x), axes))
        reach = _matrix(self.timestep * _mean_exponential(x), axes)
        engine.state.positions.add_(engine.state.velocities @ engine.there(reach))

    def extra_energy(self, engine: Engine) -> float:
        """eV: chains, kinetic energy of the cell and p V, less what a ramp has added to them."""
        chains = self.atoms_chain.energy(self.freedom, self._thermal)
        chains += sum(chain.energy(1, self._thermal) for chain in self.cell_chains)
        cell = 0.5 * self._mass * float((self.rate**2).sum()) + self._target * engine.volume
        return chains + cell - self._work

    def memory(self, engine: Engine) -> dict[str, Any]:
        return {
            **self.label,
            "rate": self.rate.tolist(),
            "atoms_chain": self.atoms_chain.memory(),
            "cell_chains": [chain.memory() for chain in self.cell_chains],
            "targets": [self._thermal, self._target, self._work],
        }

    def recall(self, memory: Mapping[str, Any]) -> None:
        if "cell_chains" not in memory:
            raise InputError(
                "restart: its barostat had one chain for all strains, now each has its own: begin "
                "a new run with its last frame as structure"
            )
        self.rate = np.array(memory["rate"])
        self.atoms_chain.recall(memory["atoms_chain"])
        for chain, kept in zip(self.cell_chains, memory["cell_chains"], strict=True):
            chain.recall(kept)
        self._thermal, self._target, self._work = memory["targets"]


def _matrix(values: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """The symmetric (3, 3) matrix with these eigenvalues (3,) and eigenvectors (3, 3)."""
    result: np.ndarray = (vectors * values) @ vectors.T
    return result


def _mean_exponential(x: np.ndarray) -> np.ndarray:
    """Mean of exp(t) for t between 0 and x: (exp(x) − 1)/x, and 1 at 0."""
    small = np.where(x == 0.0, 1.0, x)
    return np.where(x == 0.0, 1.0, np.expm1(small) / small)
