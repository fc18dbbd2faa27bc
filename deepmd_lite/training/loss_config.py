"""The section `loss` of a training's input."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ..schema import Vocabulary


class LossConfig(Vocabulary):
    """Prefactors of the squared errors of energy, force and virial; see `training.loss`."""

    refused = dict.fromkeys(
        (
            *("start_pref_ae", "limit_pref_ae", "start_pref_pf", "limit_pref_pf"),
            *("start_pref_gf", "limit_pref_gf", "numb_generalized_coord"),
            *("start_pref_h", "limit_pref_h", "relative_f", "enable_atom_ener_coeff"),
            *("use_huber", "use_l1_all", "f_use_norm", "use_default_pf"),
            "intensive_ener_virial",
        ),
        "training is on energies, forces and virials with squared errors",
    )
    ignored = {"huber_delta": "use_huber is off", "inference": "it has no meaning in training"}

    type: Literal["ener"] = "ener"
    start_pref_e: float = Field(0.02, ge=0)
    limit_pref_e: float = Field(1.0, ge=0)
    start_pref_f: float = Field(1000.0, ge=0)
    limit_pref_f: float = Field(1.0, ge=0)
    start_pref_v: float = Field(0.0, ge=0)
    limit_pref_v: float = Field(0.0, ge=0)
    loss_func: Literal["mse"] = "mse"

    @model_validator(mode="after")
    def _check_together(self) -> LossConfig:
        if not any(self.limits) and not any(self.starts):
            raise ValueError("all prefactors are 0: nothing would be trained")
        return self

    @property
    def trains_virials(self) -> bool:
        """Whether the virial's prefactor is positive at some step."""
        return self.start_pref_v > 0 or self.limit_pref_v > 0

    @property
    def starts(self) -> tuple[float, float, float]:
        """Prefactors of energy, force and virial at the first step."""
        return self.start_pref_e, self.start_pref_f, self.start_pref_v

    @property
    def limits(self) -> tuple[float, float, float]:
        """Prefactors of energy, force and virial in the limit of a vanishing learning rate."""
        return self.limit_pref_e, self.limit_pref_f, self.limit_pref_v
