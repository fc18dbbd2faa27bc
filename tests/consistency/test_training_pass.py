"""Energies, forces and the derivatives of a loss on both: the compiled pass against autograd.

The truth is `Potential.energies` in float64, differentiated twice by torch.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_compiled_potential import instruction_set, potential_of, structure  # noqa: F401

from deepmd_lite import kernels
from deepmd_lite.model.activations import VALUES
from deepmd_lite.system import InputError, LocalEnv

TOLERANCE = {"float64": 1e-12, "float32": 2e-5}
PRECISIONS = pytest.mark.parametrize("precision", ["float64", "float32"])


def loss_of(energies, forces):
    """Every energy and force component with a weight of its own."""
    generator = torch.Generator().manual_seed(1)
    a = torch.randn(energies.shape, generator=generator, dtype=torch.float64)
    b = torch.randn(forces.shape, generator=generator, dtype=torch.float64)
    return (a * energies).sum() + (b * forces).sum()


def gradients_of(potential, loss):
    potential.zero_grad()
    loss.backward()
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.double()
        for name, p in potential.named_parameters()
    }


def by_autograd(potential, env):
    positions = env.positions.clone().requires_grad_()
    energies = potential.energies(env, positions)
    (gradient,) = torch.autograd.grad(energies.sum(), positions, create_graph=True)
    return energies, -gradient


def assert_trains(potential, env, precision):
    truth = by_autograd(potential.to_precision("float64"), env)
    expected = gradients_of(potential, loss_of(*truth))
    found = potential.to_precision(precision).energies_and_forces(env)
    for a, b in zip(found, truth, strict=True):
        error = float((a - b).detach().abs().max())
        assert error <= TOLERANCE[precision] * float(b.detach().abs().max())
    scale = max(float(g.abs().max()) for g in expected.values())
    for name, g in gradients_of(potential, loss_of(*found)).items():
        error = float((g - expected[name]).abs().max())
        largest = max(float(expected[name].abs().max()), 1e-3 * scale)
        assert error <= 5 * TOLERANCE[precision] * largest, f"{name}: {error} of {largest}"


@PRECISIONS
@pytest.mark.parametrize("activation", sorted(VALUES))
def test_every_activation(precision, activation):
    env = structure()
    fitting = {"activation_function": activation}
    assert_trains(potential_of(env, precision, fitting=fitting), env, precision)


@PRECISIONS
@pytest.mark.parametrize("resnet_dt", [True, False])
@pytest.mark.parametrize("widths", [[1], [7], [24, 24, 24], [17, 34, 5], [96], [192, 384]], ids=str)
def test_every_shape_of_the_network(precision, resnet_dt, widths):
    """Residual connections of one and two copies, in the first layer (96 inputs) and later."""
    env = structure()
    fitting = {"neuron": widths, "resnet_dt": resnet_dt}
    assert_trains(potential_of(env, precision, fitting=fitting), env, precision)


@pytest.mark.parametrize(("width", "axis"), [(5, 5), (16, 1), (31, 7), (100, 16)])
def test_every_shape_of_the_descriptor(width, axis):
    env = structure()
    descriptor = {"neuron": [5, width], "axis_neuron": axis, "type_one_side": True}
    assert_trains(potential_of(env, "float64", descriptor=descriptor), env, "float64")


@PRECISIONS
@pytest.mark.parametrize("one_side", [True, False], ids=["one-side", "pair-types"])
@pytest.mark.parametrize(
    ("width", "axis", "cubic", "l_max", "first"),
    [
        (5, 5, 0, 2, 55),
        (5, 5, 2, 2, 65),
        (16, 1, 4, 2, 24),
        (31, 7, 8, 2, 24),
        (31, 7, 1, 3, 24),
        (5, 5, 2, 4, 115),
        (31, 3, 0, 4, 24),
    ],
)
def test_moments_of_second_degree_and_higher(precision, one_side, width, axis, cubic, l_max, first):
    """With and without residual connections of the first layer."""
    env = structure()
    descriptor = {"type": "se_e2_q", "neuron": [5, width], "axis_neuron": axis}
    descriptor |= {"type_one_side": one_side, "cubic_neuron": cubic, "l_max": l_max}
    fitting = {"neuron": [first, 24]}
    potential = potential_of(env, precision, descriptor=descriptor, fitting=fitting)
    assert_trains(potential, env, precision)


@PRECISIONS
@pytest.mark.parametrize(("width", "first"), [(5, 5), (16, 32), (31, 9)])
@pytest.mark.parametrize("one_side", [True, False], ids=["one-side", "pair-types"])
def test_a_descriptor_of_distances_alone(precision, width, first, one_side):
    env = structure()
    descriptor = {"type": "se_e2_r", "neuron": [5, width], "type_one_side": one_side}
    descriptor["exclude_types"] = [(1, 1)]
    fitting = {"neuron": [first, 24], "resnet_dt": True}
    potential = potential_of(env, precision, descriptor=descriptor, fitting=fitting)
    assert_trains(potential, env, precision)


def test_more_atoms_than_a_block():
    """288 atoms of one type: more than the products take at a time (192), too."""
    env = structure(repeat=(2, 3, 3))
    assert_trains(potential_of(env, "float64"), env, "float64")


def test_a_batch_without_one_of_the_elements():
    """The gradient of the absent element's weights is zero, whatever memory held before."""
    env = structure()
    potential = potential_of(env, "float64")
    gradients_of(potential, loss_of(*potential.energies_and_forces(env)))
    kept = env.types[: env.n_local] == 1
    rows = torch.repeat_interleave(kept, env.offsets.diff()) & (env.types[env.indices.long()] == 1)
    centre = torch.repeat_interleave(torch.arange(env.n_local), env.offsets.diff())[rows]
    counts = torch.bincount(centre, minlength=env.n_local)[kept]
    order = torch.cat([kept.nonzero()[:, 0], torch.arange(env.n_local, env.n_all)])
    place = torch.full((env.n_all,), -1)
    place[order] = torch.arange(len(order))
    only = LocalEnv(
        env.positions[order],
        env.types[order],
        int(kept.sum()),
        torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]),
        place[env.indices[rows].long()].int(),
    )
    found = gradients_of(potential, loss_of(*potential.energies_and_forces(only)))
    assert not any(g.any() for name, g in found.items() if name.startswith("fitting.0"))
    assert_trains(potential, only, "float64")


@pytest.mark.parametrize("part", ["energies", "forces"])
def test_a_loss_on_one_of_the_two(part):
    env = structure()
    potential = potential_of(env, "float64")
    k = ("energies", "forces").index(part)
    found = gradients_of(potential, potential.energies_and_forces(env)[k].square().sum())
    expected = gradients_of(potential, by_autograd(potential, env)[k].square().sum())
    for name, truth in expected.items():
        limit = 1e-11 * max(float(truth.abs().max()), 1e-3)
        assert float((found[name] - truth).abs().max()) <= limit, name


@PRECISIONS
def test_the_same_bits_for_any_number_of_threads(precision):
    env = structure(repeat=(2, 2, 3))
    potential = potential_of(env, precision)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            energies, forces = potential.energies_and_forces(env)
            potential.zero_grad()
            loss_of(energies, forces).backward()
            fitting = [p.grad for n, p in potential.named_parameters() if "fitting" in n]
            results.append([energies.detach(), forces.detach(), *fitting])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, results[0], strict=True))


def test_passes_that_overlap_do_not_disturb_each_other():
    """Two graphs alive at a time, gone back through in the other order."""
    env = structure()
    potential = potential_of(env, "float64")
    losses = [loss_of(*potential.energies_and_forces(env)) * factor for factor in (1.0, 2.0)]
    second = gradients_of(potential, losses[1])
    first = gradients_of(potential, losses[0])
    for name, g in first.items():
        torch.testing.assert_close(2 * g, second[name], rtol=1e-12, atol=0)


def test_a_second_way_back_is_refused():
    env = structure()
    loss = loss_of(*potential_of(env, "float64").energies_and_forces(env))
    loss.backward(retain_graph=True)
    with pytest.raises(InputError, match="one way back from each"):
        loss.backward()


def test_derivatives_by_finite_differences():
    generator = torch.Generator().manual_seed(0)
    moments = torch.randn(3, 4, 16, generator=generator, dtype=torch.float64)
    weights = [torch.randn(s, generator=generator).double() for s in ((15, 6), (6, 6))]
    biases = [torch.randn(6, generator=generator).double() for _ in weights]
    steps = [None, torch.randn(6, generator=generator).double()]
    out = torch.randn(6, generator=generator).double()

    def loss(t, w0, w1, b0, b1, step, out, bias):
        network = kernels.Network([w0, w1], [b0, b1], [None, step], out, bias)
        fitting = kernels.Fitting([kernels.Shape(5, 3)], "tanh", [network])
        types = torch.zeros(3, dtype=torch.int32)
        energies, (gradient,) = kernels.energies_and_gradients([t], types, fitting)
        return loss_of(energies, gradient)

    inputs = [moments, *weights, *biases, steps[1], out, torch.ones(1).double()]
    for x in inputs:
        x.requires_grad_()
    gradients = torch.autograd.grad(loss(*inputs), inputs)
    for k, gradient in enumerate(gradients):
        with torch.no_grad():
            direction = torch.randn(inputs[k].shape, generator=generator).double()
            ends = []
            for h in (1e-5, -1e-5):
                moved = [x + h * direction if j == k else x for j, x in enumerate(inputs)]
                ends.append(loss(*moved))
            expected = float(ends[0] - ends[1]) / 2e-5
        assert float((gradient * direction).sum()) == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_arguments_that_do_not_fit_are_refused():
    env = structure()
    fitting = potential_of(env, "float64")._fitting()
    types = torch.zeros(3, dtype=torch.int32)
    for shape in ((2, 4, 32), (3, 3, 32), (12, 32)):
        with pytest.raises(InputError, match=r"moments: expected shape \(3, 4, any\), found"):
            kernels.energies_and_gradients([torch.zeros(shape).double()], types, fitting)
    with pytest.raises(InputError, match="moments: 31 features; pad with zeros"):
        kernels.energies_and_gradients([torch.zeros(3, 4, 31).double()], types, fitting)
    moments = torch.zeros(3, 4, 32).double()
    with pytest.raises(InputError, match=r"moments: expected torch\.float64, found torch\.int32"):
        kernels.energies_and_gradients([moments.int()], types, fitting)
    with pytest.raises(InputError, match=r"types: expected torch\.int32, found torch\.int64"):
        kernels.energies_and_gradients([moments], types.long(), fitting)
    with pytest.raises(InputError, match=r"types: expected shape \(any\), found \(3, 1\)"):
        kernels.energies_and_gradients([moments], types[:, None], fitting)
    with pytest.raises(InputError, match="expected a network for each element, found none"):
        kernels.energies_and_gradients([moments], types, replace(fitting, networks=[]))
    for changes in ({"biases": []}, {"weights": [], "biases": [], "steps": []}):
        networks = [replace(network, **changes) for network in fitting.networks]
        with pytest.raises(InputError, match="a weight, bias and step"):
            kernels.energies_and_gradients([moments], types, replace(fitting, networks=networks))
    with pytest.raises(InputError, match="the type of atom 0 is 2; there are 2 types"):
        kernels.energies_and_gradients([moments], types + 2, fitting)
