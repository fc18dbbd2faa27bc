"""Neighbourhoods that no sane simulation has: huge rows, empty rows, atoms on top of each other.

Whatever comes in, the result is finite and right, or there is an error that says what is wrong.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from models import environment_of, random_atoms, random_potential

import deepmd_lite as dpl
from deepmd_lite import kernels
from deepmd_lite.model import ModelConfig, Potential, statistics_from
from deepmd_lite.system import InputError, LocalEnv

RCUT, RCUT_SMTH = 6.0, 0.5
N_ROW, N_FEATURES = 100_000, 16
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-4}
"""float32 adds up 100,000 terms, each with a rounding error of 6e-8."""

BOTH = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
PRECISIONS = pytest.mark.parametrize("precision", ["float64", "float32"])


@pytest.fixture(params=kernels.instruction_sets())
def compiled(request):
    """The compiled operation of each instruction set."""
    before = kernels.instruction_set()
    kernels.set_instruction_set(request.param)
    yield kernels.moments
    kernels.set_instruction_set(before)


def ball(n, seed=0):
    """Row 0 at the origin and n rows around it, evenly between 1 Å and the cutoff."""
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    direction /= direction.norm(dim=1, keepdim=True)
    volume = torch.rand(n, 1, generator=generator, dtype=torch.float64)
    radius = (1.0 + volume * (RCUT**3 - 1.0)) ** (1 / 3)
    return torch.cat([torch.zeros(1, 3, dtype=torch.float64), direction * radius])


class Neighbourhoods:
    """Arguments of the moments for given positions, and everything that can be asked of them."""

    def __init__(self, positions, n_local, seed=1):
        generator = torch.Generator().manual_seed(seed)
        self.positions, self.n_local = positions, n_local
        self.types = (torch.arange(len(positions)) % 2).int()
        self.offsets, self.indices = kernels.neighbor_list(positions, self.types, n_local, RCUT)
        mean, width = torch.full((2, 4), 0.1).double(), torch.full((2, 4), 0.3).double()
        self.environment = kernels.Environment(RCUT, RCUT_SMTH, mean, width, True, -0.5, 0.25)
        self.coefficients = torch.randn(2, 16, 6, N_FEATURES, generator=generator).double()
        self.coefficients[:, -1, 3:] = 0  # a continuation is a parabola
        shape = (n_local, kernels.COLUMNS, N_FEATURES)
        self.grad = torch.randn(shape, generator=generator).double()
        self.tangent = torch.randn(positions.shape, generator=generator).double()

    def all_orders(self, moments, dtype):
        """Values and first and second derivatives, by name."""
        positions = self.positions.clone().requires_grad_()
        coefficients = self.coefficients.to(dtype).requires_grad_()
        grad = self.grad.to(dtype).requires_grad_()
        value, counts, beyond = moments(
            positions, self.types, self.offsets, self.indices, coefficients, self.environment
        )
        first = torch.autograd.grad(value, [positions, coefficients], grad, create_graph=True)
        second = torch.autograd.grad(first[0], [grad, positions, coefficients], self.tangent)
        found = [value, counts, torch.tensor(beyond), *first, *second]
        names = ("moments", "counts", "beyond", "forces", "table", "moved", "hessian", "mixed")
        return {name: x.detach() for name, x in zip(names, found, strict=True)}


def assert_close(found, expected, tolerance):
    for name, truth in expected.items():
        assert torch.isfinite(found[name]).all(), name
        if truth.is_floating_point():
            error = float((found[name].double() - truth.double()).abs().max())
            assert error <= tolerance * float(truth.abs().max()), f"{name}: {error}"
        else:
            assert torch.equal(found[name], truth), name


# --- a row of 100,000 neighbours -----------------------------------------------------------------


@pytest.fixture(scope="module")
def dense():
    case = Neighbourhoods(ball(N_ROW), n_local=1)
    assert len(case.indices) == N_ROW
    return case, case.all_orders(kernels.reference.moments, torch.float64)


@BOTH
def test_a_hundred_thousand_neighbours(compiled, dense, dtype):
    case, expected = dense
    assert int(expected["counts"].sum()) == N_ROW
    assert_close(case.all_orders(compiled, dtype), expected, TOLERANCE[dtype])


def test_the_list_of_a_hundred_thousand_neighbours(dense):
    """The row is complete, sorted by type and then by index; no time is lost on the ghosts."""
    case, _ = dense
    order = torch.argsort(case.types[1:], stable=True) + 1
    assert torch.equal(case.indices.long(), order)


def test_the_same_bits_on_two_threads_for_a_huge_row_among_small_ones(dense):
    """One row outweighs all others: blocks of threads differ in size by five orders."""
    around = dense[0].positions
    far = torch.arange(40, dtype=torch.float64)[:, None] * torch.tensor([3.0, 0, 0]) + 30.0
    case = Neighbourhoods(torch.cat([around[:1], far.double(), around[1:]]), n_local=41)
    assert int(case.offsets.diff().max()) == N_ROW
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(case.all_orders(kernels.moments, torch.float32))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


@PRECISIONS
def test_a_potential_with_a_hundred_thousand_neighbours(dense, precision):
    """With a `sel` to match, so that the descriptor is of order 1 and the network answers."""
    case, _ = dense
    expected = evaluated(potential_of_large_rows("float64"), case)
    found = evaluated(potential_of_large_rows(precision), case)
    neighbours = expected.forces[1:]
    assert neighbours.any()
    pairs = {
        "energy": (found.energies, expected.energies),
        "forces on the neighbours": (found.forces[1:], neighbours),
        "virial": (found.virial, expected.virial),
    }
    for name, (value, truth) in pairs.items():
        assert torch.isfinite(value).all(), name
        error = float((value - truth).abs().max())
        # the moments of float32 are good to 5e-5; in the virial much of the sum cancels
        assert error <= 5e-3 * float(truth.abs().max()), name
    for forces in (expected.forces, found.forces):  # 100,000 of them nearly cancel in the centre's
        rounding = 1e-6 if precision == "float32" else 1e-13
        assert forces.sum(dim=0).abs().max() <= rounding * float(neighbours.abs().sum())


def potential_of_large_rows(precision):
    descriptor = {"rcut": RCUT, "neuron": [6, 12, 24], "sel": [5 * N_ROW] * 2}
    config = ModelConfig(
        type_map=["H", "O"],
        descriptor={**descriptor, "precision": precision},
        fitting_net={"neuron": [24, 24], "precision": precision},
    )
    sample = environment_of(random_atoms("H8O8", 7.0, seed=3), config.type_map, RCUT)
    return Potential(config, statistics_from([(sample.env, -16.0)], config), seed=3).freeze()


def evaluated(potential, case):
    return potential.evaluate(
        LocalEnv(case.positions, case.types, case.n_local, case.offsets, case.indices)
    )


# --- rows without neighbours, systems without atoms ----------------------------------------------


@PRECISIONS
def test_atoms_without_neighbours(precision):
    """Alone, or in the company of others: the same energy, and no force."""
    potential = random_potential(("H", "O"), precision=precision)
    lonely = potential.evaluate(environment_of(Atoms("O"), ["H", "O"], potential.rcut).env)
    assert torch.isfinite(lonely.energies).all()
    assert not lonely.forces.any()
    assert not lonely.virial.any()
    atoms = Atoms("OHOHH", [[0, 0, 0], [90, 0, 0], [30, 0, 0], [31, 0, 0], [-1e7, 1e7, 3e6]])
    found = potential.evaluate(environment_of(atoms, ["H", "O"], potential.rcut).env)
    same = pytest.approx(float(lonely.energies[0]), rel=1e-6 if precision == "float32" else 1e-13)
    assert float(found.energies[0]) == same
    assert float(found.energies[2]) != same
    assert found.forces.any(dim=1).tolist() == [False, False, True, True, False]


@PRECISIONS
@pytest.mark.parametrize("n_ghosts", [0, 5])
def test_no_local_atoms(precision, n_ghosts):
    potential = random_potential(precision=precision)
    positions = torch.rand(n_ghosts, 3, dtype=torch.float64)
    types = torch.zeros(n_ghosts, dtype=torch.int32)
    offsets, indices = kernels.neighbor_list(positions, types, 0, potential.rcut)
    found = potential.evaluate(LocalEnv(positions, types, 0, offsets, indices))
    assert found.energies.shape == (0,)
    assert found.forces.shape == (n_ghosts, 3)
    assert not found.forces.any()
    assert found.virial.tolist() == [[0.0] * 3] * 3
    assert found.beyond_table == 0


@pytest.mark.parametrize("n_ghosts", [0, 5])
@BOTH
def test_moments_of_no_local_atoms(compiled, n_ghosts, dtype):
    case = Neighbourhoods(torch.rand(n_ghosts, 3, dtype=torch.float64), n_local=0)
    found = case.all_orders(compiled, dtype)
    assert found["moments"].shape == (0, kernels.COLUMNS, N_FEATURES)
    assert found["forces"].shape == (n_ghosts, 3)
    assert not any(value.any() for value in found.values())


# --- atoms far too close -------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("distance", [0.1, 0.01])
def test_two_atoms_far_too_close(compiled, dtype, distance):
    """Both edges of the pair lie in the continuation of the table, are counted, and are right."""
    positions = torch.tensor([[0.0, 0, 0], [0.6, 0.64, 0.48], [0, 3, 0]], dtype=torch.float64)
    positions[1] *= distance
    case = Neighbourhoods(positions, n_local=3)
    expected = case.all_orders(kernels.reference.moments, torch.float64)
    assert int(expected["beyond"]) == 2
    assert_close(case.all_orders(compiled, dtype), expected, 10 * min(TOLERANCE[dtype], 1e-5))


@PRECISIONS
def test_the_calculator_warns_of_two_atoms_at_a_tenth_of_an_angstrom(precision):
    """Energy and forces are finite, the forces opposite, and the extrapolation is reported."""
    atoms = Atoms("Si3", [[0, 0, 0], [0.1, 0, 0], [2.2, 1, 0]])
    atoms.calc = dpl.Calculator(random_potential(precision=precision))
    with pytest.warns(UserWarning, match="1 pair of atoms closer than the"):
        forces = atoms.get_forces()
    assert np.isfinite(forces).all()
    assert np.isfinite(atoms.get_potential_energy())
    tolerance = 1e-4 if precision == "float32" else 1e-10
    np.testing.assert_allclose(forces.sum(axis=0), 0.0, atol=tolerance * abs(forces).max())


@PRECISIONS
@pytest.mark.parametrize("distance", [1e-2, 1e-3, 1e-4, 1e-5, 1.1e-6])
def test_ever_closer_the_result_is_finite_and_reported(precision, distance):
    atoms = Atoms("Si2", [[0, 0, 0], [distance, 0, 0]])
    atoms.calc = dpl.Calculator(random_potential(precision=precision))
    with pytest.warns(UserWarning, match="1 pair of atoms closer than the"):
        forces = atoms.get_forces()
    assert np.isfinite(forces).all()
    assert np.isfinite(atoms.get_potential_energy())


@PRECISIONS
@pytest.mark.parametrize("distance", [0.9e-6, 0.0])
def test_atoms_that_coincide_are_refused(precision, distance):
    atoms = Atoms("Si2", [[0, 0, 0], [distance, 0, 0]])
    atoms.calc = dpl.Calculator(random_potential(precision=precision))
    with pytest.raises(InputError, match="atoms 0 and 1 coincide"):
        atoms.get_forces()
