"""Observables that are sampled while the atoms move."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..comm import agreement
from ..engine import Engine
from .base import Observable, System, Table
from .conduction import Conduction
from .heat_flux import HeatFlux
from .msd import Msd
from .profile import TemperatureProfile
from .rdf import Rdf
from .settings import Observe, VacfSettings
from .stress import Stress
from .vacf import Vacf

_ALL = (Rdf, Msd, Vacf, Stress, HeatFlux, TemperatureProfile, Conduction)
KINDS: dict[str, Any] = {k.name: k for k in _ALL}

__all__ = ["KINDS", "Observable", "Observe", "System", "Table", "observables", "sample"]


def observables(
    settings: Observe, system: System, engine: Engine, memory: Mapping[str, Any]
) -> list[Observable]:
    """Those that `settings` ask for, ready to sample.

    `memory` by name is that of the run that is continued; an observable it lacks begins now. Raises
    SharedError (InputError with a single rank) where one has no meaning for this system.
    """
    found: list[Observable] = []
    carried = engine.state.carried
    with agreement(engine.comm):
        for name, kind in KINDS.items():
            own = getattr(settings, name)
            if own is None:
                continue
            if isinstance(own, VacfSettings):
                known = memory.get(name, {}).get("settings")
                own = own.settled(int(system.counts.sum()), known)
            observable = kind(own, system)
            observable.check(engine.model)
            if name in memory:
                observable.recall(memory[name])
            elif observable.width:
                n = len(engine.state)
                carried[name] = engine.state.masses.new_zeros(n, observable.width)
            found.append(observable)
    kept = {o.name for o in found if o.width}
    for name in set(KINDS) & set(carried) - kept:
        del carried[name]
    return found


def sample(observables: Sequence[Observable], engine: Engine, step: int, time: float) -> None:
    """Have those that are due at `step` take in this moment (fs); the time of each is counted."""
    for observable in observables:
        if step % observable.every == 0:
            with engine.stopwatch(observable.name):
                observable.sample(engine, step, time)
