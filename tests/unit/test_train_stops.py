"""What ends a training before its last step: patience, time, and numbers that are not finite."""

import logging
import math
import os
import signal

import numpy as np
import pytest
import torch
from ase.io import write
from copper import checkpoint_of, copper, settings, written

from deepmd_lite.model import read_header
from deepmd_lite.system import InputError
from deepmd_lite.training import TrainingError, clock, loop, train
from deepmd_lite.training.adam import Adam
from deepmd_lite.training.loop import Trainer
from deepmd_lite.training.report import read_lcurve


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return written(tmp_path_factory.mktemp("copper"))


# --- patience -------------------------------------------------------------------------------------


def still(data, **training):
    """A training whose weights do not move: every validation after the first is no better."""
    config = settings(data, disp_freq=2, **training)
    config["learning_rate"] = {"start_lr": 1e-30, "stop_lr": 1e-30}
    return config


def test_patience_ends_a_training_that_no_longer_improves(data, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    train(still(data, early_stop_patience=3, numb_steps=100), output=tmp_path, quiet=True)
    # the first display is the best; those of steps 2, 4 and 6 are not better
    assert read_lcurve(tmp_path / "lcurve.out")["step"].tolist() == [1, 2, 4, 6]
    assert "stopped early after step 6: no lower validation loss in the last 3 disp" in caplog.text
    assert "best validation loss" in caplog.text
    assert read_header(tmp_path / "model.dpl")["provenance"]["steps"] == "6 of 100"


def test_without_patience_it_goes_on(data, tmp_path):
    train(still(data, numb_steps=12), output=tmp_path, quiet=True)
    assert checkpoint_of(tmp_path).step == 12


def test_an_improvement_renews_the_patience(data, tmp_path, monkeypatch):
    losses = iter([5.0, 6.0, 7.0, 4.0, 4.5, math.nan, 4.5])

    def validate(self):
        patch_loss = next(losses)
        with monkeypatch.context() as patch:
            patch.setattr("deepmd_lite.training.trainer.Errors.loss", lambda *_: patch_loss)
            return original(self)

    original = Trainer.validate
    monkeypatch.setattr(Trainer, "validate", validate)
    train(still(data, early_stop_patience=3, numb_steps=100), output=tmp_path, quiet=True)
    found = checkpoint_of(tmp_path)
    assert (found.step, found.unimproved) == (12, 3)
    assert found.best == {"step": 6, "loss": 4.0}


def test_a_restart_keeps_the_count(data, tmp_path):
    train(still(data, early_stop_patience=9, numb_steps=4), output=tmp_path, quiet=True)
    assert checkpoint_of(tmp_path).unimproved == 2
    longer = still(data, early_stop_patience=3, numb_steps=100)
    train(longer, output=tmp_path, restart=True, quiet=True)
    assert checkpoint_of(tmp_path).step == 6
    train(longer, output=tmp_path, restart=True, quiet=True)  # there is none left
    assert checkpoint_of(tmp_path).step == 6


def test_a_validation_that_would_measure_nothing(data, tmp_path):
    frames = copper(2, 3)
    for atoms in frames:
        atoms.calc.results.pop("forces")
    write(tmp_path / "bare.extxyz", frames)
    config = still(data, validation_data={"systems": str(tmp_path / "bare.extxyz")}, check=False)
    config["loss"] = {"limit_pref_e": 0}
    with pytest.raises(InputError, match=r"none of the 2 frames .* has a label 'forces', by which"):
        train(config, output=tmp_path, quiet=True)


def test_patience_needs_validation_data(data, tmp_path):
    config = settings(data, early_stop_patience=3, validation_data=None)
    with pytest.raises(InputError, match="early_stop_patience judges by the validation loss"):
        train(config, output=tmp_path, quiet=True)


# --- time -----------------------------------------------------------------------------------------


@pytest.fixture(name="ticking")
def _ticking(monkeypatch):
    """Time passes only when somebody looks at the clock: by the returned dict's `step` seconds."""
    state = {"now": 0.0, "step": 1.0}

    def monotonic():
        state["now"] += state["step"]
        return state["now"]

    monkeypatch.setattr(clock, "monotonic", monotonic)
    return state


def timed(data, **training):
    """An input without numb_steps."""
    config = settings(data, disp_freq=1, save_freq=1000, **training)
    del config["training"]["numb_steps"]
    return config


@pytest.mark.parametrize("speed", [1.0, 4.0])
def test_the_learning_rate_ends_at_stop_lr_however_many_steps_fit(data, tmp_path, ticking, speed):
    ticking["step"] = speed
    train(timed(data), output=tmp_path, time_limit="400s", quiet=True)
    curve = read_lcurve(tmp_path / "lcurve.out")
    rates = curve["lr"]
    n = len(rates)
    assert (20 if speed == 4.0 else 80) < n < 400 / speed
    assert np.all(np.diff(rates) <= 0)
    assert rates[0] == pytest.approx(0.01, rel=0.05)
    assert rates[-1] == pytest.approx(0.001, rel=0.15)
    # half of the time, half of the decay, apart from the seconds that are kept for writing
    assert rates[n // 2] == pytest.approx(math.sqrt(0.01 * 0.001), rel=0.2)
    assert 300 < checkpoint_of(tmp_path).seconds <= 400
    steps = read_header(tmp_path / "model.dpl")["provenance"]["steps"]
    assert steps == f"{n} of those in 6m40s"


def test_the_end_says_how_many_steps_there_were(data, tmp_path, ticking, caplog):
    caplog.set_level(logging.INFO)
    train(timed(data, time_limit="5m"), output=tmp_path, quiet=True)
    done = checkpoint_of(tmp_path).step
    assert f"the time limit of 5m allowed {done} steps" in caplog.text
    assert "% of the training)" in caplog.text


def test_numb_steps_is_a_second_limit_that_the_schedule_ends_at(data, tmp_path, ticking):
    config = settings(data, disp_freq=1, numb_steps=10)
    train(config, output=tmp_path, time_limit=10_000, quiet=True)
    rates = read_lcurve(tmp_path / "lcurve.out")["lr"]
    assert len(rates) == 10
    assert rates[-1] == pytest.approx(0.01 * 0.1**0.9, rel=0.05)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_what_batch_systems_send_ends_a_training_with_its_model(
    data, tmp_path, number, monkeypatch
):
    original = Trainer.step

    def step(self):
        if self.steps_done == 2:
            os.kill(os.getpid(), number)
        return original(self)

    monkeypatch.setattr(Trainer, "step", step)
    train(settings(data), output=tmp_path, quiet=True)
    assert checkpoint_of(tmp_path).step == 3
    assert read_header(tmp_path / "model.dpl")["provenance"]["steps"] == "3 of 12"


def test_a_restart_is_possible_from_the_first_step_on(data, tmp_path, monkeypatch):
    original = Trainer.step

    def step(self):
        if self.steps_done == 1:
            raise RuntimeError("killed")
        return original(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", step)
        with pytest.raises(RuntimeError, match="killed"):
            train(settings(data), output=tmp_path / "a", quiet=True)
    train(settings(data), output=tmp_path / "a", restart=True, quiet=True)
    train(settings(data), output=tmp_path / "b", quiet=True)
    first, second = (checkpoint_of(tmp_path / x).arrays for x in "ab")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_restart_goes_on_with_what_is_left_of_the_limit(data, tmp_path, ticking, monkeypatch):
    original = Trainer.step

    def step(self):
        if self.steps_done == 20:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", step)
        train(timed(data), output=tmp_path, time_limit="400s", quiet=True)
    first = checkpoint_of(tmp_path)
    assert first.step == 21
    ticking["now"] += 1e6  # a long pause is no training time
    train(timed(data), output=tmp_path, restart=True, quiet=True)  # the limit is remembered
    curve = read_lcurve(tmp_path / "lcurve.out")
    assert np.all(np.diff(curve["lr"]) <= 0)
    assert curve["lr"][-1] == pytest.approx(0.001, rel=0.15)
    assert first.seconds < checkpoint_of(tmp_path).seconds <= 400


def test_a_limit_that_is_over_before_the_first_step(data, tmp_path):
    with pytest.raises(TrainingError, match=r"time_limit: 1s are over before the first step"):
        train(timed(data), output=tmp_path, time_limit=1, quiet=True)
    (tmp_path / "lcurve.out").write_text("of an earlier training")
    with pytest.raises(TrainingError, match="before the first step"):
        train(timed(data), output=tmp_path, time_limit=1, quiet=True)
    assert [path.name for path in tmp_path.iterdir()] == ["lcurve.out"]


@pytest.mark.parametrize("key", [{"decay_rate": 0.9}, {"smooth": False}])
def test_a_decay_by_steps_and_a_time_limit_exclude_one_another(data, tmp_path, key):
    config = timed(data)
    config["learning_rate"] = key
    with pytest.raises(InputError, match="with a time limit the learning rate follows the time"):
        train(config, output=tmp_path, time_limit="1h", quiet=True)


def test_a_wrong_limit_is_named(data, tmp_path):
    with pytest.raises(InputError, match=r"training/time_limit.*expected a duration.*'30 mins'"):
        train(timed(data), output=tmp_path, time_limit="30 mins", quiet=True)


# --- not finite -----------------------------------------------------------------------------------


@pytest.fixture(name="spoiled")
def _spoiled(monkeypatch):
    """Lets the frame of a given number have a label that no check at reading could see."""

    def spoil(number, label, value):
        original = loop.initial_potential

        def initial_potential(settings, data, *start):
            potential = original(settings, data, *start)  # its statistics are whole
            object.__setattr__(data.frames[number].frame, label, value)
            return potential

        monkeypatch.setattr(loop, "initial_potential", initial_potential)

    return spoil


def test_the_bad_frame_is_named(data, tmp_path, spoiled):
    spoiled(5, "energy", math.inf)
    config = settings(data)
    config["training"]["training_data"]["batch_size"] = 8
    message = r"step 1: the loss is not finite for .*train\.extxyz.* frame 5 .*, 1 of the 8 frames"
    with pytest.raises(TrainingError, match=message) as error:
        train(config, output=tmp_path, quiet=True)
    assert "check this frame" in str(error.value)
    assert "no checkpoint was written yet" in str(error.value)
    assert "\n" not in str(error.value)


def test_weights_that_diverged_are_not_blamed_on_a_frame(data, tmp_path, monkeypatch):
    original = Trainer.step

    def step(self):
        with torch.no_grad():
            next(self.potential.parameters()).fill_(math.nan)
        return original(self)

    monkeypatch.setattr(Trainer, "step", step)
    with pytest.raises(TrainingError, match=r"2 of the 2 frames.*the weights have probably div"):
        train(settings(data), output=tmp_path, quiet=True)


@pytest.mark.parametrize("norm", [0.0, 1.0])
def test_a_gradient_that_is_not_finite_leaves_the_weights_whole(data, tmp_path, monkeypatch, norm):
    """The loss is finite, so only a look at the gradient can tell."""
    trainers = []
    original, loss_of = Trainer.step, Trainer._loss

    def step(self):
        trainers.append(self)
        self.before = {k: v.clone() for k, v in self.potential.state_dict().items()}
        return original(self)

    def loss(self, batch, *args, **kwargs):
        value, errors = loss_of(self, batch, *args, **kwargs)
        if self.steps_done == 6 and value.requires_grad and "frame 2" in str(batch.frames):
            # 0 · √p at p = 0: the value is 0, the slope 0 · ∞
            p = next(self.potential.parameters())
            value = value + 0.0 * (p - p.detach()).sum().sqrt()
        return value, errors

    monkeypatch.setattr(Trainer, "step", step)
    monkeypatch.setattr(Trainer, "_loss", loss)
    config = settings(data, gradient_max_norm=norm)
    config["training"]["training_data"]["batch_size"] = 8
    with pytest.raises(
        TrainingError, match=r"step 7: the gradient is not finite for .*frame 2 "
    ) as error:
        train(config, output=tmp_path, quiet=True)
    assert "the last checkpoint is kept" in str(error.value)
    last = trainers[-1]
    for name, value in last.potential.state_dict().items():
        assert torch.equal(value, last.before[name])
        assert torch.isfinite(value).all()
    assert checkpoint_of(tmp_path).step == 4


def test_the_gradient_is_clipped_to_the_given_norm(data, tmp_path, monkeypatch):
    """The update sees a gradient of that norm, in the direction of the whole one."""
    seen = []
    original = Adam.step

    def step(self, *args):
        gradients = [p.grad.flatten() for g in self.param_groups for p in g["params"]]
        seen.append(torch.cat(gradients).double())
        return original(self, *args)

    monkeypatch.setattr(Adam, "step", step)
    for norm in (0.0, 1e-3):
        config = settings(data, numb_steps=1, gradient_max_norm=norm, opt_type="Adam")
        train(config, output=tmp_path, quiet=True)
    free, clipped = seen
    assert free.norm() > 1e-2
    assert clipped.norm().item() == pytest.approx(1e-3, rel=1e-3)
    torch.testing.assert_close(clipped / clipped.norm(), free / free.norm())
