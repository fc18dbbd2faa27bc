"""Frame parameters of the data of a training (`model.frame_parameters`)."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch

from ..data import Frame, PreparedFrame
from ..model.config import FittingConfig
from ..model.frame_parameters import checked_fparam
from ..system import InputError

log = logging.getLogger(__name__)


def settle(frames: Sequence[Frame], f: FittingConfig, what: str) -> None:
    """Leave each frame with the `fparam` that the model sees: none, its own, or the default.

    `what`: name of the data set. Raises InputError, naming file and frame, where a frame has none
    and there is no default, and for another number of them than the model takes.
    """
    if f.numb_fparam == 0:
        given = [frame for frame in frames if frame.fparam is not None]
        if given and what == "training":
            log.warning(
                "note: fparam of %d of %d frames is not used, because model/fitting_net/"
                "numb_fparam is 0",
                *(len(given), len(frames)),
            )
        for frame in given:
            frame.fparam = None
        return
    default = None if not f.default_fparam else np.array(f.default_fparam, dtype=np.float64)
    for frame in frames:
        if frame.fparam is not None:
            checked_fparam(frame.fparam, f.numb_fparam, f"{frame.source}: fparam")
        elif default is None:
            raise InputError(
                f"{frame.source}: has no fparam; expected {f.numb_fparam} number"
                f"{'s' * (f.numb_fparam > 1)}, as model/fitting_net/numb_fparam says: add "
                "fparam.npy (in extended XYZ fparam=… in the comment line), or give default_fparam"
            )
        else:
            frame.fparam = default


def stacked(frames: Sequence[PreparedFrame]) -> torch.Tensor | None:
    """(n_frames, k) of frames that were settled; None where the model takes none."""
    each = [p.frame.fparam for p in frames if p.frame.fparam is not None]
    return torch.from_numpy(np.stack(each)) if each else None
