"""The table of pairs that takes over from the networks where atoms come close, in plain torch.

DeePMD-kit's `use_srtab` (Wang, Guo, Zhang, Wang, Xue, "Deep learning inter-atomic potential model
for accurate irradiation damage simulations", Appl. Phys. Lett. 114, 244101, 2019): with λ_i a
switch of a soft minimum of the distances around atom i,
    E_i = (1 − λ_i) E_i(networks) + λ_i (bias_a + ½ Σ_j V_ab(r_ij)).

Array suffixes as in `reference`: e edges, i local atoms, k powers of a cubic (4).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..system import InputError, LocalEnv
from . import reference


@dataclass(frozen=True)
class ShortRange:
    """Pair energies as cubic splines, and where they replace the networks."""

    rcut: float
    """Å: neighbours nearer than this make the soft minimum, and pairs have energies."""
    smin_alpha: float
    """Å, of the soft minimum: Σ r exp(−r/α) / Σ exp(−r/α)."""
    sw_rmin: float
    """Å: soft minimum at which the networks begin to count."""
    sw_rmax: float
    """Å: soft minimum from which on they alone count."""
    start: float
    """Å: where the table begins."""
    spacing: float
    """Å: width of an interval."""
    coefficients: torch.Tensor
    """(n_types, n_types, n_intervals, 4) float64 eV: Σ_k c_k t^k, t in [0, 1) in each interval.
    0 beyond the last one."""
    bias: torch.Tensor
    """(n_types,) float64 eV: of an atom of the table."""

    @property
    def end(self) -> float:
        """Å: pairs at this distance or beyond have no energy."""
        return min(self.rcut, self.start + self.spacing * self.coefficients.shape[2])


@dataclass
class Edges:
    """The neighbours nearer than rcut of some atoms, from `edges_of`."""

    centre: torch.Tensor
    """(n_edges,) int64: place of the atom among them."""
    near: torch.Tensor
    """(n_edges,) int64 row of the centre in positions."""
    far: torch.Tensor
    """(n_edges,) int64 row of the neighbour."""
    vector: torch.Tensor
    """(n_edges, 3) Å, r_j − r_i."""


def edges_of(
    env: LocalEnv, positions: torch.Tensor, rows: torch.Tensor, short_range: ShortRange
) -> Edges:
    """Edges of the local atoms `rows` (n,) int64, with gradients to `positions` (n_all, 3)."""
    counts = env.offsets.diff()[rows]
    centre = torch.repeat_interleave(torch.arange(len(rows)), counts)
    first = env.offsets[rows] - (counts.cumsum(0) - counts)
    far = env.indices.long()[torch.arange(int(counts.sum())) + first[centre]]
    vector = positions[far] - positions[rows[centre]]
    inside = vector.detach().norm(dim=1) < short_range.rcut
    centre, far, vector = centre[inside], far[inside], vector[inside]
    return Edges(centre, rows[centre], far, vector)


def switched(
    env: LocalEnv, positions: torch.Tensor, short_range: ShortRange
) -> tuple[torch.Tensor, torch.Tensor]:
    """λ and the table's energies (eV), both (n_local,) float64, differentiable in positions.

    Raises InputError for a pair of an atom with λ > 0 that is nearer than the table begins.
    """
    edges = edges_of(env, positions, torch.arange(env.n_local), short_range)
    r_e = edges.vector.norm(dim=1)
    soft, _ = soft_minimum(edges.centre, r_e, env.n_local, short_range)
    value = reference.switch(soft, short_range.sw_rmin, short_range.sw_rmax)
    _refuse_nearer(r_e.detach()[value.detach()[edges.centre] > 0], short_range)
    energy_e, _ = pair_energies(env, edges, r_e, short_range)
    bias = short_range.bias[env.types[: env.n_local].long()]
    return value, bias.index_add(0, edges.centre, 0.5 * energy_e)


def _refuse_nearer(r: torch.Tensor, short_range: ShortRange) -> None:
    if bool((r < short_range.start).any()):
        raise InputError(
            f"two atoms are {float(r.min()):.4g} Å apart; the short-range table begins at "
            f"{short_range.start:.4g} Å"
        )


def soft_minimum(
    centre_e: torch.Tensor, r_e: torch.Tensor, n: int, short_range: ShortRange
) -> tuple[torch.Tensor, torch.Tensor]:
    """(n,) Å of n atoms, sw_rmax where there is no neighbour, and each edge's share (n_edges,).

    Exponentials are relative to that of the nearest neighbour, which cancels in the quotient.
    """
    nearest = torch.full((n,), torch.inf, dtype=torch.float64)
    nearest = nearest.scatter_reduce(0, centre_e, r_e.detach(), "amin")
    weight_e = torch.exp((nearest[centre_e] - r_e) / short_range.smin_alpha)
    zero = torch.zeros(n, dtype=torch.float64)
    total = zero.index_add(0, centre_e, weight_e)
    share_e = weight_e / total[centre_e]
    soft = zero.index_add(0, centre_e, share_e * r_e)
    return torch.where(total > 0, soft, torch.full_like(soft, short_range.sw_rmax)), share_e


def pair_energies(
    env: LocalEnv, edges: Edges, r_e: torch.Tensor, short_range: ShortRange
) -> tuple[torch.Tensor, torch.Tensor]:
    """V (eV) of each edge and its slope (eV/Å), both (n_edges,)."""
    n_intervals = short_range.coefficients.shape[2]
    place_e = (r_e - short_range.start) / short_range.spacing
    interval_e = place_e.detach().floor().clamp(0, n_intervals - 1).long()
    t_e = place_e - interval_e
    a_e, b_e = env.types[edges.near].long(), env.types[edges.far].long()
    c_ek = short_range.coefficients[a_e, b_e, interval_e]
    value_e = ((c_ek[:, 3] * t_e + c_ek[:, 2]) * t_e + c_ek[:, 1]) * t_e + c_ek[:, 0]
    slope_e = (3 * c_ek[:, 3] * t_e + 2 * c_ek[:, 2]) * t_e + c_ek[:, 1]
    beyond_e = r_e.detach() >= short_range.end
    return (
        value_e.masked_fill(beyond_e, 0.0),
        (slope_e / short_range.spacing).masked_fill(beyond_e, 0.0),
    )


def blended(
    energies: torch.Tensor,
    forces: torch.Tensor,
    env: LocalEnv,
    short_range: ShortRange,
    weights: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the table makes of the networks' energies and forces, differentiable in both.

    `weights` (n_local,): 1 − λ_i; `energies` (n_local,) eV of the networks; `forces` (n_all, 3)
    eV/Å: minus the gradient of Σ weights_i E_i with the weights held fixed. Positions are
    constants. Raises InputError as `switched`.
    """
    rows = (weights < 1).nonzero()[:, 0]
    edges = edges_of(env, env.positions.detach(), rows, short_range)
    r_e = edges.vector.norm(dim=1)
    soft, share_e = soft_minimum(edges.centre, r_e, len(rows), short_range)
    value, slope = switch_and_slope(soft, short_range)
    _refuse_nearer(r_e, short_range)
    pair_e, pair_slope_e = pair_energies(env, edges, r_e, short_range)
    bias = short_range.bias[env.types[rows].long()]
    above = bias.index_add(0, edges.centre, 0.5 * pair_e) - energies[rows]
    own = edges.centre
    change_e = share_e * (1.0 - (r_e - soft[own]) / short_range.smin_alpha)
    force_e = -(above * slope)[own] * change_e - 0.5 * value[own] * pair_slope_e
    force_ec = (force_e / r_e)[:, None] * edges.vector
    forces = forces.index_add(0, edges.far, force_ec).index_add(0, edges.near, -force_ec)
    return energies.index_add(0, rows, value * above), forces


def switch_and_slope(
    soft: torch.Tensor, short_range: ShortRange
) -> tuple[torch.Tensor, torch.Tensor]:
    """λ and ∂λ/∂d (1/Å) at soft minima d, each (n,)."""
    width = short_range.sw_rmax - short_range.sw_rmin
    u = ((soft - short_range.sw_rmin) / width).clamp(0.0, 1.0)
    value = reference.switch(soft, short_range.sw_rmin, short_range.sw_rmax)
    return value, -30.0 * u**2 * (1.0 - u) ** 2 / width
