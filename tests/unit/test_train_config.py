"""The input file of a training: DeePMD-kit's vocabulary, notes and errors."""

import json

import pytest
import yaml

from deepmd_lite.system import InputError
from deepmd_lite.training.config import read_input

# the keys of DeePMD-kit's water example, with paths of our own
DEEPMD_INPUT = {
    "_comment": "that's all",
    "model": {
        "type_map": ["O", "H"],
        "descriptor": {
            "type": "se_e2_a",
            "sel": [46, 92],
            "rcut_smth": 0.5,
            "rcut": 6.0,
            "neuron": [25, 50, 100],
            "resnet_dt": False,
            "axis_neuron": 16,
            "type_one_side": True,
            "precision": "float64",
            "seed": 1,
        },
        "fitting_net": {"neuron": [240, 240, 240], "resnet_dt": True, "precision": "float64"},
    },
    "learning_rate": {"type": "exp", "decay_steps": 5000, "start_lr": 1e-3, "stop_lr": 3.51e-8},
    "loss": {
        "type": "ener",
        "start_pref_e": 0.02,
        "limit_pref_e": 1,
        "start_pref_f": 1000,
        "limit_pref_f": 1,
        "start_pref_v": 0,
        "limit_pref_v": 0,
    },
    "training": {
        "training_data": {
            "systems": ["data/data_0/", "data/data_1/"],
            "batch_size": "auto",
            "auto_prob": "prob_sys_size",
        },
        "validation_data": {"systems": ["data/data_3"], "batch_size": 1, "numb_btch": 3},
        "numb_steps": 1000000,
        "seed": 10,
        "disp_file": "lcurve.out",
        "disp_freq": 100,
        "save_freq": 1000,
        "disp_training": True,
        "time_training": True,
    },
}


@pytest.fixture
def folder(tmp_path):
    for name in ("data_0", "data_1", "data_3"):
        (tmp_path / "data" / name).mkdir(parents=True)
    return tmp_path


def changed(**sections):
    """The input above with keys replaced; None removes one."""
    data = json.loads(json.dumps(DEEPMD_INPUT))
    for section, keys in sections.items():
        data.setdefault(section, {}).update(keys)
    return data


def write(folder, data, name="input.json"):
    path = folder / name
    path.write_text(json.dumps(data) if name.endswith("json") else yaml.safe_dump(data))
    return path


def test_a_deepmd_input_is_accepted_unchanged(folder):
    config, notes = read_input(write(folder, DEEPMD_INPUT))
    assert config.training.numb_steps == 1000000
    assert config.training.validation_data.numb_btch == 3
    assert config.learning_rate.stop_lr == 3.51e-8
    assert config.loss.starts == (0.02, 1000.0, 0.0)
    assert [n.split()[0] for n in notes] == [
        "model/descriptor/sel",
        "training/disp_training",
        "training/time_training",
        "training/training_data/auto_prob",
    ]


def test_five_lines_are_enough_and_have_the_defaults_of_deepmd(folder):
    (folder / "short.yaml").write_text(
        "model:\n  type_map: [H, O]\n  descriptor: {rcut: 5.0}\n"
        "training:\n  training_data: {systems: data/data_0}\n"
    )
    config, notes = read_input(folder / "short.yaml")
    assert notes == []
    assert config.training.training_data.systems == [str(folder / "data" / "data_0")]
    assert config.training.training_data.batch_size == "auto"
    assert (config.learning_rate.start_lr, config.learning_rate.stop_lr) == (1e-3, 1e-8)
    assert config.learning_rate.decay_steps == 5000
    assert config.loss.limits == (1.0, 1.0, 0.0)
    assert config.training.seed == 1


def test_a_path_in_the_working_directory_comes_before_the_input_files_folder(
    folder, tmp_path_factory, monkeypatch
):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "data" / "data_0").mkdir(parents=True)
    monkeypatch.chdir(elsewhere)
    config, _ = read_input(write(folder, DEEPMD_INPUT))
    assert config.training.training_data.systems == [
        "data/data_0",
        str(folder / "data" / "data_1"),
    ]


def test_a_path_that_leads_nowhere_is_named_with_the_folders_searched(folder):
    data = changed(training={"training_data": {"systems": "nowhere/data_9"}})
    with pytest.raises(InputError, match=r"training_data/systems: nothing at 'nowhere/data_9'"):
        read_input(write(folder, data))


def test_glob_patterns_are_paths(folder):
    data = changed(training={"training_data": {"systems": "data/data_*"}})
    config, _ = read_input(write(folder, data))
    assert config.training.training_data.systems == [str(folder / "data" / "data_*")]


@pytest.mark.parametrize(
    ("section", "keys", "message"),
    [
        ("loss", {"start_perf_e": 0.1}, "'loss/start_perf_e'; did you mean 'start_pref_e'"),
        ("training", {"numb_stepss": 1}, "'training/numb_stepss'; did you mean 'numb_steps'"),
        ("learning_rate", {"start_Lr": 1}, "did you mean 'start_lr'"),
        ("loss", {"start_pref_ae": 1}, "'start_pref_ae' is not supported"),
        ("loss", {"start_pref_pf": 0.1}, "'start_pref_pf' is not supported"),
        ("loss", {"type": "dos"}, "key 'loss/type'"),
        ("loss", {"start_pref_f": -1}, "key 'loss/start_pref_f'"),
        ("learning_rate", {"type": "cosine"}, "key 'learning_rate/type'"),
        ("learning_rate", {"warmup_steps": 10}, "'warmup_steps' is not supported"),
        ("learning_rate", {"stop_lr": 1.0}, "stop_lr 1.0 exceeds start_lr 0.001"),
        ("training", {"mixed_precision": {"x": 1}}, "'mixed_precision' is not supported"),
        ("training", {"numb_steps": 0}, "key 'training/numb_steps'"),
        ("training", {"opt_type": "LKF"}, "key 'training/opt_type'"),
        ("training", {"enable_ema": True}, "'enable_ema' is not supported; give ema_decay"),
        ("training", {"ema_decay": 1.0}, "key 'training/ema_decay'"),
        ("training", {"early_stop_patience": -1}, "key 'training/early_stop_patience'"),
        ("training", {"time_limit": "soon"}, "key 'training/time_limit': expected a duration"),
        ("optimizer", {"weight_decay": 0.1}, "'weight_decay' is not supported"),
        ("nvnmd", {"version": 0}, "'nvnmd' is not supported"),
    ],
)
def test_a_key_that_is_wrong_is_named(folder, section, keys, message):
    with pytest.raises(InputError) as error:
        read_input(write(folder, changed(**{section: keys})))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_all_prefactors_zero_is_an_error(folder):
    zeros = {f"{when}_pref_{what}": 0 for when in ("start", "limit") for what in "efv"}
    with pytest.raises(InputError, match="nothing would be trained"):
        read_input(write(folder, changed(loss=zeros)))


def test_unsupported_keys_are_accepted_where_they_switch_off(folder):
    data = changed(
        loss={"start_pref_ae": 0.0, "limit_pref_ae": 0, "use_huber": False},
        training={"warmup_steps": 0, "stop_batch": 7},
    )
    del data["training"]["numb_steps"]
    config, _ = read_input(write(folder, data))
    assert config.training.numb_steps == 7


@pytest.mark.parametrize(
    ("given", "read"),
    [(4, 4), ("auto", "auto"), ("auto:128", "auto:128"), ("mixed:8", 8), ([2, 2], 2)],
)
def test_batch_sizes(folder, given, read):
    data = changed(training={"training_data": {"systems": "data", "batch_size": given}})
    assert read_input(write(folder, data))[0].training.training_data.batch_size == read


@pytest.mark.parametrize("given", [0, -1, "all", "auto:x", "auto:0", [1, 2], True])
def test_wrong_batch_sizes(folder, given):
    data = changed(training={"training_data": {"systems": "data", "batch_size": given}})
    with pytest.raises(InputError, match="training/training_data/batch_size"):
        read_input(write(folder, data))


def test_a_time_limit_in_the_input_and_beside_it(folder):
    path = write(folder, changed(training={"time_limit": "1h30m"}))
    training = read_input(path)[0].training
    assert (training.time_limit, training.step_limit) == (5400.0, 1000000)
    assert read_input(path, "10m")[0].training.time_limit == 600.0


def test_numb_steps_is_not_needed_with_a_time_limit(folder):
    data = changed()
    del data["training"]["numb_steps"]
    path = write(folder, data)
    assert read_input(path)[0].training.step_limit == 100_000
    assert read_input(path, "10m")[0].training.step_limit is None
