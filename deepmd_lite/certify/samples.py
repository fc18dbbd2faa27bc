"""Which structures a model is checked on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..data import Frame
from ..model.structures import Structure
from ..system import type_indices

MOST_ATOMS = 256
"""Larger frames of a data set are passed over while there are smaller ones."""


def from_frames(frames: Sequence[Frame], type_map: Sequence[str], count: int) -> list[Structure]:
    """`count` frames of a data set, evenly over its length; small ones where there are any.

    Raises InputError for elements that `type_map` lacks.
    """
    small = [f for f in frames if f.n_atoms <= MOST_ATOMS] or list(frames)
    places = np.unique(np.linspace(0, len(small) - 1, min(count, len(small))).round().astype(int))
    return [
        Structure(
            frame.source,
            frame.positions,
            frame.cell,
            frame.pbc,
            np.array(type_indices(frame.symbols, type_map, frame.source), dtype=np.int32),
        )
        for frame in (small[k] for k in places)
    ]


def cluster(sample: Structure) -> Structure:
    """The atoms of a sample without periodicity."""
    return replace(sample, pbc=np.zeros(3, dtype=bool), name=f"{sample.name}, open")
