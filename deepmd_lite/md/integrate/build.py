"""From the `ensemble` section of an input to its integrator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..ensemble import Ensemble
from .cell_motion import CellMotion, StochasticCellRescaling, modes
from .mtk import MartynaTobiasKlein
from .nose_hoover import NoseHooverChain
from .ramp import Ramp
from .strain import StrainRate
from .thermostat import Bussi, Langevin, Thermostat
from .verlet import VelocityVerlet


def integrator(
    ensemble: Ensemble,
    timestep: float,
    steps: int | None = None,
    memory: Mapping[str, Any] | None = None,
) -> VelocityVerlet:
    """The integrator of an `Ensemble` for a `timestep` in fs.

    `steps` of the whole run, over which ramps go; `memory` of the run that is continued: its
    ramps keep the length they had, and if it was in another ensemble the memory is not used.
    Raises InputError for a ramp without steps.
    """
    name = "-".join(filter(None, (ensemble.type, ensemble.coupling, ensemble.thermostat)))
    known = memory if memory and memory.get("type") == name else None
    length = (known and known["ramp_steps"]) or steps or 0
    motion = _motion(ensemble, timestep, length)
    motion.label = {"type": name, "ramp_steps": length if ensemble.has_ramp else 0}
    if known:
        motion.recall(known)
    return motion


def _motion(e: Ensemble, timestep: float, steps: int) -> VelocityVerlet:
    if e.type == "npt-mtk":
        return MartynaTobiasKlein(
            timestep,
            _ramp(e.temperature, steps),
            _ramp(e.pressure, steps),
            thermostat_time=_given(e.thermostat_time),
            barostat_time=_given(e.barostat_time),
            chain_length=_given(e.chain_length),
            allowed=modes(_given(e.coupling)),
        )
    return VelocityVerlet(timestep, _thermostat(e, steps), _cell_motion(e, timestep, steps))


def _thermostat(e: Ensemble, steps: int) -> Thermostat | None:
    kind = e.thermostat or {"npt-scr": "bussi"}.get(e.type, e.type.removeprefix("nvt-"))
    if kind == "langevin":
        return Langevin(_ramp(e.temperature, steps), _given(e.friction), _given(e.seed))
    if kind == "bussi":
        return Bussi(_ramp(e.temperature, steps), _given(e.thermostat_time), _given(e.seed))
    if kind == "nhc":
        length = _given(e.chain_length)
        return NoseHooverChain(_ramp(e.temperature, steps), _given(e.thermostat_time), length)
    return None


def _cell_motion(e: Ensemble, timestep: float, steps: int) -> CellMotion | None:
    if e.type == "npt-scr":
        return _rescaling(e, timestep, steps, _given(e.coupling))
    if e.type == "strain":
        lateral = None
        if e.lateral == "stress-free":
            lateral = _rescaling(e, timestep, steps, "anisotropic")
        axis, true_strain = "abc".index(_given(e.axis)), e.measure == "true"
        return StrainRate(timestep, axis, _given(e.rate), true_strain, lateral)
    return None


def _rescaling(e: Ensemble, timestep: float, steps: int, coupling: str) -> StochasticCellRescaling:
    return StochasticCellRescaling(
        timestep,
        _ramp(e.temperature, steps),
        _ramp(e.pressure or (0.0, 0.0), steps),
        time=_given(e.barostat_time),
        compressibility=_given(e.compressibility),
        allowed=modes(coupling),
        seed=_given(e.seed),
    )


def _ramp(ends: tuple[float, float] | None, steps: int) -> Ramp:
    first, last = _given(ends)
    return Ramp(first, last, steps)


def _given(value: Any) -> Any:
    """A key that its ensemble has, so that `Ensemble` has made sure of a value."""
    assert value is not None
    return value
