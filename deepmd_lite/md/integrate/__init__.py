"""Time integration: what happens to atoms and cell between two evaluations of the forces.

`verlet` is the splitting that all but one share; `thermostat`, `nose_hoover`, `cell_motion`
and `strain` are what can be put into it; `mtk` has equations of its own, `relaxation` no time.
"""

from __future__ import annotations

from .build import integrator
from .cell_motion import StochasticCellRescaling
from .heat_flow import HeatFlow
from .mtk import MartynaTobiasKlein
from .nose_hoover import NoseHooverChain
from .ramp import Ramp
from .relaxation import Relaxation
from .strain import StrainRate
from .thermostat import Bussi, Langevin
from .verlet import VelocityVerlet

__all__ = [
    "Bussi",
    "HeatFlow",
    "Langevin",
    "MartynaTobiasKlein",
    "NoseHooverChain",
    "Ramp",
    "Relaxation",
    "StochasticCellRescaling",
    "StrainRate",
    "VelocityVerlet",
    "integrator",
]
