"""The keys of `output: {observe: …}`. Each observable has defaults, so that `rdf: {}` works."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from ...schema import Section

FEWEST, MOST = 4, 50
ORIGINS_OF_ATOMS = 20_000
"""Number of origins times atoms."""
Origins = Annotated[int, Field(ge=1, le=100)]


class Sampling(Section):
    """What all observables have."""

    every: PositiveInt = 10
    """Steps between samples."""


class Windowed(Sampling):
    """Observables of a time difference: averages over origins in time."""

    window: Annotated[int, Field(ge=10, le=1_000_000)] = 1000
    """Samples that an origin is followed; the longest time difference is one less."""
    origins: Origins | None
    """Origins followed at a time, evenly staggered; each costs three numbers for every atom."""

    @model_validator(mode="after")
    def _staggered(self) -> Windowed:
        if self.origins is not None and self.origins > self.window:
            raise ValueError(f"{self.origins} origins in a window of {self.window} samples")
        return self


class RdfSettings(Sampling):
    """Radial distribution functions."""

    bins: Annotated[int, Field(ge=2, le=100_000)] = 200
    r_max: Annotated[PositiveFloat, Field(le=30.0)] | None = None
    """Å; default: the cutoff of the model. Beyond it a longer neighbour list is made."""


class MsdSettings(Windowed):
    """Mean-square displacement and diffusion."""

    origins: Origins = 4
    fit_from: Annotated[float, Field(ge=0.0, le=0.9)] = 0.2
    """The slope is fitted from this fraction of the window to its end."""


class VacfSettings(Windowed):
    """Velocity autocorrelation and vibrational density of states."""

    every: PositiveInt = 2
    origins: Origins | None = None
    """Default: as many for all atoms together as cost little, `MOST` to `FEWEST`: of few atoms the
    correlation at time 0, by which the spectrum is divided, is noisy."""

    def settled(self, n_atoms: int, known: Mapping[str, Any] | None) -> VacfSettings:
        """With a number of origins, for `n_atoms`, or that of a run that goes on (`known`)."""
        if self.origins is not None:
            return self
        origins = min(max(FEWEST, ORIGINS_OF_ATOMS // n_atoms), MOST, self.window)
        return self.model_copy(update={"origins": known["origins"] if known else origins})


class Correlating(Sampling):
    """Autocorrelations of a few numbers of the whole system."""

    window: Annotated[int, Field(ge=10, le=100_000)] = 1000
    """Samples of the longest time difference; every sample is an origin."""


class StressSettings(Correlating):
    """Stress, its autocorrelation and the shear viscosity."""

    every: PositiveInt = 2


class HeatFluxSettings(Correlating):
    """Heat flux and thermal conductivity; a sample takes as long as four to nine steps."""

    every: PositiveInt = 10


class ProfileSettings(Sampling):
    """Temperature and density along a lattice vector."""

    axis: Annotated[int, Field(ge=0, le=2)] = 2
    bins: Annotated[int, Field(ge=1, le=100_000)] = 20


class ConductionSettings(Sampling):
    """Thermal conductivity in an ensemble `heat-flow`."""

    bins: Annotated[int, Field(ge=10, le=100_000)] = 40
    """Slices of the cell along the axis."""
    after: NonNegativeInt = 0
    """Step from which on samples count: the flow takes its time to become steady."""


class Observe(Section):
    """Which observables a run samples."""

    rdf: RdfSettings | None = None
    msd: MsdSettings | None = None
    vacf: VacfSettings | None = None
    stress: StressSettings | None = None
    heat_flux: HeatFluxSettings | None = None
    temperature_profile: ProfileSettings | None = None
    conduction: ConductionSettings | None = None

    @model_validator(mode="before")
    @classmethod
    def _say_so(cls, given: Any) -> Any:
        """`rdf:` with nothing behind it is neither on nor off."""
        empty = [k for k, v in given.items() if v is None] if isinstance(given, Mapping) else []
        if empty:
            raise ValueError(f"'{empty[0]}' has nothing behind it; write '{empty[0]}: {{}}'")
        return given
