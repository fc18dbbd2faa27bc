"""The scale of descriptors, which decides how fast the networks above them can learn.

Optimisers that divide a gradient by its own size (Adam, SOAP) move every weight by about the
learning rate. Of the first layer of a fitting network that changes its units in proportion to the
descriptor, whose numbers are hundredths where an atom has many neighbours: there a training spends
thousands of steps on growing these weights. So they begin larger, by the factor that gives the
descriptor's numbers a usual size, and move faster by as much: the same as if the descriptor were
that much larger, without another model.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..model import Potential
from ..model.networks import Fitting
from ..system import LocalEnv
from .adam import Adam, LeanOptimizer
from .config import TrainInput
from .soap import Soap
from .together import Together

USUAL = 0.1
"""Root mean square, over the numbers of a descriptor, of their standard deviations."""


@torch.no_grad()
def quicken(potential: Potential, env: LocalEnv, families: list[list[int]]) -> None:
    """Enlarge the first weights of each fitting network for descriptors of the atoms in `env`.

    Its `pace` becomes the factor, at least 1, which is that of its family (elements that begin
    alike); biases follow, so that units stay in the middle of their range. Families of which `env`
    has fewer than two atoms stay as they are.
    """
    moments = (d.moments(env, env.positions, d.coefficients()) for d in potential.descriptors)
    parts = [d.numbers(t) for d, t in zip(potential.descriptors, moments, strict=True)]
    descriptors = torch.cat(parts, dim=1).double()
    networks, types = _networks(potential), env.types[: env.n_local]
    shared = len(networks) == 1
    for members in [list(range(len(potential.type_map)))] if shared else families:
        own = descriptors[torch.isin(types, torch.tensor(members))]
        size = float(own.var(dim=0).mean().sqrt()) if len(own) > 1 else 0.0
        if not 0.0 < size < USUAL:
            continue
        for fitting in networks if shared else [networks[a] for a in members]:
            fitting.pace = USUAL / size
            weight, bias, _ = fitting.parameters_of(0)
            weight *= fitting.pace
            bias -= own.mean(dim=0).to(weight.dtype) @ weight[0]


def _networks(potential: Potential) -> list[Fitting]:
    """Those that have weights of their own: one for each element, or one that all share."""
    return [module for module in potential.fitting.modules() if isinstance(module, Fitting)]


def paces_of(potential: Potential) -> list[float]:
    """Those of the fitting networks."""
    return [fitting.pace for fitting in _networks(potential)]


def set_paces(potential: Potential, paces: Sequence[float]) -> None:
    """What `paces_of` gave; nothing where there are none."""
    for fitting, pace in zip(_networks(potential), paces, strict=False):
        fitting.pace = pace


def optimizer_of(config: TrainInput, potential: Potential, together: Together) -> LeanOptimizer:
    """That of the input, in which the first layer of each fitting network has its own `pace`, and
    what several have in common in `together` that of these."""
    rate, betas = config.learning_rate.start_lr, config.optimizer.betas
    networks = [fitting for fitting in _networks(potential) if fitting.pace != 1.0]
    first = {fitting.get_parameter("weight_0"): fitting.pace for fitting in networks}
    shares = together.shares.values()
    first |= {s.common: first[s.parameters[0]] for s in shares if s.parameters[0] in first}
    others = [p for p in (*potential.parameters(), *(s.common for s in shares)) if p not in first]
    optimizer: LeanOptimizer
    if config.optimizer.type == "SOAP":
        optimizer = Soap(others, rate, betas, torch_device=potential.torch_device)
    else:
        optimizer = Adam(others, rate, betas)
    for parameter, pace in first.items():
        optimizer.add_param_group({"params": [parameter], "pace": pace})
    return optimizer
