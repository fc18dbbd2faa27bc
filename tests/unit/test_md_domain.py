"""The geometry of domain decomposition."""

import numpy as np
import pytest

from deepmd_lite.md.domain import (
    Domain,
    balanced,
    bounds,
    checked_grid,
    choose_grid,
    histogram,
    occupied_lengths,
)
from deepmd_lite.system import InputError

TRICLINIC = np.array([[12.0, 0.0, 0.0], [5.0, 11.0, 0.0], [-3.0, 2.0, 14.0]])
PERIODIC = (True, True, True)


def uniform(cell, pbc, grid):
    cuts = tuple(np.arange(n + 1) / n for n in grid)
    return Domain(np.asarray(cell, dtype=float), pbc, cuts)


@pytest.mark.parametrize(
    ("lengths", "n_ranks", "expected"),
    [
        ([10, 10, 10], 8, (2, 2, 2)),
        ([10, 10, 40], 4, (1, 1, 4)),
        ([40, 40, 10], 4, (2, 2, 1)),
        ([10, 30, 20], 6, (1, 3, 2)),
        ([10, 10, 10], 1, (1, 1, 1)),
    ],
)
def test_grid_has_the_least_surface(lengths, n_ranks, expected):
    assert choose_grid(lengths, n_ranks) == expected


def test_grid_must_fit_the_ranks():
    assert checked_grid([2, 3, 1], 6) == (2, 3, 1)
    with pytest.raises(InputError, match=r"grid \[2, 2, 1\]: 4 subdomains for 6 ranks"):
        checked_grid([2, 2, 1], 6)


@pytest.mark.parametrize("pbc", [PERIODIC, (True, False, True), (False, False, False)])
def test_every_point_has_one_owner_whose_subdomain_holds_it(pbc):
    domain = uniform(TRICLINIC, pbc, (3, 2, 4))
    points = np.random.default_rng(0).uniform(-60, 60, (5000, 3))
    wrapped = points + domain.wrap(points) @ TRICLINIC
    owner = domain.owner(wrapped)
    assert owner.min() == 0
    assert owner.max() == domain.size - 1
    s = domain.fractional(wrapped)
    for rank in range(domain.size):
        for axis, i in enumerate(domain.grid_position(rank)):
            mine, n = s[owner == rank, axis], domain.grid[axis]
            low = -np.inf if i == 0 and not pbc[axis] else i / n
            high = np.inf if i == n - 1 and not pbc[axis] else (i + 1) / n
            assert (mine >= low - 1e-12).all()
            assert (mine < high + 1e-12).all()


def test_wrapping_is_idempotent_on_faces():
    """Round-off at a face must not make an atom hop to and fro."""
    domain = uniform(TRICLINIC, PERIODIC, (2, 2, 2))
    lattice = np.stack(np.meshgrid(*[np.arange(-3, 4)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    points = (lattice / 2) @ TRICLINIC
    points = np.concatenate([points, points + 1e-15, points - 1e-14])
    once = points + domain.wrap(points) @ TRICLINIC
    assert not domain.wrap(once).any()
    s = domain.fractional(once)
    assert (np.abs(s - 0.5) < 0.5 + 1e-11).all()


def test_neighbors_and_their_shifts():
    domain = uniform(TRICLINIC, (True, False, True), (3, 2, 1))
    for rank in range(domain.size):
        i, j, k = domain.grid_position(rank)
        partner, shift = domain.neighbor(rank, 0, 1)
        assert domain.grid_position(partner) == ((i + 1) % 3, j, k)
        assert shift == (-1 if i == 2 else 0)
        assert domain.neighbor(partner, 0, -1) == (rank, -shift)
        below = domain.neighbor(rank, 1, -1)
        assert below[0] is None if j == 0 else domain.grid_position(below[0]) == (i, j - 1, k)
        assert domain.neighbor(rank, 2, -1) == (rank, 1)


@pytest.mark.parametrize(
    ("n", "margin", "periodic", "expected"),
    [
        (4, 0.2, True, 1),
        (4, 0.3, True, 2),
        (4, 2.4, True, 10),
        (1, 0.2, True, 1),
        (1, 2.5, True, 3),
        (4, 0.3, False, 2),
        (4, 5.0, False, 3),
        (1, 0.3, False, 0),
    ],
)
def test_hops(n, margin, periodic, expected):
    domain = uniform(np.eye(3) * 10, (periodic,) * 3, (n, 1, 1))
    assert domain.hops(0, margin) == expected


def test_hops_of_uneven_subdomains():
    cuts = np.array([0.0, 0.1, 0.15, 0.9, 1.0])
    domain = Domain(np.eye(3) * 10, PERIODIC, (cuts, np.array([0.0, 1.0]), np.array([0.0, 1.0])))
    assert domain.hops(0, 0.12) == 2
    assert domain.hops(0, 0.2) == 3
    assert domain.hops(0, 0.26) == 4


def test_an_absurdly_small_cell_is_an_error():
    domain = uniform(np.eye(3) * 0.01, PERIODIC, (1, 1, 1))
    with pytest.raises(InputError, match="far too small"):
        domain.hops(0, domain.margins(6.0)[0])


def test_planes_divide_the_atoms_evenly_and_keep_off_the_crystal():
    s = (np.arange(12) / 12.0)[:, None] * np.ones(3)
    low, high = bounds(PERIODIC, s.min(axis=0), s.max(axis=0))
    domain = balanced(np.eye(3) * 24, PERIODIC, (4, 3, 1), histogram(s, low, high), low, high)
    inner = domain.cuts[0][1:-1]
    assert np.allclose(inner, (np.array([3, 6, 9]) - 0.5) / 12, atol=1e-3)
    assert np.bincount(domain.owner(s * 24) // 3).tolist() == [3, 3, 3, 3]


def test_vacuum_is_not_cut():
    """Atoms in a tenth of a long cell: planes go where they are, and the grid knows the length."""
    rng = np.random.default_rng(1)
    s = rng.random((4000, 3)) * [1, 1, 0.1] + [0, 0, 0.4]
    cell = np.diag([30.0, 30.0, 300.0])
    low, high = bounds(PERIODIC, s.min(axis=0), s.max(axis=0))
    counts = histogram(s, low, high)
    assert choose_grid(occupied_lengths(cell, counts, high - low), 4) != (1, 1, 4)
    domain = balanced(cell, PERIODIC, (1, 1, 4), counts, low, high)
    sizes = np.bincount(domain.owner(s @ cell), minlength=4)
    assert sizes.max() < 1.05 * sizes.mean()
