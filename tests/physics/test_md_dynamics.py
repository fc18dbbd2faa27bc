"""Conservation laws and ensembles of molecular dynamics."""

import numpy as np
import pytest
from ase.build import bulk, fcc111
from models import random_potential
from pair_potential import PairPotential

from deepmd_lite.calculator import Calculator
from deepmd_lite.md import Simulation
from deepmd_lite.neighbors import periodic_env


def copper(n=3, a=3.7):
    return bulk("Cu", cubic=True, a=a).repeat(n)


def energies(simulation, steps, every=10):
    return np.array([simulation.run(every).thermo.total for _ in range(steps // every)])


def test_pair_potential_is_the_gradient_of_its_energy():
    """The tests lean on it: forces and virial against central differences."""
    atoms = copper(2)
    atoms.rattle(0.1, seed=2)
    model, types = PairPotential(), np.arange(len(atoms)) % 2

    def energy(positions, cell):
        env = periodic_env(positions, cell, atoms.pbc, types, model.rcut).env
        return float(model.evaluate(env).energies.sum())

    env = periodic_env(atoms.positions, atoms.cell.array, atoms.pbc, types, model.rcut)
    result, h = model.evaluate(env.env), 1e-5
    forces = env.fold(result.forces).numpy()
    for atom, axis in ((0, 0), (7, 1), (20, 2)):
        step = np.zeros_like(atoms.positions)
        step[atom, axis] = h
        up, down = (energy(atoms.positions + s, atoms.cell.array) for s in (step, -step))
        assert forces[atom, axis] == pytest.approx(-(up - down) / (2 * h), abs=1e-7)
    for i in range(3):
        for j in range(3):
            strain = np.zeros((3, 3))
            strain[i, j] = h
            up, down = (
                energy(atoms.positions @ (np.eye(3) + s), atoms.cell.array @ (np.eye(3) + s))
                for s in (strain, -strain)
            )
            assert float(result.virial[i, j]) == pytest.approx(-(up - down) / (2 * h), abs=1e-5)


def test_nve_conserves_energy_and_the_error_is_second_order():
    """Halving the timestep divides the fluctuation of the total energy by four."""
    spread = []
    for timestep in (4.0, 2.0):
        simulation = Simulation(
            copper(), PairPotential(), velocities={"temperature": 600}, timestep=timestep
        )
        total = energies(simulation, round(800 / timestep), every=round(8 / timestep))
        spread.append(total.std())
        slope = np.polyfit(np.linspace(0, 800, len(total)), total, 1)[0] / simulation.n_atoms
        assert abs(slope) < 5e-8  # eV/atom/fs, with fluctuations of kinetic energy 1e-2 eV/atom
    assert spread[0] / spread[1] == pytest.approx(4.0, rel=0.3)


def test_nve_conserves_momentum():
    simulation = Simulation(
        copper(), PairPotential(), velocities={"temperature": 800}, timestep=3.0
    )
    simulation.run(100)
    atoms = simulation.atoms
    assert np.abs(atoms.get_momenta().sum(axis=0)).max() < 1e-10
    assert np.abs(atoms.get_forces().sum(axis=0)).max() < 1e-10


def test_nve_is_reversible():
    simulation = Simulation(copper(), PairPotential(), velocities={"temperature": 500})
    start = simulation.atoms.positions
    simulation.run(60)
    simulation.state.velocities.neg_()
    simulation.run(60)
    np.testing.assert_allclose(simulation.atoms.positions, start, atol=1e-9)


def test_langevin_without_friction_is_nve():
    options = {"velocities": {"temperature": 500}, "timestep": 2.0}
    free = {"type": "nvt-langevin", "temperature": 100, "friction": 0.0}
    a = Simulation(copper(), PairPotential(), **options)
    b = Simulation(copper(), PairPotential(), ensemble=free, **options)
    a.state.velocities.copy_(b.state.velocities)  # their temperatures count other freedoms
    a.run(50)
    b.run(50)
    np.testing.assert_allclose(a.atoms.positions, b.atoms.positions, atol=1e-9)


@pytest.mark.parametrize("start", [0.0, 900.0])
def test_langevin_reaches_its_temperature(start):
    """From cold and from hot. The mean over τ_run has a standard error of about
    T √(2/3N) √(2/(γ τ_run)); the bound is five of them."""
    kelvin, friction, timestep, steps = 400.0, 0.05, 3.0, 600
    simulation = Simulation(
        copper(),
        PairPotential(),
        ensemble={"type": "nvt-langevin", "temperature": kelvin, "friction": friction},
        velocities={"temperature": start},
        timestep=timestep,
    )
    simulation.run(100)
    found = np.mean([simulation.run(4).thermo.temperature for _ in range(steps // 4)])
    freedom = 3 * simulation.n_atoms
    error = kelvin * np.sqrt(2 / freedom) * np.sqrt(2 / (friction * timestep * steps))
    assert found == pytest.approx(kelvin, abs=5 * error)
    assert 5 * error < 0.1 * kelvin


def test_pressure_of_a_gas_is_the_ideal_one():
    """Atoms out of each other's reach: only the kinetic part is left, p V = 2/3 E_kin."""
    atoms = bulk("Cu", cubic=True, a=14.0)
    thermo = Simulation(atoms, PairPotential(), velocities={"temperature": 300}).thermo
    assert thermo.potential == 0.0
    assert thermo.pressure == pytest.approx(2 / 3 * thermo.kinetic / thermo.volume)
    assert thermo.pressure > 0


def test_pressure_is_minus_the_derivative_of_the_energy():
    """At rest: p = −dE/dV by central difference."""
    options = {"model": PairPotential()}
    middle = Simulation(copper(2, 3.6), **options).thermo
    up, down = (Simulation(copper(2, 3.6 * (1 + s)), **options).thermo for s in (1e-5, -1e-5))
    slope = -(up.potential - down.potential) / (up.volume - down.volume)
    assert middle.pressure == pytest.approx(slope, rel=1e-6)
    assert middle.kinetic == 0.0


@pytest.mark.parametrize("pbc", [(True, True, False), (False, True, False)])
def test_the_stress_of_a_slab_is_that_of_the_calculator(pbc):
    """Over the volume of its cell, vacuum included; at rest."""
    atoms = fcc111("Cu", (3, 3, 3), a=3.6, vacuum=6.0)
    atoms.pbc = pbc
    model = random_potential(("Cu",))
    atoms.calc = Calculator(model)
    simulation = Simulation(atoms, model)
    thermo = simulation.thermo
    assert thermo.volume == pytest.approx(atoms.get_volume(), rel=1e-12)
    expected = atoms.get_stress(voigt=False)
    assert np.abs(expected).max() > 1e-4
    np.testing.assert_allclose(thermo.stress, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(simulation.atoms.get_stress(voigt=False), expected, atol=1e-12)


def test_what_has_no_cell_has_no_pressure_to_report():
    atoms = fcc111("Cu", (3, 3, 3), a=3.7)  # without a third lattice vector
    lacking = atoms.copy()
    atoms.set_cell([20, 20, 20])
    for structure, pbc in ((lacking, (True, True, False)), (atoms, False)):
        structure.pbc = pbc
        simulation = Simulation(structure, PairPotential())
        thermo = simulation.thermo
        assert np.isnan(thermo.volume)
        assert np.isnan(thermo.pressure)
        assert np.isfinite(thermo.potential)
        assert "stress" not in simulation.atoms.calc.results


def test_equal_starts_give_equal_bits():
    def final():
        simulation = Simulation(
            copper(),
            PairPotential(),
            ensemble={"type": "nvt-langevin", "temperature": 300, "friction": 0.01, "seed": 3},
            velocities={"temperature": 300},
        )
        simulation.run(50)
        return simulation.atoms.positions

    np.testing.assert_array_equal(final(), final())


def test_kinetic_energy_is_in_ev():
    """ASE counts the same kinetic energy."""
    simulation = Simulation(copper(), PairPotential(), velocities={"temperature": 300})
    assert simulation.atoms.get_kinetic_energy() == pytest.approx(simulation.thermo.kinetic)
