"""The input file of a training: DeePMD-kit's vocabulary, notes and errors."""

import json

import numpy as np
import pytest
import yaml

from deepmd_lite.system import InputError
from deepmd_lite.training.config import read_input
from deepmd_lite.training.data_config import DataConfig

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
        ("loss", {"type": "dos", "pref": 1}, "loss/type 'dos' is not supported; there is 'ener'"),
        ("loss", {"start_pref_f": -1}, "key 'loss/start_pref_f'"),
        ("learning_rate", {"type": "step"}, "key 'learning_rate/type'"),
        ("learning_rate", {"type": "cosine", "decay_rate": 0.5}, "decay_rate is a key of type exp"),
        ("learning_rate", {"decay_type": "linear"}, "decay_type is a key of type wsd"),
        ("learning_rate", {"type": "wsd", "stop_lr": 0}, "type wsd needs one above 0"),
        ("model", {"model_dict": {"water": {}}}, "model/model_dict is not supported; one model is"),
        (
            "model",
            {"shared_dict": {"type_map": []}},
            "model/shared_dict is not supported; one model",
        ),
        ("learning_rate", {"warmup_steps": 9, "warmup_ratio": 0.1}, "give warmup_steps or warmup"),
        ("learning_rate", {"stop_lr": 1.0}, "stop_lr 1.0 exceeds start_lr 0.001"),
        ("learning_rate", {"warmup_start_factor": 3.0}, "factor': Input should be less than or eq"),
        ("training", {"mixed_precision": {"x": 1}}, "'mixed_precision' is not supported"),
        ("training", {"numb_steps": 0}, "key 'training/numb_steps'"),
        ("training", {"opt_type": "LKF", "kf_blocksize": 1}, "training/opt_type 'LKF' is not"),
        ("optimizer", {"type": "AdamW", "weight_decay": 1}, "optimizer/type 'AdamW' is not"),
        ("training", {"acc_freq": 4}, "'acc_freq' is not supported; give a batch_size"),
        ("training", {"num_epoch": 0}, "key 'training/num_epoch'"),
        ("model", {"use_srtab": "zbl.txt"}, "use_srtab needs sw_rmin and sw_rmax"),
        ("model", {"pair_exclude_types": [[0, 1]]}, "'pair_exclude_types' is not supported"),
        ("model", {"type_embedding": {"neuron": [0]}}, "key 'model/type_embedding/neuron'"),
        ("model", {"bridging_method": "ZBL"}, "'bridging_method' is not supported"),
        ("loss", {"use_l1_all": True}, "'use_l1_all' is not supported"),
        ("loss", {"huber_delta": [0.1, 0.1]}, "key 'loss/huber_delta"),
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


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"descriptor": {"type": "se_e3", "sel": [1]}}, "model/descriptor/type 'se_e3' is not"),
        ({"descriptor": {"type": "dpa3", "repflow": {}}}, "hybrid of these, and se_atten with"),
        (
            {"descriptor": {"type": "hybrid", "list": [{"type": "se_r"}, {"type": "se_a_tpe"}]}},
            "model/descriptor/list/1/type 'se_a_tpe' is not supported; there are se_e2_a, se_e2_r",
        ),
        ({"fitting_net": {"type": "polar", "sel_type": [0]}}, "there is 'ener': models are of ene"),
        ({"fitting_net": {"numb_aparam": 1}}, "numb_aparam: parameters of atoms are not supported"),
        ({"fitting_net": {"trainable": [True, False]}}, "model/fitting_net/trainable: false is"),
        ({"descriptor": {"trainable": False}}, "model/descriptor/trainable: false is not supp"),
        (
            {"descriptor": {"type": "hybrid", "list": [{"type": "se_r", "trainable": False}]}},
            "model/descriptor/list/0/trainable: false is not supported",
        ),
        ({"type": "linear_ener", "models": [], "weights": "mean"}, "model/use_srtab"),
        ({"type": "frozen", "model_file": "graph.pb"}, "dpl convert it and give --init-model"),
        ({"fitting_net_dict": {"a": {}}}, "model/fitting_net_dict is not supported; one model"),
    ],
)
def test_what_is_of_another_kind_is_one_sentence(folder, model, message):
    data = changed(model=model)
    data["loss"] = {"type": "tensor", "pref": 1.0} if "polar" in str(model) else data["loss"]
    with pytest.raises(InputError) as error:
        read_input(write(folder, data))
    assert message in str(error.value)
    assert "unknown key" not in str(error.value)


def test_a_section_that_is_switched_off_changes_nothing(folder):
    read_input(write(folder, changed(nvnmd={"enable": False, "net_size": 128})))


def test_epochs_count_where_steps_are_given_as_well(folder):
    config, notes = read_input(write(folder, changed(training={"num_epoch": 3})))
    assert config.training.num_epoch == 3
    assert "training/numb_steps is ignored: num_epoch says how many there are" in notes


# --- elements of the data -------------------------------------------------------------------


def without_type_map(folder, maps):
    """An input of data with these `type_map.raw` (None: without one)."""
    data = changed()
    del data["model"]["type_map"]
    names = [f"data/data_{k}" for k in maps]
    for name, words in zip(names, maps.values(), strict=True):
        (folder / name / "type.raw").write_text("0\n1\n")
        if words is not None:
            (folder / name / "type_map.raw").write_text("\n".join(words))
    data["training"]["training_data"]["systems"] = names
    return write(folder, data)


def test_elements_are_those_of_the_data(folder):
    config, notes = read_input(without_type_map(folder, {0: ["O"], 1: ["O", "H"], 3: ["O"]}))
    assert config.model.type_map == config.elements == ["O", "H"]
    assert "model/type_map is that of the data: O H" in notes


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        ({0: ["O", "H"], 1: ["H", "O"]}, r"'model/type_map' is missing, and types do not mean"),
        (
            {0: ["O", "H"], 1: None},
            r"'model/type_map' is missing, and .*data_1 has no type_map",
        ),
    ],
)
def test_elements_that_the_data_do_not_say(folder, maps, message):
    with pytest.raises(InputError, match=message):
        read_input(without_type_map(folder, maps))


def test_elements_of_an_hdf5_file(folder):
    h5py = pytest.importorskip("h5py")
    with h5py.File(folder / "w.hdf5", "w") as file:
        file["H2O/type.raw"] = [0, 1]
        file["H2O/type_map.raw"] = np.array([b"O", b"H"])
    data = changed(training={"training_data": {"systems": "w.hdf5"}})
    del data["model"]["type_map"]
    assert read_input(write(folder, data))[0].model.type_map == ["O", "H"]


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


WRONG = ["auto:x", "auto:0", "auto:²", "max", "max:", "filter:0", "mixed:0", "mixed:²"]


@pytest.mark.parametrize("given", [0, -1, "all", "4", *WRONG, [1, 2], True])
def test_wrong_batch_sizes(folder, given):
    data = changed(training={"training_data": {"systems": "data", "batch_size": given}})
    with pytest.raises(
        InputError, match=r"training/training_data/batch_size': .*(expected|differ)"
    ):
        read_input(write(folder, data))


def test_an_input_with_a_byte_order_mark(folder):
    path = write(folder, changed())
    path.write_text(path.read_text(encoding="utf-8"), encoding="utf-8-sig")
    assert read_input(path)[0].training.numb_steps


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


@pytest.mark.parametrize(
    ("given", "decay"),
    [({"enable_ema": True}, 0.999), ({"enable_ema": False, "ema_decay": 0.9}, 0.0)],
)
def test_averages_as_deepmd_kit_switches_them(folder, given, decay):
    assert read_input(write(folder, changed(training=given)))[0].training.ema_decay == decay


def test_an_input_with_every_default_written_out(folder):
    """As DeePMD-kit 3.2 itself leaves it after a training."""
    model = {
        **{"pair_exclude_types": [], "atom_exclude_types": [], "preset_out_bias": None},
        **{"srtab_add_bias": True, "type": "standard", "model_branch_alias": [], "info": {}},
        **{"bridging_method": "None", "bridging_r_inner": 0.5, "bridging_r_outer": 0.8},
        **{"data_stat_nbatch": 10, "data_stat_protect": 0.01, "data_bias_nsample": 10},
    }
    rate = {
        **{"stop_lr_ratio": None, "warmup_steps": 0, "warmup_ratio": None, "decay_rate": None},
        **{"warmup_start_factor": 0.0, "scale_by_worker": "linear", "smooth": False},
    }
    off = ("h", "ae", "pf", "gf")
    loss = {
        **{f"{when}_pref_{what}": 0.0 for when in ("start", "limit") for what in off},
        **{"use_default_pf": False, "enable_atom_ener_coeff": False, "numb_generalized_coord": 0},
        **{"use_huber": False, "loss_func": "mse", "f_use_norm": False, "huber_delta": 0.01},
        "intensive_ener_virial": False,
    }
    data = {"rglob_patterns": None, "auto_prob": "prob_sys_size", "sys_probs": None}
    training = {
        "training_data": {"systems": ["data/data_0"], **data, "min_pair_dist": 0.0},
        "validation_data": {"systems": ["data/data_3"], "numb_btch": 3, **data},
        **{"stat_file_mode": "update", "save_dir": None, "save_ckpt": "model.ckpt"},
        **{"max_ckpt_keep": 5, "ckpt_keep_ratio": None, "enable_ema": False, "ema_decay": 0.999},
        **{"ema_ckpt_keep": None, "change_bias_after_training": False, "disp_avg": False},
        **{"profiling": False, "profiling_file": "timeline.json", "enable_profiler": False},
        **{"tensorboard": False, "tensorboard_log_dir": "log", "tensorboard_freq": 1},
        **{"acc_freq": 1, "zero_stage": 0, "neighbor_graph_method": "auto"},
        **{"enable_compile": False, "enable_tf32": False},
    }
    data = changed(model=model, learning_rate=rate, loss=loss, training=training)
    data["model"]["fitting_net"] |= {
        **{"type": "ener", "numb_fparam": 0, "numb_aparam": 0, "default_fparam": None},
        **{"dim_case_embd": 0, "activation_function": "tanh", "trainable": [True] * 4},
        **{"rcond": None, "atom_ener": [], "use_aparam_as_mask": False},
    }
    data["model"]["descriptor"] |= {
        **{"trainable": True, "exclude_types": [], "env_protection": 0.0, "set_davg_zero": False},
    }
    data["optimizer"] = {"type": "Adam", "adam_beta1": 0.9, "adam_beta2": 0.999, "weight_decay": 0}
    data["validating"] = {"full_validation": True}
    config, notes = read_input(write(folder, data))
    assert config.optimizer.type == "Adam"
    assert config.training.ema_decay == 0.0
    assert config.learning_rate.smooth is False
    assert not any("enable_compile" in note for note in notes)  # it is off: nothing to tell
    assert any(note.startswith("training/save_ckpt is ignored") for note in notes)
    assert any(note.startswith("validating is ignored") for note in notes)


def test_an_input_of_version_1(folder):
    data = changed()
    data["training"] = {
        **{"systems": ["data/data_0", "data/data_1"], "set_prefix": "set", "batch_size": [2, 2]},
        **{"auto_prob_style": "prob_uniform", "stop_batch": 500, "seed": 1, "numb_test": 10},
        **{"disp_file": "lcurve.out", "disp_freq": 10, "save_freq": 100, "save_ckpt": "model.ckpt"},
        "load_ckpt": "model.ckpt",
    }
    data["learning_rate"] = {"type": "exp", "start_lr": 0.005, "decay_steps": 50, "decay_rate": 0.9}
    config, notes = read_input(write(folder, data))
    assert config.training.numb_steps == 500
    assert config.training.training_data.batch_size == 2
    assert config.training.training_data.auto_prob == "prob_uniform"
    assert config.learning_rate.decay_rate == 0.9
    assert "read as an input of DeePMD-kit 1" in notes
    assert any("training/load_ckpt is ignored" in note for note in notes)
    data["training"]["training_data"] = {"systems": "data"}
    with pytest.raises(InputError, match=r"training/systems and training/training_data"):
        read_input(write(folder, data))


OLDEST = {
    **{"_comment": "flat", "use_smooth": True, "sel_a": [16, 32], "rcut_smth": 5.8, "rcut": 6.0},
    **{"filter_neuron": [20, 40], "filter_resnet_dt": False, "n_axis_neuron": 4, "seed": 3},
    **{"n_neuron": [24, 24], "resnet_dt": True, "coord_norm": True, "type_map": ["O", "H"]},
    **{"systems": ["data/data_0"], "set_prefix": "set", "stop_batch": 100, "batch_size": 1},
    **{"start_lr": 0.001, "decay_steps": 50, "decay_rate": 0.95, "start_pref_e": 0.02},
    **{"limit_pref_e": 8, "start_pref_f": 1000, "limit_pref_f": 1, "start_pref_v": 0},
    **{"limit_pref_v": 0, "disp_file": "lcurve.out", "disp_freq": 10, "numb_test": 5},
    **{"save_freq": 100, "save_ckpt": "m", "load_ckpt": "m", "disp_training": True},
    **{"time_training": True, "profiling": False, "profiling_file": "t.json", "restart": False},
    "type_fitting_net": False,
}


def test_an_input_of_version_0(folder):
    config, notes = read_input(write(folder, OLDEST))
    descriptor, fitting = config.model.descriptor, config.model.fitting_net
    assert (descriptor.sel, descriptor.neuron, descriptor.axis_neuron) == ([16, 32], [20, 40], 4)
    assert (descriptor.rcut_smth, descriptor.seed, fitting.seed) == (5.8, 3, 3)
    assert fitting.neuron == [24, 24]
    assert config.loss.limits == (8.0, 1.0, 0.0)
    assert (config.training.numb_steps, config.training.seed) == (100, 3)
    assert config.training.training_data.systems == [str(folder / "data" / "data_0")]
    assert "read as an input of DeePMD-kit 0" in notes
    assert "coord_norm is ignored: what the descriptor is made of is always normalised" in notes
    assert "load_ckpt is ignored: to start from a model, dpl train --init-model" in notes
    assert not any("type_fitting_net" in note for note in notes)  # it is off
    with pytest.raises(InputError, match="unknown key 'training/start_Lr'"):
        read_input(write(folder, {**OLDEST, "start_Lr": 1}))
    with pytest.raises(InputError, match="use_smooth is not true"):
        read_input(write(folder, {**OLDEST, "use_smooth": False}))


def test_a_time_limit_for_an_input_of_version_0(folder):
    data = {key: value for key, value in OLDEST.items() if key != "decay_rate"}
    config, _ = read_input(write(folder, data), time_limit="10m")
    assert config.training.time_limit == 600
    with pytest.raises(InputError, match="learning_rate/decay_rate counts steps"):
        read_input(write(folder, OLDEST), time_limit="10m")


def test_a_warm_up_within_a_time_limit_is_a_share_of_it(folder):
    given = changed(learning_rate={"warmup_ratio": 0.1}, training={"time_limit": "10m"})
    assert read_input(write(folder, given))[0].learning_rate.warmup_ratio == 0.1
    given = changed(learning_rate={"warmup_steps": 10}, training={"time_limit": "10m"})
    with pytest.raises(InputError, match=r"warmup_steps .give warmup_ratio. counts steps"):
        read_input(write(folder, given))


def test_protection_of_statistics_is_told_where_it_differs(folder):
    _, notes = read_input(write(folder, changed(model={"data_stat_protect": 0.1})))
    assert any("data_stat_protect is ignored" in note for note in notes)


# --- shares of systems ----------------------------------------------------------------------


def data_config(**keys):
    return DataConfig(systems=["a"], **keys)


def test_shares_of_systems():
    sizes = [10, 30, 60]
    assert data_config().shares(sizes, "data") is None
    uniform = data_config(auto_prob="prob_uniform").shares(sizes, "data")
    np.testing.assert_allclose(uniform, [1 / 3] * 3)
    blocks = data_config(auto_prob="prob_sys_size;0:2:0.8;2:3:0.2").shares(sizes, "data")
    np.testing.assert_allclose(blocks, [0.2, 0.6, 0.2])
    given = data_config(sys_probs=[0.5, -1, -1]).shares(sizes, "data")
    np.testing.assert_allclose(given, [0.5, 0.5 / 3, 1 / 3])
    np.testing.assert_allclose(
        data_config(sys_weights=[0.2, 0.3, 0.5]).shares(sizes, "data").sum(), 1
    )


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"auto_prob": "prob_sys_size;0:4:1.0"}, "auto_prob: block 0:4:1.0 is not within the 3"),
        ({"auto_prob": "prob_sys_size;0:1:0"}, "add up to 0"),
        ({"sys_probs": [0.5, 0.5]}, "sys_probs: 2 shares, but 3 systems"),
        ({"sys_probs": [0.5, 0.2, 0.2]}, "add up to 0.9; expected 1"),
        ({"sys_probs": [0.9, 0.2, -1]}, "add up to 1.1; expected 1"),
    ],
)
def test_shares_that_do_not_fit_the_systems(keys, message):
    with pytest.raises(InputError, match=message):
        data_config(**keys).shares([10, 30, 60], "data")


@pytest.mark.parametrize("rule", ["prob_size", "prob_uniform;0:1:1", "prob_sys_size;0-1:1"])
def test_rules_that_mean_nothing(folder, rule):
    data = changed(training={"training_data": {"systems": "data", "auto_prob": rule}})
    with pytest.raises(InputError, match="training/training_data/auto_prob': expected"):
        read_input(write(folder, data))


def test_the_first_layer_is_spread_unless_the_input_says_otherwise(folder):
    assert read_input(write(folder, changed()))[0].training.spread_first_layer
    given = changed(training={"spread_first_layer": False})
    assert not read_input(write(folder, given))[0].training.spread_first_layer
