"""Twenty picoseconds of water at constant energy (pytest -m validation; about five minutes)."""

import os

import pytest
from ase.io import read
from nve_water import EQUILIBRATION, KELVIN, LIMIT, PICOSECONDS, equilibrated, nve, plot, summary

pytestmark = pytest.mark.validation


def given(variable: str, what: str) -> str:
    if variable not in os.environ:
        pytest.skip(f"{variable} is not set: {what}")
    return os.environ[variable]


def test_float32_water_conserves_energy(tmp_path):
    model = given("DPL_WATER_MODEL", "a trained .dpl file that knows H and O")
    structure = given("DPL_WATER_STRUCTURE", "a frame of liquid water, anything ASE reads")
    atoms = equilibrated(read(structure), model, EQUILIBRATION, seed=1, quiet=True)
    run = nve(atoms, model, PICOSECONDS, "float32")
    print(summary(run[0]))
    plot(tmp_path / "nve.png", [run])
    assert (tmp_path / "nve.png").stat().st_size > 0
    assert run[0].temperature_K == pytest.approx(KELVIN, rel=0.15)
    assert run[0].beyond_table == 0
    assert abs(run[0].drift_meV_per_atom_ps) < LIMIT
