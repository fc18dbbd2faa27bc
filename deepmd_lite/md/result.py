"""How a run went, from what each of its ranks has seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..system import counted_once
from .engine import Engine
from .report import RunResult, Thermo
from .signals import StopRequest

PARTS = ("model", "neighbours", "communicate", "integrate", "output")
"""Of the work of every run, as the stopwatch knows them."""


def result_of(
    engine: Engine,
    thermo: Thermo,
    request: StopRequest,
    steps: int,
    seconds: float,
    timestep: float,
    conserved: float,
    parts: Sequence[str],
) -> RunResult:
    """The result of `steps` that took this rank `seconds` and ended at `thermo`; counting begins
    anew. `timestep` fs, the mean; `conserved` eV, before the first; `parts` of the work besides
    `PARTS`. Every rank must call.
    """
    parts, comm = (*PARTS, *parts), engine.comm
    own = [engine.stopwatch.seconds.get(p, 0.0) for p in parts]
    spent = comm.reduce(np.array(own), "sum") / comm.size
    load = [len(engine.state), seconds, own[0], request.number]
    largest = comm.reduce(np.array(load), "max")
    request.agreed = request.agreed or int(largest[3])  # one that came after the last step
    beyond = comm.total(engine.beyond_table)
    engine.list_builds, list_builds = 0, engine.list_builds
    engine.beyond_table = 0
    return RunResult(
        thermo=thermo,
        steps=steps,
        seconds=float(largest[1]),
        n_atoms=engine.n_atoms,
        n_ranks=comm.size,
        timestep=timestep,
        conserved_change=thermo.conserved - conserved,
        list_builds=list_builds,
        parts=dict(zip(parts, spent.tolist(), strict=True)),
        imbalance=float(largest[0]) * comm.size / engine.n_atoms,
        time_imbalance=float(largest[2]) / spent[0] if spent[0] > 0 else 1.0,
        beyond_table=counted_once(beyond),
        signal=request.name,
    )
