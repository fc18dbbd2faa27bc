"""Random numbers that depend on what they are for, not on who draws them or what came before.

A counter-based generator is a function of seed, stream, step and atom id. So a trajectory does not
depend on how atoms are spread over ranks, and a restart needs no state but the step.
"""

from __future__ import annotations

import numpy as np
import torch

from .. import kernels


def normals(ids: torch.Tensor, seed: int, stream: int, step: int) -> torch.Tensor:
    """(n, 3) float64 standard normal numbers of atoms `ids` (n,) int64, where these are.

    A function of the arguments alone (`kernels.reference.normals`), on a GPU to round-off; `seed`
    is any integer that is not negative, `stream` tells uses apart.
    """
    on = kernels.cuda if ids.is_cuda else kernels
    result: torch.Tensor = on.normals(ids, seed & 0xFFFFFFFF, stream, step)
    return result


def generator(seed: int, stream: int, step: int) -> np.random.Generator:
    """For the few numbers of a step that belong to the system as a whole: on every rank the same.

    Also counter-based (numpy's Philox), and so a function of the arguments alone.
    """
    return np.random.Generator(np.random.Philox(key=[seed, stream], counter=[0, 0, 0, step]))
