"""Steps of SOAP (`training/soap.py`) as one compiled operation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from ..system import InputError
from . import _kernels
from .checks import checked


@dataclass(frozen=True)
class SoapRule:
    """What all parameters have in common."""

    betas: tuple[float, float]
    """Decay of the mean gradient, and of the means of squares, G Gᵀ and GᵀG, in [0, 1)."""
    eps: float
    """Added to the root of the mean square."""
    most: float
    """Largest step of a number in the basis, in units of the rate."""
    interval: int
    """Updates between those that the bases follow."""


class SoapState:
    """The state of a parameter as compiled steps read and change it: its memory is shared.

    The last two dimensions of the parameter are a matrix, (rows, columns), of a batch.
    """

    def __init__(self, shape: torch.Size, state: Mapping[str, torch.Tensor]) -> None:
        """`state`, float32: "step" (); where a side of the matrices is turned "left" and
        "left_basis" (batch, rows, n), "right" and "right_basis" (batch, columns, n) for n up to the
        length of the side; "exp_avg" and "exp_avg_sq" (batch, rows, columns), n longer along a side
        with n less than its length. Raises InputError for other shapes, dtypes and devices.
        """
        rows, columns = (1, 1, *shape)[-2:]
        self.shape, self._batch = shape, shape[:-2]
        self._state = state
        left, seen_rows = self._side("left", rows)
        right, seen_columns = self._side("right", columns)
        seen = (*self._batch, seen_rows, seen_columns)
        means = [self._own(key, seen) for key in ("exp_avg", "exp_avg_sq")]
        sizes = (self._batch.numel(), rows, columns)
        self.compiled = _kernels.SoapState(sizes, self._own("step", ()), *means, *left, *right)

    def _side(self, side: str, length: int) -> tuple[list[torch.Tensor | None], int]:
        """Mean and basis of a side, and how many numbers are seen along it."""
        if side not in self._state:
            return [None, None], length
        n = self._state[side].shape[-1]
        if n > length:
            raise InputError(f"{side}: expected at most {length} columns, found {n}")
        shape = (*self._batch, length, n)
        return [self._own(key, shape) for key in (side, f"{side}_basis")], length + n % length

    def _own(self, key: str, shape: tuple[int, ...]) -> torch.Tensor:
        """A tensor of the state, itself: changes of a copy would be lost."""
        tensor = self._state[key]
        if not tensor.is_contiguous():
            raise InputError(f"{key}: expected a contiguous tensor")
        return checked(key, tensor, torch.float32, shape)


def soap_step(
    parameters: Sequence[torch.Tensor],
    states: Sequence[SoapState],
    rates: Sequence[float],
    rule: SoapRule,
) -> None:
    """One update of contiguous parameters, float64 or float32, with their gradients, in place.

    Computed in float32 on torch.get_num_threads() threads, a matrix on each; the same bits for any
    number of them. Raises InputError for parameters and gradients that do not fit their states, and
    for a rule that is out of its range.
    """
    gradients = []
    for parameter, state in zip(parameters, states, strict=True):
        if not parameter.is_contiguous() or parameter.dtype not in (torch.float64, torch.float32):
            raise InputError("expected contiguous parameters in float64 or float32")
        checked("parameter", parameter, parameter.dtype, state.shape)
        if parameter.grad is None:
            raise InputError("expected parameters with a gradient")
        gradients.append(checked("gradient", parameter.grad, parameter.dtype, state.shape))
    _kernels.soap_step(
        list(parameters),
        gradients,
        [state.compiled for state in states],
        list(rates),
        *rule.betas,
        rule.eps,
        rule.most,
        rule.interval,
        torch.get_num_threads(),
    )
