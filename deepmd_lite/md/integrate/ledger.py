"""Energy that comes and goes: what thermostat and barostat have given to the atoms."""

from __future__ import annotations

import numpy as np
import torch

from ..comm import Communicator

UNIT = 1e-10
"""eV in which a `Ledger` counts."""
MOST_OPEN = 1000
"""Entries that wait to be counted."""
Energy = float | torch.Tensor
"""eV; a tensor () float64 that may be on a GPU."""


class Ledger:
    """A sum over steps and ranks that no message is needed to keep.

    Entries are counted in whole units: such a sum does not depend on its order, so that a run that
    was interrupted, or was done on other ranks, ends with the same digits. They are counted when
    the sum is asked for, many at a time: the host does not wait at each step for those of a GPU.
    """

    def __init__(self) -> None:
        self._earlier = 0  # of all ranks, before the last restart
        self._own = 0
        self._open: list[torch.Tensor] = []

    def add(self, energy: Energy) -> None:
        """`energy` was given to the atoms of this rank. What is not finite is left out: the step
        that it belongs to will not be survived."""
        if isinstance(energy, torch.Tensor):
            self._open.append(energy)
        elif np.isfinite(energy):
            self._own += round(energy / UNIT)
        if len(self._open) >= MOST_OPEN:
            self._count()

    def _count(self) -> None:
        if self._open:
            energies = torch.stack(self._open).tolist()
            self._open.clear()
            for energy in energies:
                self.add(energy)

    def units(self, comm: Communicator) -> int:
        """Sum over all ranks, for a restart; every rank must ask."""
        self._count()
        return self._earlier + comm.total(self._own)

    def total(self, comm: Communicator) -> float:
        """eV, sum over all ranks; every rank must ask."""
        return self.units(comm) * UNIT

    def recall(self, units: int) -> None:
        """Go on from the `units` of a restart."""
        self._earlier, self._own = units, 0
        self._open.clear()
