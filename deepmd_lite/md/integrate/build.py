"""From the `ensemble` section of an input to its integrator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..ensemble import Ensemble
from .cell_motion import CellMotion, StochasticCellRescaling, modes
from .heat_flow import HeatFlow
from .mtk import MartynaTobiasKlein
from .nose_hoover import NoseHooverChain
from .ramp import Ramp
from .relaxation import Relaxation
from .strain import StrainRate
from .thermostat import Bussi, Langevin, Thermostat
from .verlet import VelocityVerlet

ODD = 0x9E3779B1
"""By which seeds that follow one another become numbers far from each other."""
Span = tuple[int, int]
"""Step at which ramps begin, and how many they go over."""


def integrator(
    ensemble: Ensemble,
    timestep: float,
    steps: int | None = None,
    memory: Mapping[str, Any] | None = None,
    step: int = 0,
    noise: int = 0,
) -> VelocityVerlet:
    """The integrator of an `Ensemble` for a `timestep` in fs.

    `steps` of the whole run, and `step`, at which it is: a ramp goes from the one to the other.
    `memory` of the run that is continued: a ramp of the same values goes on as it began, and if
    that run was in another ensemble the memory is not used; straining goes on from the length
    where it began also where its thermostat is another. `noise`: of `Start`. Raises InputError
    for a ramp without steps.
    """
    if noise and ensemble.seed is not None:
        seed = (ensemble.seed * ODD + noise) & 0xFFFFFFFF
        ensemble = ensemble.model_copy(update={"seed": seed})
    name = "-".join(filter(None, (ensemble.type, ensemble.coupling, ensemble.thermostat)))
    known = memory if memory and memory.get("type") == name else None
    ends = [x and list(x) for x in (ensemble.temperature, ensemble.pressure)]
    span = (step, max(1, steps - step) if steps else 0)
    if known and known["ramp_steps"] and known.get("ramps", ends) == ends:
        span = (known.get("ramp_start", 0), known["ramp_steps"])
    motion = _motion(ensemble, timestep, span)
    motion.label = {"type": name, "ramp_steps": 0}
    if ensemble.has_ramp:
        motion.label |= {"ramp_start": span[0], "ramp_steps": span[1], "ramps": ends}
    if known:
        motion.begins = False
        motion.recall(known)
    if memory and motion.cell_motion is not None:  # strain goes on under another thermostat
        motion.cell_motion.recall(memory)
    return motion


def _motion(e: Ensemble, timestep: float, span: Span) -> VelocityVerlet:
    if e.type == "npt-mtk":
        return MartynaTobiasKlein(
            timestep,
            _ramp(e.temperature, span),
            _ramp(e.pressure, span),
            thermostat_time=_given(e.thermostat_time),
            barostat_time=_given(e.barostat_time),
            chain_length=_given(e.chain_length),
            allowed=modes(_given(e.coupling)),
        )
    if e.type == "relax":
        if e.coupling is None:
            return Relaxation(timestep, _given(e.fmax))
        cell = _given(e.pressure)[0], _given(e.smax), modes(e.coupling)
        return Relaxation(timestep, _given(e.fmax), *cell)
    return VelocityVerlet(timestep, _thermostat(e, span), _cell_motion(e, timestep, span))


def _thermostat(e: Ensemble, span: Span) -> Thermostat | None:
    kind = e.thermostat or {"npt-scr": "bussi"}.get(e.type, e.type.removeprefix("nvt-"))
    if kind == "langevin":
        return Langevin(_ramp(e.temperature, span), _given(e.friction), _given(e.seed), e.atoms)
    if kind == "bussi":
        return Bussi(_ramp(e.temperature, span), _given(e.thermostat_time), _given(e.seed))
    if kind == "heat-flow":
        axis, width = "abc".index(_given(e.axis)), _given(e.width)
        kelvins = _given(e.hot), _given(e.cold)
        return HeatFlow(axis, *kelvins, width, _given(e.friction), _given(e.seed))
    if kind == "nhc":
        length = _given(e.chain_length)
        return NoseHooverChain(_ramp(e.temperature, span), _given(e.thermostat_time), length)
    return None


def _cell_motion(e: Ensemble, timestep: float, span: Span) -> CellMotion | None:
    if e.type == "npt-scr":
        return _rescaling(e, timestep, span, modes(_given(e.coupling)))
    if e.type == "strain":
        lateral = _rescaling(e, timestep, span) if e.lateral == "stress-free" else None
        axis, true_strain = "abc".index(_given(e.axis)), e.measure == "true"
        return StrainRate(timestep, axis, _given(e.rate), true_strain, lateral)
    return None


def _rescaling(
    e: Ensemble, timestep: float, span: Span, allowed: np.ndarray | None = None
) -> StochasticCellRescaling:
    return StochasticCellRescaling(
        timestep,
        _ramp(e.temperature, span),
        _ramp(e.pressure or (0.0, 0.0), span),
        time=_given(e.barostat_time),
        compressibility=_given(e.compressibility),
        seed=_given(e.seed),
        allowed=allowed,
    )


def _ramp(ends: tuple[float, float] | None, span: Span) -> Ramp:
    (first, last), (start, steps) = _given(ends), span
    return Ramp(first, last, steps, start)


def _given(value: Any) -> Any:
    """A key that its ensemble has, so that `Ensemble` has made sure of a value."""
    assert value is not None
    return value
