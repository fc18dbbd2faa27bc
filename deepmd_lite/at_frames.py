"""A model at the frame parameters of one structure after another."""

from __future__ import annotations

from typing import Any

from .committee import Committee
from .model import Potential
from .model.frame_parameters import checked_fparam, fparam_of
from .system import InputError, Model


def n_fparam(model: Model) -> int:
    """How many frame parameters it takes; of several the most that one of them takes."""
    if isinstance(model, Committee):
        return max(n_fparam(one) for one in model.models)
    return model.config.fitting_net.numb_fparam if isinstance(model, Potential) else 0


class AtFrames:
    """What evaluates a structure whose frame parameters are known.

    A model that takes none is itself at any. What was made for the last ones is kept.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.takes = n_fparam(model)
        """Number of frame parameters."""
        self._last: tuple[list[float], Model] | None = None

    def __call__(self, fparam: Any | None, where: str = "fparam") -> Model:
        """The model at `fparam`, a number or several; None: at its `default_fparam`.

        Raises InputError, naming `where`, for another number of them, and for none without a
        default.
        """
        if not self.takes:
            return self.model
        key = [] if fparam is None else self.checked(fparam, where)
        if self._last is None or self._last[0] != key:
            self._last = key, _at(self.model, fparam, where)
        return self._last[1]

    def checked(self, fparam: Any, where: str = "fparam") -> list[float]:
        """A number or several as a list, if the model takes as many; else InputError."""
        if not self.takes:
            raise InputError(
                f"{where}: the model takes no frame parameters (its numb_fparam is 0); leave them "
                "out"
            )
        found: list[float] = checked_fparam(fparam, self.takes, where).tolist()
        return found


def _at(model: Model, fparam: Any | None, where: str) -> Model:
    if isinstance(model, Committee):
        return Committee([_at(one, fparam, where) for one in model.models])
    if not n_fparam(model):
        return model
    assert isinstance(model, Potential)
    return model.at(fparam_of(model.config.fitting_net, fparam, where))
