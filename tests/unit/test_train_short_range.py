"""Trainings with a short-range table: where it is found, restarts, and starts from a model."""

import json

import numpy as np
import pytest
import torch
from ase.io import write
from copper import copper, settings
from models import write_pair_table
from safetensors.torch import load_file

from deepmd_lite.cli import main
from deepmd_lite.model import load_model
from deepmd_lite.system import InputError
from deepmd_lite.training import train
from deepmd_lite.training.loop import Trainer
from deepmd_lite.training.report import read_lcurve

KEYS = {"use_srtab": "pairs.txt", "sw_rmin": 1.9, "sw_rmax": 2.6, "smin_alpha": 0.1}
"""The switch reaches into the distances of the data: 2.2 Å and more."""


@pytest.fixture(name="data", scope="module")
def _data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("copper")
    write(folder / "train.extxyz", copper(4, 1))
    write(folder / "validation.extxyz", copper(2, 2))
    write_pair_table(folder / "pairs.txt", 1, start=0.1, spacing=0.05, rows=60)
    return folder


def with_table(data, **changes):
    config = settings(data, **{"numb_steps": 6, **changes})
    config["model"] |= KEYS
    return config


@pytest.fixture(name="trained", scope="module")
def _trained(data, tmp_path_factory):
    """Folder of a training, its input beside the table and not in the working directory."""
    (data / "input.json").write_text(json.dumps(with_table(data)))
    out = tmp_path_factory.mktemp("out")
    train(data / "input.json", output=out, quiet=True)
    return out


def test_the_table_lies_beside_the_input(trained, data):
    model = load_model(trained / "model.dpl")
    part = model.short_range
    assert model.repulsion is None
    assert (part.sw_rmin, part.sw_rmax, part.smin_alpha) == (1.9, 2.6, 0.1)
    assert torch.equal(part.bias, model.energy_bias)
    rows = np.loadtxt(data / "pairs.txt")
    np.testing.assert_allclose(part.coefficients[0, 0, : len(rows) - 1, 0], rows[:-1, 1])
    assert len(model.reference_frames) == 1


def copied(data, folder, **changes):
    """The input in a folder of its own, with its table."""
    (folder / "pairs.txt").write_bytes((data / "pairs.txt").read_bytes())
    path = folder / "input.json"
    path.write_text(json.dumps(with_table(data, **changes)))
    return path


def test_the_training_knows_the_table(trained, data, tmp_path):
    """The frames reach into the switch: errors of the same initial weights are others."""
    config = settings(data, numb_steps=6)
    config["model"]["repulsion"] = None
    train(config, output=tmp_path, quiet=True)
    with_it, without = (read_lcurve(path / "lcurve.out") for path in (trained, tmp_path))
    assert with_it["rmse_f_trn"][0] != without["rmse_f_trn"][0]
    assert with_it["rmse_e_trn"][0] != without["rmse_e_trn"][0]


def test_a_restart_goes_on_bit_for_bit_wherever_the_table_lies(
    trained, data, tmp_path, monkeypatch
):
    original = Trainer.step

    def step(self):
        if self.steps_done == 4:
            raise RuntimeError("power cut")
        return original(self)

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", step)
        with pytest.raises(RuntimeError):
            train(data / "input.json", output=out, quiet=True)
    train(copied(data, tmp_path), output=out, restart=True, quiet=True)
    whole, parts = (load_file(path / "model.dpl") for path in (trained, out))
    assert all(torch.equal(whole[key], parts[key]) for key in whole)

    write_pair_table(tmp_path / "pairs.txt", 1, start=0.1, spacing=0.05, rows=50)
    with pytest.raises(InputError, match=r"another table than .*pairs\.txt \(model/use_srtab\)"):
        train(tmp_path / "input.json", output=out, restart=True, quiet=True)
    config = settings(data, numb_steps=6)
    with pytest.raises(InputError, match=r"another model/.*; restore the input"):
        train(config, output=out, restart=True, quiet=True)
    train(config, output=out, restart=True, use_pretrain_script=True, quiet=True)
    assert load_model(out / "model.dpl").short_range is not None


def test_starts_from_a_model_with_a_table(trained, data, tmp_path):
    model = trained / "model.dpl"
    silent = settings(data, numb_steps=1)
    with pytest.raises(InputError, match="differs from the input in model/use_srtab; --use-pre"):
        train(silent, output=tmp_path / "a", init_model=model, quiet=True)
    kept = train(
        silent, output=tmp_path / "b", init_model=model, use_pretrain_script=True, quiet=True
    )
    part, before = load_model(kept).short_range, load_model(model).short_range
    assert torch.equal(part.coefficients, before.coefficients)
    assert (part.sw_rmin, part.sw_rmax) == (1.9, 2.6)
    zbl = silent | {"model": silent["model"] | {"repulsion": "zbl"}}
    other = load_model(train(zbl, output=tmp_path / "c", init_model=model, quiet=True))
    assert other.short_range is None
    assert other.repulsion is not None


def test_a_model_without_gets_the_table_of_the_input(trained, data, tmp_path):
    config = settings(data, numb_steps=1)
    plain = train(config, output=tmp_path / "plain", quiet=True)
    path = copied(data, tmp_path, numb_steps=1)
    model = load_model(train(path, output=tmp_path / "out", finetune=plain, quiet=True))
    assert model.repulsion is None
    assert torch.equal(model.short_range.bias, model.energy_bias)
    assert not torch.equal(model.energy_bias, load_model(plain).energy_bias)


def test_the_bias_is_changed_together(trained, data, tmp_path):
    changed = tmp_path / "changed.dpl"
    assert main(["change-bias", str(trained / "model.dpl"), "-b", "-7.5", "-o", str(changed)]) == 0
    model = load_model(changed)
    assert model.energy_bias.tolist() == [-7.5]
    assert model.short_range.bias.tolist() == [-7.5]


def test_what_is_wrong_is_said_before_the_data_are_read(data, tmp_path):
    config = with_table(data)
    with pytest.raises(InputError, match=r"model/use_srtab: nothing at 'pairs\.txt'"):
        train(config, output=tmp_path / "out", quiet=True)
    write_pair_table(tmp_path / "pairs.txt", 2)
    config["model"]["use_srtab"] = str(tmp_path / "pairs.txt")
    with pytest.raises(InputError, match="expected at least 2 rows of 2 columns"):
        train(config, output=tmp_path / "out", quiet=True)


def test_the_command_shows_it(trained, capsys):
    assert main(["info", str(trained / "model.dpl")]) == 0
    shown = capsys.readouterr().out
    assert "short range" in shown
    assert "table of 1 pair from 0.1 to 4 Å instead of the networks inside 1.9 Å" in shown
    assert main(["check", str(trained / "model.dpl"), "--quick"]) == 0
    assert "FAILED" not in capsys.readouterr().out
