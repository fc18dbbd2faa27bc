"""Elements that share their networks: DPA-1 without attention, and `type_embedding`."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import write
from model_files import rewrite
from models import DPA1_MODES, TYPES, dpa1, environment_of, random_atoms, typed_potential
from test_train_loop import stopping_after

from deepmd_lite.cli import main
from deepmd_lite.evaluate import evaluate
from deepmd_lite.interop import convert
from deepmd_lite.interop.dp_file import read_dp
from deepmd_lite.model import ModelConfig, load_model, read_header, save_model, statistics_from
from deepmd_lite.model.typed import (
    APART,
    VECTORS,
    learned_by,
    make_plain,
    plain_config,
    potential_for_training,
    tell_apart,
    trained_config,
)
from deepmd_lite.model.typed_networks import TypedEmbedding, TypedFitting
from deepmd_lite.schema import parse
from deepmd_lite.system import InputError, ModelFileError
from deepmd_lite.training import train

GOLDEN = Path(__file__).parents[1] / "golden"


QUADRUPOLES = {
    "type_map": TYPES,
    "type_embedding": {"neuron": [3, 6], "seed": 4},
    "descriptor": {"type": "se_e2_q", "rcut": 4.5, "neuron": [6, 12], "cubic_neuron": 2},
    "fitting_net": {"neuron": [8, 8]},
}


def models():
    return [*(pytest.param(dpa1(mode), id=mode) for mode in DPA1_MODES), QUADRUPOLES]


@pytest.mark.parametrize("model", models())
def test_gradients_reach_the_shared_weights(model):
    """Of energies and forces, against finite differences in every array of weights."""
    potential, env = typed_potential(model)
    random = torch.Generator().manual_seed(0)
    towards = torch.randn(env.positions.shape, generator=random, dtype=torch.float64)

    def loss():
        energies, forces = potential.energies_and_forces(env)
        return (energies * torch.arange(len(energies))).sum() + (forces * towards).sum()

    loss().backward()
    trained = {name: p for name, p in potential.named_parameters() if p.requires_grad}
    assert any(name.startswith("type_embedding") for name in trained)
    assert any(name.endswith("type_weight") for name in trained) or "strip" in str(model)
    for name, parameter in trained.items():
        along = torch.randn(parameter.shape, generator=random, dtype=torch.float64)
        expected = float((parameter.grad * along).sum())
        ends = []
        for step in (1e-5, -2e-5):
            parameter.data += step * along
            ends.append(loss().item())
        parameter.data += 1e-5 * along
        found = (ends[0] - ends[1]) / 2e-5
        assert found == pytest.approx(expected, rel=2e-5, abs=1e-4), name
        assert expected != 0.0, name


@pytest.mark.parametrize("model", models())
def test_the_plain_potential_says_the_same(model, tmp_path):
    """In memory and in its file, which holds the shared weights as well, and gives them back."""
    potential, env = typed_potential(model)
    energies, forces = potential.energies_and_forces(env)
    config = parse(ModelConfig, model, "test")
    state = {k: x.clone() for k, x in potential.state_dict().items()}
    plain = make_plain(potential)
    assert not isinstance(plain.fitting, TypedFitting)
    assert "type_embedding.weight_0" not in plain.state_dict()
    save_model(plain, tmp_path / "model.dpl")
    assert read_header(tmp_path / "model.dpl")["format_version"] == 10
    loaded = load_model(tmp_path / "model.dpl")
    for one in (plain, loaded):
        found = one.evaluate(env)
        torch.testing.assert_close(found.energies, energies.detach(), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(found.forces, forces.detach(), rtol=1e-9, atol=1e-9)
    again = trained_config(loaded)
    assert again.type_embedding.model_dump() == config.type_embedding.model_dump()
    assert again.descriptor.type_one_side == config.descriptor.type_one_side
    arrays = learned_by(loaded, again)
    assert all(torch.equal(arrays[name], x) for name, x in state.items())
    assert arrays.keys() == state.keys()


def spread(rows):
    return float((rows - rows.mean(dim=0)).square().mean().sqrt())


def test_elements_are_told_apart_from_the_start():
    for model in (dpa1("concat"), dpa1("one sided"), dpa1("smooth"), QUADRUPOLES):
        potential, _ = typed_potential(model)
        networks = [m for m in potential.modules() if isinstance(m, TypedEmbedding | TypedFitting)]
        assert len(networks) == 1 + ("se_atten_v2" not in str(model))
        for network in networks:
            assert spread(network.told() @ network.type_weight) == pytest.approx(APART)
        if model is not QUADRUPOLES:  # whose vectors end in tanh
            assert spread(potential.type_embedding()) == pytest.approx(VECTORS)
    alone = {**dpa1(), "type_map": ["O"]}
    config = parse(ModelConfig, alone, "test")
    env = environment_of(random_atoms("O9", 7.0, 3), ["O"], 4.5).env
    single = potential_for_training(config, statistics_from([(env, -1.0)], plain_config(config)), 2)
    tell_apart(single)
    assert torch.isfinite(single.energies(env)).all()


# --- inputs ----------------------------------------------------------------------------------


def test_dpa1_is_read_as_a_type_embedding():
    config = parse(ModelConfig, dpa1("smooth"), "test")
    assert config.descriptor.type == "se_e2_a"
    assert config.descriptor.sel == 50
    types = config.type_embedding
    assert (types.neuron, types.activation_function) == ([4], "linear")
    assert types.fades
    assert not config.descriptor.set_davg_zero
    assert parse(ModelConfig, dpa1(), "test").descriptor.set_davg_zero
    again = parse(ModelConfig, config.model_dump(mode="json"), "test")
    assert again == config
    plain = plain_config(config)
    assert plain.descriptor.sel == [17, 17, 16]
    assert plain.type_embedding is None
    old = {**dpa1(), "descriptor": {**dpa1()["descriptor"], "stripped_type_embedding": True}}
    assert parse(ModelConfig, old, "test").type_embedding.tebd_input_mode == "strip"
    ours = {**dpa1(), "type_embedding": {"neuron": [2, 4, 8], "activation_function": "Tanh"}}
    section_given = parse(ModelConfig, ours, "test").type_embedding
    assert (section_given.neuron, section_given.activation_function) == ([2, 4, 8], "tanh")


def changed(**keys):
    descriptor = dpa1()["descriptor"] | keys
    return {**dpa1(), "descriptor": {k: v for k, v in descriptor.items() if v != "-"}}


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (changed(attn_layer=2), "attn_layer 2: attention is not supported; with attn_layer 0"),
        (changed(attn_layer="-"), "attn_layer 2: attention is not supported"),
        (
            changed(tebd_input_mod="strip"),
            "'descriptor/tebd_input_mod'; did you mean 'tebd_input_mode'?",
        ),
        (changed(tebd_input_mode="add"), "tebd_input_mode"),
        (changed(use_econf_tebd=True), "use_econf_tebd"),
        ({**QUADRUPOLES, "type_embedding": {"neurons": [2]}}, "did you mean 'neuron'"),
        (
            {**QUADRUPOLES, "descriptor": {"type": "hybrid", "list": [{}, {}]}},
            "type_embedding: not with descriptor hybrid",
        ),
        ({**QUADRUPOLES, "descriptor": {"type": "se_e2_r"}}, "not with descriptor se_e2_r"),
        (changed(neuron=[18, 36]), "descriptor/neuron begins with 18: with a type embedding"),
        ({**dpa1(), "fitting_net": {"neuron": [52]}}, "fitting_net/neuron begins with 52"),
    ],
)
def test_what_is_not_supported_is_named(model, message):
    with pytest.raises(InputError) as error:
        parse(ModelConfig, model, "test")
    assert message in str(error.value)


def test_too_many_elements_are_refused():
    config = parse(ModelConfig, {**dpa1(), "type_map": [f"X{k}" for k in range(25)]}, "test")
    with pytest.raises(InputError, match="25 elements need as many tables"):
        plain_config(config)


# --- trainings -------------------------------------------------------------------------------


def alloy(n_frames, seed):
    """Rattled Cu3Au with EMT's labels."""
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(n_frames):
        atoms = bulk("Cu", a=3.75, cubic=True)
        atoms.symbols[rng.integers(4)] = "Au"
        atoms.positions += 0.08 * rng.normal(size=atoms.positions.shape)
        atoms.calc = EMT()
        atoms.get_forces()
        frames.append(atoms)
    return frames


@pytest.fixture(name="data", scope="module")
def _data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alloy")
    write(folder / "train.extxyz", alloy(6, 1))
    return folder / "train.extxyz"


def settings(data, mode="concat", numb_steps=12, **training):
    """An input of DPA-1; its type map has an element without data."""
    model = dpa1(mode)
    model["descriptor"]["sel"] = 60
    return {
        "model": {**model, "type_map": ["Cu", "Ni", "Au"]},
        "learning_rate": {"start_lr": 0.01, "stop_lr": 0.001},
        "loss": {"start_pref_e": 1, "start_pref_f": 100},
        "training": {
            "training_data": {"systems": str(data), "batch_size": 2},
            **{"numb_steps": numb_steps, "disp_freq": 1, "save_freq": 4, **training},
        },
    }


def curve(folder):
    return [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("mode", ["concat", "strip", "smooth"])
def test_a_training_goes_on(data, tmp_path, mode, monkeypatch):
    """By its checkpoint to the bit, and by its model where that stopped."""
    whole = train(settings(data, mode), output=tmp_path / "whole", quiet=True)
    assert load_model(whole).type_map == ["Cu", "Au"]
    with monkeypatch.context() as patched:
        stopping_after(patched, 7)
        train(settings(data, mode), output=tmp_path / "cut", quiet=True)
    assert len(curve(tmp_path / "cut")) == 7
    parts = train(settings(data, mode), output=tmp_path / "cut", restart=True, quiet=True)
    one, other = load_model(whole), load_model(parts)
    assert all(torch.equal(x, other.state_dict()[name]) for name, x in one.state_dict().items())
    assert all(torch.equal(x, other.shared.arrays[k]) for k, x in one.shared.arrays.items())
    errors = evaluate(one, data).total()
    both = settings(data, mode, 1, training_data={"systems": str(data), "batch_size": 6})
    both["model"]["table"] = {"spacing": 0.05}
    for keywords in ({}, {"use_pretrain_script": True}):
        out = tmp_path / f"on{len(keywords)}"
        train(both, output=out, init_model=whole, quiet=True, **keywords)
        first = curve(out)[0]["training"]
        assert first["rmse_f"] == pytest.approx(errors.force_rmse, rel=1e-5)
        assert read_header(out / "model.dpl")["format_version"] == 10


def test_a_model_goes_on_with_networks_of_each_element(data, tmp_path):
    """Where the input has no type embedding, if these are not tables alone."""
    shared = train(settings(data), output=tmp_path / "shared", quiet=True)
    config = settings(data, numb_steps=2)
    config["model"] = plain_config(trained_config(load_model(shared))).model_dump(mode="json")
    path = train(config, output=tmp_path / "own", init_model=shared, quiet=True)
    assert load_model(path).shared is None
    with pytest.raises(InputError, match="differs from the input in model/type_embedding"):
        back = settings(data)
        back["model"]["type_map"] = ["Cu", "Au"]
        train(back, output=tmp_path / "back", init_model=path, quiet=True)
    table = train(settings(data, "strip"), output=tmp_path / "strip", quiet=True)
    config["model"] = plain_config(trained_config(load_model(table))).model_dump(mode="json")
    with pytest.raises(InputError, match="table without networks"):
        train(config, output=tmp_path / "own", init_model=table, quiet=True)


def test_averaged_weights_and_the_best_model(data, tmp_path):
    config = settings(data, ema_decay=0.9, validation_data={"systems": str(data)})
    train(config, output=tmp_path, quiet=True)
    best = load_model(tmp_path / "model-best.dpl")
    found = evaluate(best, data).total()
    told = min(record["validation"]["rmse_f"] for record in curve(tmp_path))
    assert found.force_rmse == pytest.approx(told, rel=0.05)


def test_committees_take_the_networks_of_each_element(tmp_path, data):
    trained = train(settings(data), output=tmp_path / "a", quiet=True)
    assert main(["uncertainty", str(trained), str(data), "-o", str(tmp_path / "t.dpl"), "-q"]) == 0
    found = load_model(tmp_path / "t.dpl")
    assert len(found.members) > 1
    assert found.shared is not None


# --- DeePMD-kit ------------------------------------------------------------------------------


def leaves(tree, place=""):
    """Place → value of all that is not a mapping or a list of them."""
    found = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            found |= leaves(value, f"{place}/{key}")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            found |= leaves(dict(enumerate(value)), f"{place}/{key}")
        else:
            found[f"{place}/{key}"] = value
    return found


@pytest.mark.parametrize("name", ["type_embedding_one_sided", "stripped", "faded"])
def test_dpa1_comes_from_deepmd_kit_and_goes_back(name, tmp_path):
    """As DeePMD-kit wrote it, key for key and bit for bit."""
    source = GOLDEN / f"{name}.dp"
    convert(source, tmp_path / "here.dpl")
    _, notes = convert(tmp_path / "here.dpl", tmp_path / "back.dp")
    assert "sel 54 neighbours of all elements" in notes[1]
    assert ("PyTorch (.pth) alone" in notes[-1]) == (name == "faded")
    there, back = (leaves(read_dp(path)["model"]) for path in (source, tmp_path / "back.dp"))
    if name == "faded":  # se_atten_v2, the name of some values of keys
        del there["/descriptor/type"]
    else:
        assert there.keys() == back.keys()
    for place, value in there.items():
        np.testing.assert_array_equal(back[place], value, err_msg=place)
    config = read_dp(tmp_path / "back.dp")["model_def_script"]
    model = load_model(tmp_path / "here.dpl")
    assert parse(ModelConfig, config, "test").type_embedding == model.shared.type_embedding


def test_what_dpa1_does_not_say_goes_as_se_e2_a(tmp_path):
    """Vectors of several layers, empty slots that count."""
    for keys in ({"type_embedding": {"neuron": [3, 6]}}, {}):
        model = dpa1(repulsion=None, **keys)
        model["descriptor"]["set_davg_zero"] = bool(keys)
        potential, env = typed_potential(model)
        save_model(make_plain(potential), tmp_path / "model.dpl")
        convert(tmp_path / "model.dpl", tmp_path / "model.dp")
        assert read_dp(tmp_path / "model.dp")["model"]["descriptor"]["type"] == "se_e2_a"
        convert(tmp_path / "model.dp", tmp_path / "back.dpl")
        one, other = (load_model(tmp_path / f"{n}.dpl").evaluate(env) for n in ("model", "back"))
        torch.testing.assert_close(one.forces, other.forces, rtol=0, atol=1e-6)


def test_info_tells_of_shared_networks(tmp_path, capsys):
    potential, _ = typed_potential(dpa1("smooth"))
    save_model(make_plain(potential), tmp_path / "model.dpl")
    assert main(["info", str(tmp_path / "model.dpl")]) == 0
    told = capsys.readouterr().out
    assert "H O C; they share their networks, by vectors 4 (smoothed strip)" in told
    assert "lost" not in told


# --- files ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h, a: h.pop("shared"), "header/shared is not valid"),
        (lambda h, a: h["shared"].pop("type_one_side"), "header/shared is not valid"),
        (lambda h, a: h["shared"]["type_embedding"].update(neuron=[0]), "header/shared"),
        (lambda h, a: h["shared"]["type_embedding"].update(neuron=[3]), "expected (6, 6)"),
        (lambda h, a: a.pop("shared.fitting.type_weight"), "shared.fitting.type_weight' is miss"),
        (lambda h, a: a.update({"shared.x": torch.ones(1)}), "unexpected array 'shared.x'"),
        (lambda h, a: a["shared.embedding.bias_0"].fill_(torch.nan), "not finite"),
    ],
)
def test_damaged_files_are_refused(tmp_path, change, message):
    potential, _ = typed_potential(dpa1())
    save_model(make_plain(potential), tmp_path / "model.dpl")
    path = rewrite(tmp_path / "model.dpl", change, tmp_path / "bad.dpl")
    with pytest.raises(ModelFileError) as error:
        load_model(path)
    assert message in str(error.value)
