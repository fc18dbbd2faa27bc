"""Trainings that diverge go back to their last checkpoint and on at a lower rate."""

import json
import logging
import math

import numpy as np
import pytest
import torch
from ase.io import write
from copper import checkpoint_of, copper, settings, written
from test_train_parallel import end_of, start

from deepmd_lite.training import TrainingError, train
from deepmd_lite.training.config import read_input
from deepmd_lite.training.diverged import SLOWER, TIMES
from deepmd_lite.training.report import read_lcurve
from deepmd_lite.training.setup import initial_potential, load_data
from deepmd_lite.training.trainer import Trainer


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return written(tmp_path_factory.mktemp("copper"))


def spoiled(monkeypatch, where):
    """Trainings whose weights overflow before the steps for which `where(trainer)` is true."""
    original = Trainer.step

    def step(self):
        if where(self):
            with torch.no_grad():
                next(self.potential.parameters()).fill_(math.inf)
        return original(self)

    monkeypatch.setattr(Trainer, "step", step)


def test_a_training_that_diverges_goes_on_from_its_checkpoint(data, tmp_path, caplog, monkeypatch):
    train(settings(data, disp_freq=1), output=tmp_path / "well", quiet=True)
    spoiled(monkeypatch, lambda t: t.steps_done == 6 and not t.setbacks)
    with caplog.at_level(logging.WARNING):
        train(settings(data, disp_freq=1), output=tmp_path / "set_back", quiet=True)
    assert "step 7: the loss is not finite" in caplog.text
    assert "back at the checkpoint of step 4" in caplog.text
    done = checkpoint_of(tmp_path / "set_back")
    assert (done.step, done.setbacks) == (12, 1)
    assert all(torch.isfinite(a).all() for a in done.arrays.values())
    well, curve = (read_lcurve(tmp_path / name / "lcurve.out") for name in ("well", "set_back"))
    assert curve["step"].tolist() == list(range(1, 13))
    slower = np.where(curve["step"] > 4, SLOWER, 1.0)
    np.testing.assert_allclose(curve["lr"], slower * well["lr"], rtol=0.04)  # two digits
    records = (tmp_path / "set_back" / "train.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in records] == list(range(1, 13))
    for name in ("rmse_trn", "rmse_val"):
        np.testing.assert_array_equal(curve[name][:4], well[name][:4])
    # step 5 starts from the same weights, and is shorter
    assert curve["rmse_trn"][4] == well["rmse_trn"][4]
    assert curve["rmse_val"][4] != well["rmse_val"][4]


def test_a_restart_after_a_setback_is_the_uninterrupted_training(data, tmp_path, monkeypatch):
    config = settings(data, ema_decay=0.5)
    spoiled(monkeypatch, lambda t: t.steps_done == 6 and not t.setbacks)
    train(config, output=tmp_path / "whole", quiet=True)
    go_on = Trainer.step

    def killed(self):
        if self.steps_done == kill_at and self.setbacks:
            raise RuntimeError("killed")
        return go_on(self)

    for kill_at in (5, 9):  # before and after the next checkpoint
        monkeypatch.setattr(Trainer, "step", killed)
        with pytest.raises(RuntimeError, match="killed"):
            train(config, output=tmp_path / "parts", quiet=True)
        monkeypatch.setattr(Trainer, "step", go_on)
        assert checkpoint_of(tmp_path / "parts").setbacks == (kill_at == 9)
        train(config, output=tmp_path / "parts", restart=True, quiet=True)
        whole, parts = (checkpoint_of(tmp_path / name) for name in ("whole", "parts"))
        assert (parts.step, parts.setbacks, parts.best) == (12, 1, whole.best)
        assert parts.arrays.keys() == whole.arrays.keys()
        assert all(torch.equal(parts.arrays[name], a) for name, a in whole.arrays.items())


def test_one_that_diverges_again_and_again_ends(data, tmp_path, caplog, monkeypatch):
    spoiled(monkeypatch, lambda t: t.steps_done == 6)
    with caplog.at_level(logging.WARNING), pytest.raises(TrainingError) as error:
        train(settings(data), output=tmp_path, quiet=True)
    assert "even at 1.2% of the learning rate: the last checkpoint is kept" in str(error.value)
    assert caplog.text.count("back at the checkpoint of step 4") == TIMES
    assert checkpoint_of(tmp_path).step == 4


def test_an_update_that_overflows_is_found_before_it_is_saved(data, tmp_path, monkeypatch):
    kinds = type(Trainer(*prepared(data)).optimizer)
    update = kinds.step

    def overflow(self, *args):
        result = update(self, *args)
        if not self.overflowed and int(next(iter(self.state.values()))["step"]) == 8:
            kinds.overflowed = True
            with torch.no_grad():
                self.param_groups[0]["params"][0].fill_(math.nan)
        return result

    monkeypatch.setattr(kinds, "overflowed", False, raising=False)
    monkeypatch.setattr(kinds, "step", overflow)
    train(settings(data), output=tmp_path, quiet=True)
    assert kinds.overflowed
    assert (checkpoint_of(tmp_path).step, checkpoint_of(tmp_path).setbacks) == (12, 1)


def prepared(data):
    """Arguments of a `Trainer`."""
    config, _ = read_input(settings(data))
    found = load_data(config, quiet=True)
    return config, found, initial_potential(config, found, None)


def test_table_and_order_of_frames_are_those_of_the_checkpoint(data, tmp_path):
    trainer = Trainer(*prepared(data))
    for _ in range(3):
        trainer.step()
    trainer.save(tmp_path)
    grids = [d.grid for d in trainer.potential.descriptors]
    following = trainer.step()
    for d in trainer.potential.descriptors:
        d.grid = d.grid.refined(2.0)
    for _ in range(4):
        trainer.step()
    trainer.go_back(error())
    assert [d.grid for d in trainer.potential.descriptors] == grids
    assert trainer.steps_done == 3
    assert trainer.step() == following
    trainer.go_back(error())  # the checkpoint has not moved with the steps since
    assert trainer.step() == following


def error():
    from deepmd_lite.training.diverged import Diverged

    return Diverged("step 9: the loss is not finite", "start anew")


def test_all_ranks_go_back_together(data, tmp_path):
    """What one rank alone sees to diverge."""
    (tmp_path / "input.json").write_text(json.dumps(settings(data)))
    (tmp_path / "spoil.py").write_text(
        "import math, sys\n"
        "from deepmd_lite.training import train\n"
        "from deepmd_lite.training.trainer import Trainer\n"
        "original = Trainer._gradient\n"
        "def gradient(self, frames, totals):\n"
        "    loss, errors = original(self, frames, totals)\n"
        "    bad = self.steps_done == 6 and not self.setbacks and self.ranks.rank == 1\n"
        "    return math.nan if bad else loss, errors\n"
        "Trainer._gradient = gradient\n"
        "train('input.json', output='out', quiet=True)\n"
    )
    process = start(tmp_path, ["spoil.py"])
    _, err = end_of(process)
    assert process.returncode == 0, err
    assert err.count("back at the checkpoint of step 4") <= 1
    done = checkpoint_of(tmp_path / "out")
    assert (done.step, done.setbacks) == (12, 1)


# --- a training that learnt nothing ---------------------------------------------------------------


def test_forces_that_were_not_learnt_are_told_of(tmp_path, caplog):
    """Labels of other frames."""
    caplog.set_level(logging.WARNING)
    for name, n, seed in (("train", 8, 1), ("validation", 4, 2)):
        frames, others = copper(n, seed), copper(n, seed + 10)
        for atoms, other in zip(frames, others, strict=True):
            atoms.calc.results["forces"] = other.calc.results["forces"]
        write(tmp_path / f"{name}.extxyz", frames)
    train(settings(tmp_path, numb_steps=60), output=tmp_path, quiet=True)
    assert "the model has not learnt the forces: they are off by" in caplog.text
    assert "(here 0.01; " in caplog.text


def test_forces_that_were_learnt_are_not(data, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    train(settings(data, numb_steps=100), output=tmp_path, quiet=True)
    assert "not learnt" not in caplog.text
