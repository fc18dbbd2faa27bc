"""Trainings that begin with a model, and models whose energy bias is changed."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.io import write
from copper import copper, settings
from models import environment_of, random_atoms, random_potential
from safetensors.torch import load_file
from test_train_loop import stopping_after

from deepmd_lite import Calculator
from deepmd_lite.cli import main
from deepmd_lite.data import load, prepare
from deepmd_lite.evaluate import evaluate
from deepmd_lite.model import ModelConfig, load_model, read_header, save_model
from deepmd_lite.system import InputError
from deepmd_lite.training import train
from deepmd_lite.training.adopt import adopt_elements, drop_elements
from deepmd_lite.training.bias import bias_shift, change_bias
from deepmd_lite.training.config import read_input
from deepmd_lite.training.presets import START_LR_FROM_MODEL
from deepmd_lite.training.report import read_lcurve


@pytest.fixture(name="data", scope="module")
def _data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("copper")
    write(folder / "train.extxyz", copper(4, 1))
    write(folder / "validation.extxyz", copper(2, 2))
    return folder


@pytest.fixture(name="model", scope="module")
def _model(data, tmp_path_factory):
    return train(settings(data, numb_steps=4), output=tmp_path_factory.mktemp("m"), quiet=True)


def standing(data, **changes):
    """An input that hardly moves the weights."""
    config = settings(data, numb_steps=1, **changes)
    config["learning_rate"] = {"start_lr": 1e-12, "stop_lr": 1e-12}
    return config


def shifted(folder, by):
    """The training frames with energies moved by so much for each atom."""
    frames = copper(4, 1)
    for atoms in frames:
        atoms.info["REF_energy"] = atoms.get_potential_energy() + by * len(atoms)
        atoms.arrays["REF_forces"] = atoms.get_forces()
        atoms.calc = None
    write(folder / "train.extxyz", frames)
    write(folder / "validation.extxyz", frames[:1])
    return folder


# --- training -------------------------------------------------------------------------------


def test_finetuning_moves_the_bias_to_the_new_zero(model, data, tmp_path, caplog):
    moved = shifted(tmp_path, 7.5)
    path = train(standing(moved), output=tmp_path / "out", finetune=model, quiet=True)
    old, new = load_model(model), load_model(path)
    both = (
        evaluate(old, data / "train.extxyz").total(),
        evaluate(new, moved / "train.extxyz").total(),
    )
    assert both[1].energy_rmse_per_atom <= both[0].energy_rmse_per_atom
    assert both[1].energy_rmse_per_atom < 0.1
    assert both[1].force_rmse == pytest.approx(both[0].force_rmse, abs=1e-9)
    mean = np.mean(
        [r.frame.energy - r.energy for r in evaluate(old, data / "train.extxyz").results]
    )
    change = float(new.energy_bias - old.energy_bias)
    assert change == pytest.approx(7.5 + mean / 4, abs=1e-6)
    assert "eV/atom from those of" not in caplog.text
    plain = train(standing(moved), output=tmp_path / "i", init_model=model, quiet=True)
    assert torch.equal(load_model(plain).energy_bias, old.energy_bias)
    assert f"eV/atom from those of {model}: with --finetune" in caplog.text


def test_a_training_says_that_it_made_a_model_worse(model, data, tmp_path, caplog):
    config = standing(data)
    train(config, output=tmp_path / "a", init_model=model, quiet=True)
    assert "is the better model" not in caplog.text
    config["learning_rate"] = {"start_lr": 0.3, "stop_lr": 0.3}
    config["training"]["numb_steps"] = 8
    train(config, output=tmp_path / "b", init_model=model, quiet=True)
    best = tmp_path / "b" / "model-best.dpl"
    assert f"{best} is the better model, which the training did not improve" in caplog.text


def test_presets_go_on_with_a_model_at_a_lower_rate(data, tmp_path):
    """As does a restart of that, on the command line as in an input."""
    both = [str(data / name) for name in ("train.extxyz", "validation.extxyz")]
    keys = {"training": {"training_data": {"systems": both}, "numb_steps": 2, "held_out": 0.2}}
    config = {"preset": "fast", "model": {"type_map": ["Cu"]}, **keys}
    rates = {}
    for name, start in (("a", {}), ("b", {"init_model": tmp_path / "a" / "model.dpl"})):
        train(config, output=tmp_path / name, quiet=True, **start)
        rates[name] = read_lcurve(tmp_path / name / "lcurve.out")["lr"][0]
    config["training"]["numb_steps"] = 4
    train(config, output=tmp_path / "b", restart=True, quiet=True)
    out = json.loads((tmp_path / "b" / "out.json").read_text())
    assert rates["a"] == pytest.approx(1e-2, rel=0.01)
    assert rates["b"] == pytest.approx(START_LR_FROM_MODEL, rel=0.01)
    assert out["learning_rate"]["start_lr"] == START_LR_FROM_MODEL
    assert read_lcurve(tmp_path / "b" / "lcurve.out")["lr"][-1] <= START_LR_FROM_MODEL
    config["learning_rate"] = {"start_lr": 0.02}
    train(config, output=tmp_path / "c", init_model=tmp_path / "a" / "model.dpl", quiet=True)
    assert read_lcurve(tmp_path / "c" / "lcurve.out")["lr"][0] == pytest.approx(0.02, rel=0.01)


def test_the_command_takes_the_letters_of_dp(model, data, tmp_path, capsys):
    path = tmp_path / "input.json"
    path.write_text(json.dumps(standing(data)))
    for option in ("-i", "--finetune"):
        argv = ["train", str(path), option, str(model), "-o", str(tmp_path / "out"), "-q"]
        assert main(argv) == 0
    with pytest.raises(SystemExit) as stop:
        main(["train", str(path), "-i", str(model), "-t", str(model)])
    assert stop.value.code == 2
    assert main(["train", str(path), "-t", str(tmp_path / "no.dpl"), "-q"]) == 1
    assert "no such model file" in capsys.readouterr().err
    with pytest.raises(InputError, match="give one of them"):
        train(standing(data), output=tmp_path, init_model=model, finetune=model)


@pytest.mark.parametrize("one_side", [True, False])
def test_a_model_of_more_elements_keeps_them(data, tmp_path, one_side, caplog):
    """What the data lack stays as it was, the rest learns; a restart goes on with all of them."""
    source = random_potential(("Ag", "Cu", "O"), rcut=4.0, one_side=one_side)
    save_model(source, tmp_path / "big.dpl")
    config = settings(data, numb_steps=6)
    found = source.config
    config["model"] = {
        "type_map": ["Cu"],
        "descriptor": {**found.descriptor.model_dump(exclude={"sel"}), "sel": [40]},
        "fitting_net": found.fitting_net.model_dump(),
    }
    caplog.set_level("INFO")
    out = tmp_path / "out"
    path = train(config, output=out, finetune=tmp_path / "big.dpl", quiet=True)
    assert "the model keeps the elements of" in caplog.text
    assert "big.dpl, Ag Cu O; the data may have those of the input's type_map, Cu" in caplog.text
    new, old = load_model(path).state_dict(), source.state_dict()
    assert read_header(path)["config"]["type_map"] == ["Ag", "Cu", "O"]
    nearest, smaller = load_model(path).known_pairs.smallest, source.known_pairs.smallest.clone()
    smaller[1, 1] = nearest[1, 1]  # of the data, or of what the model had seen before
    assert torch.equal(nearest, smaller)
    assert nearest[1, 1] <= source.known_pairs.smallest[1, 1]
    for k, learns in enumerate((False, True, False)):
        name = f"fitting.{k}.weight_out"
        assert torch.equal(new[name], old[name]) != learns
        assert (float(new["energy_bias"][k]) == float(old["energy_bias"][k])) != learns
    config["training"]["numb_steps"] = 8
    train(config, output=out, restart=True, quiet=True)
    assert read_header(path)["provenance"]["steps"] == "8 of 8"
    assert torch.equal(load_model(path).known_pairs.smallest, nearest)


def test_integers_in_data_mean_the_type_map_of_the_input(data, tmp_path):
    source = random_potential(("Ag", "Cu"), rcut=4.0)
    save_model(source, tmp_path / "big.dpl")
    atoms = bulk("Cu", cubic=True)
    folder = tmp_path / "npy" / "set.000"
    folder.mkdir(parents=True)
    (tmp_path / "npy" / "type.raw").write_text("0 0 0 0")  # and no type_map.raw
    np.save(folder / "coord.npy", atoms.positions.reshape(1, -1))
    np.save(folder / "box.npy", atoms.cell.array.reshape(1, -1))
    np.save(folder / "energy.npy", np.array([-3.0]))
    np.save(folder / "force.npy", np.zeros((1, 12)))
    config = standing(data)
    config["model"] = {**source.config.model_dump(), "type_map": ["Cu"]}
    config["model"]["descriptor"]["sel"] = "auto"
    config["training"]["training_data"]["systems"] = str(tmp_path / "npy")
    del config["training"]["validation_data"]
    path = train(config, output=tmp_path / "out", finetune=tmp_path / "big.dpl", quiet=True)
    change = load_model(path).energy_bias - source.energy_bias
    assert float(change[0]) == 0.0
    assert abs(float(change[1])) > 1e-3


def test_a_model_cannot_learn_new_elements(model, data, tmp_path):
    config = standing(data)
    config["model"]["type_map"] = ["O"]
    with pytest.raises(
        InputError, match=r"knows Cu, but not O of model/type_map; .*from the start"
    ):
        train(config, output=tmp_path, init_model=model, quiet=True)
    oxide = copper(2, 1)
    oxide[1].symbols[0] = "O"
    write(tmp_path / "oxide.extxyz", oxide)
    config["model"]["type_map"] = ["O", "Cu"]
    config["training"]["training_data"]["systems"] = str(tmp_path / "oxide.extxyz")
    with pytest.raises(InputError, match=r"training data: have atoms of O, which the model does"):
        train(config, output=tmp_path, init_model=model, quiet=True)


def test_a_training_goes_on_with_the_input_that_it_began_with(data, tmp_path, caplog):
    """Of an element without data the first one left the network out."""
    config = standing(data)
    config["model"]["type_map"] = ["O", "Cu"]
    first = train(config, output=tmp_path / "a", quiet=True)
    second = train(config, output=tmp_path / "b", init_model=first, quiet=True)
    assert "O of model/type_map left out, which" in caplog.text
    assert load_model(second).type_map == ["Cu"]


def test_epochs_are_turned_into_steps(data, tmp_path):
    config = settings(data)
    del config["training"]["numb_steps"]
    config["training"]["num_epoch"] = 1.5
    config["training"]["training_data"]["auto_prob"] = "prob_uniform"
    path = train(config, output=tmp_path, quiet=True)
    assert read_header(path)["provenance"]["steps"] == "3 of 3"  # 4 frames in batches of 2
    assert "numb_steps" not in json.loads((tmp_path / "out.json").read_text())["training"]
    config["training"]["num_epoch"] = 2
    train(config, output=tmp_path, restart=True, quiet=True)
    assert read_header(path)["provenance"]["steps"] == "4 of 4"


# --- bias -----------------------------------------------------------------------------------


def water_like(potential, folder, shift):
    """Frames of several compositions whose energies are the model's, moved for each element."""
    rng = np.random.default_rng(4)
    frames = []
    for symbols in ("Si4C4", "Si6C2", "Si2C5"):
        atoms = random_atoms(symbols, 6.5, int(rng.integers(100)))
        periodic = environment_of(atoms, potential.type_map, potential.rcut)
        energy = float(potential.evaluate(periodic.env).energies.sum())
        counts = [atoms.get_chemical_symbols().count(e) for e in ("Si", "C")]
        atoms.info["REF_energy"] = energy + counts[0] * shift[0] + counts[1] * shift[1]
        frames.append(atoms)
    write(folder / "frames.extxyz", frames)
    return folder / "frames.extxyz"


def test_a_shift_of_each_element_is_found(tmp_path):
    potential = random_potential(("Si", "O", "C"))
    path = water_like(potential, tmp_path, (12.0, -3.25))
    (system,) = load(path)
    shift, rest, alike = bias_shift(
        potential, prepare(system.frames, potential.type_map, potential.rcut)
    )
    np.testing.assert_allclose(shift, [12.0, 0.0, -3.25], atol=1e-5)
    assert alike == ()
    assert np.abs(rest).max() < 1e-5


def test_a_frame_without_weight_does_not_move_the_bias(tmp_path):
    potential = random_potential(("Si", "C"))
    (system,) = load(water_like(potential, tmp_path, (12.0, -3.25)))
    prepared = prepare(system.frames, potential.type_map, potential.rcut)
    prepared[0].frame.energy += 1000.0
    prepared[0].frame.weight = 0.0
    shift, rest, _alike = bias_shift(potential, prepared)
    np.testing.assert_allclose(shift, [12.0, -3.25], atol=1e-5)
    assert len(rest) == len(prepared) - 1


def test_one_composition_gets_the_smallest_change(tmp_path):
    potential = random_potential(("Si", "C"))
    path = water_like(potential, tmp_path, (3.0, 1.0))
    (system,) = load(path)
    prepared = prepare(system.frames[:1], potential.type_map, potential.rcut)
    shift, rest, alike = bias_shift(potential, prepared)
    np.testing.assert_allclose(shift, [2.0, 2.0], atol=1e-5)
    assert np.abs(rest).max() < 1e-9
    assert alike == ("Si", "C")


def test_the_smallest_change_is_that_of_energies_not_of_shares():
    """Of water: as DeePMD-kit, with whose formula these numbers were found; and where some
    elements are told apart, those that are not."""
    frames = [_Counted(np.array(c), e) for c, e in (((64, 128), 320.0), ((64, 128), 320.0))]
    model = random_potential(("O", "H"))
    found = bias_shift(model, frames, of_network=False)
    counts, energies = np.array([[64.0, 128.0]] * 2), np.array([320.0] * 2)
    expected = np.linalg.lstsq(counts, energies, rcond=None)[0]
    np.testing.assert_allclose(expected, [1.0, 2.0])
    np.testing.assert_allclose(found.values + model.energy_bias.numpy(), expected, atol=1e-12)
    assert "do not tell O, H apart" in found.note
    three = random_potential(("O", "H", "C"))
    counts = [(1, 2, 0), (2, 4, 1), (3, 6, 5)]
    frames = [_Counted(np.array(c), c[0] * 5.0 + c[2] * 7.0) for c in counts]
    found = bias_shift(three, frames, of_network=False)
    values = found.values + three.energy_bias.numpy()
    np.testing.assert_allclose(values, [1.0, 2.0, 7.0], atol=1e-9)
    assert found.alike == ("O", "H")


def test_the_command_changes_the_bias_and_nothing_else(tmp_path, capsys):
    potential = random_potential(("Si", "C"))
    source, out = tmp_path / "a.dpl", tmp_path / "b.dpl"
    save_model(potential, source, {"steps": "7"})
    path = water_like(potential, tmp_path, (2.0, -1.0))
    assert main(["change-bias", str(source), str(path), "-o", str(out), "-q"]) == 0
    assert "least squares of 3 frames" in capsys.readouterr().out
    old, new = load_file(source), load_file(out)
    assert old.keys() == new.keys()
    assert [k for k in old if not torch.equal(old[k], new[k])] == ["energy_bias"]
    np.testing.assert_allclose(new["energy_bias"] - old["energy_bias"], [2.0, -1.0], atol=1e-5)
    assert evaluate(out, path).total().energy_rmse < 1e-5
    assert read_header(out)["provenance"]["steps"] == "7"
    argv = ["change-bias", str(source), "-s", str(path), "-m", "set", "-n", "1", "-o", str(out)]
    assert main([*argv, "-q"]) == 0
    energy = load(path)[0].frames[0].energy
    assert float(load_file(out)["energy_bias"].sum()) * 4 == pytest.approx(energy, abs=1e-6)


def test_a_bias_by_hand(tmp_path, capsys):
    source, out = tmp_path / "a.dpl", tmp_path / "b.dpl"
    save_model(random_potential(("Si", "C")), source)
    argv = ["change-bias", str(source), "-o", str(out)]
    assert main([*argv, "--bias-value", "-93.5", "-187.25"]) == 0
    assert load_model(out).energy_bias.tolist() == [-93.5, -187.25]
    assert main([*argv, "-b", "1.0"]) == 1
    assert "expected 2 finite numbers for Si C, found 1" in capsys.readouterr().err
    assert main(argv) == 1
    assert "no data" in capsys.readouterr().err
    (bare := tmp_path / "bare.xyz").write_text("1\nProperties=species:S:1:pos:R:3\nSi 0 0 0\n")
    with pytest.raises(InputError, match="no frame has an energy"):
        change_bias(source, out, load(bare, labelled=False))


def test_a_rare_element_gets_its_shift_too():
    """Three atoms of it among 128,000."""
    counts = [(64, 0)] * 1997 + [(63, 1)] * 3
    frames = [_Counted(np.array(c), c[0] * 1.0 + c[1] * 5.0) for c in counts]
    shift, left, _alike = bias_shift(random_potential(("Si", "C")), frames, of_network=False)
    expected = np.array([1.0, 5.0]) - random_potential(("Si", "C")).energy_bias.numpy()
    np.testing.assert_allclose(shift, expected, atol=1e-6)
    assert np.abs(left).max() < 1e-8


class _Counted:
    """What `bias_shift` looks at of a prepared frame."""

    def __init__(self, counts, energy):
        self.n_atoms = int(counts.sum())
        self.frame = SimpleNamespace(energy=energy, weight=1.0)
        self.types = np.repeat(np.arange(len(counts)), counts)


def test_excluded_pairs_go_by_name_when_the_model_orders_elements():
    given = {
        "model": {"type_map": ["H", "O"], "descriptor": {"exclude_types": [[0, 0], [1, 0]]}},
        "training": {"training_data": {"systems": ["."]}},
    }
    wanted, _ = read_input(given)
    found = ModelConfig(type_map=["O", "H"], descriptor={"exclude_types": [[1, 1], [1, 0], [0, 1]]})
    assert adopt_elements(wanted, found, [[3, 6]])
    assert wanted.model.type_map == ["O", "H"]
    assert wanted.model.descriptor.exclude_types == [(0, 1), (1, 1)]
    assert wanted.model.descriptor == found.descriptor.model_copy(update={"sel": [3, 6]})


def test_elements_without_data_are_left_out(data, tmp_path, caplog, monkeypatch):
    """The model does not know them; a restart goes on as if there had been no interruption."""
    config = settings(data, numb_steps=6)
    config["model"]["type_map"] = ["O", "Cu", "H"]
    config["model"]["descriptor"].update(sel=[10, 40, 20], exclude_types=[[0, 1], [2, 2]])
    config["model"]["fitting_net"]["atom_ener"] = [-5.0, -3.5, None]
    whole = train(config, output=tmp_path / "whole", quiet=True)
    assert "O, H of model/type_map left out, no atom of them in the training data" in caplog.text
    assert "the model will have Cu alone" in caplog.text
    model = load_model(whole)
    assert model.type_map == ["Cu"]
    assert model.descriptor.sel == [40]
    assert float(model.energy_bias[0]) == -3.5
    atoms = bulk("Cu").repeat(2)
    atoms.symbols[3] = "O"
    atoms.calc = Calculator(whole)
    with pytest.raises(InputError, match=r"O.*Cu"):
        atoms.get_potential_energy()
    with monkeypatch.context() as patch:
        stopping_after(patch, 3)
        train(config, output=tmp_path / "parts", quiet=True)
    train(config, output=tmp_path / "parts", restart=True, quiet=True)
    one, two = (load_file(tmp_path / name / "model.dpl") for name in ("whole", "parts"))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_what_the_input_says_of_other_elements_stays():
    given = {
        "model": {
            "type_map": ["O", "Cu", "H", "Ag"],
            "descriptor": {"sel": [1, 2, 3, 4], "exclude_types": [[1, 3], [0, 1], [3, 3], [2, 0]]},
            "fitting_net": {"atom_ener": [1.0, 2.0, 3.0, 4.0]},
        },
        "training": {"training_data": {"systems": ["."]}},
    }
    wanted, _ = read_input(given)
    drop_elements(wanted, {"Ag", "Cu"})
    assert wanted.model.type_map == ["Cu", "Ag"]
    assert wanted.elements == ["O", "Cu", "H", "Ag"]  # of numbers in data without names
    assert wanted.model.descriptor.sel == [2, 4]
    assert wanted.model.descriptor.exclude_types == [(0, 1), (1, 1)]
    assert wanted.model.fitting_net.atom_ener == [2.0, 4.0]


def test_a_validation_element_that_the_training_lacks(data, tmp_path):
    frames = copper(2, 2)
    frames[1].symbols[0] = "O"
    write(tmp_path / "validation.extxyz", frames)
    config = settings(data, numb_steps=1)
    config["model"]["type_map"] = ["O", "Cu"]
    config["training"]["validation_data"]["systems"] = [str(tmp_path / "validation.extxyz")]
    with pytest.raises(
        InputError, match=r"validation data: have atoms of O, of which there are none"
    ):
        train(config, output=tmp_path / "out", quiet=True)


def test_frames_that_are_too_large_are_left_out(data, tmp_path, caplog):
    """batch_size 'filter:N'."""
    write(tmp_path / "large.extxyz", [atoms.repeat((2, 1, 1)) for atoms in copper(3, 5)])
    large = tmp_path / "large.extxyz"
    config = settings(data, numb_steps=1)
    config["loss"].pop("start_pref_v"), config["loss"].pop("limit_pref_v")
    systems = [str(data / "train.extxyz"), str(large)]
    config["training"]["training_data"] = {"systems": systems, "batch_size": "filter:5"}
    caplog.set_level("INFO")
    model = train(config, output=tmp_path / "out", quiet=True)
    assert "3 of 7 frames have more than 5 atoms and are left out" in caplog.text
    assert read_header(model)["provenance"]["training data"].startswith("4 frames, 16 atoms")
    config["training"]["training_data"]["batch_size"] = "filter:3"
    with pytest.raises(InputError, match=r"training_data/batch_size: every frame .*give a larger"):
        train(config, output=tmp_path / "out", quiet=True)
