"""Trainings by a name, and on data alone."""

import json
from dataclasses import replace

import numpy as np
import pytest
from ase.io import read, write
from copper import copper, settings
from safetensors.numpy import load_file
from test_train_loop import stopping_after

from deepmd_lite.cli import main
from deepmd_lite.data import Frame, System, load
from deepmd_lite.model import load_model, read_header
from deepmd_lite.system import InputError
from deepmd_lite.training import read_input, read_systems, train
from deepmd_lite.training.presets import PRESETS, input_of
from deepmd_lite.training.setup import load_data
from deepmd_lite.training.systems import divided
from deepmd_lite.uncertainty import add_uncertainty


@pytest.fixture(name="data", scope="module")
def _data(tmp_path_factory):
    """Ten frames of copper."""
    folder = tmp_path_factory.mktemp("copper")
    write(folder / "copper.extxyz", copper(10, 1))
    return folder / "copper.extxyz"


@pytest.fixture(name="brief")
def _brief(monkeypatch):
    """Trainings by a preset end after four steps."""
    for preset in PRESETS.values():
        monkeypatch.setitem(preset["training"], "numb_steps", 4)


def named(data, preset="fast", **sections):
    content = input_of(data)
    content["training"] |= sections.pop("training", {})
    content["model"] |= sections.pop("model", {})
    return {**content, "preset": preset, **sections}


@pytest.mark.parametrize(("own", "told"), [({}, False), ({"start_pref_v": 1.0}, True)])
def test_prefactors_that_nobody_asked_for_are_not_said_to_be_idle(
    data, tmp_path, caplog, own, told
):
    frames = read(data, ":")
    for atoms in frames:
        del atoms.calc.results["stress"]
    write(tmp_path / "copper.extxyz", frames)
    settings, _ = read_input({**named(tmp_path / "copper.extxyz"), "loss": own})
    load_data(settings, quiet=True)
    assert ("start_pref_v and limit_pref_v have no effect" in caplog.text) == told


# --- presets --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({}, (0.1, 1.0, 1.0)),
        ({"start_pref_e": 1.0}, (0.1, 1.0, 1.0)),
        ({"linear_beyond": [1, 2, 3]}, (1.0, 2.0, 3.0)),
        ({"linear_beyond": None}, None),
        ({"loss_func": "mse", "use_huber": False, "relative_f": None}, (0.1, 1.0, 1.0)),
        ({"use_huber": True}, None),
        ({"loss_func": "mae"}, None),
        ({"relative_f": 0.5}, None),
    ],
)
def test_another_loss_stands_in_for_that_of_a_preset(data, own, expected):
    found, _ = read_input(named(data, loss=own))
    assert found.loss.linear_beyond == expected


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_a_whole_input(data, preset):
    found, notes = read_input(named(data, preset))
    assert notes == []
    values = PRESETS[preset]
    assert found.model.descriptor.neuron == values["model"]["descriptor"]["neuron"]
    assert found.model.fitting_net.neuron == values["model"]["fitting_net"]["neuron"]
    assert found.model.precision == "float32"
    assert found.learning_rate.stop_lr == values["learning_rate"]["stop_lr"]
    assert found.training.numb_steps == values["training"]["numb_steps"]
    assert found.training.training_data.batch_size == "auto:192"
    assert found.learning_rate.type == "cosine"
    assert found.loss.trains_virials


def test_presets_grow():
    widths = [p["model"]["fitting_net"]["neuron"][0] for p in PRESETS.values()]
    assert list(PRESETS) == ["fast", "balanced", "accurate"]
    assert widths == sorted(set(widths))


def test_what_is_given_counts(data):
    given = named(
        data,
        model={"descriptor": {"rcut": 5.0}, "fitting_net": {"n_neuron": [20]}},
        learning_rate={"stop_lr_ratio": 0.5},
        loss={"limit_pref_e": 3},
        training={"stop_batch": 7, "training_data": {"systems": [str(data)], "batch_size": 1}},
    )
    found, _ = read_input(given)
    assert found.model.descriptor.rcut == 5.0
    assert found.model.descriptor.axis_neuron == 4  # of the preset
    assert found.model.fitting_net.neuron == [20]
    assert found.learning_rate.final_lr == 0.5 * PRESETS["fast"]["learning_rate"]["start_lr"]
    assert (found.loss.limit_pref_e, found.loss.limit_pref_f) == (3, 100)
    assert found.training.numb_steps == 7
    assert found.training.training_data.batch_size == 1


@pytest.mark.parametrize(
    ("own", "kind"),
    [
        ({"decay_steps": 100}, "exp"),
        ({"decay_rate": 0.9}, "exp"),
        ({"smooth": False}, "exp"),
        ({"decay_phase_ratio": 0.2}, "wsd"),
        ({"decay_type": "linear"}, "wsd"),
        ({"type": "wsd"}, "wsd"),
        ({"warmup_ratio": 0.1}, "cosine"),
    ],
)
def test_a_key_of_another_learning_rate_stands_for_it(data, own, kind):
    rate = read_input(named(data, learning_rate=own))[0].learning_rate
    assert (rate.type, rate.start_lr, rate.stop_lr) == (kind, 1e-2, 1e-5)


def test_keys_of_two_learning_rates_are_refused(data):
    with pytest.raises(InputError, match="decay_type is a key of type wsd, and type is exp"):
        read_input(named(data, learning_rate={"decay_steps": 9, "decay_type": "linear"}))


def test_what_stands_for_a_key_does_so_in_its_own_section(data):
    with pytest.raises(InputError, match="unknown key 'model/descriptor/decay_steps'"):
        read_input(named(data, model={"descriptor": {"decay_steps": 9}}))


def test_a_time_limit_takes_the_place_of_steps(data):
    assert read_input(named(data), "30m")[0].training.step_limit is None
    found = read_input(named(data, training={"time_limit": "2h"}))[0]
    assert (found.training.step_limit, found.training.time_limit) == (None, 7200)
    both = read_input(named(data, training={"time_limit": "2h", "numb_steps": 9}))[0]
    assert both.training.step_limit == 9


def test_a_preset_of_an_argument_replaces_that_of_the_input(data):
    assert read_input(named(data), preset="accurate")[0].model.fitting_net.neuron == [240] * 3
    with pytest.raises(InputError, match=r"preset.*'fast', 'balanced' or 'accurate'"):
        read_input(named(data), preset="quick")


def test_a_preset_is_not_mixed_with_another_descriptor(data):
    other = named(data, model={"descriptor": {"type": "se_e2_a"}})
    with pytest.raises(InputError, match=r"'fast' is of descriptor se_e2_q, and .* is 'se_e2_a'"):
        read_input(other)


# --- frames that are held out ---------------------------------------------------------------


def systems_of(*sizes):
    """Systems of as many frames, each with a number of its own as its energy."""
    numbers = iter(range(sum(sizes)))
    nothing = np.zeros((0, 3)), np.zeros((3, 3)), np.zeros(3, dtype=bool)
    return [
        System(f"{size} frames", [Frame((), *nothing, energy=next(numbers)) for _ in range(size)])
        for size in sizes
    ]


def energies(systems):
    return [frame.energy for system in systems for frame in system.frames]


@pytest.mark.parametrize(
    ("sizes", "share", "held"),
    [((20,), 0.1, 2), ((7, 1, 12), 0.25, 5), ((2,), 0.01, 1), ((3,), 0.99, 2), ((1, 1), 0.5, 1)],
)
def test_each_frame_is_in_one_part(sizes, share, held):
    kept, out = divided(systems_of(*sizes), share, seed=1)
    assert len(energies(out)) == held
    assert sorted(energies(kept) + energies(out)) == list(range(sum(sizes)))
    assert energies(kept) == sorted(energies(kept))
    assert all(system.frames for system in kept + out)


def test_single_atoms_are_trained_on():
    alone = Frame(("Cu",), np.zeros((1, 3)), np.zeros((3, 3)), np.zeros(3, dtype=bool))
    pair = replace(alone, symbols=("Cu", "Cu"), positions=np.eye(3)[:2])
    system = System("both", [alone, pair] * 10)
    for seed in range(10):
        kept, held = divided([system], 0.4, seed)
        assert [f.n_atoms for f in held[0].frames] == [2] * 8
        assert sorted(f.n_atoms for f in kept[0].frames) == [1] * 10 + [2] * 2
    kept, held = divided([System("atoms", [alone] * 5)], 0.4, seed=1)
    assert (len(kept[0].frames), len(held[0].frames)) == (3, 2)


def test_every_element_keeps_a_frame():
    pair = Frame(("H", "H"), np.eye(3)[:2], np.zeros((3, 3)), np.zeros(3, dtype=bool))
    rare = replace(pair, symbols=("Cu", "H"))
    for seed in range(20):
        kept, held = divided([System("rare", [rare, *[pair] * 9])], 0.5, seed)
        assert rare.symbols in [f.symbols for f in kept[0].frames]
        assert len(held[0].frames) == 5
    kept, held = divided([System("rare", [rare, rare, pair])], 0.7, seed=1)
    assert [f.symbols for f in kept[0].frames] == [rare.symbols]
    assert len(held[0].frames) == 2
    with pytest.raises(InputError, match="each frame is the only one of an element"):
        divided([System("two", [rare, replace(pair, symbols=("O", "O"))])], 0.1, 1)


def test_a_seed_draws_the_same_frames():
    drawn = [energies(divided(systems_of(30), 0.2, seed)[1]) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    first = np.random.default_rng(1).permutation(30)[:6]  # as trainings that go on have it
    assert drawn[0] == sorted(first.tolist())


def test_one_frame_cannot_be_divided():
    with pytest.raises(InputError, match="held_out: there is one frame, and none would be left"):
        divided(systems_of(1), 0.1, 1)


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"validation_data": {"systems": ["."]}}, "validation_data and held_out each say what"),
        ({"held_out": 1.0}, "training/held_out"),
        ({"held_out": 0, "early_stop_patience": 3}, "give validation_data or held_out"),
    ],
)
def test_what_does_not_go_with_it(data, training, message):
    with pytest.raises(InputError, match=message):
        read_input(named(data, training=training))


def test_shares_of_systems_do_not_go_with_it(data):
    uniform = {"systems": [str(data)], "auto_prob": "prob_uniform"}
    with pytest.raises(InputError, match=r"held_out: systems lose frames.*give validation_data"):
        read_input(named(data, training={"training_data": uniform}))


# --- trainings ------------------------------------------------------------------------------


@pytest.fixture(name="trained")
def _trained(brief, data, tmp_path, monkeypatch):
    """What `dpl train copper.extxyz --preset fast` leaves, run from the data's folder."""
    monkeypatch.chdir(data.parent)
    assert main(["train", "copper.extxyz", "--preset", "fast", "-o", str(tmp_path), "-q"]) == 0
    return tmp_path


def test_a_training_on_data_alone(trained, data):
    model = load_model(trained / "model.dpl")
    assert model.type_map == ["Cu"]
    provenance = read_header(trained / "model.dpl")["provenance"]
    assert provenance["training data"].startswith("9 frames")
    assert provenance["steps"] == "4 of 4"
    assert provenance["virials trained"] is True
    assert (trained / "model-best.dpl").exists()
    complete = json.loads((trained / "out.json").read_text())
    assert complete["training"]["training_data"]["systems"] == [str(data)]


def test_its_complete_input_is_the_same_training(trained, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    again = train(trained / "out.json", output=tmp_path / "again", quiet=True)
    first, second = load_file(trained / "model.dpl"), load_file(again)
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name], name)
    own, other = (json.loads((p / "out.json").read_text()) for p in (trained, tmp_path / "again"))
    assert own == other


def test_it_goes_on_by_the_same_command(trained, data, monkeypatch, capsys):
    for preset in PRESETS.values():
        monkeypatch.setitem(preset["training"], "numb_steps", 6)
    command = ["train", str(data), "-p", "fast", "-o", str(trained), "--restart"]
    assert main(command) == 0
    assert read_header(trained / "model.dpl")["provenance"]["steps"] == "6 of 6"


def test_an_interrupted_one_goes_on_by_its_own_input(brief, data, tmp_path, monkeypatch):
    whole = train(data, preset="fast", output=tmp_path / "whole", quiet=True)
    with monkeypatch.context() as patch:
        stopping_after(patch, 2)
        train(data, preset="fast", output=tmp_path / "parts", quiet=True)
    assert main(["train", "--restart", "-o", str(tmp_path / "parts"), "-q"]) == 0
    first, second = load_file(whole), load_file(tmp_path / "parts" / "model.dpl")
    assert all(np.array_equal(array, second[name]) for name, array in first.items())


def test_held_out_frames_are_found_again(trained, capsys):
    source = trained / "out.json"
    kept, held = read_systems(read_input(source)[0])
    assert [len(part[0].frames) for part in (kept, held)] == [9, 1]
    for option, told in (("--train-data", "9 frames"), ("--valid-data", "1 frame")):
        assert main(["test", str(trained / "model.dpl"), option, str(source), "-q"]) == 0
        assert f"\n{told}" in capsys.readouterr().out
    fitted = add_uncertainty(trained / "model.dpl", kept, validation=held, quiet=True)
    assert fitted.potential.members.facts["calibrated_on"] == "1 frames held out"


def test_data_to_validate_on_are_named(brief, data, tmp_path, capsys):
    write(tmp_path / "other.extxyz", copper(3, 2))
    command = ["train", str(data), "--validation", str(tmp_path / "other.extxyz"), "-p", "fast"]
    assert main([*command, "-o", str(tmp_path / "out"), "-q"]) == 0
    provenance = read_header(tmp_path / "out" / "model.dpl")["provenance"]
    assert provenance["training data"].startswith("10 frames")
    kept, held = read_systems(read_input(tmp_path / "out" / "out.json")[0])
    assert [len(part[0].frames) for part in (kept, held)] == [10, 3]
    command = ["train", str(tmp_path / "out" / "out.json"), "--validation", str(data)]
    assert main([*command, "-o", str(tmp_path / "out")]) == 1
    assert "an input says itself what is validated on" in capsys.readouterr().err


def test_data_without_virials_and_an_input_are_told_apart(brief, tmp_path, capsys):
    frames = copper(4, 2)
    for atoms in frames:
        del atoms.calc.results["stress"]
    write(tmp_path / "a.extxyz", frames[:2])
    write(tmp_path / "b.extxyz", frames[2:])
    assert read(tmp_path / "a.extxyz").calc.results.keys().isdisjoint({"stress"})
    both = [str(tmp_path / name) for name in ("a.extxyz", "b.extxyz")]
    assert not read_input(input_of(both))[0].loss.trains_virials
    model = train(both, preset="fast", output=tmp_path / "out", quiet=True)
    assert read_header(model)["provenance"]["training data"].startswith("3 frames")
    (tmp_path / "input.json").write_text("{}")
    with pytest.raises(SystemExit):
        main(["train", str(tmp_path / "input.json"), both[0]])
    assert "input.json: is an input, which names its data" in capsys.readouterr().err


def test_data_that_are_missing_are_said_in_one_line(tmp_path, capsys):
    assert main(["train", str(tmp_path / "nothing.xyz"), "-o", str(tmp_path / "out")]) == 1
    assert "nothing.xyz" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_complete_input_has_the_elements_that_the_input_had(data, tmp_path):
    """Those without data leave the model, and the numbers in type.raw count on."""
    config = settings(data.parent, numb_steps=1, held_out=0.1)
    config["model"]["type_map"] = ["Au", "Cu"]
    config["training"]["training_data"]["systems"] = str(data)
    del config["training"]["validation_data"]
    model = train(config, output=tmp_path, quiet=True)
    assert load_model(model).type_map == ["Cu"]
    assert json.loads((tmp_path / "out.json").read_text())["model"]["type_map"] == ["Au", "Cu"]
    assert len(load(data)[0].frames) == 10
