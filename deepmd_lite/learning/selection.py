"""Which of many structures to label: some that are unlike the data and unlike one another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms

from ..data import Frame, prepare
from ..data.ase_files import frame_from_atoms
from ..model import Potential
from ..uncertainty.rows import energy_row

BLOCK = 512
"""Frames whose features are made at a time."""


def features(potential: Potential, frames: Sequence[Frame]) -> np.ndarray:
    """(n_frames, P): the mean over atoms of what the energies are linear in."""
    rows = []
    for begin in range(0, len(frames), BLOCK):
        part = prepare(frames[begin : begin + BLOCK], potential.type_map, potential.rcut)
        rows += [energy_row(potential, p).double().numpy() / p.n_atoms for p in part]
    return np.array(rows)


def farthest(known: np.ndarray, offered: np.ndarray, most: int) -> list[int]:
    """Places of at most `most` rows of `offered` (n, P), each in turn the one farthest from its
    nearest neighbour among `known` (m, P) and those chosen before.

    Columns are measured by their standard deviation over all rows.
    """
    together = np.concatenate([known, offered])
    scale = together.std(axis=0)
    scale[scale <= 1e-12 * np.abs(together).max()] = np.inf
    known, offered = known / scale, offered / scale
    nearest = np.full(len(offered), np.inf)
    for row in known:
        nearest = np.minimum(nearest, ((offered - row) ** 2).sum(axis=1))
    chosen: list[int] = []
    while len(chosen) < min(most, len(offered)):
        k = int(np.argmax(nearest))
        if chosen and nearest[k] <= 0:
            break
        chosen.append(k)
        nearest = np.minimum(nearest, ((offered - offered[k]) ** 2).sum(axis=1))
    return chosen


def choose(
    potential: Potential, data: Sequence[Frame], offered: Sequence[Atoms], most: int
) -> list[int]:
    """Places in `offered` of those to label."""
    if len(offered) <= most:
        return list(range(len(offered)))
    frames = [frame_from_atoms(a, f"candidate {k}") for k, a in enumerate(offered)]
    return farthest(features(potential, data), features(potential, frames), most)
