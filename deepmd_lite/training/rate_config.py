"""The section `learning_rate` of a training's input: DeePMD-kit 3.2's key names and meanings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from ..schema import Vocabulary

OWN_KEYS = {
    "decay_steps": "exp",
    "decay_rate": "exp",
    "smooth": "exp",
    "decay_phase_ratio": "wsd",
    "decay_type": "wsd",
}
"""Key → the only type that it says something of."""


class LearningRateConfig(Vocabulary):
    """How the learning rate rises and falls; see `training.schedule.Schedule`."""

    ignored = {"scale_by_worker": "batch_size is that of all processes together"}

    type: Literal["exp", "cosine", "wsd"] = "exp"
    """Exponential decay, half a cosine, or 'wsd': constant, with a decay at the end."""
    start_lr: float = Field(1e-3, gt=0)
    """The highest one: that of the first step, or of the step after a warm-up."""
    stop_lr: float = Field(1e-8, ge=0)
    stop_lr_ratio: float | None = Field(None, gt=0, le=1)
    """stop_lr / start_lr, instead of stop_lr."""
    warmup_steps: int = Field(0, ge=0)
    """Steps, of all, in which it rises as a straight line."""
    warmup_ratio: float | None = Field(None, ge=0, lt=1)
    """Their share of all steps, or of the time limit, instead of their number."""
    warmup_start_factor: float = Field(0.0, ge=0, le=1)
    """Where it rises from, in units of start_lr."""
    decay_steps: int = Field(5000, ge=1)
    decay_rate: float | None = Field(None, gt=0, le=1)
    """Factor per decay_steps; by default such that stop_lr is reached at the last step."""
    smooth: bool = True
    """False: constant within each decay_steps (DeePMD-kit's default)."""
    decay_phase_ratio: float = Field(0.1, gt=0, le=1)
    """Share of all steps, the last ones, in which 'wsd' decays."""
    decay_type: Literal["inverse_linear", "cosine", "linear"] = "inverse_linear"
    """How it does; inverse_linear: 1 / lr grows as a straight line."""

    @model_validator(mode="before")
    @classmethod
    def _without_null(cls, data: Any) -> Any:
        """DeePMD-kit takes null for a key that is not given."""
        if isinstance(data, Mapping) and data.get("stop_lr", 0) is None:
            return {key: value for key, value in data.items() if key != "stop_lr"}
        return data

    @model_validator(mode="after")
    def _check_together(self) -> LearningRateConfig:
        if self.stop_lr_ratio is not None:
            unset = LearningRateConfig.model_fields["stop_lr"].default
            if "stop_lr" in self.model_fields_set and self.stop_lr != unset:  # as checkpoints have
                raise ValueError("give stop_lr or stop_lr_ratio, not both")
        elif self.stop_lr > self.start_lr:
            raise ValueError(f"stop_lr {self.stop_lr} exceeds start_lr {self.start_lr}")
        if self.warmup_steps and self.warmup_ratio is not None:
            raise ValueError("give warmup_steps or warmup_ratio, not both")
        if self.type == "wsd" and self.final_lr == 0:
            raise ValueError("stop_lr 0: type wsd needs one above 0")
        fields = LearningRateConfig.model_fields
        for key, kind in OWN_KEYS.items():
            if self.type != kind and getattr(self, key) != fields[key].default:
                raise ValueError(f"{key} is a key of type {kind}, and type is {self.type}")
        return self

    @property
    def final_lr(self) -> float:
        """The learning rate at the last step (with `decay_rate`: the smallest one)."""
        if self.stop_lr_ratio is None:
            return self.stop_lr
        return self.stop_lr_ratio * self.start_lr

    @property
    def counts_steps(self) -> str | None:
        """The key, if any, that makes it a function of the number of steps alone."""
        if self.warmup_steps:
            return "warmup_steps (give warmup_ratio)"
        if self.decay_rate is not None:
            return "decay_rate"
        return None if self.smooth else "smooth false"
