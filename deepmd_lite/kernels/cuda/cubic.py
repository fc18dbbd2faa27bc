"""Invariants of third order (`reference.cubic`) and their derivatives, as products of torch.

Numbers come from, and go to, sums over all ordered triples of features by a matrix of constants:
picking them out by index would add up derivatives in any order.
"""

from __future__ import annotations

from functools import cache
from itertools import permutations

import torch

from ..reference import cubic_places, vectors_and_matrices


def cubic(t: torch.Tensor, n_features: int) -> torch.Tensor:
    """As `reference.cubic`."""
    v, q = vectors_and_matrices(t[:, :, :n_features])
    of_vectors = torch.einsum("nax,nbxy,ncy->nabc", v, q, v)
    of_matrices = torch.einsum("nabxz,nczx->nabc", _products(q), q)
    parts = zip((of_vectors, of_matrices), _spread(n_features, t.dtype, t.device), strict=True)
    return torch.cat([x.flatten(1) @ spread.T for x, spread in parts], dim=1)


def cubic_back(t: torch.Tensor, n_features: int, slope: torch.Tensor) -> torch.Tensor:
    """∂/∂T (n, columns, m) of Σ slope · cubic(T), slope (n, numbers)."""
    n, (columns, m) = n_features, t.shape[1:]
    v, q = vectors_and_matrices(t[:, :, :n])
    spread = _spread(n, t.dtype, t.device)
    slopes = slope.split([len(x) for x in spread], dim=1)
    g_v, g_q = ((own @ x).unflatten(1, (n, n, n)) for own, x in zip(slopes, spread, strict=True))
    to_v = 2 * torch.einsum("nabc,nbxy,ncy->nax", g_v, q, v)
    to_q = torch.einsum("nabc,nax,ncy->nbxy", g_v, v, v)
    to_q = to_q + 3 * torch.einsum("nabc,nbcxy->naxy", g_q, _products(q))
    own = _to_columns(to_v, to_q)
    return torch.nn.functional.pad(own, (0, m - n, 1, columns - 1 - own.shape[1]))


def _products(q: torch.Tensor) -> torch.Tensor:
    """(n, m, m, 3, 3): Q_a Q_b."""
    return torch.einsum("naxy,nbyz->nabxz", q, q)


def _to_columns(to_v: torch.Tensor, to_q: torch.Tensor) -> torch.Tensor:
    """Derivatives with respect to the columns from 1 to 8 (n, 8, m) from those with respect to
    vectors (n, m, 3) and matrices (n, m, 3, 3)."""
    root, both = 0.75**0.5, to_q + to_q.mT
    xx, yy, zz = (both[:, :, k, k] for k in range(3))
    xy, yz, zx = both[:, :, 0, 1], both[:, :, 1, 2], both[:, :, 2, 0]
    columns = [root * xy, root * yz, root * zx, root / 2 * (xx - yy), (2 * zz - xx - yy) / 4]
    return torch.cat([to_v.transpose(1, 2), torch.stack(columns, dim=1)], dim=1)


@cache
def _spread(
    n: int, dtype: torch.dtype, torch_device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """(numbers, n³) each: the mean over the ordered triples (a, b, c) of each number."""
    with_vectors, without = cubic_places(n)
    reversed_too = [[(a, b, c), (c, b, a)] for a, b, c in with_vectors]
    in_any_order = [[(x[i], x[j], x[k]) for i, j, k in permutations(range(3))] for x in without]
    return _means(reversed_too, n).to(torch_device, dtype), _means(in_any_order, n).to(
        torch_device, dtype
    )


def _means(groups: list[list[tuple[int, int, int]]], n: int) -> torch.Tensor:
    means = torch.zeros(len(groups), n, n, n, dtype=torch.float64)
    for k, triples in enumerate(groups):
        for a, b, c in triples:
            means[k, a, b, c] += 1.0 / len(triples)
    return means.flatten(1)
