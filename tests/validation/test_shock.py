"""A piston that is driven into a crystal: the shock wave obeys the balance of momentum.

Its pressure, from the force on the piston (`loads.csv`), is ρ₀ U u of the density before it, the
speed U of its front, seen in the trajectory, and the speed u of the piston (Rankine and Hugoniot).
"""

import csv
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.units import fs

from deepmd_lite.md import Simulation
from deepmd_lite.units import EV_PER_A3_IN_GPA, KINETIC

pytestmark = pytest.mark.validation
MODEL = Path(__file__).parents[2] / "data/silicon/silicon.dpl"
SIDE, SPEED = 3 * 5.477, 0.006
"""Å, of the square in front of the piston, and Å/fs."""
BEHIND = 300.0
"""fs after which the wave is steady."""


def front(atoms):
    """Å: where layers of half a cell begin to move at half the piston's speed."""
    edges = np.arange(20.0, 200.0, 5.477 / 2)
    layer = np.digitize(atoms.positions[:, 2], edges)
    along = atoms.get_velocities()[:, 2] * fs
    moving = [k for k in np.unique(layer) if along[layer == k].mean() > SPEED / 2]
    return edges[max(moving)]


def test_the_pressure_behind_a_shock(tmp_path):
    atoms = bulk("Si", cubic=True, a=5.477).repeat((3, 3, 30))
    atoms.pbc = (True, True, False)
    atoms.center(vacuum=20.0, axis=2)
    run = Simulation(
        atoms,
        MODEL,
        moving={"axis": "z", "below": 26.0, "velocity": [0, 0, SPEED]},
        velocities={"temperature": 10, "seed": 1},
        precision="float32",
        output={"directory": tmp_path, "thermo": 50, "trajectory": 100, "restart": 0},
    )
    before = run.thermo
    after = run.run(1400).thermo
    work = after.potential + after.kinetic - before.potential - before.kinetic
    assert work > 100.0
    assert after.conserved == pytest.approx(before.conserved, abs=1e-4 * work)
    frames = ase.io.read(tmp_path / "trajectory.extxyz", ":")
    times = np.array([x.info["time_fs"] for x in frames])
    steady = times >= BEHIND
    fronts = [front(x) for x, is_steady in zip(frames, steady, strict=True) if is_steady]
    shock = np.polyfit(times[steady], fronts, 1)[0]
    with open(tmp_path / "loads.csv") as f:
        loads = [row for row in csv.DictReader(f) if float(row["time_fs"]) >= BEHIND]
    pressure = -np.mean([float(row["fz_eV/A"]) for row in loads]) / SIDE**2 * EV_PER_A3_IN_GPA
    expected = 8 * 28.0855 / 5.477**3 * KINETIC * shock * SPEED * EV_PER_A3_IN_GPA
    assert 8.0 < pressure < 12.0
    assert pressure == pytest.approx(expected, rel=0.04)
