"""Tables of embedding networks and the way back to their weights, compiled and in plain torch."""

import pytest
import torch

from deepmd_lite import kernels
from deepmd_lite.model.activations import ACTIVATIONS
from deepmd_lite.model.networks import Embedding
from deepmd_lite.model.table import Grid, hermite_coefficients
from deepmd_lite.system import InputError

GRID = Grid(-0.4, 0.3, 21)


def networks(widths, activation="tanh", resnet_dt=True, copies=3):
    generator = torch.Generator().manual_seed(sum(widths))
    return Embedding(copies, 1, widths, activation, resnet_dt, generator)


def compiled(embedding, dtype=torch.float64, n_nodes=GRID.n_intervals + 1):
    return kernels.tabulated(embedding.layers(), GRID.start, GRID.spacing, n_nodes, dtype)


def both_ways(embedding, coefficients):
    """The coefficients and gradients of a weighted sum of them."""
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(coefficients.shape, generator=generator, dtype=torch.float64)
    loss = (coefficients.double() * weights).sum()
    return [coefficients, *torch.autograd.grad(loss, list(embedding.parameters()))]


def assert_close(found, expected, tolerance):
    for a, b in zip(found, expected, strict=True):
        a, b = a.detach(), b.detach()
        assert a.shape == b.shape
        assert float((a - b).abs().max()) <= tolerance * float(b.abs().max())


@pytest.fixture
def instruction_set():
    """Chooses an instruction set, for the length of a test."""
    before = kernels.instruction_set()
    yield kernels.set_instruction_set
    kernels.set_instruction_set(before)


@pytest.mark.parametrize("name", kernels.instruction_sets())
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_functions_and_instruction_sets(instruction_set, name, activation):
    instruction_set(name)
    embedding = networks([5, 10, 20], activation)
    truth = hermite_coefficients(embedding.jet(GRID.nodes()), GRID.spacing)
    assert_close(both_ways(embedding, compiled(embedding)), both_ways(embedding, truth), 2e-12)


@pytest.mark.parametrize("resnet_dt", [True, False])
@pytest.mark.parametrize(
    "widths", [[1], [3], [1, 2, 5], [7, 7, 14], [25, 50, 100], [40, 17]], ids=str
)
def test_widths_and_residual_connections(widths, resnet_dt):
    embedding = networks(widths, resnet_dt=resnet_dt)
    truth = hermite_coefficients(embedding.jet(GRID.nodes()), GRID.spacing)
    assert truth.shape[3] % kernels.FEATURE_PADDING == 0
    assert_close(both_ways(embedding, compiled(embedding)), both_ways(embedding, truth), 2e-12)


def test_float32_is_rounded_once():
    embedding = networks([4, 8]).to(torch.float32)
    exact = compiled(embedding)
    assert torch.equal(compiled(embedding, torch.float32), exact.to(torch.float32))
    single = both_ways(embedding, compiled(embedding, torch.float32))
    assert all(x.dtype == torch.float32 for x in single)
    assert_close(single, both_ways(embedding, exact), 1e-6)


def test_the_same_bits_for_any_number_of_threads():
    embedding, before = networks([5, 10], copies=5), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(both_ways(embedding, compiled(embedding)))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_one_node_is_a_parabola():
    embedding = networks([4])
    value, slope, curvature = embedding.jet(torch.tensor([GRID.start]))
    (found,) = compiled(embedding, n_nodes=1)[0]
    h = GRID.spacing
    expected = torch.stack([value[0, 0], h * slope[0, 0], 0.5 * h**2 * curvature[0, 0]])
    torch.testing.assert_close(found[:3, :4], expected)
    assert not found[3:].any()
    assert not found[:, 4:].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": "cosine"}, "activation 'cosine': expected one of"),
        ({"weights": []}, "expected networks and nodes, found 0"),
        ({"biases": [torch.zeros(3, 1, 4), torch.zeros(3, 1, 7)]}, "bias of layer 1"),
        ({"weights": [torch.zeros(3, 2, 4), torch.zeros(3, 4, 8)]}, "weight of layer 0"),
    ],
)
def test_what_does_not_fit(change, message):
    layers = networks([4, 8]).layers()
    given = {**vars(layers), **change}
    with pytest.raises(InputError, match=message):
        kernels.tabulated(kernels.EmbeddingLayers(**given), 0.0, 0.1, 5, torch.float64)


@pytest.mark.parametrize(("spacing", "n_nodes"), [(0.0, 5), (float("nan"), 5), (0.1, 0)])
def test_grids_that_are_none(spacing, n_nodes):
    with pytest.raises(InputError, match="expected"):
        kernels.tabulated(networks([4]).layers(), 0.0, spacing, n_nodes, torch.float64)
