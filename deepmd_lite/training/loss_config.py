"""The section `loss` of a training's input."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ..schema import Vocabulary

Delta = Annotated[float, Field(gt=0)]


class LossConfig(Vocabulary):
    """Prefactors of the errors of energy, force and virial; see `training.loss`, and what is made
    of an error: `training.penalties`."""

    refused = dict.fromkeys(
        (
            *("start_pref_ae", "limit_pref_ae", "start_pref_pf", "limit_pref_pf"),
            *("start_pref_gf", "limit_pref_gf", "numb_generalized_coord"),
            *("start_pref_h", "limit_pref_h", "enable_atom_ener_coeff"),
            *("use_l1_all", "use_default_pf"),
        ),
        "training is on energies, forces and virials",
    )
    ignored = {"inference": "it has no meaning in training"}

    type: Literal["ener"] = "ener"
    start_pref_e: float = Field(0.02, ge=0)
    limit_pref_e: float = Field(1.0, ge=0)
    start_pref_f: float = Field(1000.0, ge=0)
    limit_pref_f: float = Field(1.0, ge=0)
    start_pref_v: float = Field(0.0, ge=0)
    limit_pref_v: float = Field(0.0, ge=0)
    loss_func: Literal["mse", "mae"] = "mse"
    """Of squares, or of absolute values."""
    use_huber: bool = False
    """Of squares up to huber_delta, and as a straight line beyond."""
    huber_delta: Delta | tuple[Delta, Delta, Delta] = 0.01
    """eV/atom, eV/Å and eV/atom: one number, or those of energy, force and virial."""
    linear_beyond: tuple[Delta, Delta, Delta] | None = None
    """eV/atom, eV/Å and eV/atom: errors of energy, force and virial count by their squares up to
    these, and in proportion beyond. Not a key of DeePMD-kit."""
    f_use_norm: bool = False
    """Lengths of the errors of forces, not their components; not with squares."""
    relative_f: float | None = Field(None, gt=0)
    """eV/Å: errors of forces are divided by the length of the label and this together."""
    intensive_ener_virial: bool = False
    """Squares of energies and virials are those per atom; false: divided by the atoms once."""

    @model_validator(mode="after")
    def _check_together(self) -> LossConfig:
        squares = self.loss_func == "mse" and not self.use_huber
        if self.use_huber and self.loss_func != "mse":
            raise ValueError("use_huber and loss_func mae exclude one another; give one of them")
        if self.use_huber and self.relative_f is not None:
            raise ValueError("use_huber and relative_f exclude one another; give one of them")
        if self.linear_beyond is not None and (not squares or self.relative_f is not None):
            raise ValueError("linear_beyond: only with squared errors, and without relative_f")
        if self.f_use_norm and squares:
            raise ValueError("f_use_norm: only with use_huber or loss_func mae")
        if self.intensive_ener_virial and not squares:
            raise ValueError("intensive_ener_virial: only with squared errors; it is so otherwise")
        if not any(self.limits) and not any(self.starts):
            raise ValueError("all prefactors are 0: nothing would be trained")
        return self

    @property
    def deltas(self) -> tuple[float, float, float]:
        """huber_delta of energy, force and virial."""
        delta = self.huber_delta
        return (delta, delta, delta) if isinstance(delta, float) else delta

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

    @property
    def fixed_weights(self) -> tuple[float, float, float]:
        """Weights of the three terms by which models of different steps are compared."""
        return self.limits if any(self.limits) else self.starts
