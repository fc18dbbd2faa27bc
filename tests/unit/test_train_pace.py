"""The size that descriptors appear to have to the networks above them."""

import pytest
import torch
from copper import copper
from models import environment_of, random_atoms
from test_train_loop import settings

from deepmd_lite.model import ModelConfig, Potential, statistics_from
from deepmd_lite.training import pace, train
from deepmd_lite.training.checkpoint import Checkpoint
from deepmd_lite.training.together import Together


def potential_and_env():
    descriptor = {"rcut": 4.5, "rcut_smth": 1.0, "neuron": [6, 12], "axis_neuron": 4}
    descriptor["sel"] = [60, 60]  # which makes it small
    config = ModelConfig(type_map=["H", "O"], descriptor=descriptor, fitting_net={"neuron": [8, 8]})
    env = environment_of(random_atoms("H9O8", 7.0, 1), config.type_map, 4.5).env
    return Potential(config, statistics_from([(env, -16.0)], config), seed=1), env


def first_layer(potential, env):
    """Arguments of the units of the first layer, and descriptors, of the atoms of each element."""
    d = potential.descriptor
    numbers = d.numbers(d.moments(env, env.positions, d.coefficients()))
    for a, fitting in enumerate(potential.fitting):
        own = numbers[env.types[: env.n_local] == a].detach()
        weight, bias, _ = fitting.parameters_of(0)
        yield fitting, (own @ weight[0] + bias[0, 0]).detach(), own


def test_units_see_a_descriptor_of_the_usual_size():
    potential, env = potential_and_env()
    before = [(x, own) for _, x, own in first_layer(potential, env)]
    biases = [f.get_parameter("bias_0").detach().clone() for f in potential.fitting]
    pace.quicken(potential, env, [[0], [1]])
    found = first_layer(potential, env)
    for (old, own), (fitting, new, _), bias in zip(before, found, biases, strict=True):
        size = own.var(dim=0).mean().sqrt()
        assert fitting.pace == pytest.approx(float(pace.USUAL / size))
        assert fitting.pace > 2
        torch.testing.assert_close(new - new.mean(0), fitting.pace * (old - old.mean(0)))
        torch.testing.assert_close(new.mean(0), bias[0, 0])


def test_the_first_layer_moves_as_if_the_descriptor_were_larger(tmp_path):
    """Adam's first steps are as long as the learning rate, times the pace."""
    potential, env = potential_and_env()
    pace.quicken(potential, env, [[0], [1]])
    config, _ = read_input_of(tmp_path)
    optimizer = pace.optimizer_of(config, potential, Together(potential, []))
    named = dict(potential.named_parameters())
    before = {name: p.detach().clone() for name, p in named.items()}
    for group in optimizer.param_groups:
        group["lr"] = 1e-3 * group.get("pace", 1.0)
    for p in potential.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    for name, p in named.items():
        wanted = 1e-3
        if name.endswith("weight_0") and name.startswith("fitting."):
            wanted *= potential.fitting[int(name.split(".")[1])].pace
        torch.testing.assert_close(before[name] - p, torch.full_like(p, wanted))


def read_input_of(folder):
    from deepmd_lite.training.config import read_input

    (folder / "train.extxyz").touch()
    (folder / "validation.extxyz").touch()
    content = settings(folder)
    content["optimizer"] = {"type": "Adam"}
    return read_input(content)


def test_it_can_be_left_out_and_is_remembered(tmp_path):
    from ase.io import write

    write(tmp_path / "train.extxyz", copper(4, 1))
    write(tmp_path / "validation.extxyz", copper(2, 2))
    config = settings(tmp_path, numb_steps=2)
    train(config, output=tmp_path / "a", quiet=True)
    (found,) = Checkpoint.read(tmp_path / "a" / "checkpoint.safetensors").paces
    assert found > 1.0
    config["training"]["scale_descriptor"] = False
    train(config, output=tmp_path / "b", quiet=True)
    assert Checkpoint.read(tmp_path / "b" / "checkpoint.safetensors").paces == [1.0]
