"""Exponential moving average of the weights, which is smoother than the last step's weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

PREFIX = "ema."
"""Of the names of its arrays in a checkpoint."""


class MovingAverage:
    """Average of parameters: a ← d·a + (1 − d)·p after each update of p.

    d = min(decay, (1 + n) / (10 + n)) after n updates, so that the random first weights are soon
    forgotten. The average is kept in float64: in float32 the small changes would round to none.
    """

    def __init__(self, parameters: Iterable[tuple[str, torch.nn.Parameter]], decay: float) -> None:
        self._parameters = dict(parameters)
        self.decay = decay
        self.updates = 0
        self.values = {
            name: p.detach().to(torch.float64, copy=True) for name, p in self._parameters.items()
        }

    @torch.no_grad()
    def update(self) -> None:
        """Take in the parameters as they are now."""
        self.updates += 1
        decay = min(self.decay, (1.0 + self.updates) / (10.0 + self.updates))
        for name, parameter in self._parameters.items():
            self.values[name].lerp_(parameter.to(torch.float64), 1.0 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within it, the parameters hold the average; afterwards the very bits they had."""
        kept = {name: p.detach().clone() for name, p in self._parameters.items()}
        self._fill(self.values)
        try:
            yield
        finally:
            self._fill(kept)

    @torch.no_grad()
    def _fill(self, values: dict[str, torch.Tensor]) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(values[name])

    def arrays(self) -> dict[str, torch.Tensor]:
        """The average under the names that it has in a checkpoint."""
        return {f"{PREFIX}{name}": value for name, value in self.values.items()}

    def restore(self, arrays: dict[str, torch.Tensor], updates: int) -> None:
        """Take the average of a checkpoint; nothing changes where it holds none."""
        found = {name: arrays.get(f"{PREFIX}{name}") for name in self.values}
        values = {name: value.clone() for name, value in found.items() if value is not None}
        if len(values) == len(found):
            self.values, self.updates = values, updates
