"""A model file says itself whether it computes here what it computed where it was written."""

import dataclasses

import numpy as np
import pytest
import torch
from c_library import ForceField, Refused
from model_files import rewrite
from models import random_atoms, random_potential

from deepmd_lite import kernels
from deepmd_lite.model import load_model, save_model
from deepmd_lite.model.reference_frames import MOST_ATOMS, smallest
from deepmd_lite.model.structures import Structure, evaluated
from deepmd_lite.system import ModelFileError


def with_frame(potential):
    atoms = random_atoms("O4H8", 6.0, 4, skew=0.1)
    types = np.array([potential.type_map.index(s) for s in atoms.get_chemical_symbols()])
    frame = Structure(
        "water.extxyz, frame 3",
        atoms.positions,
        atoms.cell.array,
        np.array([True, True, False]),
        types.astype(np.int32),
    )
    potential.reference_frames = (frame,)
    return potential


@pytest.fixture(name="path")
def _path(tmp_path):
    save_model(with_frame(random_potential(("O", "H"))), tmp_path / "model.dpl")
    return tmp_path / "model.dpl"


def test_a_sound_file_is_read_in_both_precisions(path):
    for precision in ("float64", "float32"):
        model = load_model(path, precision)
        (frame,) = model.reference_frames
        assert frame.name == "water.extxyz, frame 3"
        assert frame.pbc.tolist() == [True, True, False]
        assert frame.forces.shape == (12, 3)


def test_large_biases_hide_no_other_energy(tmp_path):
    """All-electron energies are thousands of eV, which are exact also in float32."""
    potential = with_frame(random_potential(("O", "H"), precision="float32"))
    potential.set_energy_bias(torch.tensor([-2041.5, -13.6], dtype=torch.float64))
    path = tmp_path / "model.dpl"
    save_model(potential, path)
    load_model(path)
    ForceField(path)

    def shift(header, arrays):
        arrays["energy_bias"][0] += 0.1

    rewrite(path, shift)
    with pytest.raises(ModelFileError, match=r"energies by 1\.0e-01"):
        load_model(path)
    with pytest.raises(Refused, match=r"energies by 1\.0e-01"):
        ForceField(path)


def test_results_are_those_of_the_potential_in_float64(path):
    model = load_model(path, "float64")
    again = evaluated(model, model.reference_frames[0])
    np.testing.assert_array_equal(again.forces, model.reference_frames[0].forces)


def test_a_model_trained_in_float32_remembers_its_rounded_weights(tmp_path):
    potential = with_frame(random_potential(("O", "H"), precision="float32"))
    save_model(potential, tmp_path / "model.dpl")
    assert load_model(tmp_path / "model.dpl", "float64").reference_frames
    assert load_model(tmp_path / "model.dpl").precision == "float32"
    assert potential.precision == "float32"


@pytest.mark.parametrize(
    "name", ["embedding.weight_1", "fitting.0.weight_out", "davg", "dstd", "energy_bias"]
)
def test_weights_that_have_changed_are_an_error(path, name):
    def change(header, arrays):
        key = next(k for k in arrays if k.startswith(name))
        arrays[key] = arrays[key] * (1.0 if "davg" in key else 1.001)
        if "davg" in key:
            arrays[key][:, 0] += 1e-3

    rewrite(path, change)
    with pytest.raises(ModelFileError, match=r"model\.dpl: its reference frame \(water"):
        load_model(path)


def test_kernels_that_compute_something_else_are_an_error(path, monkeypatch):
    evaluate = kernels.CompiledPotential.evaluate

    def wrong(self, env):
        found = evaluate(self, env)
        return dataclasses.replace(found, forces=found.forces * (1 + 1e-6))

    monkeypatch.setattr(kernels.CompiledPotential, "evaluate", wrong)
    with pytest.raises(ModelFileError, match="forces differ by"):
        load_model(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("positions", torch.zeros(3, 3, dtype=torch.float64)),
        ("positions", torch.zeros(12, 3, dtype=torch.float64)),  # they coincide
        ("positions", torch.full((12, 3), float("nan"), dtype=torch.float64)),
        ("types", torch.full((12,), 7, dtype=torch.int32)),
        ("types", torch.zeros(12, dtype=torch.int64)),
        ("cell", torch.zeros(3, 3, dtype=torch.float64)),
        ("forces", torch.zeros(11, 3, dtype=torch.float64)),
    ],
)
def test_damaged_frames_are_one_line(path, name, value):
    def change(header, arrays):
        arrays[f"reference.0.{name}"] = value

    rewrite(path, change)
    with pytest.raises(ModelFileError) as e:
        load_model(path)
    assert "reference frames" in str(e.value)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("entry", [None, [3], [{"source": "x"}], {"a": 1}, "text"])
def test_a_damaged_header_is_one_line(path, entry):
    def change(header, arrays):
        header["reference_frames"] = entry

    rewrite(path, change)
    with pytest.raises(ModelFileError):
        load_model(path)


def test_the_smallest_frame_with_all_elements_is_chosen():
    def frame(source, types):
        n = len(types)
        pbc, types = np.ones(3, bool), np.array(types, np.int32)
        return Structure(source, np.zeros((n, 3)), np.eye(3), pbc, types)

    candidates = [frame("one", [0]), frame("many", [0, 1] * 4), frame("few", [0, 1, 1])]
    assert smallest(candidates)[0].name == "few"
    assert smallest([frame("huge", [0] * (MOST_ATOMS + 1))]) == ()
    assert smallest([]) == ()


def test_a_potential_without_frames_is_saved_all_the_same(tmp_path):
    save_model(random_potential(), tmp_path / "model.dpl")
    assert load_model(tmp_path / "model.dpl").reference_frames == ()
