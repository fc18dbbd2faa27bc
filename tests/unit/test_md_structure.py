"""Structures of a run; above all that no element of a LAMMPS file is guessed in silence."""

import re

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.units import fs

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
