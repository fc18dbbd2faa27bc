"""The first layer of the embedding before any training: units that tell distances apart.

DeePMD-kit draws its weights as those of any layer, so narrow that over the distances of neighbours
that are not bonded, where s̃ changes by little, every unit is a straight line; a training begins
with a thousand steps that make them differ. Here each unit begins as a step at a distance of its
own, and these are spread evenly over all distances that the table covers.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from .networks import Embedding

WIDTH = 0.5
"""Å in which a unit's argument changes by 1, where the units are not further apart than that."""
STEEPEST = 0.4
"""Largest change of a unit's argument between two nodes of the table, which is to resolve it.

Of liquid water, stock model, 4,000 steps of one frame, float32: force RMSE 91 meV/Å from
DeePMD-kit's distribution; 72, 65 and 63 from 0.2 (with a width of 0.8), 0.4 and 0.8. The saved
tables have 61, 173, 244 and 370 intervals, which evaluations take longer to read.
"""


def spread_over_distances(
    embedding: Embedding,
    s_of_r: Callable[[torch.Tensor], torch.Tensor],
    shortest: float,
    rcut: float,
    spacing: float,
    generator: torch.Generator,
) -> None:
    """Set weights and biases of the first layer of `embedding`, in place.

    `s_of_r`: s̃ of distances (Å), falling; these are covered from `shortest` to `rcut`; `spacing`
    of the table's nodes in s̃.
    """
    weight, bias = embedding.get_parameter("weight_0"), embedding.get_parameter("bias_0")
    copies, _, n_units = weight.shape
    stretch = (rcut - shortest) / n_units
    place = torch.rand(copies, n_units, generator=generator, dtype=torch.float64)
    r_pk = shortest + stretch * (torch.arange(n_units) + place)
    half = 0.5 * max(WIDTH, stretch)
    change = s_of_r((r_pk - half).clamp(min=shortest)) - s_of_r(r_pk + half)
    sign = 1.0 - 2.0 * torch.randint(2, r_pk.shape, generator=generator)
    slope = sign * (1.0 / change).clamp(max=STEEPEST / spacing)
    with torch.no_grad():
        weight.copy_(slope[:, None])
        bias.copy_((-slope * s_of_r(r_pk))[:, None])
