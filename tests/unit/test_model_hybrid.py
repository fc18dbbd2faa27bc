"""Several descriptors: their section of an input, statistics, file, training and way back."""

import copy
import json

import numpy as np
import pytest
import torch
from ase.io import write
from copper import copper, settings
from model_files import rewrite
from models import BETWEEN, FAR, NEAR, environment_of, hybrid_config, hybrid_potential, random_atoms
from safetensors import safe_open
from safetensors.torch import save_file

from deepmd_lite.cli import main
from deepmd_lite.interop import convert
from deepmd_lite.model import (
    ModelConfig,
    load_model,
    read_header,
    refine_table,
    save_model,
    statistics_from,
)
from deepmd_lite.model.tabulated import TabulatedEmbedding
from deepmd_lite.schema import parse
from deepmd_lite.system import InputError, ModelFileError
from deepmd_lite.training import train
from deepmd_lite.training.checkpoint import Checkpoint
from deepmd_lite.training.config import read_input


def environment(potential, seed=2):
    atoms = random_atoms("H10O6", 7.0, seed)
    return environment_of(atoms, potential.type_map, potential.rcut).env


# --- input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("descriptor", "message"),
    [
        ({"type": "hybrid"}, "key 'descriptor/list' is missing"),
        ({"type": "hybrid", "list": []}, "'descriptor/list': .*at least 1"),
        (
            {"type": "hybrid", "list": [{"rcut_smoth": 1.0}]},
            "'descriptor/list/0/rcut_smoth'; did you mean 'rcut_smth'",
        ),
        ({"type": "hybrid", "list": [{}, {"type": "hybrid"}]}, "'descriptor/list/1/type'"),
        ({"type": "hybrid", "list": [{}, {"type": "se_e3"}]}, "'descriptor/list/1/type'.*'se_e3'"),
        ({"type": "hybrid", "list": [{}], "rcut": 3.0}, "unknown key 'descriptor/rcut'"),
        ({"type": "hybrid", "list": [{}, {"sel": [3]}]}, "descriptor/list/1/sel has 1 entries"),
        ({"type": "hybrid", "list": [{}, {"precision": "float32"}]}, "list/1/precision float32"),
        ({"rcut": -1.0}, "key 'descriptor/rcut'"),
        ({"list": [{}]}, "unknown key 'descriptor/list'"),
    ],
)
def test_a_section_that_is_wrong(descriptor, message):
    with pytest.raises(InputError, match=message):
        parse(ModelConfig, {"type_map": ["O", "H"], "descriptor": descriptor}, "input")


def test_an_input_of_deepmd_kit():
    part = {"type": "se_a", "rcut": 6.0, "rcut_smth": 0.5, "sel": [40, 80], "n_axis_neuron": 8}
    descriptor = {"type": "hybrid", "list": [part, {"type": "se_r", "sel": [20, 40]}]}
    given = {
        "model": {"type_map": ["O", "H"], "descriptor": {**descriptor, "_comment": "two"}},
        "training": {"training_data": {"systems": ["."]}},
    }
    config, notes = read_input(given)
    first, second = config.model.descriptors
    assert (first.type, first.axis_neuron, second.type) == ("se_e2_a", 8, "se_e2_r")
    assert any("normalisation only" in note for note in notes)
    assert ModelConfig(**config.model.model_dump()) == config.model


def test_statistics_of_each_part_are_its_own():
    parts = (NEAR, FAR, BETWEEN)
    env = environment_of(random_atoms("H10O6", 7.0, 2), ["H", "O"], 6.0).env
    found = statistics_from([(env, -3.0)], hybrid_config(parts))
    for part, scales in zip(parts, found.scales, strict=True):
        config = ModelConfig(type_map=["H", "O"], descriptor=part)
        alone = statistics_from([(env, -3.0)], config)
        (expected,) = alone.scales
        assert scales.sel == expected.sel
        assert torch.equal(scales.davg, expected.davg)
        assert torch.equal(scales.dstd, expected.dstd)
        assert torch.equal(found.energy_bias, alone.energy_bias)
    assert len({tuple(scales.sel) for scales in found.scales}) == 3


# --- file -------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_a_file_says_the_same(tmp_path, precision):
    potential = hybrid_potential((NEAR, FAR, BETWEEN), precision).freeze()
    env = environment(potential)
    refine_table(potential, env)
    path = tmp_path / "model.dpl"
    save_model(potential, path)
    loaded = load_model(path)
    assert loaded.precision == precision
    assert torch.equal(loaded.evaluate(env).forces, potential.freeze().evaluate(env).forces)
    header = read_header(path)
    assert header["format_version"] == 5
    assert header["sel"] == [d.sel for d in potential.descriptors]
    assert [g["n_intervals"] for g in header["grid"]] == [
        d.grid.n_intervals for d in potential.descriptors
    ]
    assert {"descriptors.2.table.nodes", "descriptors.0.davg"} <= set(header["arrays"])
    save_model(loaded, tmp_path / "again.dpl", loaded.provenance)
    assert (tmp_path / "again.dpl").read_bytes() == path.read_bytes()


def test_a_part_without_networks_is_kept(tmp_path):
    potential = hybrid_potential()
    own = potential.descriptors[1]
    nodes = torch.stack(own.embedding.jet(own.grid.nodes()), dim=2).detach()
    own.embedding = TabulatedEmbedding.on_grid(own.grid, nodes)
    env = environment(potential)
    path = tmp_path / "model.dpl"
    save_model(potential.freeze(), path)
    loaded = load_model(path)
    assert isinstance(loaded.descriptors[1].embedding, TabulatedEmbedding)
    torch.testing.assert_close(loaded.evaluate(env).forces, potential.evaluate(env).forces)
    with pytest.raises(InputError, match="table without networks"):
        loaded.descriptors[1].embedding_networks()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda header, arrays: header.update(sel=[header["sel"][0]]), "of 2 and 1 descriptors"),
        (lambda header, arrays: header.update(grid=header["grid"][0]), "header is not valid"),
        (lambda header, arrays: header.update(sel=header["sel"][0]), "header is not valid"),
        (lambda header, arrays: arrays.pop("descriptors.1.davg"), "'descriptors.1.davg' is missin"),
        (
            lambda header, arrays: arrays.update(davg=arrays["descriptors.1.davg"].clone()),
            "unexpected array 'davg'",
        ),
        (
            lambda header, arrays: arrays["descriptors.1.dstd"].fill_(0.0),
            "dstd positive",
        ),
    ],
)
def test_files_that_do_not_hold_together_are_refused(tmp_path, change, message):
    save_model(hybrid_potential(), tmp_path / "m.dpl")
    rewrite(tmp_path / "m.dpl", change)
    with pytest.raises(ModelFileError, match=message):
        load_model(tmp_path / "m.dpl")


def test_info_tells_of_each_part(tmp_path, capsys):
    save_model(hybrid_potential().freeze(), tmp_path / "m.dpl")
    assert main(["info", str(tmp_path / "m.dpl")]) == 0
    shown = capsys.readouterr().out
    assert "se_e2_a, rcut 4 Å" in shown
    assert "se_e2_r, rcut 5.5 Å" in shown


# --- training ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("copper")
    write(folder / "train.extxyz", copper(12, 1))
    write(folder / "validation.extxyz", copper(4, 2))
    return folder


def hybrid(data, **training):
    config = settings(data, **training)
    near = {"rcut": 4.0, "rcut_smth": 2.0, "neuron": [4, 8], "axis_neuron": 2}
    far = {"type": "se_e2_r", "rcut": 5.0, "rcut_smth": 1.0, "neuron": [3, 6]}
    config["model"]["descriptor"] = {"type": "hybrid", "list": [near, far]}
    # a function of the step, whatever the number of steps
    config["learning_rate"] = {"start_lr": 1e-3, "decay_rate": 0.9, "decay_steps": 2}
    return config


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory):
    output = tmp_path_factory.mktemp("uninterrupted")
    train(hybrid(data), output=output, quiet=True)
    return output


def test_every_part_learns(uninterrupted):
    arrays = Checkpoint.read(uninterrupted / "checkpoint.safetensors").arrays
    for k in range(2):
        moment = arrays[f"optimizer.exp_avg.descriptors.{k}.embedding.weight_0"]
        assert float(moment.abs().max()) > 0
    curve = np.loadtxt(uninterrupted / "lcurve.out")
    assert np.isfinite(curve).all()


def test_a_restart_is_bit_for_bit(data, uninterrupted, tmp_path):
    train(hybrid(data, numb_steps=8), output=tmp_path, quiet=True)
    train(hybrid(data), output=tmp_path, restart=True, quiet=True)
    found, expected = (
        load_model(folder / "model.dpl").state_dict() for folder in (tmp_path, uninterrupted)
    )
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], x) for name, x in expected.items())


def test_another_part_is_another_model(data, uninterrupted, tmp_path):
    config = hybrid(data)
    config["model"]["descriptor"]["list"][1]["rcut"] = 4.5
    with pytest.raises(InputError, match="differs from the input in model/descriptor/list/1/rcut"):
        train(config, output=tmp_path, init_model=uninterrupted / "model.dpl", quiet=True)
    config["model"]["descriptor"]["list"].pop()
    with pytest.raises(InputError, match="differs from the input in model/descriptor/list/1"):
        train(config, output=tmp_path, init_model=uninterrupted / "model.dpl", quiet=True)


def test_finetuning_keeps_weights_and_the_way_back_every_bit(data, uninterrupted, tmp_path):
    config = hybrid(data, numb_steps=1)
    config["learning_rate"] = {"start_lr": 1e-12, "stop_lr": 1e-12}
    config["model"]["repulsion"] = None
    path = train(config, output=tmp_path, finetune=uninterrupted / "model.dpl", quiet=True)
    model, before = load_model(path), load_model(uninterrupted / "model.dpl").state_dict()
    for name in ("descriptors.0.embedding.weight_1", "descriptors.1.embedding.weight_1"):
        torch.testing.assert_close(model.state_dict()[name], before[name], rtol=0, atol=1e-9)
    convert(path, tmp_path / "model.yaml")
    back, notes = convert(tmp_path / "model.yaml", tmp_path / "back.dpl")
    assert any("(4 Å) and" in note for note in notes)
    state = back.state_dict()
    for name, array in model.state_dict().items():
        assert torch.equal(array, state[name]), name


def test_a_checkpoint_of_before_has_one_descriptor(data, tmp_path):
    train(settings(data, numb_steps=2), output=tmp_path, quiet=True)
    path = tmp_path / "checkpoint.safetensors"
    with safe_open(path, framework="pt") as found:
        header = json.loads(found.metadata()["deepmd_lite_checkpoint"])
        arrays = {key: found.get_tensor(key) for key in found.keys()}  # noqa: SIM118
    assert not any("descriptors." in name for name in arrays)
    old = copy.deepcopy(header) | {
        "format_version": 3,
        "sel": header["sel"][0],
        "grid": header["grid"][0],
    }
    save_file(arrays, path, metadata={"deepmd_lite_checkpoint": json.dumps(old)})
    found = Checkpoint.read(path)
    assert found.sel == header["sel"]
    assert found.grid == header["grid"]
