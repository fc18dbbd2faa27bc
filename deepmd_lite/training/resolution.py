"""The table that a training computes with: as fine as its networks ask, which grow rougher.

A training begins with a coarse table. What its networks say between the nodes is not trained, so
that a model saved with a finer table would be another one than was validated: water's energies
differed by 2.7 meV/atom after 26,000 steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ..model import Potential
from ..model.frame_parameters import at_mean
from ..model.table import Grid
from ..model.table_error import FINEST
from ..system import LocalEnv

CHECK_STEPS = 100
"""Steps between two looks at the table; each takes as long as a step or two."""
ENERGY_TOLERANCE, FORCE_TOLERANCE = 1e-4, 1e-3
"""eV of an atom and eV/Å: largest change, on some frames, by a table of twice the intervals."""
MARGIN = 4.0
"""How much better than these a new table is to be, so that it lasts."""
PATIENCE = 8.0
"""How many times as fine a table is tried before what is left counts as round-off."""


@torch.no_grad()
def excess(potential: Potential, env: LocalEnv) -> float:
    """Largest error of the tables on `env`, over the tolerance; 1 is just fine enough.

    By comparison with tables of twice the intervals, whose own error is some thirty times smaller.
    """
    grids, potential = [d.grid for d in potential.descriptors], at_mean(potential)
    energies, forces = potential.energies_and_forces(env)
    try:
        set_grids(potential, [grid.refined(2.0) for grid in grids])
        finer = potential.energies_and_forces(env)
    finally:
        set_grids(potential, grids)
    energy = float((finer[0] - energies).abs().max())
    force = float((finer[1] - forces).abs().max())
    return max(energy / ENERGY_TOLERANCE, force / FORCE_TOLERANCE)


def refine(potential: Potential, measured: Callable[[], float], left: float = 0.0) -> float:
    """Make the tables finer until `measured`, their `excess` now, finds them fine enough.

    The error falls with the fifth power of the spacing (a quintic's slope), once the nodes resolve
    the networks at all. What a table `PATIENCE` times as fine does not mend is round-off: the
    tables stay as they were, and the excess that was left is returned, for the next call not to
    try again before it has doubled.
    """
    first = [d.grid for d in potential.descriptors]
    found = before = measured()
    while found > max(1.0, 2.0 * left):
        grids = [d.grid for d in potential.descriptors]
        tried = max(
            now.n_intervals / was.n_intervals for now, was in zip(grids, first, strict=True)
        )
        finest = all(grid.n_intervals >= FINEST for grid in grids)
        if (finest or tried >= PATIENCE) and found > 0.5 * before:
            set_grids(potential, first)
            return before
        if finest:
            return found
        factor = min(2.0, (MARGIN * found) ** 0.2)
        set_grids(potential, [g if g.n_intervals >= FINEST else g.refined(factor) for g in grids])
        found = measured()
    return left


def set_grids(potential: Potential, grids: Sequence[Grid]) -> None:
    """Make these the grids of the tables of the descriptors."""
    for d, grid in zip(potential.descriptors, grids, strict=True):
        d.grid = grid
