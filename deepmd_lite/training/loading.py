"""The frames of a data set, told of, checked, and with their neighbour lists."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import numpy as np

from ..data import PreparedFrame, System, describe, lacking_in_words, prepare
from ..free_memory import available_bytes
from ..progress import Watch, progress
from ..system import InputError
from .adopt import NO_NEW_ELEMENTS, drop_elements
from .config import TrainInput
from .data_config import DataConfig
from .frame_parameters import settle
from .parallel import ranks_of_machine
from .precheck import LABELS, refuse_errors, trained_labels
from .systems import without_large

log = logging.getLogger(__name__)

SHARE_FOR_LISTS = 0.25
"""Of the free memory, for the neighbour lists of all ranks of a machine: those beyond it are made
anew when they are needed."""


def loaded_frames(
    systems: list[System],
    data: DataConfig | None,
    settings: TrainInput,
    what: str,
    new_elements: bool,
    quiet: bool,
    watch: Watch | None,
) -> tuple[list[PreparedFrame], np.ndarray | None]:
    """All frames of a data set with their neighbour lists, and the probability of each.

    `data`: how it is divided into batches; None for frames that were held out. `what` it is called;
    `new_elements`: `settings` lose those that it has not; `watch` is asked on the way.
    """
    log.info("%s data\n%s", what, describe(systems))
    if data is not None and data.size.largest_frame is not None:
        systems = without_large(systems, data.size.largest_frame, f"training/{what}_data")
    frames = [frame for system in systems for frame in system.frames]
    settle(frames, settings.model.fitting_net, what)
    lacking = _warn_of_lacking(systems, settings, what)
    if settings.training.check:
        refuse_errors(frames, settings, what, told=lacking)
    found = {symbol for frame in frames for symbol in frame.symbols}
    if new_elements:
        drop_elements(settings, found)
    dropped = sorted(found & (set(settings.elements) - set(settings.model.type_map)))
    if dropped:
        why = f"which the model does not know; {NO_NEW_ELEMENTS}"
        if what != "training":
            why = (
                "of which there are none in the training data; leave these frames out, or train "
                "on some of them"
            )
        raise InputError(f"{what} data: have atoms of {', '.join(dropped)}, {why}")
    each = progress(frames, f"neighbour lists, {what} data", quiet=quiet, watch=watch)
    beside = ranks_of_machine()
    share, free = SHARE_FOR_LISTS / beside, available_bytes(beside)
    room = math.inf if free is None else share * free
    prepared = prepare(each, settings.model.type_map, settings.model.rcut, room)
    new = sum(not p.is_kept for p in prepared)
    if new:
        log.info(
            "neighbour lists of %d of %d frames are made anew for each step, as the others take "
            "%.1f GB, %.0f %% of the free memory",
            *(new, len(prepared), room / 1e9, 100 * share),
        )
    sizes = [len(system.frames) for system in systems]
    shares = None if data is None else data.shares(sizes, f"training/{what}_data")
    return prepared, None if shares is None else np.repeat(shares / sizes, sizes)


def _warn_of_lacking(systems: Sequence[System], settings: TrainInput, what: str) -> set[str]:
    """Tell of systems without a label that is trained and that others have; those labels."""
    found = set()
    for label in trained_labels(settings):
        line = lacking_in_words(systems, LABELS[label])
        if line:
            found.add(label)
            log.warning(
                "%s data: %s; these frames are left out of that part of the loss: add the label, "
                "or leave them out",
                *(what, line),
            )
    return found
