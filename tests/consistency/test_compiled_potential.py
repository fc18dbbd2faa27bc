"""The compiled potential against torch: energies, forces, virial, for every instruction set.

The truth is `Potential.energies` in float64, differentiated by autograd.
"""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from models import environment_of, random_atoms

from deepmd_lite import kernels
from deepmd_lite.model import ModelConfig, Potential, statistics_from
from deepmd_lite.model.activations import VALUES
from deepmd_lite.system import InputError, LocalEnv

RCUT = 4.5
TOLERANCE = {"float64": 1e-12, "float32": 2e-5}
PRECISIONS = pytest.mark.parametrize("precision", ["float64", "float32"])


@pytest.fixture(params=kernels.instruction_sets(), autouse=True)
def instruction_set(request):
    """Every test runs on each instruction set that this processor has."""
    before = kernels.instruction_set()
    kernels.set_instruction_set(request.param)
    yield request.param
    kernels.set_instruction_set(before)


def structure(repeat=1):
    """Two elements, a skin around the list, periodic images as ghosts."""
    atoms = random_atoms("H8O16", 8.0, seed=5, skew=0.1).repeat(repeat)
    return environment_of(atoms, ["H", "O"], RCUT + 0.7).env


def potential_of(env, precision, *, descriptor=(), fitting=()):
    config = ModelConfig(
        type_map=["H", "O"],
        descriptor={
            **{"rcut": RCUT, "rcut_smth": 1.0, "neuron": [6, 12, 24], "axis_neuron": 4},
            **{"precision": precision, **dict(descriptor)},
        },
        fitting_net={"neuron": [24, 24], "precision": precision, **dict(fitting)},
    )
    potential = Potential(config, statistics_from([(env, -16.0)], config), seed=3)
    with torch.no_grad():  # forces of some eV/Å
        for fitting_net in potential.fitting:
            fitting_net.weight_out *= 30.0
    return potential


def truth(potential, env):
    positions = env.positions.clone().requires_grad_()
    energies = potential.to_precision("float64").energies(env, positions)
    (gradient,) = torch.autograd.grad(energies.sum(), positions)
    return energies.detach(), -gradient, -env.positions.T @ gradient


def assert_evaluates(potential, env, precision):
    expected = truth(potential, env)
    found = potential.to_precision(precision).evaluate(env)
    assert found.energies.dtype == found.forces.dtype == torch.float64
    for name, a, b in zip(
        ("energies", "forces", "virial"),
        (found.energies - potential.energy_bias[env.types[: env.n_local].long()], *vars_of(found)),
        (expected[0] - potential.energy_bias[env.types[: env.n_local].long()], *expected[1:]),
        strict=True,
    ):
        assert float(b.abs().max()) > 1e-3
        error = float((a - b).abs().max())
        assert error <= TOLERANCE[precision] * float(b.abs().max()), f"{name}: {error}"


def vars_of(evaluation):
    return evaluation.forces, evaluation.virial


@PRECISIONS
@pytest.mark.parametrize("one_side", [True, False], ids=["one-side", "pair-types"])
@pytest.mark.parametrize("activation", sorted(VALUES))
def test_every_activation_and_kind_of_embedding(precision, one_side, activation):
    env = structure()
    descriptor = {"type_one_side": one_side}
    fitting = {"activation_function": activation}
    potential = potential_of(env, precision, descriptor=descriptor, fitting=fitting)
    assert_evaluates(potential, env, precision)


@PRECISIONS
@pytest.mark.parametrize("resnet_dt", [True, False])
@pytest.mark.parametrize(
    "widths",
    [[1], [7], [24, 24, 24], [17, 34, 5], [96], [192, 96], [192, 384], [120, 240, 240]],
    ids=str,
)
def test_every_shape_of_the_network(precision, resnet_dt, widths):
    """Residual connections of one and two copies, in the first layer (96 inputs) and later."""
    env = structure()
    fitting = {"neuron": widths, "resnet_dt": resnet_dt}
    assert_evaluates(potential_of(env, precision, fitting=fitting), env, precision)


@PRECISIONS
@pytest.mark.parametrize(("width", "axis"), [(5, 5), (16, 1), (31, 7), (100, 16)])
def test_every_shape_of_the_descriptor(precision, width, axis):
    env = structure()
    descriptor = {"neuron": [5, width], "axis_neuron": axis}
    assert_evaluates(potential_of(env, precision, descriptor=descriptor), env, precision)


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
    assert_evaluates(potential, env, precision)


@PRECISIONS
@pytest.mark.parametrize("one_side", [True, False], ids=["one-side", "pair-types"])
@pytest.mark.parametrize(("width", "first"), [(5, 5), (16, 32), (31, 9), (100, 24)])
def test_a_descriptor_of_distances_alone(precision, one_side, width, first):
    """Padded or not; the first layer with and without residual connections."""
    env = structure()
    descriptor = {"type": "se_e2_r", "neuron": [5, width], "type_one_side": one_side}
    descriptor["exclude_types"] = [(0, 1)]
    fitting = {"neuron": [first, 24]}
    potential = potential_of(env, precision, descriptor=descriptor, fitting=fitting)
    assert_evaluates(potential, env, precision)


@PRECISIONS
def test_a_protection_of_distances(precision):
    env = structure()
    potential = potential_of(env, precision, descriptor={"env_protection": 0.5})
    assert_evaluates(potential, env, precision)


def test_fewer_slots_than_neighbours():
    """`sel` is a normalisation: what exceeds it counts with a negative number of empty slots."""
    env = structure()
    potential = potential_of(env, "float64", descriptor={"sel": [3, 5]})
    assert_evaluates(potential, env, "float64")


@PRECISIONS
def test_the_same_bits_for_any_number_of_threads(precision):
    """Blocks differ with the number of threads, results do not."""
    env = structure(repeat=(2, 2, 3))
    potential = potential_of(env, precision).freeze()
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            results.append(potential.evaluate(env))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert torch.equal(other.energies, results[0].energies)
        assert torch.equal(other.forces, results[0].forces)
        assert torch.equal(other.virial, results[0].virial)


@PRECISIONS
def test_more_edges_than_a_round(precision):
    """A million edges and more are handled in rounds: the same as atom by atom, in any threads."""
    env = structure(repeat=(2, 2, 2))
    potential = potential_of(env, precision, descriptor={"sel": [300_000, 300_000]}).freeze()
    indices = env.indices.repeat(240)  # each neighbour of an atom 240 times
    row = torch.repeat_interleave(torch.arange(env.n_local), env.offsets.diff()).repeat(240)
    many = LocalEnv(
        env.positions, env.types, env.n_local, env.offsets * 240, indices[row.argsort(stable=True)]
    )
    assert many.n_edges > 2**20
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(potential.evaluate(many))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0].forces, results[1].forces)
    assert torch.equal(results[0].virial, results[1].virial)
    assert_evaluates(potential, many, precision)


def test_a_list_of_another_number_of_atoms_is_refused():
    env = structure()
    potential = potential_of(env, "float64")
    for n_local in (1, env.n_local + 1):
        wrong = LocalEnv(env.positions, env.types, n_local, env.offsets, env.indices)
        with pytest.raises(InputError, match=f"expected {n_local + 1} entries for {n_local} local"):
            potential.evaluate(wrong)


def test_a_block_without_one_of_the_elements():
    env = structure()
    kept = env.types[: env.n_local] == 1
    offsets = torch.zeros(env.n_local + 1, dtype=torch.int64)
    offsets[1:] = (env.offsets.diff() * kept).cumsum(0)
    indices = env.indices[torch.repeat_interleave(kept, env.offsets.diff())]
    only = LocalEnv(env.positions, torch.ones_like(env.types), env.n_local, offsets, indices)
    assert_evaluates(potential_of(env, "float64"), only, "float64")


def test_a_frozen_potential_follows_its_precision():
    env = structure()
    potential = potential_of(env, "float64").freeze()
    double = potential.evaluate(env).forces
    single = potential.to_precision("float32").evaluate(env).forces
    error = float((double - single).abs().max())
    assert 0 < error < 1e-4


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_evaluates_the_same(copied):
    env = structure()
    potential = potential_of(env, "float64").freeze()
    expected = potential.evaluate(env)
    assert torch.equal(copied(potential).evaluate(env).forces, expected.forces)


def test_wrong_networks_are_refused():
    env = structure()
    potential = potential_of(env, "float64")

    def network(n_in, n_out, n_last):
        zeros = torch.zeros(n_in, n_out), torch.zeros(n_out), torch.zeros(n_last)
        return kernels.Network([zeros[0]], [zeros[1]], [None], zeros[2], torch.zeros(1))

    def compiled(*networks, activation="tanh"):
        fitting = kernels.Fitting([kernels.Shape(24, 4)], activation, networks)
        d = potential.descriptor
        part = kernels.Descriptor(d.coefficients(), d.environment(), [10, 10])
        return kernels.CompiledPotential([part], fitting)

    with pytest.raises(
        InputError, match=r"weights of the output: expected shape \(8\), found \(7,\)"
    ):
        compiled(*[network(96, 8, 7)] * 2)
    with pytest.raises(InputError, match="expected 96 inputs, found 95"):
        compiled(*[network(95, 8, 8)] * 2)
    with pytest.raises(InputError, match="sel and networks of 2 elements, found 2 and 1"):
        compiled(network(96, 8, 8))
    with pytest.raises(InputError, match="activation 'swish'"):
        compiled(*[network(96, 8, 8)] * 2, activation="swish")
    compiled(*[network(96, 8, 8)] * 2)
