"""Energy that comes and goes: what thermostat and barostat have given to the atoms."""

from __future__ import annotations

import numpy as np

from ..comm import Communicator

UNIT = 1e-10
"""eV in which a `Ledger` counts."""


class Ledger:
    """A sum over steps and ranks that no message is needed to keep.

    Entries are counted in whole units: such a sum does not depend on its order, so that a run that
    was interrupted, or was done on other ranks, ends with the same digits.
    """

    def __init__(self) -> None:
        self._earlier = 0  # of all ranks, before the last restart
        self._own = 0

    def add(self, energy: float) -> None:
        """`energy` eV was given to the atoms of this rank. What is not finite is left out: the
        step that it belongs to will not be survived."""
        if np.isfinite(energy):
            self._own += round(energy / UNIT)

    def units(self, comm: Communicator) -> int:
        """Sum over all ranks, for a restart; every rank must ask."""
        return self._earlier + int(comm.reduce(np.array([self._own], dtype=np.int64), "sum")[0])

    def total(self, comm: Communicator) -> float:
        """eV, sum over all ranks; every rank must ask."""
        return self.units(comm) * UNIT

    def recall(self, units: int) -> None:
        """Go on from the `units` of a restart."""
        self._earlier, self._own = units, 0
