"""Random numbers that depend on what they are for, not on who draws them or what came before.

A counter-based generator (Philox4x32-10: Salmon, Moraes, Dror & Shaw, "Parallel random numbers:
as easy as 1, 2, 3", SC11) is a function of seed, stream, step and atom id. So a trajectory does
not depend on how atoms are spread over ranks, and a restart needs no state but the step.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from ..kernels import cuda

_MULTIPLIER_0, _MULTIPLIER_1 = 0xD2511F53, 0xCD9E8D57
_WEYL_0, _WEYL_1 = 0x9E3779B9, 0xBB67AE85
_MASK = 0xFFFFFFFF
_ROUNDS = 10


def philox(
    counter: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], key: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Four words of 32 random bits for each counter of four words (int64 tensors, 0 .. 2³² − 1).

    An int64 product wraps, but the shift and the mask leave its upper word right all the same.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        p0, p1 = c0 * _MULTIPLIER_0, c2 * _MULTIPLIER_1
        c0, c1, c2, c3 = (
            ((p1 >> 32) & _MASK) ^ c1 ^ k0,
            p1 & _MASK,
            ((p0 >> 32) & _MASK) ^ c3 ^ k1,
            p0 & _MASK,
        )
        k0, k1 = (k0 + _WEYL_0) & _MASK, (k1 + _WEYL_1) & _MASK
    return c0, c1, c2, c3


def normals(ids: torch.Tensor, seed: int, stream: int, step: int) -> torch.Tensor:
    """(n, 3) float64 standard normal numbers, a function of the arguments alone.

    `ids` (n,) int64 atoms; `seed` any non-negative integer below 2³²; `stream` tells uses apart.
    Box and Muller's transform of uniform numbers (k + ½)/2³², so the largest is 6.7. On a GPU they
    are made there of the same bits, and agree to round-off.
    """
    if ids.is_cuda:
        return cuda.normals(ids, seed & _MASK, stream, step)
    word = torch.full_like(ids, step & _MASK)
    upper = torch.full_like(ids, step >> 32)
    bits = philox((ids & _MASK, ids >> 32, word, upper), (seed & _MASK, stream))
    u0, u1, u2, u3 = ((b.double() + 0.5) * 2.0**-32 for b in bits)
    r0, r1 = torch.sqrt(-2.0 * torch.log(u0)), torch.sqrt(-2.0 * torch.log(u2))
    a0, a1 = 2.0 * math.pi * u1, 2.0 * math.pi * u3
    return torch.stack([r0 * torch.cos(a0), r0 * torch.sin(a0), r1 * torch.cos(a1)], dim=1)


def generator(seed: int, stream: int, step: int) -> np.random.Generator:
    """For the few numbers of a step that belong to the system as a whole: on every rank the same.

    Also counter-based (numpy's Philox), and so a function of the arguments alone.
    """
    return np.random.Generator(np.random.Philox(key=[seed, stream], counter=[0, 0, 0, step]))
