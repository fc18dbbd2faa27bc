"""How far a run has come in time, and how long its steps are: all alike, or as the atoms allow.

An adaptive timestep (`config.Adaptive`) is chosen anew for each step, from the speed v, the
acceleration a and the force F of every atom: the longest with v dt + a dt²/2 ≤ d, where d is the
displacement that is allowed, less where F is above `STRONG`: d √(STRONG/F). The error that a step
of velocity Verlet leaves in the energy goes as d² F over the length on which F changes, so that a
collision at a thousand eV/Å is followed as well as one at ten, and flight costs no short steps.
An atom of 1,000 eV in 216 of silicon, 60 fs, largest error of the energy: 0.03 eV in 2,046 steps,
0.3 eV in 2,213 by d = 0.02 Å alone, 1.9 eV in 1,200 of 0.05 fs. In pairs of Mo the same number of
steps left a third of the error that a bound on F d did. Bounds on how fast the timestep grows, and
timesteps that are the same on the way back, gained nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..units import ACCELERATION
from .config import Adaptive
from .engine import Engine

NAME = "timestep"
"""Of what a restart keeps of it."""
STRONG = 10.0
"""eV/Å, above which an atom may move less."""


class Clock:
    """Time and timestep of a run, on all ranks the same."""

    def __init__(
        self,
        timestep: float | Adaptive,
        time: float = 0.0,
        step: int = 0,
        memory: Mapping[str, Any] | None = None,
    ) -> None:
        """`timestep` fs; it is `time` fs at number `step`; `memory` of the run that goes on, by
        name: the timestep that it had chosen counts where it is chosen in the same way."""
        self.adaptive = timestep if isinstance(timestep, Adaptive) else None
        self.longest = timestep.max if isinstance(timestep, Adaptive) else timestep
        """fs."""
        self.timestep = self.longest
        """fs, of the step that is made, or was the last."""
        self.coming = self.longest
        """fs, of the next one."""
        self.time = time
        """fs."""
        self._origin = time, step
        self._behind = 0.0  # fs: the step to whose middle velocities belong, once there is one
        known = (memory or {}).get(NAME)
        self._known = known["next"] if known and known["by"] == self._by else None

    @property
    def _by(self) -> dict[str, Any] | None:
        return None if self.adaptive is None else self.adaptive.model_dump()

    @property
    def title(self) -> str:
        """In words, for the log."""
        if self.adaptive is None:
            return f"timestep {self.timestep:g} fs"
        reach = f"no atom moves by more than {self.adaptive.displacement:g} Å in a step"
        return f"timestep up to {self.longest:g} fs: {reach}"

    @property
    def remedy(self) -> str:
        """What to do where it is too long."""
        return "halve the timestep" if self.adaptive is None else "halve displacement of timestep"

    def haste(self, engine: Engine) -> torch.Tensor:
        """() 1/fs: the reciprocal of the longest step that the atoms of this rank allow.

        For forces of the moment. Inside a step velocities are half a kick behind, which is added to
        their lengths.
        """
        assert self.adaptive is not None
        state, strengths = engine.state, engine.forces.norm(dim=1)
        if not len(state):
            return strengths.new_zeros(())
        accelerations = ACCELERATION * strengths * state.inverse_masses[:, 0]
        speeds = state.velocities.norm(dim=1) + 0.5 * self._behind * accelerations
        reach = self.adaptive.displacement * (STRONG / strengths).sqrt().clamp(max=1.0)
        return ((speeds + (speeds.square() + 2.0 * accelerations * reach).sqrt()) / reach).max() / 2

    def choose(self, haste: float) -> None:
        """The timestep of the next step; `haste` of all ranks."""
        self.coming = min(self.longest, 1.0 / haste) if haste > 0 else self.longest

    def ready(self) -> None:
        """Before the first step, once the forces of the beginning are known."""
        if self._known is not None:
            self.coming = self._known

    def begin(self) -> float:
        """A step begins; returns its timestep, fs."""
        self.timestep = self._behind = self.coming
        return self.timestep

    def arrive(self, step: int) -> None:
        """The step has come to number `step`."""
        if self.adaptive is None:  # without a sum of roundings
            time, first = self._origin
            self.time = time + (step - first) * self.timestep
        else:
            self.time += self.timestep

    def mean(self, since: float, steps: int) -> float:
        """fs: the timestep of the `steps` made since the time `since`."""
        return self.timestep if self.adaptive is None else (self.time - since) / max(1, steps)

    def memory(self) -> dict[str, Any]:
        """What must survive a restart, by name."""
        if self.adaptive is None:
            return {}
        return {NAME: {"next": self.coming, "by": self._by}}
