"""The splitting of a time step that all ensembles but Martyna, Tobias and Klein's share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.linalg import expm

from ...system import InputError
from ...units import ACCELERATION
from ..comm import agreement
from ..engine import Engine
from ..groups import BATH
from ..initial import without_rotation
from .cell_motion import CellMotion
from .ledger import Ledger
from .thermostat import Thermostat

SEARCH = "relaxation"
"""What atoms carry in a relaxation: the velocities of the search, which are none of theirs."""


class VelocityVerlet:
    """Kick half a step, drift, kick half a step: Newton's equations (NVE).

    Between the halves of the drift stand what a thermostat does to single velocities and what
    deforms the cell, at both ends what a thermostat does to all velocities together. Atoms that
    are held have no inverse mass: no force moves them.
    """

    def __init__(
        self,
        timestep: float,
        thermostat: Thermostat | None = None,
        cell_motion: CellMotion | None = None,
    ) -> None:
        """`timestep` in fs; None: no heat is exchanged, the cell is constant."""
        self.timestep = timestep
        self.thermostat = thermostat
        self.cell_motion = cell_motion
        self.given = Ledger()
        self.label: dict[str, Any] = {}
        """What tells in a restart whose memory it is."""
        self.begins = True
        """Whether the run has not been in this ensemble before."""
        self.ends = False
        """Whether what is looked for is found; on all ranks the same."""
        self.largest_force: float | None = None
        """eV/Å, on any atom that is free to move, where that is what the motion is about."""
        self._strain = np.zeros((3, 3))

    @property
    def conserves_momentum(self) -> bool:
        """Whether the total momentum stays zero where no atom is held."""
        return self.thermostat is None or self.thermostat.conserves_momentum

    @property
    def scales(self) -> bool:
        """Whether a thermostat multiplies all velocities, a motion of the whole among them."""
        return self.thermostat is not None and self.thermostat.scales

    def prepare(self, engine: Engine, freedom: int) -> None:
        """Learn of the system once its forces are known; every rank must call.

        `freedom`: degrees of freedom that count for the temperature. Raises SharedError (InputError
        with one rank) for a cell that cannot be deformed as asked, and for atoms at rest where a
        thermostat comes to scale velocities. Where it would feed a motion of the centre of mass, or
        a rotation that goes on, it is taken away.
        """
        forget(engine, () if self.thermostat is None else self.thermostat.carries)
        if engine.drive is not None:
            engine.drive.feel(engine)
        if self.cell_motion is not None:
            with agreement(engine.comm):
                self.cell_motion.check(engine.cell)
        if self.thermostat is not None:
            self.thermostat.freedom = freedom
            self.thermostat.prepare(engine)
            if self.begins and self.scales:
                prepare_scaling(engine, self.conserves_momentum)

    def before_forces(self, engine: Engine, step: int) -> None:
        """From the beginning of step number `step` to its new positions."""
        thermostat, state, half_step = self.thermostat, engine.state, 0.5 * self.timestep
        if engine.drive is not None:
            self.given.add(engine.drive.advance(engine))
        if thermostat is not None:
            self.given.add(thermostat.first(engine, step, half_step))
        if self.cell_motion is not None:
            self._strain = self.cell_motion.strain(engine, step)
            self.given.add(self._half_of_the_work(engine))
        self._kick(engine)
        if self.cell_motion is None and (thermostat is None or thermostat.scales):
            state.positions.add_(state.velocities, alpha=self.timestep)
            return
        state.positions.add_(state.velocities, alpha=half_step)
        if thermostat is not None:
            self.given.add(thermostat.middle(engine, step, self.timestep))
        if self.cell_motion is not None:
            self.given.add(deform(engine, self._strain))
        state.positions.add_(state.velocities, alpha=half_step)

    def after_forces(self, engine: Engine, step: int) -> None:
        """From the forces of the new positions to the end of step number `step`."""
        if engine.drive is not None:
            self.given.add(engine.drive.arrive(engine))
        self._kick(engine)
        if self.cell_motion is not None:
            self.given.add(self._half_of_the_work(engine))
        if self.thermostat is not None:
            self.given.add(self.thermostat.last(engine, step, 0.5 * self.timestep))

    def _kick(self, engine: Engine) -> None:
        """Half a step of acceleration."""
        state, half_step = engine.state, 0.5 * self.timestep * ACCELERATION
        state.velocities.addcmul_(engine.forces, half_step * state.inverse_masses)

    def _half_of_the_work(self, engine: Engine) -> torch.Tensor:
        """eV on this rank: potential energy from the deformation, by the trapezoidal rule."""
        return -0.5 * (engine.virial * engine.there(self._strain)).sum()

    def extra_energy(self, engine: Engine) -> float:
        """eV, to be added to potential and kinetic energy for what the motion conserves: what
        thermostat, deformation and driven atoms have taken. Every rank must ask.

        For stochastic methods this is the effective energy of Bussi, Donadio & Parrinello (2007).
        """
        extended = 0.0 if self.thermostat is None else self.thermostat.extended_energy()
        return extended - self.given.total(engine.comm)

    def memory(self, engine: Engine) -> dict[str, Any]:
        """What must survive a restart, ready for JSON, on every rank the same."""
        kept = {} if self.thermostat is None else self.thermostat.memory(engine)
        kept |= {} if self.cell_motion is None else self.cell_motion.memory()
        return {**self.label, "given": self.given.units(engine.comm), **kept}

    def recall(self, memory: Mapping[str, Any]) -> None:
        """Go on from `memory`."""
        self.given.recall(memory["given"])
        if self.thermostat is not None:
            self.thermostat.recall(memory)


def forget(engine: Engine, kept: Sequence[str] = ()) -> None:
    """Atoms carry nothing along for another motion than that which keeps the names `kept`."""
    for name in {SEARCH, BATH} - set(kept):
        engine.state.carried.pop(name, None)


def deform(engine: Engine, strain: np.ndarray) -> torch.Tensor:
    """Atoms and cell follow exp(`strain`), (3, 3); velocities the inverse, so that this is a
    canonical transformation. Returns the kinetic energy (eV) that the atoms of this rank gain."""
    state = engine.state
    before = state.kinetic_tensor().trace()
    affine = expm(strain)  # torch's takes eight times as long for a matrix that small
    engine.deform(engine.cell @ affine)
    inverse = engine.there(np.linalg.inv(affine.T))
    state.velocities.copy_(state.velocities @ inverse)
    return 0.5 * (state.kinetic_tensor().trace() - before)


def prepare_scaling(engine: Engine, conserves_momentum: bool) -> None:
    """Velocities that a common factor can bring to a temperature: not all zero, and, unless some
    atoms are held, without motion of the centre of mass, and without rotation where no axis is
    periodic. Every rank must call."""
    state = engine.state
    momentum = (state.masses[:, None] * state.velocities).sum(0)
    held = (1.0 - state.mobile).sum()[None]
    sums = torch.cat([momentum, state.masses.sum()[None], held])
    total = engine.comm.reduce(sums.cpu().numpy(), "sum")
    if conserves_momentum and total[4] == 0 and engine.n_atoms > 1:
        state.velocities.sub_(engine.there(total[:3] / total[3]))
        if not any(engine.pbc):
            state.velocities.copy_(without_rotation(state, state.velocities, engine.comm))
    moving = engine.kinetic()[0] > 0
    with agreement(engine.comm):
        if not moving:
            raise InputError(
                "ensemble: the thermostat scales velocities, and all are zero: give initial ones "
                "(velocities: {temperature: …}), or use nvt-langevin"
            )
