"""The repulsion of close pairs as physics: its law, its join, and what a model does with it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.data import chemical_symbols, covalent_radii
from ase.units import Bohr, Hartree
from models import environment_of, random_atoms, random_potential

from deepmd_lite.kernels.reference import switch, zbl
from deepmd_lite.md import Simulation
from deepmd_lite.model import Repulsion, load_model
from deepmd_lite.model.repulsion import INNER

SILICON = Path(__file__).parents[2] / "data" / "silicon" / "silicon.dpl"


@pytest.fixture(name="silicon", scope="module")
def _silicon():
    """The shipped model."""
    return load_model(SILICON)


def results(model, atoms):
    """Total energy, folded forces (n, 3) and virial."""
    periodic = environment_of(atoms, model.type_map, model.rcut)
    found = model.evaluate(periodic.env)
    return float(found.energies.sum()), periodic.fold(found.forces).numpy(), found.virial.numpy()


def dimer(model, pair, distances):
    """Energies and forces on the second of two atoms at `distances`."""
    found = [results(model, Atoms(pair, positions=[[0, 0, 0], [r, 0, 0]])) for r in distances]
    return np.array([e for e, _, _ in found]), np.array([f[1, 0] for _, f, _ in found])


def joined(repulsion, a, b, r):
    """Energies of the switched potential of types a and b at r, differentiable in r.

    a, b: one type each, or as many as r has columns.
    """
    z, r_in, r_out = repulsion.atomic_numbers, repulsion.r_in[a, b], repulsion.r_out[a, b]
    return switch(r, r_in, r_out) * zbl(r, z[a], z[b])


def derivatives(repulsion, a, b, r):
    """Energies and their first and second derivatives."""
    r = r.clone().requires_grad_()
    energy = joined(repulsion, a, b, r)
    (slope,) = torch.autograd.grad(energy.sum(), r, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), r)
    return energy.detach(), slope.detach(), curvature


def test_the_law_of_the_nuclei():
    """Coulomb's at contact, the universal screening function at one and ten screening lengths."""
    z_a, z_b = torch.tensor(14.0).double(), torch.tensor(8.0).double()
    coulomb = 14 * 8 * Hartree * Bohr
    r = torch.tensor([1e-7], dtype=torch.float64)
    assert float(zbl(r, z_a, z_b) * r) == pytest.approx(coulomb, rel=1e-5)
    length = 0.8854 * Bohr / (14**0.23 + 8**0.23)
    for x in (1.0, 10.0):
        phi = 0.1818 * np.exp(-3.2 * x) + 0.5099 * np.exp(-0.9423 * x)
        phi += 0.2802 * np.exp(-0.4029 * x) + 0.02817 * np.exp(-0.2016 * x)
        r = torch.tensor([x * length], dtype=torch.float64)
        assert float(zbl(r, z_a, z_b) * r) == pytest.approx(coulomb * phi, rel=1e-3)


def test_the_join_has_two_continuous_derivatives():
    repulsion = Repulsion.beyond_data(["Cu"], torch.tensor([[2.2]]).double(), 6.0)
    r_in, r_out = float(repulsion.r_in), float(repulsion.r_out)
    assert r_out == pytest.approx(0.95 * 2.2)
    assert r_in == INNER * r_out
    h = 1e-7
    for place in (r_in, r_out):
        both_sides = torch.tensor([place - h, place + h], dtype=torch.float64)
        for left, right in derivatives(repulsion, 0, 0, both_sides):
            assert abs(left - right) < 1e-3 * max(1.0, abs(left))
    for value in derivatives(repulsion, 0, 0, torch.tensor([r_out, r_out + 1.0]).double()):
        assert not value.any()


@pytest.mark.parametrize("reach", [0.5, 1.0])
def test_every_pair_of_elements_repels_harder_the_closer_it_is(reach):
    """Energy falls and force falls with distance, through the whole join (radii of any size)."""
    elements = list(range(1, 97))
    symbols = [chemical_symbols[z] for z in elements]
    radii = torch.tensor(covalent_radii[elements], dtype=torch.float64)
    distances = reach * (radii[:, None] + radii[None, :])
    repulsion = Repulsion.beyond_data(symbols, distances, 8.0)
    a, b = torch.triu_indices(len(symbols), len(symbols))
    u = torch.linspace(0.02, 0.999, 200, dtype=torch.float64)
    r = u[:, None] * repulsion.r_out[a, b]
    energy, slope, _ = derivatives(repulsion, a, b, r)
    assert (energy > 0).all()
    assert (slope < 0).all()
    softer = (slope.diff(dim=0) <= 0).any(dim=0)
    assert not softer.any(), [
        (symbols[i], symbols[j]) for i, j in zip(a[softer], b[softer], strict=True)
    ]


@pytest.mark.parametrize("type_map", [("Si",), ("H", "O"), ("Cu", "Ag")])
def test_dimers_of_a_random_model_do_not_fuse(type_map):
    """Whatever a network says, its energy is bounded: below it lies the nuclei's."""
    model = random_potential(type_map)
    for a, first in enumerate(type_map):
        for b, second in enumerate(type_map[a:], a):
            r_in, r_out = (float(x[a, b]) for x in (model.repulsion.r_in, model.repulsion.r_out))
            r = np.array([0.01, 0.03, 0.1])
            assert r[-1] < r_in < r_out
            energies, _ = dimer(model, first + second, r)
            repulsion, model.repulsion = model.repulsion, None
            network, _ = dimer(model, first + second, r)
            model.repulsion = repulsion
            expected = joined(repulsion, a, b, torch.from_numpy(r)).numpy()
            np.testing.assert_allclose(energies - network, expected, rtol=1e-9)
            assert (np.diff(energies) < 0).all()
            assert energies[0] > dimer(model, first + second, [r_out])[0][0] + 100.0


def test_dimer_of_a_trained_model_repels_down_to_a_tenth(silicon):
    r = np.linspace(0.1, 2.0, 96)
    energies, forces = dimer(silicon, "Si2", r)
    assert (forces > 0).all()
    assert (np.diff(energies) < 0).all()
    bare = load_model(SILICON)
    bare.repulsion = None  # the network alone attracts
    assert (dimer(bare, "Si2", r)[1] < -1.0).any()


def test_an_atom_in_a_crystal_cannot_be_pushed_into_its_neighbour(silicon):
    crystal = bulk("Si", a=5.477, cubic=True) * (2, 2, 2)
    bond = crystal.positions[1] - crystal.positions[0]
    direction = bond / np.linalg.norm(bond)
    energies = []
    for r in np.linspace(0.1, 2.2, 43):
        crystal.positions[1] = crystal.positions[0] + r * direction
        energy, forces, _ = results(silicon, crystal)
        energies.append(energy)
        assert forces[1] @ direction > 0
    assert (np.diff(energies) < 0).all()


def close_atoms(type_map):
    """Random atoms, three of which are inside each other's radii."""
    atoms = random_atoms("H10O6" if len(type_map) > 1 else "Si16", 7.0, 11, skew=0.1)
    atoms.positions[3] = atoms.positions[0] + [0.3, -0.2, 0.15]
    atoms.positions[12] = atoms.positions[7] + [-0.1, 0.45, 0.2]
    atoms.positions[9] = atoms.positions[14] + [0.55, 0.1, -0.4] - atoms.cell[1]
    return atoms


@pytest.mark.parametrize("type_map", [("Si",), ("H", "O")])
def test_forces_and_virial_of_close_atoms_are_derivatives(type_map):
    """Of the repulsion alone: model with minus model without."""
    model = random_potential(type_map)
    repulsion = model.repulsion
    atoms = close_atoms(type_map)

    def extra(changed):
        model.repulsion = repulsion
        total = results(model, changed)
        model.repulsion = None
        return [a - b for a, b in zip(total, results(model, changed), strict=True)]

    energy, forces, virial = extra(atoms)
    assert energy > 20.0
    h, weights = 1e-4, (1 / 12, -8 / 12, 8 / 12, -1 / 12)
    scale = np.abs(forces).max()
    for i in (0, 3, 12):
        for c in range(3):
            slope = 0.0
            for step, weight in zip((-2 * h, -h, h, 2 * h), weights, strict=True):
                moved = atoms.copy()
                moved.positions[i, c] += step
                slope += weight * extra(moved)[0] / h
            assert abs(forces[i, c] + slope) < 1e-6 * scale
    for i in range(3):
        for j in range(3):
            slope = 0.0
            for step, weight in zip((-2 * h, -h, h, 2 * h), weights, strict=True):
                strain = np.eye(3)
                strain[i, j] += step
                moved = atoms.copy()
                moved.set_cell(atoms.cell.array @ strain, scale_atoms=True)
                slope += weight * extra(moved)[0] / h
            assert abs(virial[i, j] + slope) < 1e-6 * scale


def test_energies_and_forces_of_the_training_are_those_of_md():
    model = random_potential(("H", "O"))
    env = environment_of(close_atoms(("H", "O")), model.type_map, model.rcut).env
    found = model.evaluate(env)
    energies, forces = model.energies_and_forces(env)
    torch.testing.assert_close(energies, found.energies, rtol=1e-11, atol=1e-10)
    torch.testing.assert_close(forces, found.forces, rtol=1e-11, atol=1e-9)
    torch.testing.assert_close(model.energies(env), found.energies, rtol=1e-11, atol=1e-10)


def test_float32_models_repel_in_float64():
    single = random_potential(precision="float32")
    env = environment_of(close_atoms(("Si",)), single.type_map, single.rcut).env
    repelled, repulsion = single.evaluate(env), single.repulsion
    single.repulsion = None
    network = single.evaluate(env)
    exact = repulsion.energies(env, env.positions)
    torch.testing.assert_close(repelled.energies - network.energies, exact, rtol=0, atol=1e-9)


def test_a_head_on_collision_conserves_energy(silicon):
    """Two silicon atoms at 50 eV each come within 0.6 Å, far below any distance in the data."""
    atoms = Atoms("Si2", positions=[[0, 0, 0], [3.0, 0.02, 0]], cell=[20, 20, 20], pbc=True)
    speed = np.sqrt(2 * 50.0 / atoms.get_masses()[0])
    atoms.set_velocities([[speed, 0, 0], [-speed, 0, 0]])
    atoms.center()
    simulation = Simulation(atoms, silicon, timestep=0.03)
    totals, closest = [], np.inf
    for _ in range(45):
        simulation.run(10)
        thermo = simulation.thermo
        totals.append(thermo.potential + thermo.kinetic)
        closest = min(closest, simulation.atoms.get_distance(0, 1, mic=True))
    assert closest < 0.9
    assert simulation.atoms.get_distance(0, 1, mic=True) > 2.0
    assert np.ptp(totals) < 0.05  # of 100 eV
