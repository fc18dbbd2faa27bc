"""The kernels' operations in plain torch: the definition of truth that compiled code is held to.

Array suffixes: e edges, n local atoms, c columns of the environment row (4 to 25), m features,
k powers of the table polynomial (6). Nothing here is fast; everything is differentiable.

Formulas: Zhang et al., "End-to-end symmetry preserving inter-atomic potential energy model for
finite and extended systems", NeurIPS 2018 (environment matrix, embedding); the quintic switch is
the one of DeePMD-kit's `se_e2_a`. Columns of degree l > 1 are the Y_lm of Bartók, Kondor, Csányi,
Phys. Rev. B 87, 184115 (2013), in the form of real polynomials.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import torch

from ..system import InputError

COLUMNS = 4
"""Columns of the environment row: w/q, w x/q², w y/q², w z/q² with q = r + protection."""
MOST_DEGREE = 4
"""Of the harmonic polynomials H with which a row may go on: w H/q^(l + 1), l = 2 … the degree."""
NORMS = {
    2: (3**0.5, 3**0.5, 3**0.5, 0.75**0.5, 0.5),
    3: (0.5, *[0.375**0.5] * 2, 15**0.5, 3.75**0.5, *[0.625**0.5] * 2),
    4: (0.125, *[0.625**0.5] * 2, *[0.3125**0.5] * 2, *[4.375**0.5] * 2, *[35**0.5 / 8] * 2),
}
"""Degree l → factors of the H of `harmonics` with which Σ H(a) H(b) = |a|ˡ|b|ˡ P_l(cosine of a and
b)."""
POWERS = 6
"""Coefficients of the quintic polynomial of each table interval."""


@dataclass(frozen=True)
class Environment:
    """What turns an edge into a normalised environment row and finds its place in the table."""

    rcut: float
    """Cutoff, Å."""
    rcut_smth: float
    """Where the switch begins to fall, Å."""
    davg: torch.Tensor
    """(n_types, columns) float64: mean of the environment row for each centre type."""
    dstd: torch.Tensor
    """(n_types, columns) float64: its standard deviation; of the columns of a degree from 2 on
    divided by its `NORMS`."""
    type_one_side: bool
    """Table of an edge: the neighbour's type b; otherwise `a * n_types + b` for centre type a."""
    table_start: float
    """Normalised s (or minus the distance, Å) at which interval 0 begins."""
    table_spacing: float
    """Width of an interval, in the same."""
    protection: float = 0.0
    """Added to distances that are divided by, Å: DeePMD-kit's `env_protection`."""
    table_of_distance: bool = False
    """Whether tables are functions of −r, Å, instead of normalised s."""

    @property
    def n_types(self) -> int:
        """Number of elements."""
        return int(self.davg.shape[0])

    @property
    def columns(self) -> int:
        """Columns of the environment row."""
        return int(self.davg.shape[1])


@dataclass(frozen=True)
class Descriptor:
    """What turns neighbours into normalised moments."""

    coefficients: torch.Tensor
    """As in `moments`."""
    environment: Environment
    sel: Sequence[float]
    """Slots of each element."""

    def check_elements(self, n_networks: int) -> None:
        """Raises InputError unless sel and networks are those of as many elements as it has."""
        n_types = self.environment.n_types
        if len(self.sel) != n_types or n_networks != n_types:
            raise InputError(
                f"expected sel and networks of {n_types} elements, found {len(self.sel)} and "
                f"{n_networks}"
            )


@dataclass(frozen=True)
class Repulsion:
    """Repulsion of close pairs: the elements, and where it fades for each pair of them."""

    atomic_numbers: torch.Tensor
    """(n_types,) float64."""
    r_in: torch.Tensor
    """(n_types, n_types) float64, Å: the switch begins to fall."""
    r_out: torch.Tensor
    """(n_types, n_types) float64, Å: nothing is left."""


def neighbor_list(
    positions: torch.Tensor, types: torch.Tensor, n_local: int, cutoff: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Full ragged list of all pairs nearer than `cutoff` (Å) by comparing every pair.

    Returns offsets (n_local + 1,) int64 and indices (n_edges,) int32, rows sorted by neighbour
    type, then by index.
    """
    distances = (positions[:n_local, None, :] - positions[None, :, :]).norm(dim=2)
    rows = torch.arange(n_local)
    distances[rows, rows] = torch.inf
    order = torch.argsort(types, stable=True)
    near = distances[:, order] < cutoff
    offsets = torch.zeros(n_local + 1, dtype=torch.int64)
    offsets[1:] = near.sum(dim=1).cumsum(0)
    indices = order.expand(n_local, -1)[near].to(torch.int32)
    return offsets, indices


def switch(r: torch.Tensor, rcut_smth: float, rcut: float) -> torch.Tensor:
    """1 up to rcut_smth, 0 from rcut on, a quintic between them; two continuous derivatives."""
    u = ((r - rcut_smth) / (rcut - rcut_smth)).clamp(0.0, 1.0)
    return 1.0 - u**3 * (10.0 - 15.0 * u + 6.0 * u**2)


def columns_of(degree: int) -> int:
    """Columns of a row that goes on to so high a degree."""
    return (degree + 1) ** 2


def degree_of(columns: int) -> int:
    """The inverse of `columns_of`."""
    return math.isqrt(columns) - 1


def harmonics(vectors_ec: torch.Tensor, degree: int) -> torch.Tensor:
    """(n_edges, 2 · `degree` + 1): the harmonic polynomials of degree 2, 3 or 4, in the order of
    harmonics.h."""
    x, y, z = vectors_ec.T
    xx, yy, zz = x * x, y * y, z * z
    rr = xx + yy
    if degree == 2:
        found = [x * y, y * z, z * x, xx - yy, 2 * zz - rr]
    elif degree == 3:
        found = [z * (2 * zz - 3 * rr), x * (4 * zz - rr), y * (4 * zz - rr), x * y * z]
        found += [z * (xx - yy), x * (xx - 3 * yy), y * (3 * xx - yy)]
    else:
        found = [8 * zz * zz - 24 * zz * rr + 3 * rr * rr]
        found += [x * z * (4 * zz - 3 * rr), y * z * (4 * zz - 3 * rr)]
        found += [(xx - yy) * (6 * zz - rr), 2 * x * y * (6 * zz - rr)]
        found += [z * x * (xx - 3 * yy), z * y * (3 * xx - yy)]
        found += [xx * xx - 6 * xx * yy + yy * yy, 4 * x * y * (xx - yy)]
    return torch.stack(found, dim=1)


def vectors_and_matrices(t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Parts of moments T (n, 9 or more, m): vectors (n, m, 3) and matrices (n, m, 3, 3).

    Those of first degree, and of second degree as symmetric matrices without trace; the ones of a
    single neighbour in direction x are proportional to x and to (3 x⊗x − 1)/2.
    """
    xy, yz, zx, across, along = t[:, COLUMNS : columns_of(2)].unbind(1)
    across, xy, yz, zx = (0.75**0.5 * entry for entry in (across, xy, yz, zx))
    rows = [across - along / 2, xy, zx, xy, -across - along / 2, yz, zx, yz, along]
    return t[:, 1:COLUMNS].transpose(1, 2), torch.stack(rows, dim=2).unflatten(2, (3, 3))


def cubic_places(n: int) -> tuple[list[tuple[int, int, int]], list[tuple[int, int, int]]]:
    """Features (a, b, c) of the invariants of `cubic`, those with vectors and those without."""
    features = range(n)
    with_vectors = [(a, b, c) for a in features for c in features[a:] for b in features]
    return with_vectors, list(combinations_with_replacement(features, 3))


def cubic(t: torch.Tensor, n_features: int) -> torch.Tensor:
    """Invariants of third order of the first `n_features` of moments T (n, 9 or more, m).

    With the vectors v_a and matrices Q_a of `vectors_and_matrices`: v_a·Q_b v_c for a ≤ c and all
    b, b innermost, then tr Q_a Q_b Q_c for a ≤ b ≤ c. They are sums over triples of neighbours of
    all that depends on their directions by degrees one and two and is left by rotations and
    reflections: part of the bispectrum of Bartók, Kondor, Csányi, Phys. Rev. B 87, 184115 (2013).
    """
    v, q = vectors_and_matrices(t[:, :, :n_features])
    with_vectors, without = cubic_places(n_features)
    a, b, c = torch.tensor(with_vectors).T
    numbers = [torch.einsum("nkx,nkxy,nky->nk", v[:, a], q[:, b], v[:, c])]
    a, b, c = torch.tensor(without).T
    numbers.append(torch.einsum("nkxy,nkyz,nkzx->nk", q[:, a], q[:, b], q[:, c]))
    return torch.cat(numbers, dim=1)


def environment_rows(
    vectors_ec: torch.Tensor,
    rcut_smth: float,
    rcut: float,
    protection: float = 0.0,
    columns: int = COLUMNS,
) -> torch.Tensor:
    """(n_edges, 4) rows w(r)·(1/q, x/q², y/q², z/q²), q = r + `protection`, Å.

    Of edge vectors r_j − r_i (n_edges, 3), Å. With more `columns` w(r)·H/q^(l + 1) follow for the
    `harmonics` H of each degree l from 2 on.
    """
    r_e = vectors_ec.norm(dim=1)
    q_e = r_e + protection
    s_e = switch(r_e, rcut_smth, rcut) / q_e
    rows = [s_e[:, None], (s_e / q_e)[:, None] * vectors_ec]
    for degree in range(2, degree_of(columns) + 1):
        rows.append((s_e / q_e**degree)[:, None] * harmonics(vectors_ec, degree))
    return torch.cat(rows, dim=1)


def table_values(
    coefficients: torch.Tensor, table_e: torch.Tensor, position_e: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Polynomials at `position_e` (in units of the spacing, from the table's start).

    `coefficients` (n_tables, n_intervals + 1, 6, n_features): interval q holds Σ_k c_k t^k for
    t = position − q in [0, 1); the last one continues the table without an upper end, as a
    parabola: of its coefficients only k ≤ 2 count.
    Returns values (n_edges, n_features) and whether each edge lies in the continuation.
    """
    last = coefficients.shape[1] - 1
    interval_e = position_e.detach().floor().clamp(0, last).to(torch.int64)
    t_e = position_e - interval_e
    k = torch.arange(POWERS, device=t_e.device)
    left_out = (interval_e == last)[:, None] & (k > 2)
    powers_ek = (t_e[:, None] ** k.to(t_e.dtype)).masked_fill(left_out, 0.0)
    values_em = torch.einsum("ek,ekm->em", powers_ek, coefficients[table_e, interval_e])
    return values_em, interval_e == last


def moments(
    positions: torch.Tensor,
    types: torch.Tensor,
    offsets: torch.Tensor,
    indices: torch.Tensor,
    coefficients: torch.Tensor,
    environment: Environment,
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Σ_j G(s̃_ij) ⊗ R̃_ij over the neighbours nearer than rcut.

    Shapes as in `LocalEnv` and `table_values`; `coefficients` sets the precision of the
    arithmetic after the differences of positions. Returns moments (n_local, columns, n_features),
    counts (n_local, n_types) int32 of neighbours within rcut by type, and the number of edges in
    the table's continuation. Differentiable in positions and coefficients.
    """
    beyond = 0

    def embed(table_e: torch.Tensor, y_e: torch.Tensor) -> torch.Tensor:
        nonlocal beyond
        position_e = (y_e - environment.table_start) / environment.table_spacing
        values_em, beyond_e = table_values(coefficients, table_e, position_e)
        beyond = int(beyond_e.sum())
        return values_em

    total, counts = moments_of(
        embed, positions, types, offsets, indices, environment, coefficients.dtype
    )
    return total, counts, beyond


def moments_of(
    embed: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    positions: torch.Tensor,
    types: torch.Tensor,
    offsets: torch.Tensor,
    indices: torch.Tensor,
    environment: Environment,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The moments and counts of `moments` for any embedding.

    `embed` maps table numbers (n_edges,) and what tables are functions of (n_edges,), normalised s
    or −r (Å), of arithmetic type `dtype`, to features (n_edges, n_features).
    """
    n_local, n_types = len(offsets) - 1, environment.n_types
    centre_e = torch.repeat_interleave(torch.arange(n_local), offsets.diff())
    neighbor_e = indices.long()
    vectors_ec = positions[neighbor_e] - positions[centre_e]
    inside = vectors_ec.detach().norm(dim=1) < environment.rcut
    centre_e, neighbor_e, vectors_ec = centre_e[inside], neighbor_e[inside], vectors_ec[inside]

    a_e, b_e = types[centre_e].long(), types[neighbor_e].long()
    rows_ec = environment_rows(
        vectors_ec,
        environment.rcut_smth,
        environment.rcut,
        environment.protection,
        environment.columns,
    )
    rows_ec = ((rows_ec - environment.davg[a_e]) / environment.dstd[a_e]).to(dtype)
    table_e = b_e if environment.type_one_side else a_e * n_types + b_e
    y_e = -vectors_ec.norm(dim=1).to(dtype) if environment.table_of_distance else rows_ec[:, 0]
    values_em = embed(table_e, y_e)
    outer_ecm = rows_ec[:, :, None] * values_em[:, None, :]
    total = torch.zeros(n_local, *outer_ecm.shape[1:], dtype=outer_ecm.dtype)
    total = total.index_add(0, centre_e, outer_ecm)
    counts = torch.zeros(n_local * n_types, dtype=torch.int32)
    counts.index_add_(0, centre_e * n_types + b_e, torch.ones(len(b_e), dtype=torch.int32))
    return total, counts.reshape(n_local, n_types)


COULOMB = 14.399645478
"""e²/(4πε₀), eV Å."""
SCREENING_LENGTH = 0.46853
"""0.8854 Bohr radii, Å."""
_SCREENING = ((0.18175, 3.19980), (0.50986, 0.94229), (0.28022, 0.40290), (0.02817, 0.20162))


def zbl(r: torch.Tensor, z_a: torch.Tensor, z_b: torch.Tensor) -> torch.Tensor:
    """eV: the universal screened repulsion of atomic numbers z_a, z_b at distances r (Å).

    (e²/4πε₀) z_a z_b / r · Σ_k c_k exp(−d_k r/l), l = 0.8854 a₀ / (z_a^0.23 + z_b^0.23): Ziegler,
    Biersack, Littmark, "The Stopping and Range of Ions in Solids", Pergamon 1985.
    """
    x = r * (z_a**0.23 + z_b**0.23) / SCREENING_LENGTH
    screening = torch.zeros_like(x)
    for c, d in _SCREENING:
        screening = screening + c * torch.exp(-d * x)
    return COULOMB * z_a * z_b / r * screening


def repulsion_energies(
    positions: torch.Tensor,
    types: torch.Tensor,
    offsets: torch.Tensor,
    indices: torch.Tensor,
    repulsion: Repulsion,
) -> torch.Tensor:
    """(n_local,) float64 eV: half of w(r)·`zbl` of each edge, w falling from r_in to r_out.

    Shapes as in `LocalEnv`. Differentiable in positions.
    """
    n_local = len(offsets) - 1
    centre_e = torch.repeat_interleave(torch.arange(n_local), offsets.diff())
    neighbor_e = indices.long()
    a_e, b_e = types[centre_e].long(), types[neighbor_e].long()
    vectors_ec = positions[neighbor_e] - positions[centre_e]
    near = vectors_ec.detach().norm(dim=1) < repulsion.r_out[a_e, b_e]
    centre_e, a_e, b_e, r_e = centre_e[near], a_e[near], b_e[near], vectors_ec[near].norm(dim=1)
    z = repulsion.atomic_numbers
    u_e = (r_e - repulsion.r_in[a_e, b_e]) / (repulsion.r_out - repulsion.r_in)[a_e, b_e]
    energy_e = 0.5 * switch(u_e, 0.0, 1.0) * zbl(r_e, z[a_e], z[b_e])
    return torch.zeros(n_local, dtype=torch.float64).index_add(0, centre_e, energy_e)


# --- random numbers -----------------------------------------------------------------------------

_MULTIPLIER_0, _MULTIPLIER_1 = 0xD2511F53, 0xCD9E8D57
_WEYL_0, _WEYL_1 = 0x9E3779B9, 0xBB67AE85
_MASK = 0xFFFFFFFF
_ROUNDS = 10


def philox(
    counter: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], key: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Four words of 32 random bits for each counter of four words (int64 tensors, 0 .. 2³² − 1).

    Philox4x32-10: Salmon, Moraes, Dror & Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC11.
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
    """(n, 3) float64 standard normal numbers of `ids` (n,) int64, a function of the arguments.

    Box and Muller's transform of uniform numbers (k + ½)/2³², so the largest is 6.7. `seed` and
    `stream` are below 2³², `step` below 2⁶³.
    """
    word, upper = torch.full_like(ids, step & _MASK), torch.full_like(ids, step >> 32)
    bits = philox((ids & _MASK, ids >> 32, word, upper), (seed, stream))
    u0, u1, u2, u3 = ((b.double() + 0.5) * 2.0**-32 for b in bits)
    r0, r1 = torch.sqrt(-2.0 * torch.log(u0)), torch.sqrt(-2.0 * torch.log(u2))
    a0, a1 = 2.0 * math.pi * u1, 2.0 * math.pi * u3
    return torch.stack([r0 * torch.cos(a0), r0 * torch.sin(a0), r1 * torch.cos(a1)], dim=1)
