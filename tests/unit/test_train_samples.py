"""The frames that stand for all, and what they tell of a training, element by element."""

import logging

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from copper import settings

from deepmd_lite.calculator import Calculator
from deepmd_lite.data import load, prepare
from deepmd_lite.model import load_model
from deepmd_lite.training import train
from deepmd_lite.training.config import read_input
from deepmd_lite.training.judge import forces_by_element
from deepmd_lite.training.samples import table_sample, validation_sample
from deepmd_lite.training.setup import initial_potential, load_data
from deepmd_lite.training.trainer import Trainer

MAP = ["Cu", "Ag", "Ni"]


def labelled(first, seed):
    """Rattled copper whose first atom is of another element."""
    atoms = bulk("Cu", cubic=True)
    atoms.symbols[0] = first
    atoms.positions += 0.08 * np.random.default_rng(seed).normal(size=(4, 3))
    atoms.calc = EMT()
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    return atoms


@pytest.fixture(name="data", scope="module")
def _data(tmp_path_factory):
    """Frames of copper and of copper with silver; nickel in one of forty."""
    folder = tmp_path_factory.mktemp("rare")
    for name, seed in (("train", 0), ("validation", 100)):
        frames = [labelled("Cu" if k % 2 else "Ag", seed + k) for k in range(39)]
        write(folder / f"{name}.extxyz", [*frames, labelled("Ni", seed + 60)])
    return folder


def test_every_element_is_in_every_sample(data):
    """The nickel is where neither the spread nor the first of an order would look."""
    (system,) = load(data / "train.extxyz")
    frames = [system.frames[k] for k in (*range(20), 39, *range(20, 39))]
    prepared = prepare(frames, MAP, 4.0)
    found = table_sample([prepared[0], *prepared[1:]])
    assert set(found.types.tolist()) == {0, 1, 2}
    given = input_of(data)
    given.training.validation_data.numb_btch = 1
    given.training.validation_data.batch_size = 2
    for seed in range(5):
        given.training.seed = seed
        batches = validation_sample(prepared, prepared, given)
        types = {t for b in batches for t in b.env.types[: b.env.n_local].tolist()}
        assert types == {0, 1, 2}
        sources = [f.source for b in batches for f in b.frames]
        assert len(sources) == len(set(sources)) <= 4


def input_of(data):
    given = settings(data)
    given["model"]["type_map"] = MAP
    return read_input(given)[0]


def trainer_of(data):
    given = input_of(data)
    loaded = load_data(given, quiet=True)
    return Trainer(given, loaded, initial_potential(given, loaded, None))


def test_errors_by_element(data):
    trainer = trainer_of(data)
    found = {f.element: f for f in forces_by_element(trainer, trainer.data.validation)}
    errors = {name: [] for name in MAP}
    labels = {name: [] for name in MAP}
    for batch in trainer.data.validation:
        for frame in batch.frames:
            (p,) = prepare([frame], MAP, trainer.potential.rcut)
            forces = p.periodic.fold(trainer.potential.evaluate(p.env).forces).numpy()
            for k, symbol in enumerate(frame.symbols):
                errors[symbol].append(forces[k] - frame.forces[k])
                labels[symbol].append(frame.forces[k])
    for name, f in found.items():
        assert f.atoms == len(errors[name]) > 0
        assert f.error == pytest.approx(np.sqrt(np.mean(np.square(errors[name]))), rel=1e-5)
        assert f.size == pytest.approx(np.sqrt(np.mean(np.square(labels[name]))), rel=1e-12)
    assert set(found) == set(MAP)


def test_of_energies_alone_nothing_is_said(data, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    given = settings(data, numb_steps=4)
    given["model"]["type_map"] = MAP
    given["loss"] |= {"start_pref_f": 0, "limit_pref_f": 0}
    train(given, output=tmp_path / "out", quiet=True)
    assert "force RMSE by element" not in caplog.text
    assert "not learnt" not in caplog.text


def test_errors_of_isolated_atoms_are_told(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    frames = [labelled("Cu", k) for k in range(8)]
    for element, energy in (("Cu", -0.5), ("Ag", -1.5)):
        alone = Atoms(element, info={"REF_energy": energy, "config_type": "IsolatedAtom"})
        frames.append(alone)
    write(tmp_path / "train.extxyz", frames)
    write(tmp_path / "validation.extxyz", [labelled("Cu", 100)])
    given = settings(tmp_path, numb_steps=2)
    given["model"]["type_map"] = ["Cu", "Ag"]
    model = load_model(train(given, output=tmp_path / "out", quiet=True))
    found = []
    for element, energy in (("Ag", -1.5), ("Cu", -0.5)):
        atoms = Atoms(element, calculator=Calculator(model))
        found.append(f"{element} {1e3 * (atoms.get_potential_energy() - energy):+.1f}")
    assert f"isolated atoms, model − label (training, meV): {', '.join(found)}" in caplog.text


@pytest.mark.parametrize(("validated", "told"), [("others", True), ("the same", False)])
def test_frames_that_are_known_by_heart_are_told(tmp_path, caplog, validated, told):
    caplog.set_level(logging.INFO)
    frames = [labelled("Cu", k) for k in range(3)]
    others = frames if validated == "the same" else [labelled("Cu", 100 + k) for k in range(6)]
    write(tmp_path / "train.extxyz", frames)
    write(tmp_path / "validation.extxyz", others)
    given = settings(tmp_path, numb_steps=200, disp_freq=100, check=False)
    given["model"]["type_map"] = ["Cu"]
    model = load_model(train(given, output=tmp_path / "out", quiet=True))
    assert ("forces of frames that were trained on are off by" in caplog.text) == told
    if told:
        errors = []
        for those in (frames, others):
            off = []
            for atoms in those:
                own = atoms.copy()
                own.calc = Calculator(model)
                off.append(own.get_forces() - atoms.get_forces())
            errors.append(1e3 * np.sqrt(np.mean(np.square(off))))
        known, unknown = (round(x) for x in errors)
        assert f"off by {known} meV/Å, those of validation frames by {unknown}: " in caplog.text


def test_an_element_without_forces_is_not_missed(tmp_path, caplog):
    """Silver, on which hardly any force acts."""
    for name, n, seed in (("train", 16, 0), ("validation", 12, 100)):
        frames = [labelled("Ag" if k % 2 else "Cu", seed + k) for k in range(n)]
        for atoms in frames[1::2]:
            atoms.calc.results["forces"] = 1e-4 * atoms.get_forces()
        write(tmp_path / f"{name}.extxyz", frames)
    given = settings(tmp_path, numb_steps=200, disp_freq=100, check=False)
    given["model"]["type_map"] = ["Cu", "Ag"]
    train(given, output=tmp_path / "out", quiet=True)
    assert "not learnt the forces" not in caplog.text


def test_an_element_that_was_not_learnt_is_named(tmp_path, caplog):
    """Silver, whose forces are those of other frames."""
    caplog.set_level(logging.INFO)
    for name, n, seed in (("train", 16, 0), ("validation", 12, 100)):
        frames = [labelled("Ag" if k % 2 else "Cu", seed + k) for k in range(n)]
        for k in range(1, n, 2):
            forces = frames[k].get_forces()
            forces[0] = frames[(k + 4) % n].get_forces()[0]
            frames[k].calc.results["forces"] = forces
        write(tmp_path / f"{name}.extxyz", frames)
    given = settings(tmp_path, numb_steps=200, disp_freq=100)
    given["model"]["type_map"] = ["Cu", "Ag"]
    train(given, output=tmp_path / "out", quiet=True)
    assert "force RMSE by element (validation, meV/Å): Cu " in caplog.text
    assert "has not learnt the forces on Ag: they are off by" in caplog.text
    assert "forces on Cu" not in caplog.text
