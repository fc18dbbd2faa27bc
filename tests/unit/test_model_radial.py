"""The descriptor of distances alone, `se_e2_r`: its definition, its training, its file."""

import numpy as np
import pytest
import torch
from ase.io import write
from copper import copper, settings
from golden_files import unpacked
from models import environment_of, random_atoms

from deepmd_lite.cli import main
from deepmd_lite.evaluate import evaluate
from deepmd_lite.interop import convert
from deepmd_lite.kernels import reference
from deepmd_lite.model import (
    ModelConfig,
    Potential,
    load_model,
    read_header,
    save_model,
    statistics_from,
)
from deepmd_lite.schema import parse
from deepmd_lite.system import InputError
from deepmd_lite.training import train

RCUT = 4.0


def radial_potential(env, **descriptor):
    config = ModelConfig(
        type_map=["H", "O"],
        repulsion=None,
        descriptor={
            **{"type": "se_e2_r", "rcut": RCUT, "rcut_smth": 1.0, "neuron": [4, 8]},
            **descriptor,
        },
        fitting_net={"neuron": [10, 10]},
    )
    return Potential(config, statistics_from([(env, -16.0)], config), seed=3)


@pytest.fixture(name="env", scope="module")
def _env():
    return environment_of(random_atoms("H6O6", 6.0, 1), ["H", "O"], RCUT).env


def descriptors(potential, env):
    """(n, M): mean of G over all slots, empty ones included, over 5, as DeePMD-kit defines it."""
    d, n_sel = potential.config.descriptor, sum(potential.descriptor.sel)
    found = []
    for i in range(env.n_local):
        a = int(env.types[i])
        j = env.indices[env.offsets[i] : env.offsets[i + 1]].long()
        r = (env.positions[j] - env.positions[i]).norm(dim=1)
        s = reference.switch(r, d.rcut_smth, d.rcut) / (r + d.env_protection)
        total = torch.zeros(d.neuron[-1], dtype=torch.float64)
        for b, slots in enumerate(potential.descriptor.sel):
            own = s[env.types[j] == b]
            own = torch.cat([own, torch.zeros(slots - len(own), dtype=torch.float64)])
            scaled = (own - potential.descriptor.davg[a, 0]) / potential.descriptor.dstd[a, 0]
            network = b if d.type_one_side else 2 * a + b
            table = torch.full((slots,), network)
            total = total + potential.descriptor.embedding.values(table, scaled).sum(dim=0)
        found.append(total / n_sel / 5)
    return torch.stack(found)


@pytest.mark.parametrize("one_side", [True, False])
@pytest.mark.parametrize("given", [{}, {"set_davg_zero": True}, {"env_protection": 0.5}], ids=str)
def test_energies_are_those_of_the_definition(env, one_side, given):
    potential = radial_potential(env, type_one_side=one_side, **given)
    types = env.types[: env.n_local].long()
    d = descriptors(potential, env)
    expected = torch.stack(
        [potential.fitting[int(a)](d[i : i + 1])[0] for i, a in enumerate(types)]
    )
    expected = (expected + potential.energy_bias[types]).detach()
    exact = potential.exact_energies(env, env.positions).detach()
    torch.testing.assert_close(exact, expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(potential.evaluate(env).energies, expected, rtol=0, atol=1e-7)


def test_a_file_says_the_same(env, tmp_path):
    potential = radial_potential(env).freeze()
    save_model(potential, tmp_path / "model.dpl")
    loaded = load_model(tmp_path / "model.dpl")
    assert torch.equal(loaded.evaluate(env).forces, potential.evaluate(env).forces)
    assert read_header(tmp_path / "model.dpl")["format_version"] == 5


@pytest.mark.parametrize(
    ("descriptor", "message"),
    [
        ({"type": "se_r", "axis_neuron": 8}, "axis_neuron 8: se_e2_r has no axes; remove the key"),
        ({"type": "se_e3"}, "'se_e2_a', 'se_e2_r' or 'se_e2_q'"),
    ],
)
def test_what_an_input_cannot_say(descriptor, message):
    with pytest.raises(InputError, match=message):
        parse(ModelConfig, {"type_map": ["H"], "descriptor": descriptor}, "input.json")


def test_short_names_mean_the_same():
    for short, long in (("se_r", "se_e2_r"), ("se_a", "se_e2_a")):
        data = {"type_map": ["H"], "descriptor": {"type": short}}
        assert parse(ModelConfig, data, "input.json").descriptor.type == long


# --- training -----------------------------------------------------------------------------------


@pytest.fixture(name="data", scope="module")
def _data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("copper")
    write(folder / "train.extxyz", copper(4, 1))
    write(folder / "validation.extxyz", copper(2, 2))
    return folder


def test_it_learns_and_goes_through_the_checks(data, tmp_path, capsys):
    def trained(steps):
        config = settings(data, numb_steps=steps, disp_freq=250, save_freq=250)
        config["model"]["descriptor"].pop("axis_neuron", None)
        config["model"]["descriptor"]["type"] = "se_e2_r"
        return train(config, output=tmp_path / f"{steps}", quiet=True)

    first, last = (
        evaluate(load_model(trained(steps)), data / "train.extxyz").total() for steps in (1, 250)
    )
    assert last.force_rmse < 0.5 * first.force_rmse
    assert main(["info", str(tmp_path / "250" / "model.dpl")]) == 0
    assert "se_e2_r, rcut" in capsys.readouterr().out
    assert main(["check", str(tmp_path / "250" / "model.dpl"), "--quick", "-q"]) == 0


def test_a_converted_model_is_trained_on_and_taken_back(data, tmp_path):
    source, target = unpacked("radial.pth", tmp_path), tmp_path / "model.dpl"
    model, _ = convert(source, target)
    frames = random_atoms("O4H8", 6.0, 3)
    frames.info["REF_energy"] = -20.0
    frames.arrays["REF_forces"] = np.zeros((12, 3))
    write(tmp_path / "train.extxyz", frames)
    config = settings(tmp_path, numb_steps=2)
    config["training"].pop("validation_data", None)
    config["training"]["check"] = False
    config["model"] = model.config.model_dump()
    path = train(config, output=tmp_path / "out", finetune=target, quiet=True)
    learned = load_model(path).state_dict()
    assert torch.equal(learned["dstd"], model.descriptor.dstd)
    assert not torch.equal(learned["embedding.weight_0"], model.descriptor.embedding.weight_0)
    convert(path, tmp_path / "back.yaml")
    back, _ = convert(tmp_path / "back.yaml", tmp_path / "back.dpl")
    for name, array in back.state_dict().items():
        assert torch.equal(array, learned[name]), name
    config["model"]["descriptor"]["type"] = "se_e2_a"
    with pytest.raises(InputError, match="differs from the input in model/descriptor/type"):
        train(config, output=tmp_path / "other", init_model=target, quiet=True)
