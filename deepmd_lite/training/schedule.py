"""Learning rate and loss prefactors as functions of the step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .config import LearningRateConfig, LossConfig


@dataclass(frozen=True)
class Schedule:
    """Exponential decay, lr(t) = start · rate^(t / decay_steps), t = 0 at the first step.

    Without a given rate, rate = (stop / start)^(decay_steps / n_steps), so that lr(n_steps) =
    stop; a given rate stops falling at `stop`. `smooth=False` takes the integer part of
    t / decay_steps, as DeePMD-kit does by default.
    """

    start: float
    stop: float
    rate: float
    decay_steps: int
    smooth: bool

    @classmethod
    def from_config(cls, config: LearningRateConfig, n_steps: int) -> Schedule:
        """The schedule of a training of `n_steps` steps."""
        start, stop, decay_steps = config.start_lr, config.final_lr, config.decay_steps
        if not config.smooth and config.decay_rate is None and decay_steps >= n_steps:
            # DeePMD-kit's rule; a single stair would never decay
            decay_steps = 100 if n_steps // 10 > 100 else n_steps // 100 + 1
        rate = config.decay_rate
        if rate is None:
            rate = math.exp(math.log(stop / start) * decay_steps / n_steps)
        return cls(start, stop, rate, decay_steps, config.smooth)

    def learning_rate(self, step: int) -> float:
        """Learning rate of the update that follows `step` completed updates."""
        time = step / self.decay_steps if self.smooth else step // self.decay_steps
        return max(self.stop, self.start * self.rate**time)

    def prefactors(self, loss: LossConfig, step: int) -> tuple[float, float, float]:
        """Prefactors of energy, force and virial: limit·(1 − lr/lr₀) + start·lr/lr₀."""
        share = self.learning_rate(step) / self.start
        energy, force, virial = (
            limit * (1.0 - share) + start * share
            for start, limit in zip(loss.starts, loss.limits, strict=True)
        )
        return energy, force, virial
