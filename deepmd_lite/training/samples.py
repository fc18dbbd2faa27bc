"""Frames that stand for all: those of each validation, and those on which tables are measured.

Both hold every element of the data, however rare: an element that no sample holds is measured by
nothing.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence

import numpy as np

from ..data import Batch, PreparedFrame, collate
from ..system import LocalEnv
from .config import TrainInput

log = logging.getLogger(__name__)

VALIDATION_BATCH_ATOMS = 256
"""Validation frames are evaluated in batches of about this many atoms."""
TABLE_SAMPLE_EDGES = 20_000
"""Neighbour pairs on which the table's error is measured when a model is written."""


def validation_sample(
    prepared: Sequence[PreparedFrame], trained: Sequence[PreparedFrame], settings: TrainInput
) -> list[Batch]:
    """The frames that every validation uses, the same each time, as batches of a good size."""
    training, config = settings.training, settings.training.validation_data
    if config is not None and config.numb_btch is not None:
        n = config.numb_btch * config.size.typical(_mean_atoms(prepared))
    else:
        batch = training.training_data.size.typical(_mean_atoms(trained))
        n = max(8, math.ceil(training.disp_freq * batch / 10))
    order = np.random.default_rng(training.seed).permutation(len(prepared))
    sample = [prepared[i] for i in sorted(_with_every_element(prepared, order[:n], order))]
    log.info("validation: %d of %d frames", len(sample), len(prepared))
    batches: list[list[PreparedFrame]] = [[]]
    for frame in sample:
        if sum(f.n_atoms for f in batches[-1]) >= VALIDATION_BATCH_ATOMS:
            batches.append([])
        batches[-1].append(frame)
    return [collate(frames) for frames in batches]


def _mean_atoms(frames: Sequence[PreparedFrame]) -> float:
    return sum(f.n_atoms for f in frames) / len(frames)


def table_sample(frames: Sequence[PreparedFrame]) -> LocalEnv:
    """Frames from all over the data with about `TABLE_SAMPLE_EDGES` neighbour pairs in total, and
    one of each element that they lack."""
    n = max(1, round(TABLE_SAMPLE_EDGES * len(frames) / sum(f.n_edges for f in frames)))
    spread = np.unique(np.linspace(0, len(frames) - 1, min(n, len(frames))).astype(int))
    order = np.random.default_rng(0).permutation(len(frames))
    return collate([frames[i] for i in sorted(_with_every_element(frames, spread, order))]).env


def _with_every_element(
    frames: Sequence[PreparedFrame], chosen: Iterable[int], order: Iterable[int]
) -> list[int]:
    """The numbers `chosen`, and for each element that these frames lack the first in `order`."""
    found = [int(i) for i in chosen]
    held = {int(a) for i in found for a in np.unique(frames[i].types)}
    missing = {int(a) for f in frames for a in np.unique(f.types)} - held
    for i in order:
        if not missing:
            break
        new = missing & {int(a) for a in np.unique(frames[i].types)}
        if new:
            found.append(int(i))
            missing -= new
    return found
