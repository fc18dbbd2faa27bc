"""A search for the nearest minimum of the energy, or of the enthalpy where the cell relaxes, too.

FIRE: Bitzek, Koskinen, Gähler, Moseler & Gumbsch, "Structural relaxation made simple", Phys. Rev.
Lett. 97, 170201 (2006), as revised by Guénolé et al., Comput. Mater. Sci. 175, 109584 (2020): atoms
of one mass slide downhill, turned towards the force, faster and faster, and begin anew where the
way goes up. A strain of the cell is one more coordinate, with a mass by which it is as stiff as a
bond.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ...units import ACCELERATION, EV_PER_A3_IN_GPA
from ..engine import Engine, longest
from .cell_motion import projected
from .verlet import SEARCH, VelocityVerlet

DELAY, FASTER, SLOWER = 20, 1.1, 0.5
TURN, LESS_TURN = 0.25, 0.99
"""Share of the velocity that is turned towards the force, at first, and its factor of each step."""
LONGEST, SHORTEST = 10.0, 0.02
"""Timestep over that of the beginning."""
MOST, MOST_STRAIN = 0.1, 0.01
"""Å that an atom, and strain that the cell may move in a step."""


@dataclass(frozen=True)
class Slope:
    """What the search needs to know of a place, over all atoms of all ranks and the cell."""

    power: float
    """Force · velocity."""
    force: float
    """|force|², over the mass."""
    speed: float
    """|velocity|², times the mass."""
    strain_force: np.ndarray
    """(3, 3) eV: −∂(enthalpy)/∂strain, where the cell may strain."""
    strain_mass: float
    """u Å²."""


class Relaxation(VelocityVerlet):
    """FIRE on atoms, and on the strains of the cell that are allowed.

    `ends` once no force on an atom that is free to move is larger than `fmax`, and no stress that
    the cell may follow further from the pressure than `smax`. All atoms have the mass 1 u: the
    velocities are no physical ones, and those of the atoms stay zero.
    """

    def __init__(
        self,
        timestep: float,
        fmax: float,
        pressure: float = 0.0,
        smax: float = np.inf,
        allowed: np.ndarray | None = None,
    ) -> None:
        """`timestep` fs to begin with, `fmax` eV/Å, `pressure` and `smax` GPa; `allowed` strains of
        the cell (see `cell_motion.modes`), None: it stays."""
        super().__init__(timestep)
        self.fmax, self.smax, self.allowed = fmax, smax, allowed
        self._pressure = pressure / EV_PER_A3_IN_GPA
        self.rate = np.zeros((3, 3))
        """1/fs: velocity of the strain."""
        self._timestep, self._turn, self._downhill = timestep, TURN, 0
        self.largest_stress = 0.0
        """GPa, away from the pressure."""

    def prepare(self, engine: Engine, freedom: int) -> None:
        if self.begins:  # what is there is of the structure, or of another ensemble
            engine.state.velocities.zero_()
            engine.state.carried[SEARCH] = torch.zeros_like(engine.state.velocities)
        self._look(engine)

    def before_forces(self, engine: Engine, step: int) -> None:
        at, velocities = self._slope, engine.state.carried[SEARCH]
        self._choose_pace(engine, at)
        if not self._downhill:
            at = Slope(0.0, at.force, 0.0, at.strain_force, at.strain_mass)
        dt, turn = self._timestep, self._turn
        kick = dt * ACCELERATION
        speed = at.speed + 2.0 * kick * at.power + kick**2 * at.force
        toward = turn * np.sqrt(max(speed, 0.0) / at.force) if at.force > 0 else 0.0
        # v ← (1 − turn) (v + kick f) + toward f, in which |toward f| = turn |v + kick f|
        kick = (1.0 - turn) * kick + toward
        velocities.mul_(1.0 - turn).add_(self._forces(engine), alpha=kick)
        self.rate = (1.0 - turn) * self.rate
        if self.allowed is not None:
            self.rate = self.rate + kick * at.strain_force / at.strain_mass
        self._move(engine, dt)

    def after_forces(self, engine: Engine, step: int) -> None:
        self._look(engine)

    def _choose_pace(self, engine: Engine, at: Slope) -> None:
        """Faster downhill; where the way goes up, half a step back and from rest."""
        if at.power > 0:
            self._downhill += 1
            if self._downhill > DELAY:
                self._timestep = min(FASTER * self._timestep, LONGEST * self.timestep)
                self._turn *= LESS_TURN
            return
        self._downhill, self._turn = 0, TURN
        if at.speed > 0:
            self._timestep = max(SLOWER * self._timestep, SHORTEST * self.timestep)
            self._move(engine, -0.5 * self._timestep)
            engine.state.carried[SEARCH].zero_()
            self.rate = np.zeros((3, 3))

    def _move(self, engine: Engine, dt: float) -> None:
        """Along the velocities for `dt` fs, or for less where that is too far."""
        velocities = engine.state.carried[SEARCH]
        leap = abs(dt) * engine.comm.largest(float(longest(velocities)))
        strain = abs(dt) * np.abs(self.rate).max()
        dt /= max(1.0, leap / MOST, strain / MOST_STRAIN)
        engine.state.positions.add_(velocities, alpha=dt)
        if self.allowed is not None:
            affine = torch.matrix_exp(torch.from_numpy(dt * self.rate)).numpy()
            engine.deform(engine.cell @ affine)

    def _forces(self, engine: Engine) -> torch.Tensor:
        """(n, 3) eV/Å on the atoms of this rank that are free to move."""
        return engine.forces * engine.state.mobile[:, None]

    def _look(self, engine: Engine) -> None:
        """How the place is that has been reached. Every rank must call."""
        forces, velocities = self._forces(engine), engine.state.carried[SEARCH]
        tensors = (forces * velocities).sum(), forces.square().sum(), velocities.square().sum()
        own = torch.cat([torch.stack(tensors), engine.virial.double().flatten()])
        power, force, speed, *virial = engine.comm.reduce(own.cpu().numpy(), "sum").tolist()
        self.largest_force = engine.comm.largest(float(longest(forces)))
        pull, mass = np.zeros((3, 3)), 1.0
        if self.allowed is not None:
            volume = engine.volume
            excess = np.reshape(virial, (3, 3)) - self._pressure * volume * np.eye(3)
            pull = projected(excess, self.allowed)
            # stiffness volume · modulus of a strain as that of a bond, modulus · ∛(volume/atom)
            mass = engine.n_atoms * (volume / engine.n_atoms) ** (2.0 / 3.0)
            power += float((pull * self.rate).sum())
            force += float((pull**2).sum()) / mass
            speed += mass * float((self.rate**2).sum())
            self.largest_stress = float(np.abs(pull).max()) / volume * EV_PER_A3_IN_GPA
        self._slope = Slope(power, force, speed, pull, mass)
        self.ends = self.largest_force <= self.fmax and self.largest_stress <= self.smax

    def extra_energy(self, engine: Engine) -> float:
        """eV: p V, with which the energy is what becomes less."""
        return self._pressure * engine.volume if self.allowed is not None else 0.0

    def memory(self, engine: Engine) -> dict[str, Any]:
        pace = [self._timestep, self._turn, self._downhill]
        return {**self.label, "rate": self.rate.tolist(), "pace": pace}

    def recall(self, memory: Mapping[str, Any]) -> None:
        self.rate = np.array(memory["rate"])
        self._timestep, self._turn, self._downhill = memory["pace"]

    @property
    def told(self) -> str:
        """How far from the end the search is, in words."""
        forces = f"largest force {self.largest_force:.4g} eV/Å (fmax {self.fmax:g})"
        if self.allowed is None:
            return forces
        return f"{forces}, stress off by {self.largest_stress:.3g} GPa (smax {self.smax:g})"
