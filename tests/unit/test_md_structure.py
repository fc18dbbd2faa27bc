"""Structures of a run; above all that no element of a LAMMPS file is guessed in silence."""

import re

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.constraints import FixAtoms, FixBondLength, FixCartesian
from ase.units import fs
from pair_potential import PairPotential

from deepmd_lite.md import Simulation
from deepmd_lite.md.structure import read_structure
from deepmd_lite.system import InputError


def triclinic():
    atoms = bulk("Si", cubic=True, a=5.43).repeat((2, 1, 1))
    atoms.symbols[[0, 5]] = "Ge"
    tilt = np.array([[0, 0, 0], [1.0, 0, 0], [0.5, 0.3, 0]])
    atoms.set_cell(atoms.cell.array + tilt, scale_atoms=True)
    atoms.set_velocities(np.random.default_rng(0).normal(size=(16, 3)) * 0.01 / fs)
    return atoms


@pytest.mark.parametrize("suffix", [".data", ".lmp"])
@pytest.mark.parametrize("elements", [None, ["Ge", "Si"]])
def test_lammps_data(tmp_path, suffix, elements):
    """Elements by mass or by name; distances, cell and velocities survive."""
    path, atoms = tmp_path / f"s{suffix}", triclinic()
    options = {"masses": True, "velocities": True, "units": "metal", "specorder": ["Ge", "Si"]}
    ase.io.write(path, atoms, format="lammps-data", **options)
    found = read_structure(str(path), elements)
    assert list(found.symbols) == list(atoms.symbols)
    assert found.pbc.all()
    np.testing.assert_allclose(found.cell.lengths(), atoms.cell.lengths(), rtol=1e-8)
    expected = atoms.get_all_distances(mic=True)
    np.testing.assert_allclose(found.get_all_distances(mic=True), expected, atol=1e-6)
    kinetic = atoms.get_kinetic_energy()
    assert found.get_kinetic_energy() == pytest.approx(kinetic, rel=1e-4)


def test_types_without_a_name_are_an_error(tmp_path):
    path = tmp_path / "s.data"
    ase.io.write(path, triclinic(), format="lammps-data", specorder=["Ge", "Si"])
    with pytest.raises(InputError, match=r"neither masses nor type labels say .* 2 atom types"):
        read_structure(str(path))
    assert set(read_structure(str(path), ["Ge", "Si"]).symbols) == {"Ge", "Si"}
    with pytest.raises(InputError, match="expected 2 element symbols"):
        read_structure(str(path), ["Si"])
    with pytest.raises(InputError, match="'Sj' is none"):
        read_structure(str(path), ["Ge", "Sj"])


def test_masses_of_no_element_are_an_error(tmp_path):
    path = tmp_path / "s.data"
    ase.io.write(path, triclinic(), format="lammps-data", masses=True, specorder=["Ge", "Si"])
    text, changed = re.subn(r"(Masses\s+1\s+\S+\s.*\n\s*2\s+)\S+", r"\g<1>29.5", path.read_text())
    assert changed == 1
    path.write_text(text)
    with pytest.raises(InputError, match=r"a mass of 29\.5 u is that of no element"):
        read_structure(str(path))


def test_files_that_are_no_structure(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_structure(str(tmp_path / "none.xyz"))
    other = tmp_path / "notes.data"
    other.write_text("just some text\n")
    with pytest.raises(InputError, match="is not a LAMMPS data file"):
        read_structure(str(other))
    other.write_bytes(bytes(range(256)))
    with pytest.raises(InputError, match=r"notes.data"):
        read_structure(str(other))
    xyz = tmp_path / "s.extxyz"
    ase.io.write(xyz, [triclinic(), triclinic()])
    with pytest.raises(InputError, match="names 2 frames"):
        read_structure(f"{xyz}@:")
    with pytest.raises(InputError, match="leave the key out"):
        read_structure(str(xyz), ["Ge", "Si"])


# --- constraints ----------------------------------------------------------------------------


def copper():
    atoms = bulk("Cu", cubic=True, a=3.7).repeat((2, 2, 1))
    atoms.rattle(0.1, seed=2)
    return atoms


@pytest.mark.parametrize("name", ["POSCAR", "s.traj", "s.extxyz"])
def test_constraints_of_a_file_hold_atoms_in_every_copy(tmp_path, name):
    atoms = copper()
    atoms.set_constraint(FixAtoms(indices=[0, 7, 9]))
    options = {"columns": ["symbols", "positions", "move_mask"]} if name == "s.extxyz" else {}
    ase.io.write(tmp_path / name, atoms, **options)
    unit = read_structure(str(tmp_path / name))
    thermal = {"temperature": 600}
    moved = Simulation(unit, PairPotential(), replicate=(1, 1, 2), velocities=thermal, timestep=2.0)
    moved.run(5)
    start = unit.repeat((1, 1, 2)).positions
    still = np.flatnonzero(np.abs(moved.atoms.positions - start).max(axis=1) < 1e-12)
    assert still.tolist() == [0, 7, 9, 16, 23, 25]
    assert moved.n_held == 6
    assert moved.freedom == 3 * (32 - 6)


def test_masks_of_each_axis_hold_all_or_nothing(tmp_path):
    atoms = copper()
    atoms.set_constraint([FixCartesian(k, mask=[k == 4] * 3) for k in range(16)])
    assert Simulation(atoms, PairPotential()).state.mobile.sum() == 15
    atoms.set_constraint(FixCartesian([2, 3], mask=(False, False, True)))
    with pytest.raises(InputError, match=r"constraint FixCartesian: .*'frozen'"):
        Simulation(atoms, PairPotential())


def test_constraints_and_selections_add_up():
    atoms = copper()
    atoms.set_constraint(FixAtoms(indices=[0, 1]))
    assert Simulation(atoms, PairPotential(), frozen={"indices": "1:4"}).n_held == 4
    with pytest.raises(InputError, match="holds all 16 atoms"):
        Simulation(atoms, PairPotential(), frozen={"indices": "2:"})


def test_constraints_that_cannot_be_kept_are_an_error():
    atoms = copper()
    atoms.set_constraint([FixAtoms(indices=[0]), FixBondLength(1, 2)])
    with pytest.raises(InputError, match=r"constraint FixBondLengths?: .*'frozen'"):
        Simulation(atoms, PairPotential())


def test_cells_do_not_change_around_constrained_atoms():
    atoms = copper()
    atoms.set_constraint(FixAtoms(indices=[0]))
    scr = {"type": "npt-scr", "temperature": 300, "pressure": 0}
    with pytest.raises(InputError, match="the 1 held atoms would have to move"):
        Simulation(atoms, PairPotential(), ensemble=scr)


def test_a_frame_that_the_file_does_not_have(tmp_path):
    path = tmp_path / "two.extxyz"
    ase.io.write(path, [bulk("Si"), bulk("Ge")])
    assert set(read_structure(f"{path}@0").symbols) == {"Si"}
    assert set(read_structure(f"{path}@-2").symbols) == {"Si"}
    assert set(read_structure(f"{path}@-1").symbols) == {"Ge"}
    assert set(read_structure(f"{path}@-0").symbols) == {"Si"}
    for index in ("2", "-3", "-30"):
        with pytest.raises(InputError, match=rf"@{index}: .*two.extxyz has no such frame"):
            read_structure(f"{path}@{index}")


@pytest.mark.parametrize("rest", ["#head=pbe", "@0#head=pbe", "#energy=REF_energy"])
def test_what_chooses_data_chooses_no_structure(tmp_path, rest):
    ase.io.write(tmp_path / "s.extxyz", bulk("Cu"))
    with pytest.raises(InputError, match="'#' chooses data; name one frame by @"):
        read_structure(f"{tmp_path}/s.extxyz{rest}")
