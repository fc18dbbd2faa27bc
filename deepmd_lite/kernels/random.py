"""Random numbers of atoms."""

from __future__ import annotations

import torch

from . import _kernels
from .checks import checked


def normals(ids: torch.Tensor, seed: int, stream: int, step: int) -> torch.Tensor:
    """`reference.normals`, on torch.get_num_threads() threads, the same bits for any number.

    Raises InputError for `ids` that are not (n,) int64.
    """
    ids = checked("ids", ids, torch.int64, (-1,))
    found = torch.empty(len(ids), 3, dtype=torch.float64)
    _kernels.normals(ids, seed, stream, step, torch.get_num_threads(), found)
    return found
