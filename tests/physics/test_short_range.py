"""The short-range table as physics: derivatives, joins, and collisions."""

import numpy as np
import pytest
import torch
from ase import Atoms
from models import environment_of, random_atoms, short_range_potential

from deepmd_lite.md import Simulation

STEPS = 1e-4 * np.array([-2, -1, 1, 2])
WEIGHTS = np.array([1, -8, 8, -1]) / 12 / 1e-4
"""Of a derivative of fourth order from values at `STEPS`."""


def results(model, atoms):
    """Total energy, folded forces (n, 3) and virial."""
    periodic = environment_of(atoms, model.type_map, model.rcut)
    found = model.evaluate(periodic.env)
    return float(found.energies.sum()), periodic.fold(found.forces).numpy(), found.virial.numpy()


def close_atoms(model):
    """Random atoms on both sides of the switch and in it."""
    atoms = random_atoms("H10O6", 6.0, 11, skew=0.1)
    atoms.positions[3] = atoms.positions[0] + [0.6, -0.2, 0.3]
    atoms.positions[12] = atoms.positions[7] + [-0.5, 1.05, 0.4]
    atoms.positions[9] = atoms.positions[14] + [0.9, 0.1, -0.8] - atoms.cell[1]
    value = 1 - model.short_range.weights(environment_of(atoms, model.type_map, model.rcut).env)
    assert (value == 0).any()
    assert (value == 1).any()
    assert ((value > 0.05) & (value < 0.95)).sum() > 3
    return atoms


@pytest.mark.parametrize("added", [True, False])
def test_forces_and_virial_are_derivatives(added):
    model = short_range_potential(srtab_add_bias=added)
    atoms = close_atoms(model)
    _, forces, virial = results(model, atoms)
    scale = np.abs(forces).max()
    for i in range(len(atoms)):
        for c in range(3):
            slope = 0.0
            for step, weight in zip(STEPS, WEIGHTS, strict=True):
                moved = atoms.copy()
                moved.positions[i, c] += step
                slope += weight * results(model, moved)[0]
            assert abs(forces[i, c] + slope) < 1e-7 * scale
    for i in range(3):
        for j in range(3):
            slope = 0.0
            for step, weight in zip(STEPS, WEIGHTS, strict=True):
                strain = np.eye(3)
                strain[i, j] += step
                moved = atoms.copy()
                moved.set_cell(atoms.cell.array @ strain, scale_atoms=True)
                slope += weight * results(model, moved)[0]
            assert abs(virial[i, j] + slope) < 1e-7 * scale * len(atoms)


def dimer(model, pair, r):
    """Energies above two atoms far apart, and forces on the second, at distances r."""
    far = results(model, Atoms(pair, positions=[[0, 0, 0], [50, 0, 0]]))[0]
    found = [results(model, Atoms(pair, positions=[[0, 0, 0], [x, 0, 0]])) for x in r]
    return np.array([e - far for e, _, _ in found]), np.array([f[1, 0] for _, f, _ in found])


def test_a_dimer_joins_smoothly_at_both_ends_of_the_switch_and_of_the_table():
    """The soft minimum of two atoms is their distance: λ is w(r)."""
    model = short_range_potential()
    table, h = model.short_range, 1e-6
    ends = (table.sw_rmin, table.sw_rmax, 2.0)  # the rows of the file end at 2 Å
    for pair in ("H2", "HO", "O2"):
        for place in ends:
            energies, forces = dimer(model, pair, [place - h, place + h])
            slope = -forces.mean()
            assert abs(np.diff(energies)[0] - 2 * h * slope) < 1e-9
            assert abs(np.diff(forces)[0]) < 1e-3
        inside = np.array([0.3, 0.6, 0.89])
        energies, forces = dimer(model, pair, inside)
        alone = table.table()
        a, b = ([model.type_map.index(s) for s in Atoms(pair).symbols] * 2)[:2]
        place = (inside - alone.start) / alone.spacing
        c = alone.coefficients[a, b].numpy()[place.astype(int)]
        t = (place - place.astype(int))[:, None]
        expected = (c * t ** np.arange(4)).sum(axis=1)
        lone = dimer_zero(model, a) + dimer_zero(model, b)
        shift = float(alone.bias[a] + alone.bias[b]) - lone
        np.testing.assert_allclose(energies, expected + shift, rtol=1e-9)
        assert (forces > 0).all()
        _, outside = dimer(model, pair, [1.75])
        model.short_range = None
        np.testing.assert_array_equal(dimer(model, pair, [1.75])[1], outside)
        model.short_range = table


def dimer_zero(model, a):
    """eV of an atom of type a alone."""
    return results(model, Atoms(model.type_map[a], positions=[[0, 0, 0]]))[0]


def test_energy_and_forces_are_continuous_while_atoms_pass_through_everything():
    """Along a line through a crowd: no jump anywhere, of energy or of force."""
    model = short_range_potential()
    atoms = random_atoms("H10O6", 6.0, 7)
    start = atoms.positions[2].copy()
    nearest = atoms.get_distances(2, np.r_[0:2, 3:16], mic=True, vector=True)
    past = np.array([0.2, -0.3, 0.1])
    goal = min(nearest, key=np.linalg.norm) + past  # and on to others
    direction = goal / np.linalg.norm(goal)
    energies, forces, values = [], [], []
    r = np.linspace(0.0, 4.0, 4001)
    for x in r:
        atoms.positions[2] = start + x * direction
        env = environment_of(atoms, model.type_map, model.rcut)
        found = model.evaluate(env.env)
        energies.append(float(found.energies.sum()))
        forces.append(env.fold(found.forces).numpy()[2] @ direction)
        values.append(float((1 - model.short_range.weights(env.env)).max()))
    assert max(values) == 1
    assert min(values) < 0.2
    energies, forces = np.array(energies), np.array(forces)
    work = 0.5 * (forces[1:] + forces[:-1]) * np.diff(r)  # the trapezoidal rule
    assert np.abs(np.diff(energies) + work).max() < 2e-6
    assert np.abs(np.diff(forces, 2)).max() < 1e-3 * np.abs(forces).max()


def test_isolated_atoms_and_copies_far_apart():
    model = short_range_potential()
    atoms = Atoms("HO", positions=[[0, 0, 0], [1.2, 0, 0]])
    both = atoms.copy()
    both.positions += [0, 40.0, 0]
    energy = results(model, atoms)[0]
    assert results(model, atoms + both)[0] == pytest.approx(2 * energy, abs=1e-11)


def test_a_collision_conserves_energy():
    """From outside the switch through it, and to and fro in what a random network makes of it."""
    model = short_range_potential(("O",))
    atoms = Atoms("O2", positions=[[0, 0, 0], [2.6, 0.05, 0]], cell=[20, 20, 20], pbc=True)
    speed = np.sqrt(2 * 2.0 / atoms.get_masses()[0])
    atoms.set_velocities([[speed, 0, 0], [-speed, 0, 0]])
    atoms.center()
    simulation = Simulation(atoms, model, timestep=0.05)
    totals, closest = [], np.inf
    for _ in range(50):
        simulation.run(10)
        thermo = simulation.thermo
        totals.append(thermo.potential + thermo.kinetic)
        closest = min(closest, simulation.atoms.get_distance(0, 1, mic=True))
    assert closest < model.short_range.sw_rmin
    assert np.ptp(totals) < 0.005  # of 4 eV


def test_float32_models_are_switched_in_float64():
    single = short_range_potential(precision="float32")
    env = environment_of(close_atoms(single), single.type_map, single.rcut).env
    value = 1 - single.short_range.weights(env)
    found, alone = single.evaluate(env), single._compile().evaluate(env)
    table = torch.where(value == 1, found.energies, torch.zeros_like(value))
    double = short_range_potential()
    exact = double.evaluate(env).energies
    inside = value == 1
    torch.testing.assert_close(table[inside], exact[inside], rtol=1e-14, atol=0)
    torch.testing.assert_close(found.energies[value == 0], alone.energies[value == 0])
