"""The data that an input names, read, and divided into what is trained on and what is not."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..data import Frame, System, load
from ..progress import Watch
from ..system import InputError
from .config import TrainInput
from .data_config import DataConfig

log = logging.getLogger(__name__)


def read_systems(
    settings: TrainInput,
    quiet: bool = True,
    watch: Watch | None = None,
    read: list[System] | None = None,
) -> tuple[list[System], list[System] | None]:
    """Training and validation data of a checked input; None where it names none to validate on.

    `read`: the training data, where they were read; `quiet`, `watch`: as for `data.load`. Raises
    InputError for data that are missing or wrong.
    """
    training = settings.training
    data, validation = training.training_data, training.validation_data
    systems = _named(data, settings, quiet, watch) if read is None else read
    if training.held_out > 0:
        return divided(systems, training.held_out, training.seed)
    held = None if validation is None else _named(validation, settings, quiet, watch)
    return systems, held


def training_systems(settings: TrainInput, quiet: bool = True) -> list[System]:
    """What a checked input trains on. Raises InputError for data that are missing or wrong."""
    training = settings.training
    systems = _named(training.training_data, settings, quiet)
    if training.held_out > 0:
        return divided(systems, training.held_out, training.seed)[0]
    return systems


def validation_systems(settings: TrainInput, where: str | Path, quiet: bool = True) -> list[System]:
    """What a checked input validates on. Raises InputError, naming `where`, if that is nothing."""
    training = settings.training
    if training.held_out > 0:
        systems = _named(training.training_data, settings, quiet)
        return divided(systems, training.held_out, training.seed)[1]
    if training.validation_data is None:
        raise InputError(f"{where}: training/validation_data is missing")
    return _named(training.validation_data, settings, quiet)


def _named(
    data: DataConfig, settings: TrainInput, quiet: bool, watch: Watch | None = None
) -> list[System]:
    return load(data.systems, type_map=settings.elements, quiet=quiet, watch=watch)


def divided(
    systems: Sequence[System], share: float, seed: int
) -> tuple[list[System], list[System]]:
    """`systems` without a `share` of all their frames, drawn at random with `seed`, and those.

    Single atoms, which have no force to validate on and are often the only frames of their kind,
    are trained on, and every element keeps a frame to be trained on, so that rare ones can make the
    share smaller. Systems that lose all frames are left out. Raises InputError for a single frame,
    or where each is the last one of an element.
    """
    sizes = [len(system.frames) for system in systems]
    all_frames = [frame for system in systems for frame in system.frames]
    n = len(all_frames)
    if n < 2:
        raise InputError(
            "training/held_out: there is one frame, and none would be left to train on; give more, "
            "or an input without held_out"
        )
    drawn = np.random.default_rng(seed).permutation(n)
    several = np.array([frame.n_atoms > 1 for frame in all_frames])
    if several.sum() > 1:
        drawn = drawn[several[drawn]]
    wanted = min(max(1, round(share * n)), len(drawn) - 1)
    is_held = np.zeros(n, dtype=bool)
    is_held[_leaving_every_element(drawn, all_frames, wanted)] = True
    kept: list[System] = []
    held: list[System] = []
    for system, own in zip(systems, np.split(is_held, np.cumsum(sizes)[:-1]), strict=True):
        for part, wanted in ((kept, False), (held, True)):
            frames = [f for f, h in zip(system.frames, own, strict=True) if h == wanted]
            if frames:
                part.append(replace(system, frames=frames))
    return kept, held


def _leaving_every_element(drawn: np.ndarray, frames: Sequence[Frame], wanted: int) -> list[int]:
    """The first `wanted` numbers of `drawn` without which every element still has a frame."""
    left = Counter(element for frame in frames for element in set(frame.symbols))
    found: list[int] = []
    for i in drawn.tolist():
        if len(found) == wanted:
            break
        own = set(frames[i].symbols)
        if all(left[element] > 1 for element in own):
            left.subtract(own)
            found.append(i)
    if not found:
        raise InputError(
            "training/held_out: each frame is the only one of an element, and none can be held "
            "out; give more, or an input without held_out"
        )
    return found


def without_large(systems: list[System], most_atoms: int, where: str) -> list[System]:
    """As batch_size 'filter:N' wants them, without systems that keep no frame."""
    smaller = (
        replace(system, frames=[f for f in system.frames if f.n_atoms <= most_atoms])
        for system in systems
    )
    kept = [system for system in smaller if system.frames]
    before, after = (sum(len(system.frames) for system in part) for part in (systems, kept))
    if after == 0:
        raise InputError(
            f"{where}/batch_size: every frame has more than the {most_atoms} atoms of 'filter:"
            f"{most_atoms}'; give a larger number"
        )
    if after < before:
        log.info(
            "note: %d of %d frames have more than %d atoms and are left out",
            before - after,
            before,
            most_atoms,
        )
    return kept
