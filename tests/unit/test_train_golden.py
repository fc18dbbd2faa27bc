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
FRAMES = np.load(GOLDEN / "one_sided.npz")
CURVES = {b: np.load(GOLDEN / f"training_{b}.npz") for b in ("tensorflow", "pytorch")}
# TensorFlow's Adam has the powers of its betas and the learning rate in single precision (without
# that 3e-7 are left), DeePMD-kit with PyTorch the reciprocal of the number of atoms
TOLERANCE = {"tensorflow": 3e-5, "pytorch": 2e-7}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of the same training here."""
    folder = tmp_path_factory.mktemp("golden")
    (golden := folder / "data" / "set.000").mkdir(parents=True)
    (folder / "data" / "type.raw").write_text("\n".join(map(str, FRAMES["types"])))
    (folder / "data" / "type_map.raw").write_text("O\nH\n")
    for name in LABELS:
        np.save(golden / f"{name}.npy", CURVES["pytorch"][name])
    convert(GOLDEN / "one_sided.dp", folder / "start.dpl")
    config = json.loads(str(CURVES["pytorch"]["input"]))
    config["model"] |= {"repulsion": None, "table": {"spacing": 0.1}}
    config["optimizer"] = {"type": "Adam"}
    config["learning_rate"]["smooth"] = False
    config["training"]["training_data"] = {"systems": str(folder / "data"), "batch_size": 2}
    config["training"]["check"] = False  # the labels are far from any physics
    train(config, output=folder / "out", init_model=folder / "start.dpl", quiet=True)
    return folder / "out"


@pytest.mark.parametrize("backend", sorted(CURVES))
def test_every_step_has_the_errors_of_deepmd_kit(trained, backend):
    expected = CURVES[backend]["curve"]
    records = [json.loads(line) for line in (trained / "train.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records] == list(range(1, len(expected) + 1))
    curve = [[r["training"][f"rmse_{letter}"] for letter in "efv"] for r in records]
    assert (expected[-1] < 0.2 * expected[0]).all()  # it has learned something
    np.testing.assert_allclose(curve, expected, rtol=TOLERANCE[backend], atol=0)


@pytest.mark.parametrize("backend", sorted(CURVES))
def test_the_last_model_is_that_of_deepmd_kit(trained, backend):
    expected, model = CURVES[backend], load_model(trained / "model.dpl")
    for k in range(2):
        coordinates, cell = FRAMES["coordinates"][k], FRAMES["cells"][k]
        periodic = periodic_env(coordinates, cell, np.ones(3, bool), FRAMES["types"], model.rcut)
        found = model.evaluate(periodic.env)
        energy, forces = float(found.energies.sum()), periodic.fold(found.forces).numpy()
        tolerance = 20 * TOLERANCE[backend]  # eV; eV/Å of forces up to 50
        assert energy == pytest.approx(expected["last_energy"][k], rel=0, abs=tolerance)
        np.testing.assert_allclose(forces, expected["last_forces"][k], rtol=0, atol=tolerance)


def test_both_backends_learned_the_same():
    one, other = CURVES.values()
    assert str(one["input"]) == str(other["input"])
    assert all(np.array_equal(one[name], other[name]) for name in LABELS)
