"""Groups of atoms that go on at velocities of their own, whatever they feel: pistons, tips, plates.

What holds such a group to its way does work on the rest: −F·v of the force F that it feels. So the
energy that is conserved is the total less this work, and F is what an experiment would measure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from .comm import Communicator
from .config import Settings
from .engine import Engine
from .groups import MOVING

UNIT = 1e-8
"""eV/Å in which forces are summed: whole numbers have the same sum in any order, so that a run
that was interrupted ends with the same digits."""
HEADER = "step,time_fs,group,dx_A,dy_A,dz_A,fx_eV/A,fy_eV/A,fz_eV/A\n"
"""Of `loads.csv`: how far a group has come, and the mean of the force that it has felt since the
row before."""


class Drive:
    """What moves the groups of a run. Every rank makes the same calls."""

    def __init__(
        self, velocities: Sequence[Sequence[float]], timestep: float, engine: Engine
    ) -> None:
        """`velocities` (k, 3) Å/fs of the groups that atoms remember, `timestep` fs."""
        self.timestep, self._velocities = timestep, np.array(velocities)
        self._table = engine.there(self._velocities)
        self._way = np.zeros_like(self._velocities)
        self._force = torch.zeros_like(self._table)  # of this rank's share, at this moment
        self._sum = torch.zeros_like(self._table, dtype=torch.int64)
        self._steps = 0

    def velocities(self, engine: Engine) -> torch.Tensor:
        """(n, 3) Å/fs at which the atoms of this rank are driven; 0 for others."""
        return engine.state.carried[MOVING] @ self._table

    def feel(self, engine: Engine) -> None:
        """The forces of this moment, before the first step."""
        self._force = engine.state.carried[MOVING].T @ engine.forces

    def advance(self, engine: Engine) -> torch.Tensor:
        """A step; returns the work (eV) that is done on this rank by the forces at its
        beginning, half of them as the trapezoidal rule has it."""
        engine.state.positions.add_(self.velocities(engine), alpha=self.timestep)
        self._way += self.timestep * self._velocities
        return self._half_of_the_work()

    def arrive(self, engine: Engine) -> torch.Tensor:
        """The same at the end of the step, once the forces there are known."""
        self.feel(engine)
        self._sum += (self._force / UNIT).round().long()
        self._steps += 1
        return self._half_of_the_work()

    def _half_of_the_work(self) -> torch.Tensor:
        return -0.5 * self.timestep * (self._force * self._table).sum()

    def rows(self, comm: Communicator, step: int, time: float) -> str:
        """Those of `loads.csv` at `step` (`time` fs), a line for each group; the next mean begins
        here. Before any step the force is that of the moment."""
        if self._steps:
            mean = self._total(comm) * (UNIT / self._steps)
        else:
            mean = comm.reduce(self._force.cpu().numpy().ravel(), "sum").reshape(-1, 3)
        self._sum.zero_()
        self._steps = 0
        lines = []
        for group, (way, force) in enumerate(zip(self._way, mean, strict=True)):
            numbers = [f"{x:.8g}" for x in (*way, *force)]
            lines.append(",".join([str(step), f"{time:.10g}", str(group), *numbers]) + "\n")
        return "".join(lines)

    def _total(self, comm: Communicator) -> np.ndarray:
        return comm.reduce(self._sum.cpu().numpy().ravel(), "sum").reshape(-1, 3)

    def memory(self, comm: Communicator) -> dict[str, Any]:
        """What must survive a restart, ready for JSON, on every rank the same."""
        return {
            "way": self._way.tolist(),
            "sum": self._total(comm).tolist(),
            "steps": self._steps,
        }

    def recall(self, memory: Mapping[str, Any], comm: Communicator) -> None:
        """Go on from `memory`."""
        self._way, self._steps = np.array(memory["way"]), memory["steps"]
        if comm.rank == 0:
            self._sum.copy_(torch.tensor(memory["sum"]))


def drive_of(settings: Settings, engine: Engine, memory: Mapping[str, Any]) -> Drive | None:
    """What moves the groups of a run, if any; `memory` of the run that it goes on from, by name."""
    if not settings.moving:
        return None
    drive = Drive([x.velocity for x in settings.moving], settings.longest_timestep, engine)
    if MOVING in memory:
        drive.recall(memory[MOVING], engine.comm)
    return drive
