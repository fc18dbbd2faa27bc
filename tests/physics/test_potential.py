"""The potential as physics: derivatives, invariances, smoothness, extensivity."""

import numpy as np
import pytest
import torch
from ase import Atoms
from models import (
    BETWEEN,
    FAR,
    NEAR,
    QUADRUPOLES,
    environment_of,
    hybrid_potential,
    random_atoms,
    random_potential,
)
from scipy.spatial.transform import Rotation

from deepmd_lite.system import Evaluation

CASES = [(("Si",), False, "Si16"), (("H", "O"), False, "H10O6"), (("O", "H"), True, "H10O6")]
SECOND_DEGREE = (("H", "O"), "se_e2_q", "H10O6")
HYBRID = (("H", "O"), "hybrid", "H10O6")


@pytest.fixture(
    name="case",
    params=[*CASES, SECOND_DEGREE, HYBRID],
    ids=lambda c: f"{'-'.join(c[0])}-one_side={c[1]}",
)
def _case(request):
    type_map, one_side, symbols = request.param
    atoms = random_atoms(symbols, 7.0, 11, skew=0.1)
    if request.param is HYBRID:
        return hybrid_potential((NEAR, FAR, BETWEEN, QUADRUPOLES)).freeze(), atoms
    if request.param is SECOND_DEGREE:
        return random_potential(type_map, kind="se_e2_q"), atoms
    return random_potential(type_map, one_side=one_side), atoms


def evaluate(potential, atoms) -> tuple[Evaluation, np.ndarray]:
    """Evaluation and folded forces (n, 3)."""
    periodic = environment_of(atoms, potential.type_map, potential.rcut)
    result = potential.evaluate(periodic.env)
    return result, periodic.fold(result.forces).numpy()


def energy(potential, atoms) -> float:
    return float(evaluate(potential, atoms)[0].energies.sum())


def test_forces_are_minus_the_gradient(case):
    potential, atoms = case
    forces = evaluate(potential, atoms)[1]
    h = 1e-3
    for i in (0, 7, 15):
        for c in range(3):
            e = []
            for step in (-2 * h, -h, h, 2 * h):
                moved = atoms.copy()
                moved.positions[i, c] += step
                e.append(energy(potential, moved))
            gradient = (e[0] - 8 * e[1] + 8 * e[2] - e[3]) / (12 * h)
            assert abs(forces[i, c] + gradient) < 1e-6
    assert np.abs(forces).max() > 0.1


def test_virial_is_the_strain_derivative(case):
    potential, atoms = case
    virial = evaluate(potential, atoms)[0].virial.numpy()
    h = 1e-4
    for i in range(3):
        for j in range(3):
            e = []
            for step in (-2 * h, -h, h, 2 * h):
                strain = np.eye(3)
                strain[i, j] += step
                moved = atoms.copy()
                moved.set_cell(atoms.cell.array @ strain, scale_atoms=True)
                e.append(energy(potential, moved))
            derivative = (e[0] - 8 * e[1] + 8 * e[2] - e[3]) / (12 * h)
            assert abs(virial[i, j] + derivative) < 1e-5
    np.testing.assert_allclose(virial, virial.T, atol=1e-9)  # rotational invariance
    assert np.abs(virial).max() > 0.1


def test_translation_rotation_reflection_permutation(case):
    potential, atoms = case
    reference, forces = evaluate(potential, atoms)
    total = float(reference.energies.sum())

    shifted = atoms.copy()
    shifted.positions += np.array([0.3, -40.0, 2.0])
    shifted.positions[2] += atoms.cell[0] - 3 * atoms.cell[2]
    np.testing.assert_allclose(evaluate(potential, shifted)[1], forces, atol=1e-10)

    for rotation in (Rotation.random(random_state=4).as_matrix(), -np.eye(3)):
        turned = atoms.copy()
        turned.set_cell(atoms.cell.array @ rotation.T, scale_atoms=True)
        result, turned_forces = evaluate(potential, turned)
        assert abs(float(result.energies.sum()) - total) < 1e-10
        np.testing.assert_allclose(turned_forces, forces @ rotation.T, atol=1e-9)
        expected = rotation @ reference.virial.numpy() @ rotation.T
        np.testing.assert_allclose(result.virial.numpy(), expected, atol=1e-8)

    order = np.random.default_rng(0).permutation(len(atoms))
    np.testing.assert_allclose(evaluate(potential, atoms[order])[1], forces[order], atol=1e-10)


def test_momentum_is_conserved(case):
    potential, atoms = case
    assert np.abs(evaluate(potential, atoms)[1].sum(axis=0)).max() < 1e-10


def test_energy_and_force_are_smooth_at_the_cutoff():
    potential = random_potential()
    r = potential.rcut + np.linspace(-1e-3, 1e-3, 41)
    alone = energy(potential, Atoms("Si"))
    energies, forces = [], []
    for distance in r:
        dimer = Atoms("Si2", positions=[[0, 0, 0], [distance, 0, 0]])
        result, f = evaluate(potential, dimer)
        energies.append(float(result.energies.sum()))
        forces.append(f[1, 0])
    energies, forces = np.array(energies), np.array(forces)
    np.testing.assert_allclose(energies[r >= potential.rcut], 2 * alone, atol=1e-12)
    np.testing.assert_allclose(forces[r >= potential.rcut], 0.0, atol=1e-12)
    assert np.abs(np.diff(energies)).max() < 1e-8
    assert np.abs(np.diff(forces)).max() < 1e-5  # the switch leaves as (rcut − r)³


def test_a_hybrid_is_smooth_at_the_cutoff_of_each_part():
    potential = hybrid_potential((NEAR, FAR, BETWEEN)).freeze()
    for descriptor in potential.descriptors:
        r = descriptor.config.rcut + np.linspace(-1e-3, 1e-3, 41)
        found = []
        for distance in r:
            dimer = Atoms("O2", positions=[[0, 0, 0], [distance, 0, 0]])
            result, f = evaluate(potential, dimer)
            found.append((float(result.energies.sum()), f[1, 0]))
        # two straight lines that were not the same would bend by their difference
        assert np.abs(np.diff(found, n=2, axis=0)).max() < 1e-6


def test_isolated_atom_and_size_consistency():
    potential = random_potential(("H", "O"))
    one = energy(potential, Atoms("O"))
    assert np.isfinite(one)
    water = Atoms("OH2", positions=[[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    far = water.copy()
    far.positions += [50.0, 0, 0]
    assert abs(energy(potential, water + far) - 2 * energy(potential, water)) < 1e-11
    cell = random_atoms("H10O6", 7.0, 3)
    assert abs(energy(potential, cell * (2, 1, 1)) - 2 * energy(potential, cell)) < 1e-10


def test_neighbours_beyond_sel_are_not_truncated():
    """A denser structure than sel was made for still has exact derivatives."""
    potential = random_potential()
    dense = random_atoms("Si40", 7.0, 5)
    env = environment_of(dense, potential.type_map, potential.rcut).env
    assert int(env.offsets.diff().max()) > sum(potential.descriptor.sel)
    forces = evaluate(potential, dense)[1]
    h = 1e-4
    plus, minus = dense.copy(), dense.copy()
    plus.positions[4, 1] += h
    minus.positions[4, 1] -= h
    gradient = (energy(potential, plus) - energy(potential, minus)) / (2 * h)
    assert abs(forces[4, 1] + gradient) < 1e-5


def test_a_list_with_a_skin_gives_the_same():
    potential = random_potential(("H", "O"))
    atoms = random_atoms("H10O6", 7.0, 9)
    tight = environment_of(atoms, potential.type_map, potential.rcut)
    wide = environment_of(atoms, potential.type_map, potential.rcut + 1.5)
    a, b = potential.evaluate(tight.env), potential.evaluate(wide.env)
    torch.testing.assert_close(a.energies, b.energies, rtol=0, atol=1e-11)
    torch.testing.assert_close(tight.fold(a.forces), wide.fold(b.forces), rtol=0, atol=1e-11)


def test_pairs_closer_than_the_table_are_counted_and_smooth():
    potential = random_potential()
    closest = potential.table_min_distance()
    counts, forces, energies = [], [], []
    r = closest + np.linspace(-1e-3, 1e-3, 21)
    for distance in r:
        dimer = Atoms("Si2", positions=[[0, 0, 0], [distance, 0, 0]])
        result, f = evaluate(potential, dimer)
        counts.append(result.beyond_table)
        forces.append(f[1, 0])
        energies.append(float(result.energies.sum()))
    assert set(counts) == {0, 2}
    steps = np.diff(forces)
    assert np.abs(np.diff(steps)).max() < 1e-4 * max(1.0, np.abs(forces).max())
