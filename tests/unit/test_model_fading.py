"""Embeddings that fade with the distance, and tables of the distance."""

import itertools

import pytest
import torch

from deepmd_lite.kernels.reference import table_values
from deepmd_lite.model.fading import Distances, FadingEmbedding
from deepmd_lite.model.networks import Embedding
from deepmd_lite.model.table import Grid, hermite_coefficients

RCUT, RCUT_SMTH = 5.0, 2.0


def embedding(fading, protection=0.0, rcut_smth=RCUT_SMTH):
    generator = torch.Generator().manual_seed(3)
    network = Embedding(1, 1, [4, 8], "tanh", False, generator).requires_grad_(False)
    factors = torch.randn(4, 8, generator=generator, dtype=torch.float64)
    davg, dstd = torch.tensor([0.05, 0.1]).double(), torch.tensor([0.1, 0.15]).double()
    distances = Distances(RCUT, rcut_smth, protection, davg, dstd, fading)
    return FadingEmbedding(network, factors, distances)


@pytest.mark.parametrize("fading", ["switch", "cubic"])
@pytest.mark.parametrize("protection", [0.0, 0.4])
def test_the_jet_is_that_of_the_values(fading, protection):
    made = embedding(fading, protection)
    y = -torch.linspace(0.7, RCUT, 60, dtype=torch.float64)
    jet = made.jet(y)
    for table in range(4):
        place = y.clone().requires_grad_()
        value = made.values(torch.full((len(y),), table), place)
        for m in range(made.width):
            (slope,) = torch.autograd.grad(value[:, m].sum(), place, create_graph=True)
            (curvature,) = torch.autograd.grad(slope.sum(), place, retain_graph=True)
            for found, wanted in zip(jet, (value[:, m], slope, curvature), strict=True):
                torch.testing.assert_close(found[table, :, m], wanted, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("fading", ["switch", "cubic"])
def test_what_differs_between_pairs_ends_at_the_cutoff(fading):
    made = embedding(fading)
    place = -torch.tensor([RCUT, RCUT - 1e-4, RCUT - 0.5]).double()
    values = [made.values(torch.full((3,), table), place) for table in range(4)]
    for a, b in itertools.product(range(2), repeat=2):  # (0, 0) or (1, 0) is of the same centre
        difference = (values[2 * a + b] - values[2 * a]).abs().max(dim=1).values
        assert difference[0] == 0
        assert difference[1] < 1e-4
        assert b == 0 or difference[2] > 1e-3


@pytest.mark.parametrize("fading", ["switch", "cubic"])
def test_a_finer_table_is_much_nearer(fading):
    """Its third derivative jumps at rcut_smth, which is a node of every grid: fifth order or so."""
    made, errors = embedding(fading), []
    r = torch.linspace(0.8, RCUT, 4001, dtype=torch.float64)
    table = torch.zeros(len(r), dtype=torch.int64)
    grid = Grid.of_distances(RCUT, RCUT_SMTH, 0.8, 0.2)
    for _ in range(3):
        coefficients = hermite_coefficients(made.jet(grid.nodes()), grid.spacing)
        found, _ = table_values(coefficients, table, (-r - grid.start) / grid.spacing)
        errors.append(float((found[:, :8] - made.values(table, -r)).abs().max()))
        grid = grid.refined(1.3)
    assert errors[1] < errors[0] / 20
    assert errors[2] < errors[1] / 20


@pytest.mark.parametrize("shortest", [0.4, 0.9, 2.0, 3.0])
@pytest.mark.parametrize("rcut_smth", [0.0, 0.5, 2.0])
def test_grids_of_distances(shortest, rcut_smth):
    grid = Grid.of_distances(RCUT, rcut_smth, shortest, 0.2)
    for made in (grid, grid.refined(1.1), grid.refined(2.0)):
        nodes = -made.nodes()
        assert made.of_distance
        assert nodes[0] == RCUT
        assert 0 < nodes[-1] <= shortest + 1e-12
        assert made is not grid or nodes[-2] > shortest
        assert made.spacing <= 0.2 + 1e-12
        if shortest < rcut_smth:
            assert float((nodes - rcut_smth).abs().min()) < 1e-12
