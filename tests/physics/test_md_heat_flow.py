"""Heat between a hot and a cold slab: what is given, where, and the conductivity that follows."""

import csv

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.units import fs
from pair_potential import PairPotential

from deepmd_lite.md import Simulation
from deepmd_lite.md.observe.conduction import SAMPLES_OF_BLOCK
from deepmd_lite.system import InputError
from deepmd_lite.units import BOLTZMANN, KINETIC

MODEL = PairPotential()
FLOW = {"type": "heat-flow", "axis": "b", "hot": 500, "cold": 100, "width": 4.0, "friction": 0.05}
WATTS = 1.602176634e-19 / 1e-15
"""1 eV/fs."""


def crystal():
    """Six cells along b, in a cell that is skewed across it."""
    atoms = bulk("Cu", cubic=True, a=3.3).repeat((2, 6, 2))
    atoms.set_cell(atoms.cell.array @ [[1, 0, 0.1], [0, 1, 0], [0, 0, 1]], scale_atoms=True)
    return atoms


def flowing(folder=None, atoms=None, **options):
    keys = {"ensemble": FLOW, "timestep": 2.0, "velocities": {"temperature": 300, "seed": 2}}
    if folder is not None:
        every = {"thermo": 10, "trajectory": 5, "restart": 0}
        settings = {"every": 5, "bins": 24, "after": 20, **options.pop("conduction", {})}
        keys["output"] = {"directory": folder, **every, "observe": {"conduction": settings}}
    return Simulation(atoms or crystal(), MODEL, **{**keys, **options})


def rows(path):
    with open(path) as f:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(f)]


def test_heat_is_given_in_two_slabs_and_nowhere_else():
    """All particles at rest, none of which sees another: only those in a slab begin to move."""
    n = 24
    places = (np.arange(n)[:, None] + 0.5) / n * [[0.0, 144.0, 0.0]]
    gas = Atoms(f"Cu{n}", places, cell=[20.0, 144.0, 20.0], pbc=True)
    made = flowing(atoms=gas, ensemble={**FLOW, "width": 24.0}, velocities=None)
    made.run(1)
    speeds = np.linalg.norm(made.atoms.get_velocities(), axis=1)
    y = places[:, 1]
    slab = (np.minimum(y, 144.0 - y) < 12.0) | (np.abs(y - 72.0) < 12.0)
    np.testing.assert_array_equal(speeds > 0, slab)
    hot, cold = made.engine.baths.given()
    assert hot + cold == pytest.approx(made.thermo.kinetic, abs=1e-8)
    energies = 0.5 * 63.546 * KINETIC * (speeds * fs) ** 2
    assert hot == pytest.approx(energies[np.abs(y - 72.0) > 36.0].sum(), abs=1e-8)


def test_hot_is_hot_and_heat_flows_to_the_cold(tmp_path):
    made = flowing(tmp_path / "run")
    made.run(1520)
    profile = rows(tmp_path / "run/conduction_profile.csv")
    kelvin = np.array([row["temperature_K"] for row in profile])
    assert kelvin[[0, -1]].mean() == pytest.approx(500, rel=0.25)
    assert kelvin[11:13].mean() == pytest.approx(100, rel=0.35)
    (*_, last) = rows(tmp_path / "run/conduction.csv")
    assert last["heat_hot_eV"] > 0 > last["heat_cold_eV"]
    assert last["heat_hot_eV"] == pytest.approx(-last["heat_cold_eV"], rel=0.5)
    assert last["conductivity_W_per_m_K"] > 3 * last["error_W_per_m_K"] > 0
    height = crystal().cell.volume / np.linalg.norm(np.cross(*crystal().cell.array[[0, 2]]))
    assert profile[0]["position_A"] == pytest.approx(height / 48, rel=1e-9)


def test_the_conductivity_from_the_frames(tmp_path):
    """Fourier's law, from positions and velocities as they were written."""
    made = flowing(tmp_path / "run")
    made.run(20 + 5 * 2 * SAMPLES_OF_BLOCK)
    (*_, found) = rows(tmp_path / "run/conduction.csv")
    frames = ase.io.read(tmp_path / "run/trajectory.extxyz", ":")[5:]
    assert len(frames) == 2 * SAMPLES_OF_BLOCK
    atoms, energy = np.zeros(24), np.zeros(24)
    for frame in frames:
        slices = (frame.get_scaled_positions()[:, 1] * 24).astype(int)
        twice = KINETIC * frame.get_masses() * ((frame.get_velocities() * fs) ** 2).sum(axis=1)
        np.add.at(atoms, slices, 1.0)
        np.add.at(energy, slices, twice)
    kelvin = energy / (3 * BOLTZMANN * atoms)
    height = crystal().cell.volume / np.linalg.norm(np.cross(*crystal().cell.array[[0, 2]]))
    x = (np.arange(24) + 0.5) / 24 * height
    half = 0.5 * 4.0
    between = (x - height / 48 >= half) & (x + height / 48 <= height / 2 - half)
    beyond = (x - height / 48 >= height / 2 + half) & (x + height / 48 <= height - half)
    assert between.sum() == beyond.sum() >= 3
    down, up = (
        np.polyfit(x[where], np.nan_to_num(kelvin)[where], 1, w=np.sqrt(atoms[where]))[0]
        for where in (between, beyond)
    )
    steep = 0.5 * (up - down)
    assert found["slope_K_per_A"] == pytest.approx(steep, rel=1e-5)
    area = 2 * np.linalg.norm(np.cross(*crystal().cell.array[[0, 2]])) * 1e-20
    power = 0.5 * (found["heat_hot_eV"] - found["heat_cold_eV"]) / found["time_fs"] * WATTS
    assert found["time_fs"] == 2 * SAMPLES_OF_BLOCK * 10.0
    assert found["flux_W_per_m2"] == pytest.approx(power / area, rel=1e-9)
    kappa = power / area / (steep * 1e10)
    assert found["conductivity_W_per_m_K"] == pytest.approx(kappa, rel=1e-5)


def test_slices_between_the_planes_of_a_crystal(tmp_path):
    """Most of them hold no atom at all."""
    flowing(tmp_path / "run", conduction={"bins": 120}).run(20 + 5 * 3 * SAMPLES_OF_BLOCK)
    profile = rows(tmp_path / "run/conduction_profile.csv")
    empty = sum(np.isnan(row["temperature_K"]) for row in profile)
    assert empty > 20
    (*_, last) = rows(tmp_path / "run/conduction.csv")
    assert np.isfinite(list(last.values())).all()


def test_in_parts_it_is_the_same(tmp_path):
    def go(name, steps, **options):
        flowing(tmp_path / name, **options).run(steps)

    go("whole", 600)
    go("parts", 333)
    go("parts", 267, resume=tmp_path / "parts", velocities=None)
    for name in ("thermo.csv", "conduction.csv", "conduction_profile.csv", "trajectory.extxyz"):
        own = (tmp_path / "parts" / name).read_bytes()
        assert own == (tmp_path / "whole" / name).read_bytes()


def test_other_temperatures_begin_anew(tmp_path):
    """A run that goes on with them does not mix the two."""
    flowing(tmp_path / "run").run(20 + 5 * 2 * SAMPLES_OF_BLOCK)
    hotter = {**FLOW, "hot": 700}
    go = {"resume": tmp_path / "run", "velocities": None}
    flowing(tmp_path / "run", ensemble=hotter, **go).run(5 + 5 * SAMPLES_OF_BLOCK)
    (row,) = rows(tmp_path / "run/conduction.csv")
    assert row["time_fs"] == SAMPLES_OF_BLOCK * 10.0
    flowing(tmp_path / "run", ensemble=hotter, **go).run(5 * SAMPLES_OF_BLOCK)
    assert len(rows(tmp_path / "run/conduction.csv")) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ensemble": {**FLOW, "cold": 500}}, "'hot' 500 K is not above 'cold' 500 K"),
        ({"ensemble": {**FLOW, "width": 6.0}}, "two slabs of width 6 Å take 61% of the cell"),
        ({"ensemble": {**FLOW, "temperature": 3}}, "has no key 'temperature'"),
        ({"ensemble": {"type": "heat-flow", "axis": "b"}}, r"needs hot \(K\) and cold \(K\) and w"),
        ({"conduction": {"bins": 12}}, "2 of 12 slices lie between the slabs"),
        ({"ensemble": {"type": "nve"}}, "needs ensemble 'heat-flow'"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path, change, message):
    with pytest.raises(InputError, match=message) as error:
        flowing(tmp_path / "run", **change).run(30)
    assert "\n" not in str(error.value)


def test_an_open_axis():
    atoms = crystal()
    atoms.pbc = [True, False, True]
    with pytest.raises(InputError, match="axis b is not periodic"):
        flowing(atoms=atoms)
