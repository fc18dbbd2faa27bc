"""A timestep that follows the atoms, in collisions of a trained model with its repulsion."""

from pathlib import Path

import numpy as np
import pytest
from ase import units
from ase.build import bulk

import deepmd_lite as dpl
from deepmd_lite.md import Simulation
from deepmd_lite.md.clock import STRONG

MODEL = Path(__file__).parents[2] / "data/silicon/silicon.dpl"
LOOSE = {"temperature_jump": None, "displacement": None, "beyond_table": "off"}


@pytest.fixture(name="model", scope="module")
def _model():
    return dpl.load(MODEL)


def knocked_on(energy, direction=(1, 2, 3.5)):
    """64 atoms of silicon; one has an energy in eV."""
    atoms = bulk("Si", cubic=True, a=5.46).repeat(2)
    atoms.rattle(0.08, seed=1)
    momenta, unit = np.zeros((len(atoms), 3)), np.array(direction) / np.linalg.norm(direction)
    momenta[20] = unit * np.sqrt(2.0 * atoms.get_masses()[20] * energy)
    atoms.set_momenta(momenta)
    return atoms


def followed(model, energy, timestep, until=40.0):
    """Steps, largest error (eV) of the conserved energy, and the shortest timestep (fs)."""
    guards = {**LOOSE, "force": None}
    run = Simulation(knocked_on(energy), model, timestep=timestep, guards=guards)
    first, errors, timesteps = run.thermo.conserved, [], []
    while run.time < until - 1e-9:
        run.run(2)
        timesteps.append(run.timestep)
        errors.append(abs(run.thermo.conserved - first))
    return run.step, max(errors), min(timesteps)


def test_a_hard_collision_is_followed(model):
    """Where the longest timestep fails, at half the steps that the shortest would take; and half
    the displacement has a quarter of the error."""
    _, coarse, _ = followed(model, 300.0, 1.0)
    steps, error, shortest = followed(model, 300.0, {"max": 1.0})
    assert error < 0.005 * coarse
    assert steps < 0.5 * 40.0 / shortest
    _, finer, _ = followed(model, 300.0, {"max": 1.0, "displacement": 0.025})
    assert error / finer == pytest.approx(4.0, rel=0.3)


def test_no_atom_moves_further_than_it_may(model):
    reach, longest = 0.05, 0.5
    timestep = {"max": longest, "displacement": reach}
    run = Simulation(knocked_on(50.0), model, timestep=timestep, guards=LOOSE)
    shares, timesteps = [], []
    while run.time < 60.0:
        before = run.atoms
        timesteps.append(run.timestep)
        run.run(1)
        moved = np.linalg.norm(run.atoms.positions - before.positions, axis=1)
        force = np.linalg.norm(before.get_forces(), axis=1)
        shares.append((moved / (reach * np.minimum(1.0, np.sqrt(STRONG / force)))).max())
    shares, timesteps = np.array(shares), np.array(timesteps)
    assert shares.max() < 1.0 + 1e-9
    assert shares[timesteps < longest].min() > 0.8  # and are no shorter than they must be
    assert timesteps.max() == longest
    assert timesteps.min() < 0.5 * longest
    assert run.time == pytest.approx(timesteps.sum(), abs=1e-9)


def test_slow_atoms_have_the_longest_timestep(model):
    """Bit for bit the run of a fixed one."""
    atoms = bulk("Si", cubic=True, a=5.46).repeat(2)
    hot = {"velocities": {"temperature": 300, "seed": 1}, "ensemble": {"type": "nve"}}
    fixed, adaptive = (Simulation(atoms, model, timestep=t, **hot) for t in (1.0, {"max": 1.0}))
    for run in (fixed, adaptive):
        run.run(20)
    assert adaptive.timestep == 1.0
    assert np.array_equal(fixed.atoms.positions, adaptive.atoms.positions)


def test_a_bath_cools_by_time_and_not_by_steps(model):
    """Friction alone, in steps of many lengths: momentum falls by exp(−γt)."""
    friction = 0.02
    ensemble = {"type": "nvt-langevin", "temperature": 0, "friction": friction}
    run = Simulation(knocked_on(100.0), model, timestep={"max": 1.0}, ensemble=ensemble)
    first, timesteps = run.atoms.get_momenta().sum(axis=0), set()
    while run.time < 60.0:
        run.run(1)
        timesteps.add(run.timestep)
    left = run.atoms.get_momenta().sum(axis=0) / first
    np.testing.assert_allclose(left, np.exp(-friction * run.time), rtol=1e-6)
    assert max(timesteps) > 3 * min(timesteps)


def test_the_energy_of_the_knock_on_atom_is_in_ev():
    atoms = knocked_on(100.0)
    assert atoms.get_kinetic_energy() == pytest.approx(100.0)
    speed = np.linalg.norm(atoms.get_velocities()[20]) * units.fs
    assert speed == pytest.approx(np.sqrt(2 * 100.0 / 28.085) * 0.0982269, rel=1e-4)
