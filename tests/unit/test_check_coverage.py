"""What right data do not tell of their elements: in a check, and before a training."""

import logging

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from copper import settings

from deepmd_lite.check import check_data
from deepmd_lite.check.coverage import alike, unknown_bonds
from deepmd_lite.training import train


def written(path, formulas, forces=True, rattle=0.1):
    """Clusters, and single atoms far from everything, with EMT's labels."""
    rng, frames = np.random.default_rng(2), []
    for formula in formulas:
        atoms = Atoms(formula)
        places = np.indices((2, 2, 2)).reshape(3, -1).T[: len(atoms)]
        atoms.positions = 2.7 * places + rattle * rng.normal(size=(len(atoms), 3))
        atoms.calc = EMT()
        labels = {"energy": atoms.get_potential_energy()}
        if forces and len(atoms) > 1:
            labels["forces"] = atoms.get_forces()
        atoms.calc = SinglePointCalculator(atoms, **labels)
        frames.append(atoms)
    write(path, frames)
    return path


@pytest.fixture(name="data")
def _data(tmp_path):
    """One compound, and an atom of another element."""
    written(tmp_path / "train.extxyz", ["Cu2Ag2"] * 12)
    written(tmp_path / "validation.extxyz", ["Cu2Ag2"] * 4, rattle=0.12)
    written(tmp_path / "atom.extxyz", ["Au"])
    return tmp_path


def test_an_element_without_bonds_is_a_note(data):
    report = check_data({"data": [data / "train.extxyz"]})
    assert "element-alone" not in {f.code for f in report.findings}
    report = check_data({"data": [data / "train.extxyz", data / "atom.extxyz"]})
    (note,) = (f for f in report.findings if f.code == "element-alone")
    assert (note.severity, note.what) == ("note", "Au: only as isolated atoms")
    alone = check_data({"data": [data / "atom.extxyz"]})
    assert "element-alone" not in {f.code for f in alone.findings}


def test_compositions_that_leave_energies_open_are_told(data):
    said = "energies: the compositions do not tell Ag, Cu apart: only differences of energy between"
    assert said in check_data({"data": [data / "train.extxyz"]}).text(6.0)
    others = written(data / "others.extxyz", ["CuAg3"])
    assert said not in check_data({"data": [data / "train.extxyz", others]}).text(6.0)


def test_a_training_tells_both(data, caplog):
    caplog.set_level(logging.INFO)
    config = settings(data, numb_steps=1)
    config["model"]["type_map"] = ["Cu", "Ag", "Au"]
    sets = config["training"]["training_data"]
    sets["systems"] = [str(data / "train.extxyz"), str(data / "atom.extxyz")]
    train(config, output=data / "a", quiet=True)
    assert "note: training data: Au: only as isolated atoms; a model of these data" in caplog.text
    assert "note: training data: the compositions do not tell Cu, Ag apart: only" in caplog.text
    caplog.clear()
    config["model"]["type_map"] = ["Cu", "Ag"]
    config["model"]["fitting_net"]["atom_ener"] = [1.0, None]
    sets["systems"] = [str(data / "train.extxyz")]
    train(config, output=data / "b", quiet=True)
    assert "note: training data:" not in caplog.text


def test_elements_without_forces():
    counts = np.array([[2, 0], [1, 1], [0, 1]])
    everywhere, some = np.array([True, True, False]), np.array([True, False, False])
    (told,) = unknown_bonds(["Cu", "Ag"], counts, everywhere, some)
    assert told[0] == "Ag: in no frame with forces, which others have"
    assert not list(unknown_bonds(["Cu", "Ag"], counts, everywhere, everywhere))
    assert not list(unknown_bonds(["Cu", "Ag"], counts, everywhere, ~everywhere))


def test_elements_whose_energies_are_open():
    assert alike(["O", "H", "C"], [[1, 2, 0], [2, 4, 1]]) == ["O", "H"]
    assert alike(["O", "H"], [[1, 2], [0, 1]]) == []
    assert alike(["O", "H"], np.zeros((0, 2))) == []
    assert alike([], np.zeros((3, 0))) == []
