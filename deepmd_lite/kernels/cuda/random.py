"""Random numbers of atoms on a GPU: those of `md.random` in one launch."""

from __future__ import annotations

import torch

from ..checks import checked
from .native import device


def normals(ids: torch.Tensor, seed: int, stream: int, step: int) -> torch.Tensor:
    """(n, 3) float64 standard normal numbers of atoms `ids` (n,) int64, where these are.

    A function of the arguments alone; `seed` and `stream` are below 2³².
    """
    on = device(str(ids.device))
    ids = checked("ids", ids, torch.int64, (-1,), on.torch_device)
    found = torch.empty(len(ids), 3, dtype=torch.float64, device=on.torch_device)
    on.call("normals", len(ids), ids, seed, stream, step, found)
    return found
