"""A training from end to end: it learns, can be continued bit for bit, and ends in order."""

import json
import logging
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.calculators.emt import EMT
from ase.io import read, write
from copper import N_STEPS, copper, settings
from safetensors import safe_open
from safetensors.torch import save_file

import deepmd_lite
from deepmd_lite.evaluate import evaluate
from deepmd_lite.model import load_model, read_header
from deepmd_lite.system import InputError
from deepmd_lite.training import TrainingError, train
from deepmd_lite.training.checkpoint import Checkpoint
from deepmd_lite.training.report import read_lcurve

PACKAGE_FOLDER = str(Path(deepmd_lite.__file__).parents[1])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("copper")
    write(folder / "train.extxyz", copper(12, 1))
    write(folder / "validation.extxyz", copper(4, 2))
    return folder


def arrays_of(path):
    return Checkpoint.read(path).arrays


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory):
    output = tmp_path_factory.mktemp("uninterrupted")
    train(settings(data), output=output, quiet=True)
    return output


@pytest.mark.parametrize("kind", ["Adam", "SOAP"])
def test_dtype_and_gradient_mode_of_the_caller_change_no_bit(data, tmp_path, kind):
    config = settings(data, numb_steps=4, gradient_max_norm=0.1)
    config["optimizer"] = {"type": kind}
    train(config, output=tmp_path / "usual", quiet=True)
    torch.set_default_dtype(torch.float64)
    try:
        train(config, output=tmp_path / "double", quiet=True)
        with torch.inference_mode(), torch.no_grad():
            train(config, output=tmp_path / "without", quiet=True)
    finally:
        torch.set_default_dtype(torch.float32)
    usual, *others = (
        arrays_of(tmp_path / name / "checkpoint.safetensors")
        for name in ("usual", "double", "without")
    )
    for other in others:
        assert usual.keys() == other.keys()
        for name, array in usual.items():
            np.testing.assert_array_equal(array, other[name], name, strict=True)


def test_what_a_training_leaves(uninterrupted):
    assert {p.name for p in uninterrupted.iterdir()} == {
        *("model.dpl", "model-best.dpl", "checkpoint.safetensors", "lcurve.out"),
        *("train.jsonl", "learning_curve.png", "out.json"),
    }
    assert read_lcurve(uninterrupted / "lcurve.out")["step"].tolist() == [1, 4, 8, 12]
    provenance = read_header(uninterrupted / "model.dpl")["provenance"]
    assert provenance["steps"] == "12 of 12"
    assert provenance["virials trained"] is True
    assert "12 frames, 48 atoms" in provenance["training data"]
    assert load_model(uninterrupted / "model.dpl").table_error["force_ev_per_a"] <= 1e-6


def test_the_model_file_is_the_last_step(uninterrupted, data):
    """The model's error on the validation set is what the last row of lcurve.out says."""
    curve = read_lcurve(uninterrupted / "lcurve.out")
    total = evaluate(uninterrupted / "model.dpl", data / "validation.extxyz").total()
    assert total.force_rmse == pytest.approx(curve["rmse_f_val"][-1], rel=0.006)
    assert total.energy_rmse_per_atom == pytest.approx(curve["rmse_e_val"][-1], rel=0.006)
    assert total.virial_rmse_per_atom == pytest.approx(curve["rmse_v_val"][-1], rel=0.006)


def test_the_same_input_gives_the_same_bits(uninterrupted, data, tmp_path):
    train(settings(data), output=tmp_path, quiet=True)
    first, second = (arrays_of(f / "checkpoint.safetensors") for f in (uninterrupted, tmp_path))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[k], second[k]) for k in first)


def stopping_after(monkeypatch, n):
    """Let SIGTERM arrive during step `n`."""
    from deepmd_lite.training.loop import Trainer

    original = Trainer.step

    def step(self):
        if self.steps_done == n - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self)

    monkeypatch.setattr(Trainer, "step", step)


@pytest.mark.parametrize("stop", [4, 7])
def test_an_interrupted_training_continues_bit_for_bit(
    uninterrupted, data, tmp_path, monkeypatch, stop
):
    with monkeypatch.context() as patch:
        stopping_after(patch, stop)
        model = train(settings(data), output=tmp_path, quiet=True)
    assert read_header(model)["provenance"]["steps"] == f"{stop} of {N_STEPS}"
    assert Checkpoint.read(tmp_path / "checkpoint.safetensors").step == stop
    train(settings(data), output=tmp_path, restart=True, quiet=True)

    whole = Checkpoint.read(uninterrupted / "checkpoint.safetensors")
    parts = Checkpoint.read(tmp_path / "checkpoint.safetensors")
    assert parts.arrays.keys() == whole.arrays.keys()
    for name, array in whole.arrays.items():
        assert torch.equal(array, parts.arrays[name]), name
    assert (parts.step, parts.sampler, parts.best) == (whole.step, whole.sampler, whole.best)
    assert (tmp_path / "lcurve.out").read_bytes() == (uninterrupted / "lcurve.out").read_bytes()
    for name in ("model.dpl", "model-best.dpl"):
        a, b = load_model(tmp_path / name), load_model(uninterrupted / name)
        assert all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


@pytest.mark.parametrize("kind", ["se_e2_r", "se_e2_q"])
def test_any_descriptor_continues_bit_for_bit(data, tmp_path, kind):
    config = settings(data, numb_steps=2)
    config["model"]["descriptor"]["type"] = kind
    if kind == "se_e2_r":
        del config["model"]["descriptor"]["axis_neuron"]
    else:
        config["model"]["descriptor"]["cubic_neuron"] = 2
    config["learning_rate"]["decay_rate"] = 0.9  # rates that do not depend on the last step
    whole = train(config, output=tmp_path / "whole", quiet=True)
    config["training"]["numb_steps"] = 1
    train(config, output=tmp_path / "parts", quiet=True)
    config["training"]["numb_steps"] = 2
    parts = train(config, output=tmp_path / "parts", restart=True, quiet=True)
    a, b = load_model(whole).state_dict(), load_model(parts).state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(value, b[name]) for name, value in a.items())


def test_a_restart_after_a_crash_goes_back_to_the_last_checkpoint(
    uninterrupted, data, tmp_path, monkeypatch
):
    """Rows of steps that were lost with the crash do not appear twice."""
    from deepmd_lite.training.loop import Trainer

    original = Trainer.step

    def step(self):
        if self.steps_done == 10:
            raise RuntimeError("power cut")
        return original(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", step)
        with pytest.raises(RuntimeError):
            train(settings(data, disp_freq=2), output=tmp_path, quiet=True)
    assert read_lcurve(tmp_path / "lcurve.out")["step"].tolist() == [1, 2, 4, 6, 8, 10]
    train(settings(data, disp_freq=2), output=tmp_path, restart=True, quiet=True)
    assert read_lcurve(tmp_path / "lcurve.out")["step"].tolist() == [1, 2, 4, 6, 8, 10, 12]
    whole = arrays_of(uninterrupted / "checkpoint.safetensors")
    parts = arrays_of(tmp_path / "checkpoint.safetensors")
    assert all(torch.equal(whole[k], parts[k]) for k in whole)


def test_training_reduces_the_force_error(data, tmp_path):
    config = settings(data, numb_steps=250, disp_freq=50, save_freq=1000)
    model = train(config, output=tmp_path, quiet=True)
    curve = read_lcurve(tmp_path / "lcurve.out")
    assert curve["rmse_f_val"][-1] < 0.2 * curve["rmse_f_val"][0]
    total = evaluate(model, data / "validation.extxyz").total()
    forces = np.concatenate([a.get_forces() for a in read(data / "validation.extxyz", ":")])
    assert total.force_rmse < 0.2 * np.sqrt(np.mean(forces**2))
    best = evaluate(tmp_path / "model-best.dpl", data / "validation.extxyz").total()
    assert best.force_rmse < 0.25 * np.sqrt(np.mean(forces**2))


def test_float32_trains_in_float32(data, tmp_path):
    config = settings(data, numb_steps=3)
    config["model"]["descriptor"]["precision"] = "float32"
    config["model"]["fitting_net"]["precision"] = "float32"
    model = load_model(train(config, output=tmp_path, quiet=True))
    assert model.precision == "float32"
    arrays = arrays_of(tmp_path / "checkpoint.safetensors")
    moments = [a for name, a in arrays.items() if name.startswith("optimizer.exp_avg")]
    assert moments
    assert all(a.dtype == torch.float32 for a in moments)


def test_init_model_starts_from_its_weights(uninterrupted, data, tmp_path):
    config = settings(data, numb_steps=1)
    config["learning_rate"] = {"start_lr": 1e-12, "stop_lr": 1e-12}
    path = train(config, output=tmp_path, init_model=uninterrupted / "model.dpl", quiet=True)
    old, new = load_model(uninterrupted / "model.dpl").state_dict(), load_model(path).state_dict()
    for name, value in old.items():
        torch.testing.assert_close(new[name], value, rtol=0, atol=1e-9)


def test_init_model_does_not_touch_what_either_data_reached(uninterrupted, data, tmp_path):
    far, near = tmp_path / "far.extxyz", tmp_path / "near.extxyz"
    frames = copper(3, 1)
    write(far, frames)
    frames[0].positions[0] += 0.4 * (frames[0].positions[1] - frames[0].positions[0])
    frames[0].calc = EMT()
    frames[0].get_forces()
    write(near, frames)
    radius = load_model(uninterrupted / "model.dpl").repulsion.r_out
    found = {}
    for path in (far, near):
        config = settings(data, numb_steps=1)
        config["training"]["training_data"]["systems"] = str(path)
        output = tmp_path / path.stem
        train(config, output=output, init_model=uninterrupted / "model.dpl", quiet=True)
        found[path.stem] = load_model(output / "model.dpl").repulsion.r_out
    assert torch.equal(found["far"], radius)
    assert found["near"] < 0.8 * radius


def test_init_model_without_repulsion_gets_it(data, tmp_path):
    config = settings(data, numb_steps=1)
    config["model"]["repulsion"] = None
    bare = train(config, output=tmp_path / "bare", quiet=True)
    assert load_model(bare).repulsion is None
    path = train(settings(data, numb_steps=1), output=tmp_path, init_model=bare, quiet=True)
    model = load_model(path)
    assert float(model.repulsion.r_out) == pytest.approx(0.95 * model.min_distance)


def test_repulsion_leaves_the_training_as_it_was(uninterrupted, data, tmp_path):
    """No pair of the data is inside its radius: the same weights to the bit, with and without."""
    config = settings(data)
    config["model"]["repulsion"] = False
    without = load_model(train(config, output=tmp_path, quiet=True)).state_dict()
    repelled = load_model(uninterrupted / "model.dpl").state_dict()
    assert {name for name in repelled if name not in without} == {
        *("repulsion.atomic_numbers", "repulsion.r_in", "repulsion.r_out"),
    }
    for name, value in without.items():
        assert torch.equal(value, repelled[name])


def test_a_restart_with_another_repulsion_is_refused(uninterrupted, data, tmp_path):
    copy = tmp_path / "checkpoint.safetensors"
    copy.write_bytes((uninterrupted / "checkpoint.safetensors").read_bytes())
    config = settings(data)
    config["model"]["repulsion"] = None
    with pytest.raises(InputError, match="another model/repulsion"):
        train(config, output=tmp_path, restart=True, quiet=True)


def test_init_model_of_another_architecture_is_refused(uninterrupted, data, tmp_path):
    config = settings(data)
    config["model"]["fitting_net"]["neuron"] = [6, 6]
    out = tmp_path / "out"
    with pytest.raises(InputError, match="model/fitting_net/neuron"):
        train(config, output=out, init_model=uninterrupted / "model.dpl", quiet=True)
    assert not out.exists(), "a refused training leaves nothing"


def test_ctrl_c_leaves_a_model_and_a_checkpoint(data, tmp_path):
    """As a person does it: a process, some steps, SIGINT; then a restart to the end."""
    (tmp_path / "input.json").write_text(json.dumps(settings(data, numb_steps=100_000)))
    command = [sys.executable, "-m", "deepmd_lite", "train", "input.json", "-o", "run"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": PACKAGE_FOLDER}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    curve = tmp_path / "run" / "lcurve.out"
    for _ in range(600):
        if curve.exists() and len(curve.read_text().splitlines()) > 4:
            break
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "stopped by Ctrl-C after step" in out + err
    assert "--restart" in out + err
    assert "Traceback" not in err
    done = Checkpoint.read(tmp_path / "run" / "checkpoint.safetensors").step
    assert 4 < done < 100_000
    assert math.isfinite(
        evaluate(tmp_path / "run" / "model.dpl", data / "validation.extxyz").total().force_rmse
    )


def test_a_loss_that_is_not_finite_names_step_and_frames(data, tmp_path, monkeypatch):
    from deepmd_lite.training.loop import Trainer

    original = Trainer.step

    def step(self):
        if self.steps_done == 5:
            with torch.no_grad():
                next(self.potential.parameters()).fill_(math.nan)
        return original(self)

    monkeypatch.setattr(Trainer, "step", step)
    with pytest.raises(TrainingError, match=r"step 6: the loss is not finite .*train\.extxyz"):
        train(settings(data), output=tmp_path, quiet=True)
    kept = Checkpoint.read(tmp_path / "checkpoint.safetensors")
    assert kept.step == 4
    assert all(torch.isfinite(a).all() for a in kept.arrays.values())


@pytest.mark.parametrize(("free", "few"), [(2e5, "[1-9]"), (0.0, "12")])
def test_data_that_take_much_memory(data, tmp_path, caplog, monkeypatch, free, few):
    """Lists of some frames are made for each step, and the training is the same."""
    train(settings(data), output=tmp_path / "kept", quiet=True)
    monkeypatch.setattr("deepmd_lite.training.loading.available_bytes", lambda _: free)
    with caplog.at_level(logging.INFO):
        train(settings(data), output=tmp_path / "made", quiet=True)
    assert re.search(f"neighbour lists of {few} of 12 frames are made anew", caplog.text)
    kept, made = (
        Checkpoint.read(tmp_path / n / "checkpoint.safetensors") for n in ("kept", "made")
    )
    assert all(torch.equal(made.arrays[name], a) for name, a in kept.arrays.items())


def test_an_earlier_training_is_set_aside(data, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        train(settings(data, numb_steps=1), output=tmp_path, quiet=True)
        old = (tmp_path / "checkpoint.safetensors").read_bytes()
        train(settings(data, numb_steps=2), output=tmp_path, quiet=True)
    assert (tmp_path / "checkpoint.safetensors.old").read_bytes() == old
    assert "are now *.old:" in caplog.text
    model = (tmp_path / "model.dpl").read_bytes()
    (tmp_path / "model.dpl.old").unlink()
    train(settings(data, numb_steps=3), output=tmp_path, quiet=True)
    assert (tmp_path / "checkpoint.safetensors.old").read_bytes() == old
    assert (tmp_path / "model.dpl.old2").read_bytes() == model
    assert not (tmp_path / "model.dpl.old").exists()
    told = [r for r in caplog.records if "are now *.old2:" in r.message]
    assert [r.levelno for r in told] == [logging.WARNING]


def test_a_restart_needs_a_checkpoint_of_this_input_and_data(uninterrupted, data, tmp_path):
    with pytest.raises(InputError, match="no checkpoint to restart from"):
        train(settings(data), output=tmp_path, restart=True, quiet=True)
    copy = tmp_path / "checkpoint.safetensors"
    copy.write_bytes((uninterrupted / "checkpoint.safetensors").read_bytes())

    other_model = settings(data)
    other_model["model"]["descriptor"]["rcut"] = 4.5
    with pytest.raises(InputError, match="another model/descriptor/rcut"):
        train(other_model, output=tmp_path, restart=True, quiet=True)

    other_data = settings(data)
    other_data["training"]["training_data"]["systems"] = str(data / "validation.extxyz")
    with pytest.raises(InputError, match="other training data"):
        train(other_data, output=tmp_path, restart=True, quiet=True)

    copy.write_bytes(copy.read_bytes()[:1000])
    with pytest.raises(InputError, match="not a readable training checkpoint"):
        train(settings(data), output=tmp_path, restart=True, quiet=True)


def test_a_checkpoint_of_version_1_is_continued(uninterrupted, data, tmp_path, caplog):
    """It lacks what version 2 added, in the header as in the input that it holds; SOAP counted
    gradients, not updates."""
    with safe_open(uninterrupted / "checkpoint.safetensors", framework="pt") as f:
        header = json.loads(f.metadata()["deepmd_lite_checkpoint"])
        arrays = {key: f.get_tensor(key) for key in f.keys()}  # noqa: SIM118
    header["format_version"] = 1
    header |= {"sel": header["sel"][0], "grid": header["grid"][0]}  # of the only descriptor
    del header["config"]["model"]["repulsion"]
    arrays = {key: value for key, value in arrays.items() if "repulsion" not in key}
    updates = {key: value for key, value in arrays.items() if key.startswith("optimizer.step.")}
    assert updates
    assert all(value == 11 for value in updates.values())
    arrays |= {key: value.long() + 1 for key, value in updates.items()}
    for key in (
        "seconds",
        "preparation",
        "unimproved",
        "ema_updates",
        "table_excess",
        "from_model",
    ):
        del header[key]
    for key in ("time_limit", "ema_decay", "early_stop_patience"):
        del header["config"]["training"][key]
    metadata = {"deepmd_lite_checkpoint": json.dumps(header)}
    save_file(arrays, tmp_path / "checkpoint.safetensors", metadata)
    read = Checkpoint.read(tmp_path / "checkpoint.safetensors").arrays
    assert all(torch.equal(read[key], value) for key, value in updates.items())
    train(settings(data), output=tmp_path, restart=True, quiet=True)
    assert "differs from the input" not in caplog.text
    whole, found = (
        arrays_of(uninterrupted / "checkpoint.safetensors"),
        load_model(tmp_path / "model.dpl"),
    )
    for name, value in found.state_dict().items():
        assert torch.equal(value, whole[f"model.{name}"])


def test_virials_that_are_not_trained_are_pointed_out(data, tmp_path, caplog):
    config = settings(data, numb_steps=1)
    config["loss"] = {}
    train(config, output=tmp_path, quiet=True)
    assert "virials in the training data are not trained" in caplog.text
    assert read_header(tmp_path / "model.dpl")["provenance"]["virials trained"] is False


def test_without_validation_data_there_is_no_best_model(data, tmp_path):
    train(settings(data, validation_data=None), output=tmp_path, quiet=True)
    assert not (tmp_path / "model-best.dpl").exists()
    assert "rmse_trn" in (tmp_path / "lcurve.out").read_text()
    assert "rmse_val" not in (tmp_path / "lcurve.out").read_text()


def test_a_restart_keeps_the_seed_that_was_given_beside_the_input(data, tmp_path):
    """Which frames are held out is drawn with it."""
    config = settings(data, numb_steps=2, held_out=0.25)
    del config["training"]["validation_data"]
    train(config, seed=7, output=tmp_path, quiet=True)
    kept = Checkpoint.read(tmp_path / "checkpoint.safetensors")
    train(config, output=tmp_path, restart=True, quiet=True)
    again = Checkpoint.read(tmp_path / "checkpoint.safetensors")
    assert again.config["training"]["seed"] == kept.config["training"]["seed"] == 7
    assert again.data_hash == kept.data_hash
