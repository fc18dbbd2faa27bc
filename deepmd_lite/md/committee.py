"""Several models in one run: the first drives it, all of them give the model deviation."""

from __future__ import annotations

import numpy as np
import torch

from ..deviation import force_deviation, mean_virial, virial_deviation
from .engine import Engine


def deviation_columns(engine: Engine) -> tuple[float, ...]:
    """`deviation.COLUMNS` of this moment, over the atoms of all ranks, which all must ask.

    `engine.model` is a `Committee`, whose first member has just been evaluated.
    """
    comm, env, committee = engine.comm, engine.env, engine.model
    virials, forces = [engine.virial], [engine.forces]  # on the device of all models
    if env.n_local:
        for e in committee.others(env):
            virials.append(e.virial)
            forces.append(engine.halo.reverse(e.forces.detach().double().contiguous()))
    else:  # nothing to evaluate, but ghosts that others may want back
        for _ in committee.models[1:]:
            virials.append(torch.zeros_like(engine.virial))
            forces.append(engine.halo.reverse(torch.zeros_like(env.positions)))
    total = comm.reduce(torch.stack(virials).double().cpu().numpy(), "sum")
    v = virial_deviation(total / engine.n_atoms)
    own = force_deviation(torch.stack(forces).cpu().numpy())
    largest = comm.reduce(np.array([own.max(initial=-np.inf), -own.min(initial=np.inf)]), "max")
    mean = comm.reduce(np.array([own.sum()]), "sum")[0] / engine.n_atoms
    f = (float(largest[0]), -float(largest[1]), float(mean))
    return (float(v.max()), float(v.min()), mean_virial(v), *f)
