"""How a learning rate falls after its warm-up: the formulas of DeePMD-kit 3.2.

Each is a function of t, the updates (or the share of a time limit) since the warm-up ended.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

LOWEST = 1e-10
"""What an exponential decay to 0 falls to: DeePMD-kit's rule."""


@dataclass(frozen=True)
class Exponential:
    """lr(t) = start · rate^(t / decay_steps), but at least `stop`.

    Of decay_steps ≫ t only the logarithm of the rate is a number. `smooth=False` takes the integer
    part of t / decay_steps.
    """

    start: float
    stop: float
    log_rate: float
    decay_steps: int
    smooth: bool = True

    def __call__(self, t: float) -> float:
        time = t / self.decay_steps if self.smooth else t // self.decay_steps
        return max(self.stop, self.start * math.exp(self.log_rate * time))


@dataclass(frozen=True)
class Plateau:
    """lr = `start` until `length` − `falling`, `stop` from `length` on; between them by `kind`.

    τ from 0 to 1, 'cosine': stop + (start − stop) (1 + cos πτ) / 2; 'linear': start + (stop −
    start) τ; 'inverse_linear': 1 / (τ / stop + (1 − τ) / start).
    """

    start: float
    stop: float
    length: float
    falling: float
    kind: str

    def __call__(self, t: float) -> float:
        if t >= self.length:
            return self.stop
        share = max(0.0, (t - (self.length - self.falling)) / self.falling)
        if self.kind == "cosine":
            return self.stop + (self.start - self.stop) * 0.5 * (1.0 + math.cos(math.pi * share))
        if self.kind == "linear":
            return self.start + (self.stop - self.start) * share
        return 1.0 / (share / self.stop + (1.0 - share) / self.start)
