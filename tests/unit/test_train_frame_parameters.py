"""Energies that depend on numbers of the whole frame: data that have them, and trainings."""

import json
import logging

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from copper import N_STEPS, settings
from models import environment_of
from pair_potential import PairPotential

from deepmd_lite.calculator import Calculator
from deepmd_lite.check import check_data
from deepmd_lite.cli import main
from deepmd_lite.data import collate, load, prepare
from deepmd_lite.data.writing import write_systems
from deepmd_lite.evaluate import evaluate
from deepmd_lite.learning import learn
from deepmd_lite.model import load_model, read_header
from deepmd_lite.system import InputError
from deepmd_lite.training import train
from deepmd_lite.training.checkpoint import Checkpoint
from deepmd_lite.training.frame_parameters import settle
from deepmd_lite.training.precheck import warn_of_leakage
from deepmd_lite.training.setup import data_hash
from deepmd_lite.training.trainer import Trainer

DEPTHS = (0.5, 1.0, 1.5)


def copper(n, seed, of_depth=lambda depth: depth, repeat=1):
    """Rattled copper whose pairs are bound `fparam` times as deeply as those of `PairPotential`."""
    rng, frames = np.random.default_rng(seed), []
    for k in range(n):
        if k % repeat == 0:
            atoms = bulk("Cu", cubic=True)
            atoms.set_cell(atoms.cell * rng.uniform(0.97, 1.03), scale_atoms=True)
            atoms.positions += 0.08 * rng.normal(size=atoms.positions.shape)
        frame, depth = atoms.copy(), DEPTHS[k % 3]
        periodic = environment_of(frame, ["Cu"], 5.0)
        found = PairPotential().evaluate(periodic.env)
        stress = -depth * found.virial.numpy() / frame.get_volume()
        frame.calc = SinglePointCalculator(
            frame,
            energy=depth * float(found.energies.sum()),
            forces=depth * periodic.fold(found.forces).numpy(),
            stress=stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]],
        )
        frame.info["fparam"] = of_depth(depth)
        frames.append(frame)
    return frames


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("copper")
    write(folder / "train.extxyz", copper(24, 1))
    write(folder / "validation.extxyz", copper(6, 2))
    return folder


def input_of(data, k=1, default=None, **training):
    content = settings(data, **training)
    content["model"]["descriptor"]["rcut"] = 5.0
    content["model"]["fitting_net"] |= {"numb_fparam": k}
    if default is not None:
        content["model"]["fitting_net"]["default_fparam"] = default
    return content


# --- trainings ----------------------------------------------------------------------------------


def trained_error(data, output, k):
    """Force RMSE over the size of the forces, and all errors."""
    content = input_of(data, k, numb_steps=300, disp_freq=100, save_freq=1000)
    content["model"]["descriptor"] |= {"neuron": [6, 12], "axis_neuron": 4}
    content["model"]["fitting_net"]["neuron"] = [20, 20]
    content["learning_rate"] = {"start_lr": 0.01, "stop_lr": 1e-4}
    model = train(content, output=output, quiet=True)
    report = evaluate(model, data / "validation.extxyz")
    labels = np.concatenate([r.frame.forces for r in report.results])
    return report.total().force_rmse / np.sqrt(np.mean(labels**2)), report.total()


def test_a_model_that_sees_them_learns_what_depends_on_them(data, tmp_path, caplog):
    """Pairs bound half or one and a half times as deeply are one structure to a model that does not
    see how deeply: it can learn no more than the mean of their forces."""
    with caplog.at_level(logging.INFO):
        blind, total = trained_error(data, tmp_path / "blind", 0)
    told = [r.message for r in caplog.records if "fparam" in r.message and "note" in r.message]
    assert told == [
        "note: fparam of 24 of 24 frames is not used, because model/fitting_net/numb_fparam is 0"
    ]
    seeing, own = trained_error(data, tmp_path / "seeing", 1)
    scatter = np.std(DEPTHS) / np.sqrt(np.mean(np.square(DEPTHS)))  # 0.378
    assert blind > 0.8 * scatter
    assert seeing < 0.25 * scatter
    assert own.energy_rmse_per_atom < 0.3 * total.energy_rmse_per_atom
    model = load_model(tmp_path / "seeing" / "model.dpl")
    assert model.frame_parameters.average.tolist() == pytest.approx([1.0])
    assert model.frame_parameters.deviation.tolist() == pytest.approx([np.std(DEPTHS)])
    assert "fparam" not in read_header(tmp_path / "blind" / "model.dpl")["provenance"]


def test_isolated_atoms_are_told_at_their_own_values(data, tmp_path, caplog):
    frames = read(data / "train.extxyz", ":")
    alone = [Atoms("Cu", info={"REF_energy": -x, "fparam": x}) for x in (0.5, 1.5)]
    write(tmp_path / "train.extxyz", [*frames, *alone])
    write(tmp_path / "validation.extxyz", frames[:3])
    caplog.set_level(logging.INFO)
    train(input_of(tmp_path, numb_steps=2), output=tmp_path / "out", quiet=True)
    off = []
    for x, atoms in zip((0.5, 1.5), alone, strict=True):
        atoms.calc = Calculator(tmp_path / "out/model.dpl", fparam=x)
        off.append(1e3 * (atoms.get_potential_energy() + x))
    assert f"model − label (training, meV): Cu {max(off, key=abs):+.1f}" in caplog.text


KINDS = {
    "SOAP": {},
    "Adam, averaged": {"opt_type": "Adam", "ema_decay": 0.9},
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_training_continues_bit_for_bit(data, tmp_path, monkeypatch, kind):
    content = input_of(data, **KINDS[kind])
    train(content, output=tmp_path / "whole", quiet=True)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "finished", property(lambda self: self.steps_done >= 7))
        train(content, output=tmp_path / "parts", quiet=True)
    assert Checkpoint.read(tmp_path / "parts" / "checkpoint.safetensors").step == 7
    train(content, output=tmp_path / "parts", restart=True, quiet=True)
    whole, parts = (
        Checkpoint.read(tmp_path / name / "checkpoint.safetensors") for name in ("whole", "parts")
    )
    assert whole.step == parts.step == N_STEPS
    assert whole.arrays.keys() == parts.arrays.keys()
    assert "model.fitting.0.weight_fparam" in whole.arrays
    assert "model.frame_parameters.average" in whole.arrays
    for name, array in whole.arrays.items():
        assert torch.equal(array, parts.arrays[name]), name
    moved = whole.arrays["model.fitting.0.weight_fparam"]
    begun = train(
        {**content, "training": {**content["training"], "numb_steps": 1}}, output=tmp_path
    )
    assert not torch.equal(moved, load_model(begun).state_dict()["fitting.0.weight_fparam"])


def test_a_training_that_begins_with_a_model_has_its_scales(data, tmp_path):
    first = train(input_of(data), output=tmp_path / "first", quiet=True)
    write(tmp_path / "train.extxyz", copper(6, 3, lambda depth: depth + 3.0))
    write(tmp_path / "validation.extxyz", copper(3, 4, lambda depth: depth + 3.0))
    for how in ("init_model", "finetune"):
        # a default of its own is nothing that weights depend on
        content = input_of(tmp_path, default=[3.5], numb_steps=1)
        second = train(content, output=tmp_path / how, quiet=True, **{how: first})
        a, b = load_model(first), load_model(second)
        assert torch.equal(a.frame_parameters.average, b.frame_parameters.average)
        assert b.config.fitting_net.default_fparam == [3.5]
    for k in (0, 2):
        content = input_of(tmp_path, k, [0.0] * k or None)
        with pytest.raises(InputError, match=r"model/fitting_net/numb_fparam; --use-pretrain"):
            train(content, output=tmp_path / "other", quiet=True, init_model=first)
    third = train(
        input_of(tmp_path, 0), output=tmp_path / "own", quiet=True, init_model=first,
        use_pretrain_script=True,
    )  # fmt: skip
    assert load_model(third).config.fitting_net.numb_fparam == 1


def test_a_default_stands_in_for_frames_without(data, tmp_path):
    frames = read(data / "train.extxyz", ":")
    for frame in frames[::2]:
        del frame.info["fparam"]
    write(tmp_path / "train.extxyz", frames)
    write(tmp_path / "validation.extxyz", read(data / "validation.extxyz", ":"))
    content = input_of(tmp_path, default=[0.75])
    model = load_model(train(content, output=tmp_path / "out", quiet=True))
    given = [f.info.get("fparam", 0.75) for f in frames]
    assert float(model.frame_parameters.average) == pytest.approx(np.mean(given))
    del content["model"]["fitting_net"]["default_fparam"]
    with pytest.raises(InputError) as error:
        train(content, output=tmp_path / "other", quiet=True)
    assert str(error.value).startswith(
        f"{tmp_path / 'train.extxyz'}, frame 0: has no fparam; expected 1 number, as model/"
    )
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match=r"frame 1: fparam: expected 2 finite numbers, found \[1"):
        train(input_of(tmp_path, 2, [0.0, 1.0]), output=tmp_path / "other", quiet=True)


def test_data_are_known_again_by_them_too(data, tmp_path):
    """What a training without them sees is what it saw before there were any."""
    frames = load(data / "train.extxyz")[0].frames
    with_them = data_hash(prepare(frames, ["Cu"], 4.0))
    frames[0].fparam = frames[0].fparam + 0.5
    assert data_hash(prepare(frames, ["Cu"], 4.0)) != with_them
    from deepmd_lite.training.config import FittingConfig

    settle(frames, FittingConfig(), "training")
    assert all(f.fparam is None for f in frames)
    plain = read(data / "train.extxyz", ":")
    for atoms in plain:
        del atoms.info["fparam"]
    write(tmp_path / "plain.extxyz", plain)
    before = prepare(load(tmp_path / "plain.extxyz")[0].frames, ["Cu"], 4.0)
    assert data_hash(prepare(frames, ["Cu"], 4.0)) == data_hash(before)


def test_a_loop_of_learning_refuses_them(data, tmp_path):
    (tmp_path / "train.json").write_text(json.dumps(input_of(data)))
    content = {
        "train": str(tmp_path / "train.json"),
        "explore": [{"structure": str(data / "train.extxyz"), "steps": 20}],
        "label": "true {input} {output}",
        "output": str(tmp_path / "loop"),
    }
    with pytest.raises(InputError, match=r"train\.json: model/fitting_net/numb_fparam: struct"):
        learn(content)


# --- data ---------------------------------------------------------------------------------------


def test_frames_that_differ_in_them_are_no_copies(tmp_path, caplog):
    """Of a structure at three depths; without the depths they contradict one another."""
    write(tmp_path / "train.extxyz", copper(9, 1, repeat=3))
    (system,) = load(tmp_path / "train.extxyz")
    found = {f.code for f in check_data({"data": [tmp_path / "train.extxyz"]}).findings}
    assert not {c for c in found if c.startswith(("copies", "labels-"))}
    with caplog.at_level(logging.WARNING):
        warn_of_leakage(system.frames[:1], system.frames[1:3])
        assert not caplog.records
        warn_of_leakage(system.frames[:1], system.frames[:2])
    assert "1 of 2 validation frames are trained on too" in caplog.text
    for frame in system.frames:
        frame.fparam = None
    write_systems([system], tmp_path / "without.extxyz")
    codes = [f.code for f in check_data({"data": [tmp_path / "without.extxyz"]}).findings]
    assert "copies-contradict" in codes


FORMATS = {
    "extxyz": "out.extxyz",
    "deepmd/npy": "out",
    "deepmd/npy/mixed": "out",
    "deepmd/hdf5": "out.hdf5",
}


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("k", [1, 2, 9])
def test_formats_keep_them(tmp_path, kind, k):
    rng = np.random.default_rng(k)
    frames = copper(4, 1, lambda depth: float(depth) if k == 1 else depth * rng.normal(size=k))
    del frames[2].info["fparam"]
    write(tmp_path / "in.extxyz", frames)
    wanted = {f.positions.tobytes(): f.fparam for f in load(tmp_path / "in.extxyz")[0].frames}
    if k < 9:  # of which ASE makes a matrix in writing
        first = load(tmp_path / "in.extxyz")[0].frames[0].fparam
        np.testing.assert_allclose(first, np.atleast_1d(frames[0].info["fparam"]), atol=1e-7)
    target = tmp_path / FORMATS[kind]
    assert main(["convert-data", str(tmp_path / "in.extxyz"), str(target), "--to", kind]) == 0
    found = [frame for system in load(target) for frame in system.frames]
    assert len(found) == 4
    for frame in found:
        np.testing.assert_array_equal(frame.fparam, wanted[frame.positions.tobytes()])
    assert sum(f.fparam is None for f in found) == 1
    assert "fparam 3/3" in load(target)[0].summary() or "fparam 3/4" in load(target)[0].summary()


@pytest.mark.parametrize("shape", [(3,), (3, 1), (3, 1, 1), (3, 2), (3, 1, 2)])
def test_shapes_of_deepmd_kit(tmp_path, shape):
    path = written(tmp_path, np.arange(np.prod(shape), dtype=np.float32).reshape(shape))
    (system,) = load(path)
    assert system.notes == []
    expected = np.arange(np.prod(shape)).reshape(3, -1)
    for frame, row in zip(system.frames, expected, strict=True):
        assert frame.fparam.dtype == np.float64
        assert frame.fparam.tolist() == row.tolist()
    batch = collate(prepare(system.frames, ["Cu"], 4.0))
    assert batch.fparam.tolist() == expected.tolist()


def written(folder, fparam):
    """Three frames of deepmd/npy, with this fparam.npy."""
    write(folder / "in.extxyz", copper(3, 1))
    write_systems(load(folder / "in.extxyz"), folder / "npy")
    (path,) = (folder / "npy").glob("*/set.000/fparam.npy")
    np.save(path, fparam)
    return folder / "npy"


@pytest.mark.parametrize(
    ("fparam", "message"),
    [
        (np.zeros((2, 1)), r"fparam\.npy: expected shape \(3, any\) or .* found \(2, 1\)"),
        (np.zeros((3, 0)), r"frame 0: fparam: expected one number or a list of them"),
        (np.array([1.0, np.nan, 2.0]), r"frame 1: fparam is not finite \(\[nan\]\); remove"),
    ],
)
def test_parameters_that_are_none(tmp_path, fparam, message):
    with pytest.raises(InputError, match=message) as error:
        load(written(tmp_path, fparam))
    assert "\n" not in str(error.value)


def test_words_are_no_parameters(tmp_path):
    write(tmp_path / "in.extxyz", copper(1, 1, lambda _: "hot"))
    with pytest.raises(InputError, match="frame 0: fparam: expected numbers, found 'hot'"):
        load(tmp_path / "in.extxyz")


def test_the_command_tests_each_frame_at_its_own(data, tmp_path, capsys):
    model = train(input_of(data, numb_steps=2), output=tmp_path, quiet=True)
    assert main(["test", str(model), str(data / "validation.extxyz"), "-q"]) == 0
    capsys.readouterr()
    frames = read(data / "validation.extxyz", ":")
    for frame in frames:
        del frame.info["fparam"]
    write(tmp_path / "without.extxyz", frames)
    assert main(["test", str(model), str(tmp_path / "without.extxyz"), "-q"]) == 1
    line = capsys.readouterr().err
    assert (
        "without.extxyz, frame 0: fparam: the model takes 1 frame parameter and was given" in line
    )
    assert line.count("\n") == 1
