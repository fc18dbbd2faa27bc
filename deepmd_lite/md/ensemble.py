"""What is sampled: the section `ensemble` of the MD input.

Units K, fs, Å; pressures are texts with their unit, GPa once they are read.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from ..schema import Section
from ..units import GPA_IN_BAR
from .selection import OneOrSeveral, Selection, one_alone

SEED_LIMIT = 2**32
Seed = Annotated[int, Field(ge=0, lt=SEED_LIMIT)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]

PRESSURE_UNITS = {
    "GPa": 1.0,
    "MPa": 1e-3,
    "kPa": 1e-6,
    "Pa": 1e-9,
    "kbar": 1e3 / GPA_IN_BAR,
    "bar": 1.0 / GPA_IN_BAR,
    "atm": 1.01325 / GPA_IN_BAR,
}
"""GPa in each unit that a pressure may have."""


def _pressure(value: object) -> float:
    """GPa of a text such as '0.1 GPa' or '1 bar'; 0 needs no unit."""
    units = ", ".join(PRESSURE_UNITS)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if value == 0:
            return 0.0
        raise ValueError(f"has no unit; write '{value:g} GPa' or another of {units}")
    words = value.split() if isinstance(value, str) else []
    if len(words) == 2 and words[1] in PRESSURE_UNITS:
        try:
            found = float(words[0]) * PRESSURE_UNITS[words[1]]
        except ValueError:
            found = math.nan
        if math.isfinite(found):
            return found
    raise ValueError(f"expected a number and a unit, as '0.1 GPa' or '1 bar' (units: {units})")


def _optional_pressure(value: object) -> float | None:
    return None if value is None else _pressure(value)


def _temperature(value: object) -> float:
    """K."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if 0 <= value < math.inf:
            return float(value)
        raise ValueError("expected a temperature in K, not negative")
    raise ValueError("expected a temperature in K, or [first, last] for a ramp")


def _ends(value: object, read: Callable[[object], float]) -> tuple[float, float] | None:
    """First and last value of a quantity: of a ramp where two are given."""
    if value is None:
        return None
    if isinstance(value, (list, tuple)):
        if len(value) != 2:
            raise ValueError("expected one value, or [first, last] for a ramp")
        return read(value[0]), read(value[1])
    return read(value), read(value)


Temperatures = Annotated[
    tuple[float, float] | None, BeforeValidator(lambda v: _ends(v, _temperature))
]
Pressures = Annotated[tuple[float, float] | None, BeforeValidator(lambda v: _ends(v, _pressure))]

# fmt: off
Coupling = Literal[
    "isotropic", "anisotropic", "flexible", "semi-isotropic", "x", "y", "z", "xy", "xz", "yz",
]
# fmt: on
NEEDED = object()
"""Stands in `KEYS` for a value that only the user can give."""
_LANGEVIN = {"temperature": NEEDED, "friction": NEEDED, "seed": 1}
_BUSSI = {"temperature": NEEDED, "thermostat_time": 100.0, "seed": 1}
_NOSE_HOOVER = {"temperature": NEEDED, "thermostat_time": 100.0, "chain_length": 3}
_BAROSTAT = {"pressure": NEEDED, "barostat_time": 1000.0, "coupling": "isotropic"}
KEYS: dict[str, dict[str, Any]] = {
    "nve": {},
    "nvt-langevin": {**_LANGEVIN, "atoms": None},
    "nvt-bussi": _BUSSI,
    "nvt-nhc": _NOSE_HOOVER,
    "npt-scr": {**_BUSSI, **_BAROSTAT, "compressibility": 0.05},
    "npt-mtk": {**_NOSE_HOOVER, **_BAROSTAT},
    "strain": {
        "axis": NEEDED,
        "rate": NEEDED,
        "measure": "engineering",
        "lateral": "fixed",
        "thermostat": "none",
    },
    "heat-flow": {
        **{"axis": NEEDED, "hot": NEEDED, "cold": NEEDED, "width": NEEDED},
        **{"friction": 0.01, "seed": 1},
    },
    "relax": {"fmax": 0.01, "coupling": None},
}
"""Keys of each ensemble with their defaults; `strain` has those of its thermostat besides."""
_STRAIN_KEYS = {
    "none": {},
    "langevin": _LANGEVIN,
    "bussi": _BUSSI,
    "nhc": _NOSE_HOOVER,
}
_RELAXED_CELL_KEYS = {"pressure": (0.0, 0.0), "smax": 0.05}
_LATERAL_KEYS = {"barostat_time": 1000.0, "compressibility": 0.05, "seed": 1}
_UNITS = {"temperature": "K", "friction": "1/fs", "pressure": "text with unit", "rate": "1/fs"}
_UNITS |= {"hot": "K", "cold": "K", "width": "Å"}


class Ensemble(Section):
    """`{type: nve}`, `{type: nvt-langevin, temperature: 300, friction: 0.01}`, …

    Which keys belong to which type, and their defaults, is in `KEYS`; a key that does not belong
    is an error. None stands for a key that the type does not have.
    """

    type: str = "nve"
    temperature: Temperatures = None
    """K: one value, or first and last of a linear ramp over the steps of the whole run."""
    friction: NonNegativeFloat | None = None
    """1/fs, rate at which a Langevin thermostat forgets velocities."""
    atoms: Annotated[list[Selection] | None, OneOrSeveral, PlainSerializer(one_alone)] = None
    """Those that a Langevin thermostat acts on, one selection or a list of which each counts; the
    others follow Newton's equations. Chosen where it comes to act: at the beginning, or where a run
    goes on with it. None: all."""
    thermostat_time: PositiveFloat | None = None
    """fs, time constant of the thermostat."""
    chain_length: PositiveInt | None = None
    """Thermostats of a Nosé-Hoover chain."""
    pressure: Pressures = None
    """GPa once read; given as a text with its unit, or first and last of a ramp."""
    barostat_time: PositiveFloat | None = None
    """fs, time constant of the barostat."""
    coupling: Coupling | None = None
    """How the cell follows the stress: its volume only, its extent along x, y and z each on its
    own, or all of its shape (without rotation); 'z', 'xy', …: its extent along these alone, each on
    its own; 'semi-isotropic': along x and y together, and along z."""
    compressibility: PositiveFloat | None = None
    """1/GPa, of the material as far as known: it only sets the pace. The volume relaxes in
    barostat_time · (true compressibility / this)."""
    axis: Literal["a", "b", "c"] | None = None
    """Lattice vector along which a strain is applied."""
    rate: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """1/fs, of the strain; positive: tension. 1e-6/fs is 1e9/s."""
    measure: Literal["engineering", "true"] | None = None
    """What grows evenly in time: the length, or its logarithm."""
    lateral: Literal["fixed", "stress-free"] | None = None
    """The directions across a strain: of constant length, or free to follow zero stress."""
    thermostat: Literal["none", "langevin", "bussi", "nhc"] | None = None
    """Thermostat of an ensemble `strain`."""
    seed: Seed | None = None
    """Seed of the random numbers of thermostat and barostat."""
    hot: PositiveFloat | None = None
    """K, in the slab around the beginning of the axis,"""
    cold: PositiveFloat | None = None
    """K, and in that around its middle."""
    width: PositiveFloat | None = None
    """Å, of each of the two slabs."""
    fmax: PositiveFloat | None = None
    """eV/Å: a relaxation ends where no force on an atom that may move is larger."""
    smax: Annotated[PositiveFloat | None, BeforeValidator(_optional_pressure)] = None
    """GPa once read, given as a pressure: and no stress that the cell may follow is further from
    `pressure`."""

    @model_validator(mode="before")
    @classmethod
    def _type_alone(cls, data: Any) -> Any:
        return {"type": data} if isinstance(data, str) else data

    @model_validator(mode="after")
    def _complete(self) -> Ensemble:
        """Refuse keys that the type lacks, fill in the defaults of those that it has."""
        if self.type not in KEYS:
            raise ValueError(
                f"expected a mapping with a 'type' of {', '.join(KEYS)}, found {self.type!r}"
            )
        name, keys = f"ensemble '{self.type}'", dict(KEYS[self.type])
        if self.type == "strain":
            thermostat, lateral = self.thermostat or "none", self.lateral or "fixed"
            if lateral == "stress-free":
                if thermostat == "none":
                    raise ValueError(
                        f"{name}: 'lateral: stress-free' needs a thermostat: langevin, bussi or nhc"
                    )
                keys |= _LATERAL_KEYS
            keys |= _STRAIN_KEYS[thermostat]
            name += f" with thermostat '{thermostat}' and lateral '{lateral}'"
        if self.type == "relax" and self.coupling is not None:
            keys |= _RELAXED_CELL_KEYS
            name += " with a coupling"
        for key in type(self).model_fields:
            given = getattr(self, key)
            if key == "type" or (given is None and key not in keys):
                continue
            if key not in keys:
                known = f"its keys: {', '.join(keys)}" if keys else "it has none"
                raise ValueError(f"{name} has no key '{key}'; {known}")
            if given is None and keys[key] is not NEEDED:
                object.__setattr__(self, key, keys[key])
        missing = [k for k, v in keys.items() if v is NEEDED and getattr(self, k) is None]
        if missing:
            needs = " and ".join(f"{k} ({_UNITS[k]})" if k in _UNITS else k for k in missing)
            raise ValueError(f"{name} needs {needs}")
        if self.temperature and min(self.temperature) <= 0 and "friction" not in keys:
            raise ValueError(f"{name} needs a temperature above 0 K; nvt-langevin can do 0 K")
        if self.hot is not None and self.cold is not None and not self.hot > self.cold:
            raise ValueError(f"{name}: 'hot' {self.hot:g} K is not above 'cold' {self.cold:g} K")
        if self.atoms == []:
            raise ValueError(f"{name}: 'atoms' is an empty list; leave it out to mean all")
        if self.type == "relax" and self.has_ramp:
            raise ValueError(f"{name}: a relaxation has one pressure, there is no time for a ramp")
        return self

    @property
    def changes_cell(self) -> bool:
        """Whether lattice vectors change in it."""
        relaxes = self.type == "relax" and self.coupling is not None
        return self.type.startswith("npt-") or self.type == "strain" or relaxes

    @property
    def has_ramp(self) -> bool:
        """Whether a target changes with time."""
        return any(ends and ends[0] != ends[1] for ends in (self.temperature, self.pressure))

    @property
    def title(self) -> str:
        """Type and targets in words."""
        units = ((self.temperature, "K"), (self.pressure, "GPa"))
        targets = (
            f"{v[0]:g} {unit}" if v[0] == v[1] else f"{v[0]:g} to {v[1]:g} {unit}"
            for v, unit in units
            if v is not None
        )
        flow = [f"{self.hot:g} to {self.cold:g} K"] if self.hot and self.cold else []
        return " ".join([self.type, *targets, *flow])
