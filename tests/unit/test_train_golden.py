"""From the same weights a training goes step for step as DeePMD-kit's (`golden/training.py`)."""

import json
from pathlib import Path

import numpy as np
import pytest

from deepmd_lite.interop import convert
from deepmd_lite.model import load_model
from deepmd_lite.neighbors import periodic_env
from deepmd_lite.training import train

GOLDEN = Path(__file__).parents[1] / "golden"
LABELS = ("coord", "box", "energy", "force", "virial")
CURVES = {path.stem: np.load(path) for path in sorted(GOLDEN.glob("training_*.npz"))}
BACKENDS = ("training_tensorflow", "training_pytorch")
# TensorFlow's Adam has the powers of its betas and the learning rate in single precision (without
# that 3e-7 are left), DeePMD-kit with PyTorch the reciprocal of the number of atoms
TOLERANCE = dict.fromkeys(CURVES, 2e-7) | {"training_tensorflow": 3e-5}
SPACING = dict.fromkeys(CURVES, 0.1) | {"training_faded_one_sided": 0.03}  # Å: nodes are distances


def model_of(name):
    """The golden model that a golden training began with."""
    return "one_sided" if name in BACKENDS else name.removeprefix("training_")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Golden training → the folder of the same training here."""
    folders = {}

    def folder_of(name):
        model, curves = model_of(name), CURVES[name]
        if model in folders:
            return folders[model]
        folder = folders[model] = tmp_path_factory.mktemp(model)
        (golden := folder / "data" / "set.000").mkdir(parents=True)
        types = np.load(GOLDEN / f"{model}.npz")["types"]
        (folder / "data" / "type.raw").write_text("\n".join(map(str, types)))
        (folder / "data" / "type_map.raw").write_text("O\nH\n")
        for label in LABELS:
            np.save(golden / f"{label}.npy", curves[label])
        convert(GOLDEN / f"{model}.dp", folder / "start.dpl")
        config = json.loads(str(curves["input"]))
        config["model"] |= {"repulsion": None, "table": {"spacing": SPACING[name]}}
        config["optimizer"] = {"type": "Adam"}
        config["learning_rate"]["smooth"] = False
        config["training"]["training_data"] = {"systems": str(folder / "data"), "batch_size": 2}
        config["training"]["check"] = False  # the labels are far from any physics
        train(config, output=folder / "out", init_model=folder / "start.dpl", quiet=True)
        return folder

    return folder_of


@pytest.mark.parametrize("name", CURVES)
def test_every_step_has_the_errors_of_deepmd_kit(trained, name):
    expected = CURVES[name]["curve"]
    lines = (trained(name) / "out" / "train.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [r["step"] for r in records] == list(range(1, len(expected) + 1))
    curve = [[r["training"][f"rmse_{letter}"] for letter in "efv"] for r in records]
    assert (expected[-1, 1:] < 0.7 * expected[0, 1:]).all()  # it has learned something
    np.testing.assert_allclose(curve, expected, rtol=TOLERANCE[name], atol=0)


@pytest.mark.parametrize("name", CURVES)
def test_the_last_model_is_that_of_deepmd_kit(trained, name):
    expected, model = CURVES[name], load_model(trained(name) / "out" / "model.dpl")
    frames = np.load(GOLDEN / f"{model_of(name)}.npz")
    for k in range(2):
        coordinates, cell = frames["coordinates"][k], frames["cells"][k]
        periodic = periodic_env(coordinates, cell, np.ones(3, bool), frames["types"], model.rcut)
        found = model.evaluate(periodic.env)
        energy, forces = float(found.energies.sum()), periodic.fold(found.forces).numpy()
        tolerance = 20 * TOLERANCE[name]  # eV; eV/Å of forces up to 50
        assert energy == pytest.approx(expected["last_energy"][k], rel=0, abs=tolerance)
        np.testing.assert_allclose(forces, expected["last_forces"][k], rtol=0, atol=tolerance)


def test_both_backends_learned_the_same():
    one, other = (CURVES[name] for name in BACKENDS)
    assert str(one["input"]) == str(other["input"])
    assert all(np.array_equal(one[name], other[name]) for name in LABELS)
