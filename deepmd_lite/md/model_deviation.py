"""Model deviation in a run: of several models, or of the committee in the file of one."""

from __future__ import annotations

import numpy as np
import torch

from ..committee import Committee, has_members
from ..deviation import force_deviation, mean_virial, virial_deviation
from ..system import InputError, Model
from .config import Guards, Output
from .engine import Engine
from .guards import Trip, worst


class Deviating:
    """The models of a run beside the one that drives it, and when they are asked."""

    def __init__(self, model: Model, output: Output | None, guards: Guards) -> None:
        """`model`: what drives the run, a `Committee` or one alone.

        Raises InputError where a deviation is asked for and there is nothing that could deviate,
        or a guard that would never look.
        """
        asked = None if output is None else output.model_devi
        several = isinstance(model, Committee)
        self._who = "the models deviate" if several else "the model's committee deviates"
        self.limit = guards.deviation
        if output is not None and asked is None and (several or self.limit):
            asked = output.thermo
        self.every = asked or 0
        """Steps between two looks; 0: never."""
        self.committee: Committee | None = None
        if self.limit is not None and not self.every:
            raise InputError(
                "guards/deviation: is looked at with the rows of model_devi.out; give "
                "output/model_devi, the steps between them"
            )
        if self.every and not several and not has_members(model):
            key = "output/model_devi" if self.limit is None else "guards/deviation"
            raise InputError(
                f"{key} needs several models (model: [a.dpl, b.dpl]) or a committee in the file of "
                "one (dpl uncertainty MODEL DATA… -o OUT)"
            )
        if self.every:
            self.committee = model if isinstance(model, Committee) else Committee.of_members(model)

    @property
    def n_models(self) -> int:
        """All of them; 1 where none deviates."""
        return 1 if self.committee is None else len(self.committee.models)

    def look(self, engine: Engine) -> tuple[tuple[float, ...], np.ndarray, Trip | None]:
        """`deviation.COLUMNS` of this moment, over the atoms of all ranks, which all must ask; the
        deviation of each atom of this rank, (n,) eV/Å; and what the guard says of them. The driving
        model has just been evaluated."""
        assert self.committee is not None
        columns, own = deviation_columns(engine, self.committee)
        if self.limit is None or columns[3] <= self.limit:  # max_devi_f
            return columns, own, None
        atom, most = worst(engine, torch.from_numpy(own))
        limit = f"more than {self.limit:g} eV/Å (guards: deviation)"
        advice = "the model does not know such structures; add some to the training"
        what = f"{self._who} by {most:.3g} eV/Å on {atom}, {limit}"
        return columns, own, Trip(what, advice=advice)


def deviation_columns(engine: Engine, committee: Committee) -> tuple[tuple[float, ...], np.ndarray]:
    """`deviation.COLUMNS`, and the deviation of the force on each atom of this rank, (n,) eV/Å."""
    comm, env = engine.comm, engine.env
    virials, forces = [engine.model_virial], [engine.model_forces]  # on the device of all models
    if env.n_local:
        for e in committee.others(env):
            virials.append(e.virial)
            forces.append(engine.halo.reverse(e.forces.detach().double().contiguous()))
    else:  # nothing to evaluate, but ghosts that others may want back
        for _ in committee.models[1:]:
            virials.append(torch.zeros_like(engine.model_virial))
            forces.append(engine.halo.reverse(torch.zeros_like(env.positions)))
    total = comm.reduce(torch.stack(virials).double().cpu().numpy(), "sum")
    v = virial_deviation(total / engine.n_atoms)
    own = force_deviation(torch.stack(forces).cpu().numpy())
    largest = comm.reduce(np.array([own.max(initial=-np.inf), -own.min(initial=np.inf)]), "max")
    mean = comm.total(float(own.sum())) / engine.n_atoms
    if np.isnan(mean):  # which the largest number of all ranks may pass over
        largest = np.array([np.nan, np.nan])
    f = (float(largest[0]), -float(largest[1]), mean)
    return (float(v.max()), float(v.min()), mean_virial(v), *f), own
