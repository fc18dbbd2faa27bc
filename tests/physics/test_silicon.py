"""A trained model as physics: the one of examples/01_train_silicon, shipped in data/silicon."""

import json
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.eos import EquationOfState
from ase.io import read
from ase.units import GPa

import deepmd_lite as dpl
from deepmd_lite.evaluate import evaluate
from deepmd_lite.md import Simulation

DATA = Path(__file__).parents[2] / "data" / "silicon"


@pytest.fixture(name="model", scope="module")
def _model():
    return dpl.load(DATA / "silicon.dpl")


def test_errors_on_frames_it_never_saw(model):
    total = evaluate(model, DATA / "test.extxyz").total()
    forces = np.concatenate([a.get_forces() for a in read(DATA / "test.extxyz", ":")])
    assert total.force_rmse < 0.2 * np.sqrt(np.mean(forces**2))
    assert total.energy_rmse_per_atom < 0.020


def test_lattice_constant_and_bulk_modulus(model):
    calculator = dpl.Calculator(model)
    volumes, energies = [], []
    for a in np.linspace(5.37, 5.59, 9):
        crystal = bulk("Si", a=a, cubic=True)
        crystal.calc = calculator
        volumes.append(crystal.get_volume())
        energies.append(crystal.get_potential_energy())
    v0, _, modulus = EquationOfState(volumes, energies, eos="birchmurnaghan").fit()
    dft = json.loads((DATA / "reference.json").read_text())
    assert v0 ** (1 / 3) == pytest.approx(dft["a0"], abs=0.02)
    assert modulus / GPa == pytest.approx(dft["B"], rel=0.15)


def test_energy_is_conserved_at_600_kelvin(model):
    """NVE, 1 fs, float64: the drift of the total energy stays below 0.01 meV/atom/ps."""
    simulation = Simulation(
        bulk("Si", a=5.477, cubic=True),
        model,
        replicate=(3, 3, 3),
        velocities={"temperature": 1200, "seed": 3},
        timestep=1.0,
    )
    simulation.run(300)
    times, totals, kelvin = [], [], []
    for _ in range(100):
        simulation.run(20)
        thermo = simulation.thermo
        times.append(simulation.time / 1000.0)
        totals.append((thermo.potential + thermo.kinetic) / simulation.n_atoms * 1000.0)
        kelvin.append(thermo.temperature)
    assert np.mean(kelvin) == pytest.approx(600, abs=60)
    assert abs(np.polyfit(times, totals, 1)[0]) < 0.01
