"""What acts on the atoms of a run besides the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .engine import Engine
from .groups import PULL


class Bias:
    """Nothing: the forces are those of the model."""

    virial = np.zeros((3, 3))
    """(3, 3) eV, at the last call of `act`, the same on all ranks: Σ r ⊗ f of its forces."""
    ends: bool = False
    """Whether it asked, at the last call of `act`, for the end of the run."""
    parts: tuple[str, ...] = ()
    """Under which name its time is counted."""

    def act(self, engine: Engine, step: int) -> None:
        """Add the forces of step `step` to those that the model has just given `engine`."""

    def energy(self, engine: Engine) -> float:
        """eV, of all atoms; every rank must ask."""
        return 0.0

    def memory(self) -> dict[str, Any]:
        """What must survive a restart, by name, ready for JSON; of rank 0."""
        return {}


class Pull(Bias):
    """A constant force on each atom of some groups.

    Its energy is −Σ f·r along the path of the atoms without wrapping. It is left out of virial and
    stress: that of a force which acts from outside hangs on where the origin is.
    """

    def __init__(self, forces: Sequence[Sequence[float]]) -> None:
        """`forces` (k, 3) eV/Å, on each atom of the groups that atoms remember."""
        self._forces = torch.tensor(forces, dtype=torch.float64)

    def act(self, engine: Engine, step: int) -> None:
        engine.push(self._on_atoms(engine))

    def _on_atoms(self, engine: Engine) -> torch.Tensor:
        self._forces = self._forces.to(engine.torch_device)
        return engine.state.carried[PULL] @ self._forces

    def energy(self, engine: Engine) -> float:
        work = (self._on_atoms(engine) * engine.state.path(engine.cell)).sum()
        return -engine.comm.total(float(work))


class Together(Bias):
    """Several at a time."""

    def __init__(self, biases: Sequence[Bias]) -> None:
        self._biases = biases
        self.parts = tuple(part for bias in biases for part in bias.parts)

    def act(self, engine: Engine, step: int) -> None:
        for bias in self._biases:
            bias.act(engine, step)
        self.virial = np.sum([bias.virial for bias in self._biases], axis=0)
        self.ends = any(bias.ends for bias in self._biases)

    def energy(self, engine: Engine) -> float:
        return sum(bias.energy(engine) for bias in self._biases)

    def memory(self) -> dict[str, Any]:
        return {name: x for bias in self._biases for name, x in bias.memory().items()}
