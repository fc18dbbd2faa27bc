"""Paths that say which frames, and which names are the labels."""

import json

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from copper import copper, settings

from deepmd_lite.check.pairs import near_pairs
from deepmd_lite.check.survey import Survey
from deepmd_lite.cli import main
from deepmd_lite.data import load, load_each
from deepmd_lite.data.ase_files import read_ase_file
from deepmd_lite.data.places import place_of
from deepmd_lite.data.writing import write_systems
from deepmd_lite.learning.config import own_systems
from deepmd_lite.system import InputError
from deepmd_lite.training import train


@pytest.fixture(name="path")
def _path(tmp_path):
    """Frames with the labels of two theories, as of a calculator and of somebody's own."""
    frames = copper(8, seed=1)
    for k, atoms in enumerate(frames):
        atoms.info["REF_energy"] = atoms.get_potential_energy() + 10.0 + k
        atoms.info["my_stress"] = -atoms.get_stress()
        atoms.arrays["my_forces"] = 2.0 * atoms.get_forces()
        labels = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        labels["stress"] = atoms.get_stress()
        atoms.calc = SinglePointCalculator(atoms, **labels)
    write(tmp_path / "a.extxyz", frames)
    return tmp_path / "a.extxyz"


def frames_of(text):
    return [frame for system in load(text) for frame in system.frames]


def test_what_a_path_says():
    place = place_of("a/b.xyz@2:10:3#energy=E,forces=F")
    assert (place.path, place.frames) == ("a/b.xyz", slice(2, 10, 3))
    assert place.labels == {"energy": "E", "forces": "F"}
    assert place.path + place.rest == "a/b.xyz@2:10:3#energy=E,forces=F"
    assert place_of("a.xyz@5").frames == slice(5, 6)
    assert place_of("a.xyz@-1").frames == slice(-1, None)
    assert place_of("a.xyz@-3").frames == slice(-3, -2)
    assert place_of("a.xyz@:").frames == slice(None)
    for plain in ("a.xyz", "data.h5#/H2O", "me@home/a.xyz", "a@b", "a.xyz#of=what"):
        assert place_of(plain).path == plain
    for wrong in ("a@::0", "a#energy=E,energy=F", "a#stress=S,virial=V"):
        with pytest.raises(InputError, match=r"^a[@#]"):
            place_of(wrong)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("forces=my_forces,enegry=REF_energy", "unknown label 'enegry'; did you mean 'energy'\\?"),
        ("dipole=d", "unknown label 'dipole'; known are energy, forces, virial, stress, head"),
        ("energy=REF_energy,forces", "expected LABEL=NAME behind '#', found 'forces'"),
    ],
)
@pytest.mark.parametrize("frames", ["", "@:3"])
def test_what_is_no_label_is_not_taken_for_a_group(path, labels, message, frames):
    with pytest.raises(InputError, match=rf"a\.extxyz{frames}#\w.*: {message}$"):
        load(f"{path}{frames}#{labels}")
    group = path.rename(path.with_suffix(".h5"))
    assert place_of(f"{group}#{labels}").path == f"{group}#{labels}"


def test_what_has_such_a_name_is_meant(path):
    systems = load(f"{path}#energy=energy")
    write_systems(systems, path.with_name("npy"))
    assert len(frames_of(path.with_name("npy@:2"))) == 2
    write_systems(systems, path.with_name("npy@:2"))
    assert len(frames_of(path.with_name("npy@:2"))) == 8


def test_names_that_are_chosen_are_the_labels(path):
    with pytest.raises(InputError, match="'energy' and 'REF_energy' disagree by 10 eV"):
        load(path)
    (first, *_) = frames_of(f"{path}#energy=energy")
    (other, *_) = frames_of(f"{path}#energy=REF_energy,forces=my_forces,stress=my_stress")
    assert other.energy == pytest.approx(first.energy + 10.0)
    np.testing.assert_allclose(other.forces, 2.0 * first.forces)
    np.testing.assert_allclose(other.virial, -first.virial, atol=1e-6)
    with pytest.raises(InputError, match=r"no frame has 'E_dft', which is to be the energy; .*REF"):
        load(f"{path}#energy=E_dft")


@pytest.mark.parametrize("frames", ["2:7:2", "-3:", "4", "-1", "::3"])
def test_frames_are_those_of_ase(path, frames):
    found = frames_of(f"{path}@{frames}#energy=energy")
    wanted = read(f"{path}@{frames}")
    wanted = wanted if isinstance(wanted, list) else [wanted]
    for frame, atoms in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(frame.positions, atoms.positions)
    assert found[0].source.startswith(f"{path}, frame ")


def test_frames_of_other_formats(path, tmp_path):
    (system,) = load(f"{path}#energy=energy")
    write_systems([system], tmp_path / "npy")
    write_systems([system], tmp_path / "all.h5")
    (inside,) = load(tmp_path / "all.h5")
    for place in (tmp_path / "npy", tmp_path / "all.h5", inside.name):
        assert len(frames_of(f"{place}@1:4")) == 3
        with pytest.raises(InputError, match="no such frames; it has 8, from 0 on"):
            load(f"{place}@20")
        with pytest.raises(InputError, match="have names of their own"):
            load(f"{place}#energy=REF_energy")


def test_parts_of_a_file_may_be_named_one_by_one(path):
    chosen = "#energy=energy"
    systems = load([f"{path}@:3{chosen}", f"{path}@3:{chosen}"])
    assert [len(s.frames) for s in systems] == [3, 5]
    assert systems[0].name == f"{path}@:3{chosen}"
    with pytest.raises(InputError, match="is named twice"):
        load([f"{path}@:3{chosen}", f"{path}@:3{chosen}"])
    good, bad = load_each([f"{path}@:3{chosen}", f"{path}@::0"])
    assert len(good.frames) == 3
    assert isinstance(bad, InputError)


def test_a_training_and_the_commands_take_such_paths(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = settings(tmp_path, numb_steps=2)
    config["training"]["training_data"]["systems"] = "a.extxyz@:6#energy=REF_energy"
    config["training"]["validation_data"] = {"systems": "a.extxyz@6:#energy=REF_energy"}
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "input.json").write_text(json.dumps(config))
    train(tmp_path / "in" / "input.json", output=tmp_path / "out", quiet=True)
    written = json.loads((tmp_path / "out" / "out.json").read_text())
    assert written["training"]["training_data"]["systems"] == [f"{path}@:6#energy=REF_energy"]
    assert main(["train", "--restart", "-o", "out", "-q"]) == 0
    given = "a.extxyz@:6#energy=REF_energy"
    assert own_systems("in/input.json")[0] == [given]
    model = "out/model.dpl"
    assert main(["test", model, "a.extxyz@6:#energy=REF_energy", "-q"]) == 0
    assert "2 frames" in capsys.readouterr().out
    assert main(["convert-data", "a.extxyz@:2#energy=energy", "b.extxyz", "-q"]) == 0
    assert len(read("b.extxyz", ":")) == 2


@pytest.fixture(name="heads")
def _heads(path):
    """Frames of two levels of theory, far apart, told apart as MACE does."""
    frames = copper(40, seed=1)
    for k, atoms in enumerate(frames):
        labels = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        atoms.info["head"] = "r2scan" if k % 2 else "pbe"
        labels["energy"] += 20.0 * (k % 2)
        atoms.calc = SinglePointCalculator(atoms, **labels)
    write(path.with_name("heads.extxyz"), frames)
    return path.with_name("heads.extxyz")


def test_several_levels_of_theory_are_told(heads):
    (system,) = load(heads)
    (note,) = system.notes
    assert "frames differ in head (pbe, r2scan), and all are trained as one" in note
    assert "#head=NAME" in note
    (system,) = load(f"{heads}#head=pbe")
    assert not system.notes
    assert len(system.frames) == 20
    assert {frame.head for frame in system.frames} == {"pbe"}
    (system,) = load(f"{heads}@2:4#head=r2scan")
    assert [frame.source[-7:] for frame in system.frames] == ["frame 5", "frame 7"]
    with pytest.raises(InputError, match=r"no frame has head=pbd; it has: pbe, r2scan$"):
        load(f"{heads}#head=pbd")
    write_systems(load(heads), heads.with_name("copy.extxyz"))
    assert len(frames_of(heads.with_name("copy.extxyz#head=pbe"))) == 20


def test_a_level_whose_frames_are_all_broken_is_there(heads):
    atoms = Atoms("Cu", info={"head": "spoilt"})
    atoms.calc = SinglePointCalculator(atoms, energy=np.nan, forces=[[0.0, 0.0, 0.0]])
    write(heads, atoms, append=True)
    broken = []
    read_ase_file(heads, broken=broken, head="spoilt")
    assert len(broken) == 1
    assert "frame 40" in str(broken[0])


def test_frames_of_one_level_of_theory_are_compared(heads):
    survey = Survey.of({"data": load(heads)})
    pairs = near_pairs(survey, np.arange(40))
    assert len(pairs) > 12
    assert not ((pairs.first - pairs.second) % 2).any()
