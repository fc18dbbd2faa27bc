"""SOAP on a device: the numbers of the host, what is kept where, and restarts here and there."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from ase.io import write
from copper import copper, settings
from strict_device import Library

from deepmd_lite import load, train
from deepmd_lite.training import loop, pace, soap
from deepmd_lite.training.checkpoint import Checkpoint, pack_arrays, unpack_arrays
from deepmd_lite.training.soap import HOST, SMALLEST_SIDE, Soap

LARGE = {
    "square": (2, 72, 72),
    "long": (1, soap.LARGEST_WHOLE + 64, 64),
    "both_long": (soap.LARGEST_WHOLE + 8, soap.LARGEST_WHOLE + 1),
}
SMALL = {"short": (80, SMALLEST_SIDE - 1), "row": (1, 1, 9), "vector": (9,)}
STEPS, INTERVAL = 12, 3


class Weights(torch.nn.Module):
    """Parameters of several shapes, and the optimiser that has some of them at `place`."""

    def __init__(self, place=HOST, shapes=(LARGE | SMALL)):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        for name, shape in shapes.items():
            value = torch.randn(shape, generator=generator, dtype=torch.float64)
            self.register_parameter(name, torch.nn.Parameter(value))
        self.optimizer = Soap(self.parameters(), 0.01, interval=INTERVAL, torch_device=place)

    def steps(self, first, last):
        for step in range(first, last):
            generator = torch.Generator().manual_seed(100 + step)
            for k, (name, p) in enumerate(self.named_parameters()):
                g = torch.randn(p.shape, generator=generator, dtype=p.dtype)
                p.grad = None if k == step and name in LARGE else g
            self.optimizer.step()
        return self

    def checkpoint(self, path):
        arrays = pack_arrays(self, self.optimizer)
        rest = {"config": {}, "data_hash": "", "sel": [], "min_distance": 1.0, "grid": []}
        Checkpoint(step=STEPS // 2, sampler={}, best=None, arrays=arrays, **rest).write(path)

    def restored(self, path):
        unpack_arrays(Checkpoint.read(path), self, self.optimizer, str(path))
        return self


def assert_same(device, found, expected):
    """To rounding: compiled steps are those of the host alone."""
    assert all(p.is_cpu for p in found.parameters())
    for (name, p), q in zip(found.named_parameters(), expected.parameters(), strict=True):
        state = found.optimizer.state[p]
        assert state.keys() == expected.optimizer.state[q].keys()
        assert state["step"] == expected.optimizer.state[q]["step"] > 0
        assert torch.allclose(p, q, rtol=0, atol=1e-5), name  # a step is 0.01
        if isinstance(device.native, Library):  # elsewhere bases may have other signs
            for key, value in expected.optimizer.state[q].items():
                atol = 2e-5 * float(value.abs().max())
                assert torch.allclose(state[key].cpu(), value, rtol=0, atol=atol), (name, key)


def assert_in_place(weights, place):
    for name, p in weights.named_parameters():
        for key, value in weights.optimizer.state[p].items():
            there = name in LARGE and key != "step"
            assert value.device == (place if there else HOST), (name, key)
            assert value.is_contiguous()


def test_it_is_that_of_the_host(device):
    expected = Weights().steps(0, STEPS)
    found = Weights(device.torch_device).steps(0, STEPS)
    assert_same(device, found, expected)
    assert_in_place(expected, HOST)
    assert_in_place(found, device.torch_device)
    assert {"left", "right_basis"} <= found.optimizer.state[found.square].keys()
    assert found.optimizer.state[found.long]["left"].shape[-1] == soap.RANK


@pytest.mark.parametrize("there_first", [False, True])
def test_a_restart_may_change_the_device(device, tmp_path, there_first):
    places = (device.torch_device, HOST) if there_first else (HOST, device.torch_device)
    path = tmp_path / "checkpoint.safetensors"
    Weights(places[0]).steps(0, STEPS // 2).checkpoint(path)
    found = Weights(places[1]).restored(path)
    assert_in_place(found, places[1])
    assert_same(device, found.steps(STEPS // 2, STEPS), Weights().steps(0, STEPS))


def test_the_same_bits_each_time(device, tmp_path):
    """On a GPU as well, and over a restart there."""
    whole, again = (Weights(device.torch_device).steps(0, STEPS) for _ in range(2))
    Weights(device.torch_device).steps(0, STEPS // 2).checkpoint(
        tmp_path / "checkpoint.safetensors"
    )
    parts = Weights(device.torch_device).restored(tmp_path / "checkpoint.safetensors")
    parts.steps(STEPS // 2, STEPS)
    for p, q, r in zip(*(x.parameters() for x in (whole, again, parts)), strict=True):
        assert torch.equal(p, q)
        assert torch.equal(p, r)


def test_what_a_step_copies(traffic):
    weights = Weights(torch.device("cuda", 0)).steps(0, 3)
    before = copy.copy(traffic)
    weights.steps(3, 3 + 2 * INTERVAL)
    found, steps = traffic.since(before), 2 * INTERVAL
    numbers = sum(getattr(weights, name).numel() for name in LARGE)
    assert found.to_device == found.to_host == found.waits / 2 == len(LARGE) * steps
    assert found.numbers == 2 * numbers * steps


def test_products_are_full_ones(device, monkeypatch):
    seen, move = [], soap.move

    def recording(*arguments):
        seen.append(torch.get_float32_matmul_precision())
        move(*arguments)

    monkeypatch.setattr(soap, "move", recording)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        Weights(device.torch_device, {"square": (64, 64)}).steps(0, 3)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
    assert set(seen) == {"highest"}


def test_a_training(device, tmp_path, monkeypatch):
    """It has its large matrices there, continues there bit for bit, and then on the host."""
    write(tmp_path / "train.extxyz", copper(4, 1))
    write(tmp_path / "validation.extxyz", copper(2, 2))
    made = []

    def recorded(*arguments, **options):
        made.append(Soap(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(pace, "Soap", recorded)
    monkeypatch.setattr(loop, "plot_learning_curve", lambda *arguments: None)  # takes longest

    def trained(name, steps, device="cuda", restart=False):
        config = settings(tmp_path, numb_steps=steps, disp_freq=1, device=device)
        config["model"]["fitting_net"] = {"neuron": [64, 64]}
        config["learning_rate"]["decay_rate"] = 0.9  # rates do not depend on the last step
        model = train(config, output=tmp_path / name, restart=restart, quiet=True)
        rows = (tmp_path / name / "train.jsonl").read_text().splitlines()
        assert json.loads(rows[-1])["step"] == steps
        return load(model).state_dict()

    whole = trained("whole", 3)
    trained("parts", 2)
    parts = trained("parts", 3, restart=True)
    assert all(torch.equal(parts[name], value) for name, value in whole.items())
    for optimizer in made:
        averages = [state["exp_avg"] for state in optimizer.state.values()]
        assert [x.shape for x in averages if x.device == device.torch_device] == [(1, 64, 64)]
    trained("parts", 4, device="cpu", restart=True)
    assert all(x.is_cpu for state in made[-1].state.values() for x in state.values())
