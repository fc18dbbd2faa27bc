"""Energies that depend on numbers of the whole frame: models that take them, and their use."""

import copy
import re

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.io import write
from c_library import ForceField, Refused
from models import environment_of, random_atoms

from deepmd_lite import Calculator, DeepPot, Simulation, add_uncertainty
from deepmd_lite.cli import main
from deepmd_lite.committee import Committee
from deepmd_lite.data import Frame, System, collate, prepare
from deepmd_lite.data.writing import write_systems
from deepmd_lite.deviation import deviations
from deepmd_lite.evaluate import evaluate
from deepmd_lite.interop import convert
from deepmd_lite.md import run_input
from deepmd_lite.model import (
    ModelConfig,
    Potential,
    load_model,
    read_header,
    refine_table,
    save_model,
    statistics_from,
)
from deepmd_lite.model.frame_parameters import FrameParameters, distinct
from deepmd_lite.model.structures import gas
from deepmd_lite.schema import parse
from deepmd_lite.system import InputError, ModelFileError
from deepmd_lite.training.loss import loss_of, predict

TYPES = ["H", "O"]
STATES = [[0.3, -1.0], [0.9, 2.0], [0.3, 2.0]]


def config(k=2, precision="float64", **fitting):
    return {
        "type_map": TYPES,
        "descriptor": {
            **{"rcut": 4.0, "rcut_smth": 1.0, "neuron": [6, 12], "axis_neuron": 4},
            "precision": precision,
        },
        "fitting_net": {"neuron": [20, 20], "numb_fparam": k, "precision": precision, **fitting},
    }


def frame_of(seed, fparam=None, symbols="H4O4"):
    """Random atoms with random labels."""
    atoms, rng = random_atoms(symbols, 6.0, seed, skew=0.1), np.random.default_rng(seed)
    virial = rng.normal(size=(3, 3))
    return Frame(
        symbols=tuple(atoms.get_chemical_symbols()),
        positions=atoms.positions,
        cell=atoms.cell.array,
        pbc=np.ones(3, bool),
        energy=-20.0 + rng.normal(),
        forces=rng.normal(size=(len(atoms), 3)),
        virial=virial + virial.T,
        fparam=None if fparam is None else np.atleast_1d(np.array(fparam, dtype=float)),
        source=f"frame {seed}",
    )


def potential_of(k=2, precision="float64", **fitting):
    """Random weights that give forces of some eV/Å, not frozen."""
    model = parse(ModelConfig, config(k, precision, **fitting), "test")
    env = environment_of(random_atoms("H8O8", 7.0, 3), TYPES, model.rcut).env
    fparam = torch.tensor(STATES, dtype=torch.float64)[:, :k] if k else None
    potential = Potential(model, statistics_from([(env, -16.0)], model, fparam=fparam), seed=3)
    with torch.no_grad():
        for network in potential.fitting:
            network.weight_out *= 30.0
    return potential


@pytest.fixture
def potential():
    return potential_of()


def batch_of(states=STATES, rcut=4.0):
    frames = [frame_of(k, state) for k, state in enumerate(states)]
    return collate(prepare(frames, TYPES, rcut))


def whole(potential, batch, training=False):
    return predict(potential, batch, forces=True, virials=True, training=training)


# --- the physics --------------------------------------------------------------------------------


def test_frames_of_a_batch_are_frames_one_by_one(potential):
    batch, found = batch_of(), None
    found = whole(potential, batch)
    start = 0
    for k, state in enumerate(STATES):
        alone = whole(potential, collate(prepare([frame_of(k, state)], TYPES, 4.0)))
        rows = slice(start, start := start + int(batch.n_atoms[k]))
        torch.testing.assert_close(found.energies[k], alone.energies[0], rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(found.forces[rows], alone.forces, rtol=0, atol=1e-12)
        torch.testing.assert_close(found.virials[k], alone.virials[0], rtol=0, atol=1e-11)
    other = whole(potential, batch_of([STATES[0]] * 3))
    assert float((found.energies - other.energies)[1:].abs().min()) > 0.1


@pytest.mark.parametrize("state", STATES[:2])
def test_fixed_it_is_what_it_is_at_these_values(potential, state):
    """Energies, forces and virial, of the reference, the training's pass and the compiled one."""
    batch = batch_of([state])
    wanted, fixed = whole(potential, batch), potential.at(state)
    assert fixed.config.fitting_net.numb_fparam == 0
    assert fixed.frame_parameters is None
    same = {"rtol": 1e-13, "atol": 1e-13}
    torch.testing.assert_close(fixed.energies(batch.env).sum()[None], wanted.energies, **same)
    again = whole(fixed, batch)
    assert torch.equal(again.energies, wanted.energies)
    assert torch.equal(again.forces, wanted.forces)
    found = fixed.evaluate(batch.env)
    torch.testing.assert_close(found.energies.sum()[None], wanted.energies, **same)
    torch.testing.assert_close(batch.fold(found.forces), wanted.forces, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.virial, wanted.virials[0], rtol=0, atol=1e-11)
    assert "fitting.0.weight_fparam" in potential.state_dict()  # which is as it was
    assert "fitting.0.weight_fparam" not in fixed.state_dict()


@torch.no_grad()
def test_the_first_layer_takes_them_as_inputs(potential):
    """z = (D, (p − average) / deviation) · w + b, as one matrix."""
    batch = batch_of(STATES[1:2])
    numbers, n = potential.invariants(batch.env), batch.env.n_local
    own, descriptors = potential.frame_parameters, potential.descriptors
    state = torch.tensor(STATES[1], dtype=torch.float64)
    told = ((state - own.average) / own.deviation).expand(n, -1)
    energies = potential.energy_bias[batch.env.types[:n].long()].clone()
    for a, network in enumerate(potential.fitting):
        weight = torch.cat([network.weight_0[0], network.weight_fparam])
        y = torch.tanh(torch.cat([numbers, told], dim=1) @ weight + network.bias_0[0])
        y = y + network.step_1[0] * torch.tanh(y @ network.weight_1[0] + network.bias_1[0])
        mine = batch.env.types[:n] == a
        energies[mine] += (y @ network.weight_out + network.bias_out)[mine]
    moments = [d.moments(batch.env, batch.env.positions, d.coefficients()) for d in descriptors]
    found = potential.at(STATES[1])._fit(moments, batch.env.types[:n])
    torch.testing.assert_close(found, energies, rtol=0, atol=1e-12)


def test_forces_and_virial_are_derivatives_of_the_energy(potential):
    atoms, calculator = (
        random_atoms("H4O4", 6.0, 4),
        Calculator(potential.freeze(), fparam=[0.5, 1]),
    )
    atoms.calc = calculator
    forces, stress, h = atoms.get_forces(), atoms.get_stress(voigt=False), 1e-4
    for i, axis in ((0, 0), (3, 1), (7, 2)):
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[i, axis] += sign * h
            moved.calc = calculator
            energies.append(moved.get_potential_energy())
        assert forces[i, axis] == pytest.approx((energies[1] - energies[0]) / (2 * h), abs=1e-5)
    strained = []
    for sign in (1, -1):
        other = atoms.copy()
        other.set_cell(atoms.cell.array @ (np.eye(3) + sign * h * np.eye(3)), scale_atoms=True)
        other.calc = calculator
        strained.append(other.get_potential_energy())
    trace = (strained[0] - strained[1]) / (2 * h) / atoms.get_volume()
    assert np.trace(stress) == pytest.approx(trace, abs=1e-6)


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_gradients_of_the_loss_are_its_finite_differences(precision):
    """Of the weights of the parameters, and of weights that all frames share."""
    potential, batch = potential_of(precision="float64"), batch_of()
    prefactors = (1.0, 10.0, 0.1)

    def loss():
        return loss_of(whole(potential, batch, training=True), batch, prefactors)[0]

    names = ["weight_fparam", "weight_0", "bias_0", "weight_out"]
    if precision == "float32":
        exact = torch.autograd.grad(loss(), [p for _, p in potential.named_parameters()])
        potential.to_precision("float32")
        rough = torch.autograd.grad(loss(), [p for _, p in potential.named_parameters()])
        for a, b in zip(exact, rough, strict=True):
            size = float(a.abs().max())
            torch.testing.assert_close(b.double(), a, rtol=0, atol=2e-3 * max(size, 1e-3))
        return
    for network in potential.fitting:
        for name in names:
            p = network.get_parameter(name)
            (gradient,) = torch.autograd.grad(loss(), p)
            flat = p.data.view(-1)
            for place in (0, flat.numel() // 2, flat.numel() - 1):
                before, h, ends = flat[place].item(), 1e-5, []
                for sign in (1, -1):
                    flat[place] = before + sign * h
                    ends.append(loss().item())
                flat[place] = before
                expected = (ends[0] - ends[1]) / (2 * h)
                assert gradient.view(-1)[place].item() == pytest.approx(
                    expected, rel=1e-5, abs=1e-4
                )


def test_parts_of_a_batch_have_its_gradient(potential):
    """As ranks share it: the distinct values of a part are fewer than those of the whole."""
    frames = [frame_of(k, state) for k, state in enumerate(STATES)]
    prepared, prefactors = prepare(frames, TYPES, 4.0), (1.0, 10.0, 0.1)
    batch = collate(prepared)
    totals = 3, int(batch.n_atoms.sum()), 3
    weights = [network.weight_fparam for network in potential.fitting]
    loss = loss_of(whole(potential, batch, training=True), batch, prefactors, totals)[0]
    wanted = torch.autograd.grad(loss, weights)
    found = [torch.zeros_like(w) for w in weights]
    for part in (prepared[::2], prepared[1::2]):
        one = collate(part)
        loss = loss_of(whole(potential, one, training=True), one, prefactors, totals)[0]
        found = [f + g for f, g in zip(found, torch.autograd.grad(loss, weights), strict=True)]
    for f, w in zip(found, wanted, strict=True):
        torch.testing.assert_close(f, w, rtol=1e-10, atol=1e-10)


def test_each_value_once():
    fparam = torch.tensor([[1.0], [0.0], [1.0]], dtype=torch.float64)
    frames, types = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 1, 0], dtype=torch.int32)
    values, places = distinct(fparam, frames, types, 2)
    assert values.tolist() == [[0.0], [1.0]]
    assert places.tolist() == [2, 3, 1, 2]
    assert places.dtype == torch.int32
    assert distinct(fparam[::2], frames // 2, types, 2)[1] is types


# --- configuration, weights and statistics --------------------------------------------------------


def test_weights_are_drawn_as_rows_of_the_first_layer(potential):
    k, wide = 400, parse(ModelConfig, config(400), "test")
    env = environment_of(random_atoms("H8O8", 7.0, 3), TYPES, wide.rcut).env
    fparam = torch.zeros(2, k, dtype=torch.float64)
    network = Potential(wide, statistics_from([(env, 0.0)], wide, fparam=fparam), seed=1).fitting[0]
    std = (48 + k + 20) ** -0.5
    assert network.weight_fparam.shape == (k, 20)
    assert float(network.weight_fparam.detach().std()) == pytest.approx(std, rel=0.03)
    assert float(network.weight_0.detach().std()) == pytest.approx(std, rel=0.06)


def test_scales_are_those_of_the_frames():
    own = FrameParameters.of_frames(torch.tensor([[1.0, 5.0], [3.0, 5.0], [5.0, 5.001]]))
    assert own.average.tolist() == pytest.approx([3.0, 5.000333], abs=1e-6)
    assert own.deviation.tolist() == pytest.approx([np.sqrt(8 / 3), 0.01])


def test_without_them_nothing_is_said_of_them():
    own = parse(ModelConfig, config(0), "test")
    assert "default_fparam" not in own.model_dump()["fitting_net"]
    assert potential_of(0).frame_parameters is None
    assert not [name for name in potential_of(0).state_dict() if "param" in name]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (config(-1), "greater than or equal to 0"),
        (config(2, default_fparam=[1.0]), "default_fparam has 1 numbers, expected 2"),
        (config(0, default_fparam=[1.0]), "default_fparam has 1 numbers, expected 0"),
        (config(1, default_fparam=[float("nan")]), "finite number"),
        (config(2, neuron=[50, 20]), "begins with 50: with frame parameters .* its 50 inputs"),
        (config(2, neuron=[48, 20]), "begins with 48: with frame parameters"),
        (config(2, neuron=[100, 20]), "begins with 100: with frame parameters"),
        (config(1, numb_aparam=1), "numb_aparam"),
        ({**config(1), "type_embedding": {"neuron": [4]}}, "numb_fparam 1: not with a type embed"),
    ],
)
def test_what_a_model_cannot_be(section, message):
    with pytest.raises(InputError, match=message) as error:
        parse(ModelConfig, section, "input.json")
    assert "\n" not in str(error.value)


# --- model files --------------------------------------------------------------------------------


@pytest.fixture
def file(potential, tmp_path):
    return written(potential, tmp_path / "model.dpl")


def written(potential, path):
    """With a reference frame and a measured table."""
    frame = gas(potential, 24)
    env = environment_of(
        Atoms(
            [potential.type_map[t] for t in frame.types], frame.positions, cell=frame.cell, pbc=1
        ),
        potential.type_map,
        potential.rcut,
    ).env
    refine_table(potential, env)
    potential.reference_frames = (frame,)
    save_model(potential, path, {"virials trained": True})
    return path


def test_a_file_keeps_them(potential, file):
    assert read_header(file)["format_version"] == 11
    model, env = load_model(file), batch_of(STATES[:1]).env
    assert torch.equal(model.frame_parameters.average, potential.frame_parameters.average)
    found, wanted = (p.at(STATES[0]).evaluate(env) for p in (model, potential))
    assert torch.equal(found.forces, wanted.forces)
    single = load_model(file, "float32").at(STATES[0]).evaluate(env)
    torch.testing.assert_close(single.forces, wanted.forces, rtol=0, atol=1e-3)


def test_files_without_them_are_as_before(tmp_path):
    save_model(potential_of(0), tmp_path / "plain.dpl")
    assert read_header(tmp_path / "plain.dpl")["format_version"] == 5


def test_the_reader_of_lammps_says_what_to_do(file, tmp_path):
    with pytest.raises(Refused, match=r"dpl convert model\.dpl fixed\.dpl --fparam X"):
        ForceField(file)
    convert(file, tmp_path / "fixed.dpl", fparam=STATES[1])
    env, wanted = batch_of(STATES[:1]).env, load_model(file).at(STATES[1])
    found = ForceField(tmp_path / "fixed.dpl").evaluate(env)
    assert float((found.forces - wanted.evaluate(env).forces).abs().max()) < 1e-11


def test_a_damaged_scale_is_refused(potential, tmp_path):
    potential.frame_parameters.deviation[0] = 0.0
    save_model(potential, tmp_path / "model.dpl")
    with pytest.raises(ModelFileError, match=r"deviation .* expected positive numbers"):
        load_model(tmp_path / "model.dpl")


def test_convert_fixes_them(file, tmp_path, capsys):
    target = tmp_path / "fixed.dpl"
    assert main(["convert", str(file), str(target), "--fparam", "0.3", "-1"]) == 0
    assert "fixed at fparam [0.3, -1.0]" in capsys.readouterr().out
    assert read_header(target)["format_version"] == 5
    fixed, env = load_model(target), batch_of(STATES[:1]).env
    found, wanted = fixed.evaluate(env), load_model(file).at([0.3, -1.0]).evaluate(env)
    for name in ("energies", "forces", "virial"):
        assert float((getattr(found, name) - getattr(wanted, name)).abs().max()) < 1e-13
    assert main(["info", str(target)]) == 0
    assert re.search(r"fparam\s+\[0.3, -1.0\]", capsys.readouterr().out)
    assert main(["info", str(file)]) == 0
    line = re.search("frame parameters.*", capsys.readouterr().out)[0]
    assert "2 (fparam), in training 0.5 ± 0.283, 1 ± 1.41; give them, or fix them" in line
    # from here on it is as any other
    assert main(["convert", str(target), str(tmp_path / "same.dpl"), "--fparam", "0.3"]) == 1
    assert "takes no frame parameters" in capsys.readouterr().err
    convert(file, tmp_path / "out.dp", fparam=[0.3, -1.0], without_repulsion=True)
    back, _ = convert(tmp_path / "out.dp", tmp_path / "back.dpl")
    assert float((back.evaluate(env).forces - wanted.forces).abs().max()) < 1e-6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], r"model.dpl: fparam: the model takes 2 frame parameters and was given none"),
        (["--fparam", "1"], r"expected 2 finite numbers, found \[1.0\]"),
        (["--fparam", "1", "nan"], r"expected 2 finite numbers, found \[1.0, nan\]"),
    ],
)
def test_convert_says_what_is_missing(file, tmp_path, capsys, arguments, message):
    for target in ("out.dpl", "out.dp"):
        assert main(["convert", str(file), str(tmp_path / target), *arguments]) == 1
        line = capsys.readouterr().err
        assert re.search(message, line)
        assert line.count("\n") == 1
        assert not (tmp_path / target).exists()


# --- use ----------------------------------------------------------------------------------------


def test_calculator_takes_them_from_itself_and_from_the_atoms(potential):
    potential.freeze()
    atoms, wanted = random_atoms("H4O4", 6.0, 4), {}
    for state in STATES:
        plain = atoms.copy()
        plain.calc = Calculator(potential.at(state))
        wanted[tuple(state)] = plain.get_potential_energy(), plain.get_stresses()
    atoms.calc = Calculator(potential, fparam=STATES[0])
    for state in (None, STATES[1], STATES[1], np.array(STATES[2]), None):
        atoms.info["fparam"] = state
        energy, stresses = wanted[tuple(STATES[0] if state is None else state)]
        assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-12)
        np.testing.assert_allclose(atoms.get_stresses(), stresses, atol=1e-12)
    atoms.info["fparam"] = np.array(STATES[1])
    before = atoms.get_potential_energy()
    evaluations = calls_of(atoms.calc)
    assert atoms.get_potential_energy() == before
    assert evaluations == []
    atoms.info["fparam"][1] += 0.5  # in place
    assert atoms.get_potential_energy() != before
    assert len(evaluations) == 1


def calls_of(calculator):
    """Evaluations from now on."""
    calls, original = [], calculator._evaluate

    def counted(atoms):
        calls.append(atoms)
        original(atoms)

    calculator._evaluate = counted
    return calls


def test_a_number_and_the_default_will_do():
    atoms, own = random_atoms("H4O4", 6.0, 4), potential_of(1, default_fparam=[0.7]).freeze()
    energies = []
    for calculator in (Calculator(own), Calculator(own, fparam=0.7), Calculator(own.at(0.7))):
        atoms.calc = calculator
        energies.append(atoms.get_potential_energy())
    assert energies[1:] == pytest.approx(energies[:1] * 2, abs=1e-12)
    env = environment_of(atoms, TYPES, own.rcut).env
    assert float(own.evaluate(env).energies.sum()) == pytest.approx(energies[0], abs=1e-12)
    assert float(own.energies(env).sum()) == pytest.approx(energies[0], abs=1e-11)


def test_several_models_are_all_at_the_same(potential):
    other = copy.deepcopy(potential)
    with torch.no_grad():
        other.fitting[0].weight_fparam += 0.1
    atoms = random_atoms("H4O4", 6.0, 4)
    atoms.calc = Calculator([potential.freeze(), other.freeze()], fparam=STATES[1])
    atoms.get_forces()
    found = atoms.calc.results["forces_comm"]
    for forces, model in zip(found, (potential, other), strict=True):
        plain = atoms.copy()
        plain.calc = Calculator(model.at(STATES[1]))
        np.testing.assert_allclose(forces, plain.get_forces(), atol=1e-12)


def test_what_a_calculator_refuses(potential):
    potential.freeze()
    with pytest.raises(
        InputError, match=r"Calculator: fparam: expected 2 finite numbers, found 0\.3"
    ):
        Calculator(potential, fparam=0.3)
    with pytest.raises(InputError, match="takes no frame parameters"):
        Calculator(potential.at(STATES[0]), fparam=0.3)
    atoms = random_atoms("H4O4", 6.0, 4)
    atoms.calc = Calculator(potential)
    with pytest.raises(InputError, match=r"dpl convert model\.dpl fixed\.dpl --fparam X Y"):
        atoms.get_potential_energy()
    atoms.info["fparam"] = "hot"
    with pytest.raises(InputError, match=r'atoms\.info\["fparam"\]: expected 2 .* found hot'):
        atoms.get_potential_energy()


def test_deep_pot_takes_deepmd_kits_shapes(potential):
    pot = DeepPot(potential.freeze())
    assert pot.get_dim_fparam() == 2
    assert not pot.has_default_fparam()
    frames = [frame_of(k) for k in range(3)]
    coords, cells = np.stack([f.positions for f in frames]), np.stack([f.cell for f in frames])
    types = [TYPES.index(s) for s in frames[0].symbols]
    each = [
        [part[0] for part in DeepPot(potential.at(s)).eval(coords[k : k + 1], cells[k], types)]
        for k, s in enumerate(STATES)
    ]
    for given in (np.array(STATES), np.ravel(STATES), np.array(STATES)[:, None]):
        found = pot.eval(coords, cells, types, fparam=given)
        for a, b in zip(found, zip(*each, strict=True), strict=True):
            np.testing.assert_allclose(a, np.array(b), atol=1e-11)
    one = pot.eval(coords, cells, types, fparam=STATES[0])
    assert one[0][0] == pytest.approx(found[0][0], abs=1e-12)
    assert abs(one[0][1] - found[0][1]) > 0.01
    single = DeepPot(potential_of(1).freeze())
    assert single.eval(coords, cells, types, fparam=0.3)[0].shape == (3, 1)
    with pytest.raises(InputError, match=r"expected 2 numbers for all frames, or \(3, 2\)"):
        pot.eval(coords, cells, types, fparam=[0.3])
    with pytest.raises(InputError, match="was given none"):
        pot.eval(coords, cells, types)
    with pytest.raises(InputError, match="aparam: models here have no parameters of atoms"):
        pot.eval(coords, cells, types, fparam=[0.3, 1], aparam=[0.1])


def test_errors_are_those_at_each_frames_own(potential):
    potential.freeze()
    frames = [frame_of(k, state) for k, state in enumerate(STATES)]
    report = evaluate(potential, [System("data", frames)])
    for result, state in zip(report.results, STATES, strict=True):
        alone = evaluate(potential.at(state), [System("data", [result.frame])]).results[0]
        assert result.energy == pytest.approx(alone.energy, abs=1e-12)
    frames[1].fparam = None
    with pytest.raises(InputError, match="frame 1: fparam: the model takes 2 frame parameters and"):
        evaluate(potential, [System("data", frames)])


def test_deviations_are_those_at_each_frames_own(potential):
    other = copy.deepcopy(potential)
    with torch.no_grad():
        other.fitting[0].weight_fparam += 0.1
    models = [potential.freeze(), other.freeze()]
    frames = [frame_of(1, state) for state in STATES]
    found = deviations(Committee(models), [System("data", frames)])["data"]
    for own, state in zip(found, STATES, strict=True):
        fixed = Committee([model.at(state) for model in models])
        expected = deviations(fixed, [System("data", frames[:1])])["data"][0]
        np.testing.assert_allclose(own.columns, expected.columns, rtol=1e-9)
    assert abs(found[0].max_f - found[1].max_f) > 1e-3


def test_what_needs_them_fixed_says_so(file, tmp_path, capsys):
    says = r"dpl convert .*fixed\.dpl --fparam X Y"
    with pytest.raises(InputError, match=says):
        add_uncertainty(file, [System("data", [frame_of(1)])], output=tmp_path / "other.dpl")
    with pytest.raises(InputError, match=says):
        Simulation(random_atoms("H4O4", 8.0, 4), file)
    write(tmp_path / "data.extxyz", random_atoms("H4O4", 8.0, 4))
    for command in (
        ["devi", "-m", str(file), str(file), "-s", str(tmp_path / "data.extxyz")],
        ["check", str(file), "--quick"],
    ):
        assert main(command) == 1
        error = capsys.readouterr().err
        assert re.search(says, error), command
        assert error.strip().count("\n") == 0


def test_dynamics_at_the_default(tmp_path):
    own = potential_of(1, default_fparam=[0.7]).freeze()
    atoms = random_atoms("H4O4", 8.0, 4)
    forces = [
        Simulation(atoms, model, quiet=True).atoms.get_forces() for model in (own, own.at(0.7))
    ]
    np.testing.assert_array_equal(*forces)
    assert np.abs(forces[0]).max() > 0.1


def test_dynamics_say_that_those_of_the_structure_are_not_used(tmp_path):
    save_model(potential_of(1, default_fparam=[0.7]).freeze(), tmp_path / "own.dpl")
    atoms = random_atoms("H4O4", 8.0, 4)
    atoms.info["fparam"] = 0.3
    write(tmp_path / "hot.extxyz", atoms)
    files = {"model": tmp_path / "own.dpl", "structure": tmp_path / "hot.extxyz"}
    config = {**{k: str(path) for k, path in files.items()}, "steps": 0}
    run_input({**config, "output": str(tmp_path / "run")}, quiet=True)
    said = (tmp_path / "run/log").read_text()
    assert "note: the fparam of the structure is not used" in said


def test_a_shift_of_the_energies_is_found_at_each_frames_own(potential, file, tmp_path):
    symbols = ("H4O4", "H2O6", "H6O2")
    frames = [
        frame_of(k, state, s) for k, (state, s) in enumerate(zip(STATES, symbols, strict=True))
    ]
    for result in evaluate(load_model(file), [System("data", frames)]).results:
        n = result.frame.symbols.count("H")
        result.frame.energy = result.energy + 0.5 * n - 0.25 * (8 - n)
    write_systems([System("data", frames)], tmp_path / "data.extxyz")
    target = tmp_path / "shifted.dpl"
    assert main(["change-bias", str(file), str(tmp_path / "data.extxyz"), "-o", str(target)]) == 0
    shift = load_model(target).energy_bias - potential.energy_bias
    assert shift.tolist() == pytest.approx([0.5, -0.25], abs=1e-8)
    assert load_model(target).frame_parameters is not None
