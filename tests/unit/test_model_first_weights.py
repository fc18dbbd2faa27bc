"""The first layer of the embedding before training: steps at distances that are spread evenly."""

import pytest
import torch

from deepmd_lite.kernels.reference import switch
from deepmd_lite.model.first_weights import STEEPEST, WIDTH, spread_over_distances
from deepmd_lite.model.networks import Embedding

RCUT, RCUT_SMTH, SHORTEST, SPACING = 6.0, 0.5, 0.7, 0.2


def s_of_r(r):
    return (switch(r, RCUT_SMTH, RCUT) / r - 0.05) / 0.15


def first_layer(n_units=25, copies=2, seed=0, spacing=SPACING):
    generator = torch.Generator().manual_seed(seed)
    embedding = Embedding(copies, 1, [n_units, 2 * n_units], "tanh", False, generator)
    spread_over_distances(embedding, s_of_r, SHORTEST, RCUT, spacing, generator)
    weight, bias, _ = embedding.parameters_of(0)
    return weight.detach()[:, 0], bias.detach()[:, 0]


def distances_of(s):
    """Distances of values of s̃, to a thousandth of an Å."""
    r = torch.linspace(SHORTEST, RCUT, 6000, dtype=torch.float64)
    falling = s_of_r(r)
    return r[torch.searchsorted(-falling, -s).clamp(max=len(r) - 1)]


@pytest.mark.parametrize("n_units", [5, 25])
def test_every_stretch_of_distance_has_a_unit(n_units):
    weight, bias = first_layer(n_units)
    centres = distances_of(-bias / weight)
    stretch = ((centres - SHORTEST) / (RCUT - SHORTEST) * n_units).floor()
    assert torch.equal(stretch, torch.arange(n_units).expand(2, -1).double())


@pytest.mark.parametrize("n_units", [5, 25])
def test_the_argument_changes_by_one_in_the_width_or_as_much_as_the_table_resolves(n_units):
    weight, bias = first_layer(n_units)
    half = 0.5 * max(WIDTH, (RCUT - SHORTEST) / n_units)
    centres = distances_of(-bias / weight)
    inner, outer = (centres - half).clamp(min=SHORTEST), (centres + half).clamp(max=RCUT)
    change = weight.abs() * (s_of_r(inner) - s_of_r(outer))
    limited = weight.abs() * SPACING > STEEPEST - 1e-9
    assert (weight.abs() * SPACING <= STEEPEST + 1e-9).all()
    torch.testing.assert_close(
        change[~limited], torch.ones_like(change[~limited]), rtol=0.02, atol=0
    )
    assert (change[limited] < 1.02).all()
    assert 0 < limited.sum() < limited.numel()


def test_a_finer_table_allows_steeper_units():
    assert first_layer(spacing=0.02)[0].abs().max() > 2 * first_layer()[0].abs().max()


def test_weights_are_a_function_of_the_seed_and_differ_between_networks():
    weight, bias = first_layer()
    for found, expected in zip(first_layer(), (weight, bias), strict=True):
        assert torch.equal(found, expected)
    assert not torch.equal(first_layer(seed=1)[0], weight)
    assert not torch.equal(weight[0], weight[1])
    assert (weight > 0).any()
    assert (weight < 0).any()
