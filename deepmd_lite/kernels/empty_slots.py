"""What the slots of an atom that no neighbour fills add to its moments.

Their rows are 0 but in the first column, where they have what normalisation makes of 0.
"""

from __future__ import annotations

import torch

from .reference import Environment, table_values


def slots(
    environment: Environment, first: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """An empty slot for each (centre, neighbour) pair of types, (n_types²,) each.

    `first` (n_types,) float64: the row's first entry around each centre type. Returns the number of
    the table, its argument y and the first entry s, both float64.
    """
    n = environment.n_types
    a, b = torch.arange(n).repeat_interleave(n), torch.arange(n).repeat(n)
    table = b if environment.type_one_side else a * n + b
    s = first[a]
    y = torch.full_like(s, -environment.rcut) if environment.table_of_distance else s
    return table, y, s


def moments(
    coefficients: torch.Tensor, environment: Environment, first: torch.Tensor
) -> torch.Tensor:
    """(n_types², n_features): column 0 of what one empty slot of each pair adds to the moments.

    `coefficients` as in `table_values`, `first` as in `slots`. Differentiable in `coefficients`.
    """
    table, y, s = slots(environment, first)
    position = (y - environment.table_start) / environment.table_spacing
    values, _ = table_values(coefficients, table, position.to(coefficients.dtype))
    return values * s.to(values.dtype)[:, None]
