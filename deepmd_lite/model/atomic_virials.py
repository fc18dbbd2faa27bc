"""Virials of single atoms, which the heat flux and stresses of atoms are made of.

The energy E_c of an atom c pushes an atom j with f_cj = −∂E_c/∂r_j. The virial of j is

    W_j = Σ_c (r_j − r_c) ⊗ f_cj = (r_j − o) ⊗ F_j − Σ_c (r_c − o) ⊗ f_cj

with the force F_j = Σ_c f_cj and any point o. Its sum over all atoms is the virial, and Σ_j W_j v_j
the potential part of the heat flux of a many-body potential: Fan, Pereira, Wang, Zheng, Donadio &
Harju, Phys. Rev. B 92, 094301 (2015). (Half of the forces between pairs, as many codes take it for
the stress of an atom, gives another flux, which is wrong unless the potential is one of pairs.)

The last sum is, for each component of r_c, a force: that of the energies E_c weighted with it, the
weights being constants. So three more evaluations give all nine components.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..system import LocalEnv

WeightedForces = Callable[[torch.Tensor], torch.Tensor]
"""Forces (n_all, 3) eV/Å of Σ weights_c E_c from weights (n_local,) float64 of any sign."""


def atomic_virials(env: LocalEnv, forces: torch.Tensor, weighted: WeightedForces) -> torch.Tensor:
    """(n_all, 3, 3) float64 eV of every row, ghosts included; `forces` (n_all, 3) eV/Å."""
    origin = env.positions[: env.n_local].mean(dim=0)  # small weights, small rounding
    places = env.positions - origin
    others = torch.stack([weighted(places[: env.n_local, a].contiguous()) for a in range(3)], dim=1)
    return places[:, :, None] * forces[:, None, :] - others


def weighted_gradient(
    energies: torch.Tensor, positions: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """(n_all, 3): of Σ weights_c energies_c, more than once."""
    # a product: given as grad_outputs, weights make torch import sympy, which takes a second
    (gradient,) = torch.autograd.grad((energies * weights).sum(), positions, retain_graph=True)
    return gradient
