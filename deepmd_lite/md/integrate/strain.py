"""Tension and compression at a given rate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...system import InputError
from ..comm import SharedError
from ..engine import Engine
from .cell_motion import CellMotion, StochasticCellRescaling

LARGEST = 0.02
"""Strain of a single step: sound crosses a few atoms meanwhile, and they would only be torn."""
SMALLEST = 0.05
"""Of the length where straining began: what compression at an engineering rate may leave."""
STRAINED = "strained"
"""Name in the memory of an integrator of what was strained, and how far."""
SKEW = 1e-6
"""Cosine up to which lattice vectors count as perpendicular."""


class StrainRate(CellMotion):
    """Stretches one lattice vector at a constant rate; atoms and momenta follow affinely, as in
    the SLLOD equations (Evans & Morriss, Statistical Mechanics of Nonequilibrium Liquids, ch. 6).
    """

    def __init__(
        self,
        timestep: float,
        axis: int,
        rate: float,
        true_strain: bool,
        lateral: StochasticCellRescaling | None = None,
    ) -> None:
        """`timestep` fs; `axis` 0, 1 or 2; `rate` 1/fs, of the logarithm of the length if
        `true_strain`, otherwise of the length over that where straining began; `lateral`: what
        moves the directions across, or None where they are fixed."""
        self.timestep, self.axis, self.rate = timestep, axis, rate
        self.true_strain, self.lateral = true_strain, lateral
        self.stretched = 1.0
        """Length over that where straining began."""

    def check(self, cell: np.ndarray) -> None:
        """A step strains by little; lateral directions are free only where they are perpendicular
        to the strained one."""
        step = abs(self.rate) * self.timestep
        if step > LARGEST:
            raise InputError(
                f"ensemble 'strain': rate {self.rate:g}/fs strains by {step:g} in a timestep of "
                f"{self.timestep:g} fs, expected at most {LARGEST:g}; the unit of 'rate' is 1/fs "
                "(1e-6/fs is 1e9/s)"
            )
        if self.lateral is None:
            return
        unit = cell / np.linalg.norm(cell, axis=1)[:, None]
        cosines = np.delete(unit, self.axis, axis=0) @ unit[self.axis]
        if np.abs(cosines).max() > SKEW:
            raise InputError(
                f"ensemble 'strain', lateral stress-free: lattice vector {'abc'[self.axis]} must "
                f"be perpendicular to the other two, found cosines {cosines.round(4).tolist()}: "
                "use a cell in which it is, or 'lateral: fixed'"
            )

    def strain(self, engine: Engine, step: int) -> np.ndarray:
        stretch = np.zeros((3, 3))
        stretch[self.axis, self.axis] = self._growth(step)
        if self.lateral is None:  # row `axis` of the cell grows, the others stay
            return np.linalg.solve(engine.cell, stretch @ engine.cell)
        along, across = self._frame(engine.cell)
        allowed = np.array([np.outer(e, e) for e in across])
        growth = stretch[self.axis, self.axis] * np.outer(along, along)
        return growth + self.lateral.strain(engine, step, allowed)

    def _growth(self, step: int) -> float:
        """Logarithm of the length after over that before step number `step`, which is made."""
        part = self.rate * self.timestep
        if self.true_strain:
            self.stretched *= math.exp(part)
            return part
        before, self.stretched = self.stretched, self.stretched + part
        if self.stretched < SMALLEST:
            raise SharedError(
                f"step {step}: the engineering strain has left {SMALLEST:.0%} of the length; end "
                "the run before, or use 'measure: true'"
            )
        return math.log(self.stretched / before)

    def memory(self) -> dict[str, Any]:
        return {STRAINED: {"axis": self.axis, "stretched": self.stretched}}

    def recall(self, memory: Mapping[str, Any]) -> None:
        """Another axis is strained from its present length on."""
        known = memory.get(STRAINED)
        if known is not None and known["axis"] == self.axis:
            self.stretched = known["stretched"]

    def _frame(self, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Unit vectors along the strained lattice vector, (3,), and across it, (2, 3)."""
        unit = cell / np.linalg.norm(cell, axis=1)[:, None]
        along, first = unit[self.axis], unit[(self.axis + 1) % 3]
        second = np.cross(along, first)
        return along, np.array([first, second / np.linalg.norm(second)])


def remembered(header: Mapping[str, Any]) -> dict[str, Any]:
    """What the integrator of a restart remembers; `header`: its manifest.

    That of earlier versions does not tell how far it was strained: they took every strain for one
    that goes on since step 0, as it does in a run that began with it.
    """
    memory, now = dict(header["integrator"]), header["notes"].get("ensemble", {})
    first = header.get("began_with", {}).get("ensemble", now)
    if now.get("type") == first.get("type") == "strain" and STRAINED not in memory:
        amount = now["rate"] * header["notes"]["timestep_fs"] * header["step"]
        stretched = math.exp(amount) if now["measure"] == "true" else 1.0 + amount
        memory[STRAINED] = {"axis": "abc".index(now["axis"]), "stretched": stretched}
    return memory
