"""The MD input: the keys of the YAML file, which `Simulation` takes under the same names.

Units K, fs, Å, u; friction in 1/fs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Tag,
    field_validator,
    model_validator,
)

from ..schema import DeviceName, Section
from .ensemble import Ensemble, NonNegativeFloat, Seed
from .observe.settings import Observe
from .selection import Moving, OneOrSeveral, Pulled, Selection
from .trajectory import NAMES

Temperature = NonNegativeFloat


class Velocities(Section):
    """Initial velocities from the Maxwell-Boltzmann distribution."""

    temperature: Temperature
    seed: Seed = 1


class Output(Section):
    """Where results go and how often; 0: never (a restart is written at the end all the same)."""

    directory: Path = Path("run")
    thermo: NonNegativeInt = 100
    """Steps between rows of `thermo.csv`."""
    model_devi: NonNegativeInt | None = None
    """Steps between rows of `model_devi.out`; default: `thermo` where there are several models or a
    guard on the deviation, otherwise 0."""
    trajectory: NonNegativeInt = 1000
    """Steps between frames of the trajectory."""
    format: tuple[str, ...] = ("extxyz",)
    """Formats of the trajectory, of extxyz, traj (ASE), h5md and lammps (a text dump)."""
    restart: NonNegativeInt = 10000
    """Steps between restarts."""
    observe: Observe = Observe()
    """What is averaged while the atoms move, each into tables of its own."""

    @field_validator("format", mode="before")
    @classmethod
    def _formats(cls, value: object) -> object:
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, (list, tuple)) or not names:
            raise ValueError(f"expected one or several of {', '.join(NAMES)}")
        for name in names:
            if name not in NAMES:
                raise ValueError(f"'{name}' is not one of the formats {', '.join(NAMES)}")
        return tuple(dict.fromkeys(names))


class Guards(Section):
    """What ends a run that has become unphysical; null turns a guard off.

    The defaults are for matter up to some thousand kelvin. Where fast particles are meant to be
    (cascades, impacts), raise them.
    """

    force: PositiveFloat | None = 500.0
    """eV/Å, on any atom; off in relaxations and where the timestep is adaptive, unless given."""
    displacement: PositiveFloat | None = 1.0
    """Å, of any atom in one step."""
    distance: PositiveFloat | None = 0.3
    """Å, between any two atoms; looked at when the model reports pairs closer than its training
    data, and every hundred steps."""
    temperature_jump: PositiveFloat | None = 20000.0
    """K, above the mean of the last `temperature_steps` steps or the temperature of the thermostat,
    and above what small systems fluctuate (standard deviation √(2/3N), `guards.fluctuation`)."""
    temperature_steps: PositiveInt = 100
    beyond_table: Literal["off", "warn", "stop"] = "warn"
    """On pairs that the model does not know so near."""
    deviation: PositiveFloat | None = None
    """eV/Å, of the force on any atom over the models; looked at with each row of
    `model_devi.out`."""


Femtoseconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Adaptive(Section):
    """A timestep that is as long as the fastest atom, and that with the largest force, allow."""

    max: Femtoseconds = 1.0
    """fs."""
    displacement: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.05
    """Å, by which no atom moves further in a step; less by √(10/F) where its force F is above 10
    eV/Å (`clock`). The error of the energy goes as its square."""


def _kind_of_timestep(value: object) -> str:
    return "<adaptive>" if isinstance(value, (Mapping, Adaptive)) else "<fixed>"


Timestep = Annotated[
    Annotated[Femtoseconds, Tag("<fixed>")] | Annotated[Adaptive, Tag("<adaptive>")],
    Discriminator(_kind_of_timestep),
]
SHORT_TIMESTEP = 0.05
"""fs; a shorter one was probably given in ps."""
STRONG_FRICTION = 0.5
"""1/fs, or in a timestep; more of it was probably given in 1/ps."""
FAST_STRAIN = 1e-4
"""1/fs, ten to a thousand times the usual; a faster one was probably given in 1/ps or 1/s."""
OVER_EQUAL_TIMES = ("msd", "vacf", "stress", "heat_flux", "conduction")
"""Observables that take samples to be equally far apart in time."""
TIMESTEPS_OF_TIME_CONSTANT = 10
"""A thermostat or barostat with a shorter time constant was probably given it in ps."""


def _path_alone(value: object) -> object:
    return {"directory": value} if isinstance(value, (str, Path)) else value


def _for_all(value: object) -> object:
    return [value] * 3 if isinstance(value, int) and not isinstance(value, bool) else value


def _listed_array(value: object) -> object:
    return value.tolist() if isinstance(value, np.ndarray) else value


Triple = Annotated[tuple[PositiveInt, PositiveInt, PositiveInt], BeforeValidator(_listed_array)]
"""A number for each lattice vector."""
Copies = Annotated[Triple, BeforeValidator(_for_all)]
"""Along each lattice vector, or one number for all."""


class Settings(Section):
    """What `Simulation` takes besides structure and model; the input has the same keys."""

    replicate: Copies = (1, 1, 1)
    ensemble: Ensemble = Ensemble()
    frozen: Annotated[list[Selection], OneOrSeveral] = []
    """Atoms that are held where they are: one selection, or a list of which each counts."""
    moving: Annotated[list[Moving], OneOrSeveral] = []
    """Atoms that go on at a given velocity, in groups; one that is held as well moves."""
    pull: Annotated[list[Pulled], OneOrSeveral] = []
    """Constant forces on atoms, on top of the model's; of an atom that several name the sum."""
    velocities: Velocities | None = None
    """Default: those of the structure, or zero."""
    masses: dict[str, PositiveFloat] = {}
    """u, by element; default: those of the structure (ASE's standard masses)."""
    timestep: Timestep = 1.0
    """fs, or a section `Adaptive`."""
    steps: NonNegativeInt | None = None
    """Steps of the whole run, over which ramps go."""
    skin: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """Å, by which the neighbour list reaches beyond the cutoff."""
    grid: Triple | None = None
    """Subdomains along each lattice vector; default: chosen for the least surface."""
    balance: Literal["atoms", "time", "off"] = "atoms"
    """What the planes between subdomains divide evenly: atoms, or the time that the model takes
    for them (the planes then depend on the machine's mood, and so do the last bits)."""
    output: Annotated[Output, BeforeValidator(_path_alone)] | None = None
    """None: no files. A path alone is the directory."""
    guards: Guards = Guards()
    plumed: str | Annotated[list[str], Field(min_length=1)] | None = None
    """A PLUMED file, or its lines: forces on top of the model's."""

    @model_validator(mode="after")
    def _fits_the_ensemble(self) -> Settings:
        """Refuse what has no meaning in it; what is different where nothing moves in time."""
        observe = self.output.observe if self.output else None
        if observe and observe.conduction and self.ensemble.type != "heat-flow":
            raise ValueError("'output/observe/conduction' needs ensemble 'heat-flow'")
        if observe and observe.heat_flux and self.moving:
            raise ValueError(
                "'output/observe/heat_flux': 'moving' does work on atoms, which is no heat; leave "
                "one of the two out"
            )
        largest = self.guards.displacement or np.inf
        for group in self.moving:
            leap = self.longest_timestep * float(np.linalg.norm(group.velocity))
            if leap > largest:
                raise ValueError(
                    f"'moving': {leap:g} Å in a timestep, more than guards/displacement "
                    f"{largest:g} Å; velocities are in Å/fs, a thousandth of Å/ps"
                )
        if self.pull and self.ensemble.changes_cell:
            raise ValueError(
                f"'pull': ensemble '{self.ensemble.type}' changes the cell, and with it where "
                "atoms are pulled from: take an nvt ensemble"
            )
        if self.ensemble.type == "relax":
            if self.velocities is not None:
                raise ValueError("'velocities': a relaxation begins and ends with atoms at rest")
            if self.moving:
                raise ValueError("'moving': in a relaxation no time passes; hold atoms by 'frozen'")
            if "force" not in self.guards.model_fields_set:  # large ones are what it is there for
                self.guards = self.guards.model_copy(update={"force": None})
        return self

    @model_validator(mode="after")
    def _fits_the_timestep(self) -> Settings:
        """Refuse what means something else, or nothing, where steps are not equally long."""
        if not isinstance(self.timestep, Adaptive):
            return self
        e, instead = self.ensemble, "give 'timestep' a number of fs"
        if e.type not in ("nve", "nvt-langevin"):
            raise ValueError(
                f"'timestep': ensemble '{e.type}' needs steps of one length: {instead}, or take "
                "nve or nvt-langevin"
            )
        if e.has_ramp:
            raise ValueError(
                "'timestep': a ramp of the temperature goes by steps, and they have no one length: "
                f"{instead}, or one temperature"
            )
        observe = self.output.observe if self.output else Observe()
        followed = (k for k in OVER_EQUAL_TIMES if getattr(observe, k) is not None)
        for key in (*(k for k in ("moving", "plumed") if getattr(self, k)), *followed):
            raise ValueError(
                f"'timestep': '{key}' needs steps of one length: {instead}, or leave '{key}' out"
            )
        if "force" not in self.guards.model_fields_set:  # it is what makes the steps short
            self.guards = self.guards.model_copy(update={"force": None})
        return self

    @property
    def longest_timestep(self) -> float:
        """fs."""
        return self.timestep.max if isinstance(self.timestep, Adaptive) else self.timestep

    @field_validator("plumed", mode="before")
    @classmethod
    def _lines(cls, value: object) -> object:
        return value.splitlines() if isinstance(value, str) and "\n" in value else value

    device: DeviceName = "cpu"
    """Where the model computes."""
    ghosts: Literal["auto", "host"] = "auto"
    """How ghosts go between GPUs of several ranks: 'host' brings them by way of the host, even
    where MPI says that it takes addresses of GPUs."""
    precision: Literal["float64", "float32"] | None = None
    """Precision of the arithmetic; default: the model's. Positions and sums are always float64."""


class MdConfig(Settings):
    """The whole input of `dpl md`."""

    model: list[str] = Field(min_length=1)
    """One, or several: the first drives, all of them give the model deviation, as does the
    committee that the file of one may hold."""
    structure: str
    """Anything ASE reads; its last frame, unless `file@index` says which."""
    elements: list[str] | None = None
    """Elements of the types 1, 2, … of a LAMMPS data file; default: by type labels or masses."""
    steps: NonNegativeInt
    """In total: a continued run ends at the same step as one that was never interrupted."""
    output: Annotated[Output, BeforeValidator(_path_alone)] = Output()

    @field_validator("model", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> object:
        models = value if isinstance(value, (list, tuple)) else [value]
        return [str(model) if isinstance(model, Path) else model for model in models]

    def notes(self) -> list[str]:
        """What is allowed, and rarely meant: values that look like another program's units."""
        found, e, timestep = [], self.ensemble, self.longest_timestep
        if timestep < SHORT_TIMESTEP:
            found.append(f"timestep {timestep:g} fs is very short; its unit is fs, not ps")
        if e.friction and e.friction * max(timestep, 1.0) > STRONG_FRICTION:
            found.append(
                f"friction {e.friction:g}/fs makes atoms forget their velocities within "
                f"{1.0 / e.friction:.2g} fs; its unit is 1/fs, not 1/ps"
            )
        if e.rate is not None and abs(e.rate) > FAST_STRAIN:
            found.append(
                f"rate {e.rate:g}/fs is {abs(e.rate) * 1e15:.0e}/s, and the strain of the whole "
                f"run {e.rate * timestep * self.steps:g}; its unit is 1/fs, not 1/ps or 1/s"
            )
        found += self._notes_on_observables()
        for key in ("thermostat_time", "barostat_time"):
            value = getattr(e, key)
            if value is not None and value < TIMESTEPS_OF_TIME_CONSTANT * timestep:
                found.append(
                    f"{key} {value:g} fs is less than {TIMESTEPS_OF_TIME_CONSTANT} timesteps of "
                    f"{timestep:g} fs; its unit is fs, not ps"
                )
        return found

    def _notes_on_observables(self) -> list[str]:
        """Those that say something else than their names in this ensemble."""
        found, e, observe = [], self.ensemble, self.output.observe
        asked = [k for k in type(observe).model_fields if getattr(observe, k) is not None]
        if e.type == "relax":
            return [f"{', '.join(asked)}: averages over a search mean nothing"] if asked else []
        moving = [k for k in ("msd", "vacf", "heat_flux") if getattr(observe, k) is not None]
        if e.friction and moving:
            found.append(
                f"{', '.join(moving)}: what they follow is a motion that friction slows down (with "
                "0.01/fs diffusion in liquid Cu3Au came to half and less); nve and nvt-bussi do not"
            )
        shape = "strain" if e.type == "strain" else e.coupling
        if shape not in (None, "isotropic"):
            stress = ["stress"] if observe.stress is not None else []
            if stress + moving:
                found.append(
                    f"{', '.join(stress + moving)}: the cell changes its shape ({shape}), which "
                    "relaxes the stresses that viscosity.csv integrates, and takes the paths of "
                    "the atoms along; nve, nvt-bussi and coupling isotropic do not"
                )
        return found

    @field_validator("structure", "plumed", mode="before")
    @classmethod
    def _path(cls, value: object) -> object:
        return str(value) if isinstance(value, Path) else value
