"""Learning rate and loss prefactors as functions of the step, or of the time that has passed."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .config import LearningRateConfig, LossConfig


@dataclass(frozen=True)
class Schedule:
    """Exponential decay, lr(t) = start · rate^(t / decay_steps), t = 0 at the first step.

    Without a given rate, rate = (stop / start)^(decay_steps / n_steps), so that lr(n_steps) =
    stop; a given rate stops falling at `stop`. Of decay_steps ≫ n_steps only its logarithm is a
    number. `smooth=False` takes the integer part of
    t / decay_steps, as DeePMD-kit does by default. t counts updates; in a training with a time
    limit (`over_share`) it is the share of the limit that has passed.
    """

    start: float
    stop: float
    log_rate: float
    decay_steps: int
    smooth: bool

    @classmethod
    def from_config(cls, config: LearningRateConfig, n_steps: int) -> Schedule:
        """The schedule of a training of `n_steps` steps."""
        start, stop, decay_steps = config.start_lr, config.final_lr, config.decay_steps
        if not config.smooth and config.decay_rate is None and decay_steps >= n_steps:
            # DeePMD-kit's rule; a single stair would never decay
            decay_steps = 100 if n_steps // 10 > 100 else n_steps // 100 + 1
        log_rate = math.log(stop / start) * decay_steps / n_steps
        if config.decay_rate is not None:
            log_rate = math.log(config.decay_rate)
        return cls(start, stop, log_rate, decay_steps, config.smooth)

    @classmethod
    def over_share(cls, config: LearningRateConfig) -> Schedule:
        """The schedule over t from 0 to 1: lr(t) = start · (stop / start)^t."""
        log_rate = math.log(config.final_lr / config.start_lr)
        return cls(config.start_lr, config.final_lr, log_rate, 1, True)

    def learning_rate(self, t: float) -> float:
        """Learning rate of the update at `t`: that after t completed updates."""
        time = t / self.decay_steps if self.smooth else t // self.decay_steps
        return max(self.stop, self.start * math.exp(self.log_rate * time))

    def prefactors(self, loss: LossConfig, t: float) -> tuple[float, float, float]:
        """Prefactors of energy, force and virial: limit·(1 − lr/lr₀) + start·lr/lr₀."""
        share = self.learning_rate(t) / self.start
        energy, force, virial = (
            limit * (1.0 - share) + start * share
            for start, limit in zip(loss.starts, loss.limits, strict=True)
        )
        return energy, force, virial
