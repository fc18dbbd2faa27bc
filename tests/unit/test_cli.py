"""The command as a person meets it: results, and one clear line for bad input."""

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from models import random_potential

from deepmd_lite.calculator import Calculator
from deepmd_lite.cli import _parsed, main
from deepmd_lite.files import check_writable
from deepmd_lite.model import load_model, save_model
from deepmd_lite.model.file import FOREIGN


@pytest.fixture(name="model")
def _model(tmp_path):
    path = tmp_path / "model.dpl"
    save_model(random_potential(), path, {"steps": 7})
    return path


def npy_system(folder, frames=3):
    """A small deepmd/npy system labelled by a random model."""
    potential = random_potential()
    rows = {"coord": [], "box": [], "energy": [], "force": []}
    for seed in range(frames):
        atoms = bulk("Si", cubic=True)
        atoms.rattle(0.1, seed=seed)
        atoms.calc = Calculator(potential)
        rows["coord"].append(atoms.positions.ravel())
        rows["box"].append(atoms.cell.array.ravel())
        rows["energy"].append(atoms.get_potential_energy())
        rows["force"].append(atoms.get_forces().ravel())
    (folder / "set.000").mkdir(parents=True)
    (folder / "type.raw").write_text("0\n" * 8)
    (folder / "type_map.raw").write_text("Si\n")
    for name, values in rows.items():
        np.save(folder / "set.000" / f"{name}.npy", np.array(values))
    return folder


def train_input(tmp_path, systems, **changes):
    config = {
        "model": {
            "type_map": ["Si"],
            "descriptor": {"rcut": 4.0, "neuron": [4, 8], "axis_neuron": 2},
            "fitting_net": {"neuron": [8]},
        },
        "training": {"training_data": {"systems": [str(systems)]}, "numb_steps": 3},
    }
    config.update(changes)
    path = tmp_path / "input.json"
    path.write_text(json.dumps(config))
    return path


def fails(capsys, *argv):
    """The one line on standard error of a command that must fail."""
    assert main([str(a) for a in argv]) == 1
    error = capsys.readouterr().err.strip()
    assert error.count("\n") == 0
    assert error.startswith(f"dpl {argv[0]}: error: ")
    return error


def test_train_test_info(tmp_path, capsys):
    system = npy_system(tmp_path / "data")
    out = tmp_path / "out"
    assert main(["train", str(train_input(tmp_path, system)), "-o", str(out), "-q"]) == 0
    report = tmp_path / "report.json"
    plot = tmp_path / "parity.png"
    command = ["test", str(out / "model.dpl"), str(system), "--json", str(report), "-q"]
    assert main([*command, "--plot", str(plot)]) == 0
    assert "Force" in capsys.readouterr().out
    assert json.loads(report.read_text())["total"]["force_rmse"] > 0
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert main(["info", str(out / "model.dpl")]) == 0
    shown = capsys.readouterr().out
    assert "table error" in shown
    assert "elements" in shown
    assert "repulsion" in shown
    assert "ZBL, inside Si-Si" in shown
    assert main(["info", str(out / "model.dpl"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["format_version"] == 5


def test_train_with_another_seed(tmp_path, capsys):
    system = npy_system(tmp_path / "data")
    out = tmp_path / "out"
    command = ["train", str(train_input(tmp_path, system)), "-o", str(out), "-q", "--seed"]
    assert main([*command, "7"]) == 0
    assert json.loads((out / "out.json").read_text())["training"]["seed"] == 7
    assert main([*command, "-7"]) == 1
    assert "training/seed" in capsys.readouterr().err


def test_info_names_the_pairs_that_are_not_seen(tmp_path, capsys):
    model = random_potential(("Cu", "Ag"))
    for pairs in ([], [(1, 0)]):
        model.config.descriptor.exclude_types = pairs
        save_model(model, tmp_path / "model.dpl")
        assert main(["info", str(tmp_path / "model.dpl")]) == 0
        assert ("blind to Cu-Ag" in capsys.readouterr().out) == bool(pairs)


def test_test_takes_the_arguments_of_dp_test(tmp_path, capsys, model):
    one, two = npy_system(tmp_path / "a" / "one"), npy_system(tmp_path / "a" / "two", 2)
    listed = tmp_path / "systems.txt"
    listed.write_text(f"{one}\n\n{two}\n")
    prefix = tmp_path / "detail"
    for argv in (
        ["-m", model, "-s", tmp_path / "a", "-n", "1", "-d", prefix],
        ["-m", model, "-f", listed, "--numb-test", "1", "--detail-file", prefix],
        [model, "-n", "1", one, "-d", prefix, two],
    ):
        assert main(["test", "-q", *map(str, argv)]) == 0
        assert "2 frames, 16 atoms" in capsys.readouterr().out
        assert np.loadtxt(f"{prefix}.f.out").shape == (16, 6)
    assert main(["test", str(model), str(two), "-n", "0", "-q"]) == 0
    shown = capsys.readouterr().out
    assert "2 frames" in shown
    for words in ("Energy RMSE/Natoms :", "Force  RMSE        :"):
        assert words in shown
    assert "no model" in fails(capsys, "test", "-s", one)
    assert "no data" in fails(capsys, "test", model)
    assert "none.txt: cannot be read" in fails(capsys, "test", model, "-f", tmp_path / "none.txt")
    with pytest.raises(SystemExit) as stop:
        main(["test", str(model), str(one), "--nonsense"])
    assert stop.value.code == 2


def test_test_takes_frames_by_chance_and_data_of_an_input(tmp_path, capsys, model):
    one, two = npy_system(tmp_path / "one", 4), npy_system(tmp_path / "two", 2)
    command = ["test", "-q", "-m", str(model)]
    detail = tmp_path / "detail"

    def tested(*options):
        assert main([*command, *map(str, options), "-d", str(detail)]) == 0
        capsys.readouterr()
        return np.loadtxt(f"{detail}.e.out", ndmin=2)[:, 0]

    whole = tested("-s", one)
    drawn = [tested("-s", one, "--shuffle-test", "-r", seed, "-n", 2) for seed in range(6)]
    assert all(len(d) == 2 and set(d) <= set(whole) for d in drawn)
    assert len({tuple(d) for d in drawn}) > 1
    np.testing.assert_array_equal(drawn[0], tested("-s", one, "--shuffle-test", "-n", 2))

    path = train_input(tmp_path, one)
    assert "validation_data is missing" in fails(capsys, *command, "--valid-data", path)
    config = json.loads(path.read_text())
    config["training"]["validation_data"] = {"systems": [str(two)]}
    path.write_text(json.dumps(config))
    np.testing.assert_array_equal(tested("--train-data", path), whole)
    np.testing.assert_array_equal(tested("--valid-data", path), tested("-s", two))


def test_a_restart_by_the_path_of_its_checkpoint(tmp_path, capsys):
    path, out = train_input(tmp_path, npy_system(tmp_path / "data")), tmp_path / "out"
    command = ["train", str(path), "-q"]
    assert main([*command, "-o", str(out)]) == 0
    done = (out / "model.dpl").read_bytes()
    for where in (out, out / "checkpoint.safetensors"):
        (out / "model.dpl").unlink()
        assert main([*command, "--restart", str(where)]) == 0
        assert len((out / "model.dpl").read_bytes()) == len(done)
    assert main(["train", "-q", "-o", str(out), "--restart", str(path)]) == 0  # the input last
    (tmp_path / "model.ckpt").touch()
    assert "--init-model" in fails(capsys, *command, "--restart", tmp_path / "model.ckpt")
    assert "nowhere: no checkpoint" in fails(
        capsys, "train", "--restart", "-o", tmp_path / "nowhere"
    )
    error = fails(capsys, *command, "--restart", out, "-o", tmp_path / "other")
    assert "where its checkpoint is" in error


def test_train_within_a_time_limit(tmp_path, capsys):
    system = npy_system(tmp_path / "data")
    data = {"training_data": {"systems": [str(system)]}, "numb_steps": 2}
    path = train_input(tmp_path, system, training=data)
    assert main(["train", str(path), "-o", str(tmp_path), "--time-limit", "1h30m", "-q"]) == 0
    assert main(["info", str(tmp_path / "model.dpl")]) == 0
    assert "2 of 2 or those in 1h30m" in capsys.readouterr().out
    assert main(["train", str(path), "-o", str(tmp_path), "--time-limit", "1h30m"]) == 0
    assert "the time limit of" not in capsys.readouterr().out
    error = fails(capsys, "train", path, "-o", tmp_path, "--time-limit", "half an hour")
    assert "training/time_limit" in error
    assert "'half an hour'" in error


def test_wrong_shape_and_nan_name_file_and_frame(tmp_path, capsys):
    system = npy_system(tmp_path / "data")
    path = system / "set.000" / "force.npy"
    forces = np.load(path)
    np.save(path, forces[:, :-3])
    error = fails(capsys, "train", train_input(tmp_path, system), "-o", tmp_path / "out")
    assert "force.npy" in error
    assert "24" in error
    assert "21" in error
    forces[1, 5] = np.nan
    np.save(path, forces)
    error = fails(capsys, "train", train_input(tmp_path, system), "-o", tmp_path / "out")
    assert "force" in error
    assert "frame 1" in error
    assert not (tmp_path / "out" / "model.dpl").exists()


def test_unknown_key_names_the_nearest(tmp_path, capsys):
    system = npy_system(tmp_path / "data")
    path = train_input(tmp_path, system, learning_rat={"start_lr": 1e-3})
    assert "did you mean 'learning_rate'?" in fails(capsys, "train", path)


def test_cell_without_volume(tmp_path, capsys, model):
    atoms = bulk("Si", cubic=True)
    atoms.cell[2] = atoms.cell[1]
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=np.zeros((8, 3)))
    write(tmp_path / "flat.extxyz", atoms)
    error = fails(capsys, "test", model, tmp_path / "flat.extxyz")
    assert "zero volume" in error
    assert "flat.extxyz" in error


def test_truncated_model_and_foreign_files(tmp_path, capsys, model):
    model.write_bytes(model.read_bytes()[:3000])
    for argv in (("info", model), ("test", model, tmp_path)):
        assert "not a readable model file" in fails(capsys, *argv)
    assert "no such model file" in fails(capsys, "info", tmp_path / "none.dpl")


def test_unknown_element_in_data(tmp_path, capsys, model):
    atoms = bulk("Ge", cubic=True)
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=np.zeros((8, 3)))
    write(tmp_path / "ge.extxyz", atoms)
    error = fails(capsys, "test", model, tmp_path / "ge.extxyz")
    assert "Ge" in error
    assert "Si" in error


def test_md_input_without_structure(tmp_path, capsys, model):
    path = tmp_path / "md.yaml"
    path.write_text(yaml.safe_dump({"model": str(model), "steps": 5}))
    assert "structure" in fails(capsys, "md", path)


def test_missing_input_files(tmp_path, capsys):
    for verb in ("train", "md"):
        assert "No such file" in fails(capsys, verb, tmp_path / "absent.yaml")


def test_help_needs_no_heavy_library():
    code = (
        "import sys\n"
        "from deepmd_lite.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as e: assert e.code == 0\n"
        "assert not {'torch', 'ase', 'numpy', 'mpi4py'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "VERB" in done.stdout


def test_usage_errors_have_status_two(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train"])
    assert stop.value.code == 2
    with pytest.raises(SystemExit) as stop:
        main(["md", "x.yaml", "--threads", "0"])
    assert stop.value.code == 2
    with pytest.raises(SystemExit) as stop:
        main(["freeze", "-o", "graph.pb"])
    assert stop.value.code == 2
    assert "freeze: not needed: a training writes model.dpl" in capsys.readouterr().err


def test_public_names():
    import deepmd_lite as dpl

    assert callable(dpl.train)
    assert {"Calculator", "Simulation", "train"} <= set(dir(dpl))
    assert dpl.Calculator is Calculator
    assert dpl.Simulation.__name__ == "Simulation"
    assert dpl.load.__name__ == "load_model"
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        dpl.trian  # noqa: B018


def test_ctrl_c_does_not_leave_torch_imported_by_half():
    code = """
import signal, sys
import deepmd_lite as dpl
signal.signal(signal.SIGINT, signal.default_int_handler)  # of a job in the background it is ignored
class Interrupting:
    def find_spec(self, name, *_):
        if name == "torch.autograd":
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Interrupting())
try:
    dpl.load
except KeyboardInterrupt:
    print("interrupted")
print(dpl.load.__name__)
"""
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["interrupted", "load_model"], done.stderr


def test_commands_of_the_documentation_exist():
    """Those of the table for people who come from DeePMD-kit, with all of their options."""
    text = (Path(__file__).parents[2] / "docs" / "from-deepmd-kit.md").read_text()
    commands = re.findall(r"`dpl ([^`]+)`", text)
    assert {c.split()[0] for c in commands} >= {
        "train",
        "test",
        "devi",
        "change-bias",
        "info",
        "md",
    }
    for command in commands:
        if len(command.split()) > 1:
            assert _parsed(command.split()).run


def test_options_that_do_not_fit(tmp_path, capsys, model):
    system = npy_system(tmp_path / "data")
    assert "only with a model" in fails(capsys, "check", system, "--quick")
    assert "only with data" in fails(capsys, "check", model, "--html", tmp_path / "x.html")
    for suffix in FOREIGN:
        said = fails(capsys, "check", f"a{suffix}")
        assert f"convert that first: dpl convert a{suffix} a.dpl" in said
    assert "nothing to check" in fails(capsys, "check")
    with pytest.raises(SystemExit) as stop:
        main(["check", str(system), "--rcut", "-1"])
    assert stop.value.code == 2


def test_quiet_check_of_a_model_says_what_failed(tmp_path, capsys, model):
    plot = tmp_path / "dimers.PNG"
    main(["check", str(model), "--quick", "-q", "--plot", str(plot)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith(f"{model}: ")
    assert not any(" ok " in line for line in lines)
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_folders_foreign_files_and_suffixes_of_models(tmp_path, capsys, model):
    assert f"in it: {model}" in fails(capsys, "test", tmp_path, "unused")
    assert f"in it: {model}" in fails(capsys, "info", tmp_path)
    foreign = tmp_path / "foreign.dpl"
    foreign.write_bytes(b"\n\x0b\n\x05dummy graph of something else")
    assert "not a model of deepmd_lite" in fails(capsys, "info", foreign)
    target = tmp_path / "x.dp"
    assert "ends in .dpl" in fails(capsys, "change-bias", model, "-b", "-1.0", "-o", target)
    assert not target.exists()


@pytest.mark.parametrize(
    "command",
    [
        ("change-bias", "MODEL", "-b", "-1.0", "-o", "MODEL"),
        ("devi", "-m", "MODEL", "MODEL", "-s", "DATA", "-o", "MODEL"),
        ("test", "MODEL", "DATA", "--json", "MODEL"),
    ],
)
def test_no_output_takes_the_place_of_an_input(tmp_path, capsys, model, command):
    own = tmp_path / "own.dpl"
    own.write_bytes(Path(model).read_bytes())
    places = {"MODEL": own, "DATA": npy_system(tmp_path / "data")}
    said = fails(capsys, *(places.get(word, word) for word in command))
    assert "own.dpl: is an input" in said
    assert own.read_bytes() == Path(model).read_bytes()
    graph = tmp_path / "x.pb"
    assert "dp convert-backend" in fails(capsys, "convert", model, graph)


@pytest.mark.parametrize(
    "command",
    [
        ("test", "MODEL", "own.xyz@:1", "--json", "own.xyz"),
        ("test", "MODEL", "own.xyz#energy=energy", "--html", "own.xyz"),
        ("test", "MODEL", "ow*.xyz", "--json", "own.xyz"),
        ("test", "MODEL", "-f", "list", "--json", "list"),
        ("devi", "-m", "MODEL", "MODEL", "-s", "own.xyz@:", "-o", "own.xyz"),
        ("check", "--train", "own.xyz", "--json", "own.xyz"),
        ("check", "--validation", "own.xyz", "--test", "a@0.xyz", "--html", "a@0.xyz"),
        ("check", "MODEL", "--data", "own.xyz", "--json", "own.xyz"),
        ("change-bias", "MODEL", "own.xyz", "-o", "own.xyz"),
        ("uncertainty", "MODEL", "own.xyz@0", "-o", "own.xyz"),
        ("check", "own.hdf5#/H2O", "--json", "own.hdf5"),
    ],
)
def test_no_output_takes_the_place_of_data(tmp_path, capsys, model, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("own.xyz", bulk("Si"), format="extxyz")
    write("a@0.xyz", bulk("Si"), format="extxyz")
    Path("list").write_text("own.xyz\n")
    Path("own.hdf5").touch()
    before = Path(command[-1]).read_bytes()
    said = fails(capsys, *(model if word == "MODEL" else word for word in command))
    assert f"{command[-1]}: is an input, which would be lost" in said
    assert Path(command[-1]).read_bytes() == before


@pytest.mark.parametrize("option", ["--json", "--html", "--plot", "-d"])
def test_places_of_results_are_tried_before_the_work(tmp_path, capsys, model, option):
    data = npy_system(tmp_path / "data")
    said = fails(capsys, "test", model, data, option, tmp_path / "none" / "x.png")
    assert f"there is no folder {tmp_path / 'none'}; make it first" in said


def test_names_that_no_result_should_have(tmp_path, capsys, model):
    data = npy_system(tmp_path / "data")
    assert "-: expected the name of a file" in fails(capsys, "test", model, data, "--json", "-")
    assert f"{tmp_path}: expected the name" in fails(capsys, "check", data, "--html", tmp_path)
    with pytest.raises(SystemExit):
        main(["test", str(model), str(data), "--plot", "x.foo"])
    assert "'x.foo': pictures are PNG" in capsys.readouterr().err


def test_known_keys_are_told_once(tmp_path, capsys):
    path = tmp_path / "md.yaml"
    path.write_text(yaml.safe_dump({"aaaaaa": 1, "bbbbbb": 2, "model": "x", "steps": 1}))
    assert fails(capsys, "md", path).count("known keys") == 1


def test_md_input_that_is_hardly_meant(tmp_path, capsys, model):
    write(tmp_path / "si.extxyz", bulk("Si", cubic=True))
    path = tmp_path / "md.yaml"
    data = {"model": str(model), "structure": str(tmp_path / "si.extxyz"), "steps": 1}
    path.write_text(yaml.safe_dump(data | {"output": {"model_devi": 5}}))
    assert "several models" in fails(capsys, "md", path)
    path.write_text(yaml.safe_dump(data | {"timestep": 0.001, "model": [str(model)] * 2}))
    assert main(["md", str(path), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "note: timestep 0.001 fs is very short; its unit is fs, not ps" in shown
    assert "models" in shown
    strong = {"type": "nvt-langevin", "temperature": 300, "friction": 1.0}
    path.write_text(yaml.safe_dump(data | {"timestep": 0.25, "ensemble": strong}))
    assert main(["md", str(path), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "friction 1/fs makes atoms forget their velocities within 1 fs" in shown


def test_another_zero_of_energy_is_said(tmp_path, capsys, model):
    system = npy_system(tmp_path / "data")
    path = system / "set.000" / "energy.npy"
    assert main(["test", str(model), str(system), "-q"]) == 0
    assert "zero of energy" not in capsys.readouterr().out
    np.save(path, np.load(path) - 800.0)
    assert main(["test", str(model), str(system), "-q"]) == 0
    shown = capsys.readouterr().out
    assert "+100.0000 eV/atom off" in shown
    assert "dpl change-bias" in shown
    forces = system / "set.000" / "force.npy"
    np.save(forces, -np.load(forces))
    assert main(["test", str(model), str(system), "-q"]) == 0
    shown = capsys.readouterr().out
    assert "warning: forces are off by" in shown
    assert "+100.0000 eV/atom off" in shown
    assert "dpl change-bias" not in shown


def test_the_architecture_of_a_model(tmp_path, capsys, model):
    path = train_input(tmp_path, npy_system(tmp_path / "data"), model={"type_map": ["Si"]})
    out = tmp_path / "out"
    error = fails(capsys, "train", path, "-o", out, "--init-model", model)
    assert "--use-pretrain-script" in error
    assert "no model" in fails(capsys, "train", path, "-o", out, "-u")
    assert main(["train", str(path), "-o", str(out), "-q", "-u", "-i", str(model)]) == 0
    assert main(["train", str(path), "-o", str(out), "-q", "-u", "--restart"]) == 0
    trained, began = (load_model(p).config for p in (out / "model.dpl", model))
    assert trained.descriptor.model_dump(exclude={"sel"}) == began.descriptor.model_dump(
        exclude={"sel"}
    )
    assert trained.fitting_net.neuron == began.fitting_net.neuron
    assert trained.repulsion is not None  # the input's, not that of the model


def test_a_reader_that_leaves_early(tmp_path, model):
    write(tmp_path / "si.extxyz", bulk("Si", cubic=True) * (2, 1, 1))
    data = {"model": str(model), "structure": "si.extxyz", "steps": 20, "output": {"thermo": 1}}
    (tmp_path / "md.yaml").write_text(yaml.safe_dump(data))
    command = f"{sys.executable} -m deepmd_lite md md.yaml | head -n 1"
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr == ""
    assert (tmp_path / "run" / "thermo.csv").read_text().count("\n") == 22


def test_streams_that_know_ascii_alone(tmp_path, model):
    """Standard output and error of `PYTHONIOENCODING=ascii`, or of a bare locale."""
    write(tmp_path / "si.extxyz", bulk("Si", cubic=True) * (2, 1, 1))
    data = {"model": str(model), "structure": "si.extxyz", "steps": 1}
    (tmp_path / "md.yaml").write_text(yaml.safe_dump(data))
    (tmp_path / "Ångström.yaml").write_text("steps: [")
    options = {"cwd": tmp_path, "capture_output": True, "text": True}
    options["env"] = {**os.environ, "PYTHONIOENCODING": "ascii:strict"}
    command = [sys.executable, "-m", "deepmd_lite", "md"]
    done = subprocess.run([*command, "md.yaml", "--dry-run"], **options)
    assert (done.returncode, done.stderr) == (0, "")
    assert "ghosts within" in done.stdout
    done = subprocess.run([*command, "Ångström.yaml"], **options)
    assert done.returncode == 1
    assert done.stderr.startswith(r"dpl md: error: \xc5ngstr\xf6m.yaml: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("verb", ["test", "check", "train"])
def test_a_place_that_cannot_be_written_is_told_before_the_work(
    tmp_path, capsys, model, monkeypatch, verb
):
    """As on a file system for reading alone."""
    data = npy_system(tmp_path / "data")

    def refused(**_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("deepmd_lite.files.TemporaryFile", refused)
    monkeypatch.setattr("deepmd_lite.data.formats._read", lambda *_: pytest.fail("was read"))
    out = tmp_path / ("out" if verb == "train" else "out.json")
    argv = {
        "test": ("test", model, data, "--json", out),
        "check": ("check", data, "--json", out),
        "train": ("train", data, "-o", out),
    }
    said = fails(capsys, *argv[verb])
    assert f"{out}: cannot be written: Read-only file system" in said


def test_trying_a_place_leaves_nothing(tmp_path):
    check_writable(tmp_path / "a" / "b")
    check_writable(tmp_path / "a.json", file=True)
    assert list(tmp_path.iterdir()) == []


def test_what_can_be_done_about_an_element_that_a_model_lacks(tmp_path, capsys, model):
    data = npy_system(tmp_path / "data")
    (data / "type_map.raw").write_text("Ge\n")
    for verb in (("change-bias", model, data, "-o", tmp_path / "b.dpl"), ("test", model, data)):
        said = fails(capsys, *verb)
        assert "frame 0: the model has no element Ge (it has Si), and cannot be given new" in said
        assert "leave this data out, or train a model on data with all of them" in said


def test_an_interrupt_during_imports_is_one_line(capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("deepmd_lite.cli._run", interrupted)
    assert main(["check", "x"]) == 130
    assert capsys.readouterr().err == "dpl check: interrupted\n"
    monkeypatch.setattr("deepmd_lite.cli._parsed", interrupted)
    assert main(["check", "x"]) == 130
    assert capsys.readouterr().err == "dpl: interrupted\n"
