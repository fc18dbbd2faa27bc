"""Learning rate and loss prefactors as functions of the step, or of the time that has passed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ..system import InputError
from .decays import LOWEST, Exponential, Plateau
from .loss_config import LossConfig
from .rate_config import LearningRateConfig


@dataclass(frozen=True)
class Schedule:
    """lr(t), t = 0 at the first step; t counts updates, or is the share of a time limit.

    A straight line from `warmup_start` to `start` while t < `warmup`, then the decay, a function of
    t − warmup (`training.decays`), which without a rate of its own is at stop_lr at the end. The
    formulas are those of DeePMD-kit 3.2 (`LearningRateExp`, `LearningRateCosine`,
    `LearningRateWSD`).
    """

    start: float
    warmup: float
    warmup_start: float
    decay: Callable[[float], float]

    @classmethod
    def from_config(cls, config: LearningRateConfig, n_steps: int) -> Schedule:
        """The schedule of a training of `n_steps` steps.

        Raises InputError where none are left after the warm-up.
        """
        warmup = config.warmup_steps
        if config.warmup_ratio is not None:
            warmup = int(config.warmup_ratio * n_steps)
        left = n_steps - warmup
        if left < 1:
            raise InputError(
                f"learning_rate/warmup_steps {warmup}: no step of {n_steps} is left after them"
            )
        falling = max(1, min(int(config.decay_phase_ratio * n_steps), left))
        return cls._of(config, warmup, _decay(config, left, falling, _exponential(config, left)))

    @classmethod
    def over_share(cls, config: LearningRateConfig) -> Schedule:
        """The schedule over t from 0 to 1, of a `config` that counts no steps."""
        warmup = config.warmup_ratio or 0.0
        left = 1.0 - warmup
        log_rate = math.log((config.final_lr or LOWEST) / config.start_lr) / left
        exponential = Exponential(config.start_lr, config.final_lr, log_rate, 1)
        falling = min(config.decay_phase_ratio, left)
        return cls._of(config, warmup, _decay(config, left, falling, exponential))

    @classmethod
    def _of(
        cls, config: LearningRateConfig, warmup: float, decay: Callable[[float], float]
    ) -> Schedule:
        start = config.start_lr
        return cls(start, warmup, config.warmup_start_factor * start, decay)

    def learning_rate(self, t: float) -> float:
        """Learning rate of the update at `t`: that after t completed updates."""
        if t < self.warmup:
            return self.warmup_start + (self.start - self.warmup_start) * t / self.warmup
        return self.decay(t - self.warmup)

    def prefactors(self, loss: LossConfig, t: float) -> tuple[float, float, float]:
        """Prefactors of energy, force and virial: limit·(1 − lr/lr₀) + start·lr/lr₀.

        They follow the learning rate in a warm-up as well, as in DeePMD-kit: lr₀ is start_lr.
        """
        share = self.learning_rate(t) / self.start
        energy, force, virial = (
            limit * (1.0 - share) + start * share
            for start, limit in zip(loss.starts, loss.limits, strict=True)
        )
        return energy, force, virial


def _exponential(config: LearningRateConfig, n_steps: int) -> Exponential:
    """With a rate such that stop_lr is reached after `n_steps`, unless one is given."""
    start, stop, decay_steps = config.start_lr, config.final_lr, config.decay_steps
    if not config.smooth and config.decay_rate is None and decay_steps >= n_steps:
        # DeePMD-kit's rule; a single stair would never decay
        decay_steps = 100 if n_steps // 10 > 100 else n_steps // 100 + 1
    log_rate = math.log((stop or LOWEST) / start) * decay_steps / n_steps
    if config.decay_rate is not None:
        log_rate = math.log(config.decay_rate)
    return Exponential(start, stop, log_rate, decay_steps, config.smooth)


def _decay(
    config: LearningRateConfig, length: float, falling: float, exponential: Exponential
) -> Callable[[float], float]:
    """By the type: over `length`, or in the `falling` at its end."""
    if config.type == "exp":
        return exponential
    start, stop = config.start_lr, config.final_lr
    if config.type == "cosine":
        return Plateau(start, stop, length, length, "cosine")
    return Plateau(start, stop, length, falling, config.decay_type)
