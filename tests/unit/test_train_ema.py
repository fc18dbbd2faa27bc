"""The moving average of the weights: its numbers, its place in validation, files and restarts."""

import pytest
import torch
from ase.io import write
from copper import copper, settings

from deepmd_lite.evaluate import evaluate
from deepmd_lite.model import load_model, read_header
from deepmd_lite.training import train
from deepmd_lite.training.checkpoint import Checkpoint
from deepmd_lite.training.ema import MovingAverage
from deepmd_lite.training.report import read_lcurve


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("copper")
    write(folder / "train.extxyz", copper(8, 1))
    write(folder / "validation.extxyz", copper(4, 2))
    return folder


def test_the_average_against_numbers_by_hand():
    p = torch.nn.Parameter(torch.tensor([0.0, 10.0]))
    average = MovingAverage([("p", p)], decay=0.25)
    with torch.no_grad():
        p.fill_(11.0)
    average.update()  # d = 2/11, below 0.25
    assert average.values["p"].tolist() == pytest.approx([9.0, 10 * 2 / 11 + 9.0])
    before = average.values["p"].clone()
    with torch.no_grad():
        p.fill_(0.0)
    average.update()  # d = 3/12 = 0.25
    average.update()  # 4/13 would be more than the decay
    torch.testing.assert_close(average.values["p"], before * 0.25**2)


def test_small_changes_are_not_lost_in_float32():
    p = torch.nn.Parameter(torch.ones(1, dtype=torch.float32))
    average = MovingAverage([("p", p)], decay=0.9999)
    average.updates = 10**6  # beyond the short memory of the beginning
    with torch.no_grad():
        p.fill_(1.0 + 1e-5)
    for _ in range(1000):
        average.update()
    moved = (average.values["p"].item() - 1.0) / 1e-5
    assert moved == pytest.approx(1 - 0.9999**1000, rel=1e-2)


def test_in_place_and_back_even_after_an_error():
    p = torch.nn.Parameter(torch.tensor([0.1, 0.2]))
    average = MovingAverage([("p", p)], decay=0.5)
    with torch.no_grad():
        p.fill_(3.0)
    with pytest.raises(RuntimeError), average.in_place():
        assert p.tolist() == pytest.approx([0.1, 0.2])
        raise RuntimeError
    assert p.tolist() == [3.0, 3.0]


def test_the_model_files_and_the_validation_are_of_the_average(data, tmp_path):
    config = settings(data, ema_decay=0.8)
    train(config, output=tmp_path / "averaged", quiet=True)
    train(settings(data), output=tmp_path / "plain", quiet=True)
    checkpoint = Checkpoint.read(tmp_path / "averaged" / "checkpoint.safetensors")
    plain = Checkpoint.read(tmp_path / "plain" / "checkpoint.safetensors")
    assert not any(name.startswith("ema.") for name in plain.arrays)
    model = load_model(tmp_path / "averaged" / "model.dpl").state_dict()
    averages = {k.removeprefix("ema."): v for k, v in checkpoint.arrays.items() if "ema." in k}
    assert averages
    for name, value in averages.items():
        assert torch.equal(model[name], value)
        # the steps themselves are those of a training without average
        own = checkpoint.arrays[f"model.{name}"]
        assert torch.equal(own, plain.arrays[f"model.{name}"])
        assert not torch.equal(own, value)
    curve = read_lcurve(tmp_path / "averaged" / "lcurve.out")
    total = evaluate(tmp_path / "averaged" / "model.dpl", data / "validation.extxyz").total()
    assert total.force_rmse == pytest.approx(curve["rmse_f_val"][-1], rel=0.006)
    assert total.energy_rmse_per_atom == pytest.approx(curve["rmse_e_val"][-1], rel=0.006)
    facts = read_header(tmp_path / "averaged" / "model.dpl")["provenance"]
    assert facts["weights averaged"] == 0.8


def test_a_restart_continues_the_average_bit_for_bit(data, tmp_path, monkeypatch):
    from deepmd_lite.training.loop import Trainer

    config = settings(data, ema_decay=0.9)
    train(config, output=tmp_path / "whole", quiet=True)
    original = Trainer.step

    def step(self):
        if self.steps_done == 9:
            raise RuntimeError("power cut")
        return original(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", step)
        with pytest.raises(RuntimeError):
            train(config, output=tmp_path / "parts", quiet=True)
    train(config, output=tmp_path / "parts", restart=True, quiet=True)
    a, b = (Checkpoint.read(tmp_path / f / "checkpoint.safetensors") for f in ("whole", "parts"))
    assert a.arrays.keys() == b.arrays.keys()
    assert all(torch.equal(a.arrays[k], b.arrays[k]) for k in a.arrays)
    assert a.ema_updates == b.ema_updates == 12
    assert (tmp_path / "whole" / "lcurve.out").read_bytes() == (
        tmp_path / "parts" / "lcurve.out"
    ).read_bytes()


def test_an_average_can_begin_at_a_restart(data, tmp_path, caplog):
    train(settings(data, numb_steps=4), output=tmp_path, quiet=True)
    before = Checkpoint.read(tmp_path / "checkpoint.safetensors").arrays
    config = settings(data, numb_steps=5, ema_decay=0.9)
    train(config, output=tmp_path, restart=True, quiet=True)
    assert "training/ema_decay differs" in caplog.text
    after = Checkpoint.read(tmp_path / "checkpoint.safetensors")
    assert after.ema_updates == 1
    for name in (n.removeprefix("ema.") for n in after.arrays if n.startswith("ema.")):
        start, end = before[f"model.{name}"], after.arrays[f"model.{name}"]
        # d = 2/11 after the first update
        torch.testing.assert_close(after.arrays[f"ema.{name}"], start * 2 / 11 + end * 9 / 11)
