"""The keywords of `Simulation`, for editors and type checkers; `config.Settings` checks them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np

Section = Mapping[str, Any]
"""A section of the input file under the same names."""
Triple = Sequence[int] | np.ndarray
"""A number for each lattice vector."""


class Keys(TypedDict, total=False):
    """None stands for the default of `config.Settings`, where meaning and units are said."""

    replicate: Triple | int | None
    ensemble: Section | None
    frozen: Section | Sequence[Section] | None
    moving: Section | Sequence[Section] | None
    pull: Section | Sequence[Section] | None
    velocities: Section | None
    masses: Mapping[str, float] | None
    timestep: float | Section | None
    steps: int | None
    skin: float | None
    grid: Triple | None
    balance: Literal["atoms", "time", "off"] | None
    output: Section | str | Path | None
    guards: Section | None
    plumed: str | Sequence[str] | None
    device: str | None
    ghosts: Literal["auto", "host"] | None
    precision: Literal["float64", "float32"] | None
