"""Committees of last layers: rows of the linear problem, draws, calibration, file and verbs."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.calculators.calculator import PropertyNotImplementedError
from ase.io import read, write
from models import (
    BETWEEN,
    FAR,
    NEAR,
    environment_of,
    hybrid_potential,
    random_atoms,
    random_potential,
    short_range_potential,
    with_members,
)
from safetensors.torch import load_file, save_file

from deepmd_lite import Calculator, Simulation
from deepmd_lite.cli import main
from deepmd_lite.committee import Committee
from deepmd_lite.data import Frame, prepare
from deepmd_lite.deviation import COLUMNS
from deepmd_lite.md.comm import SharedError
from deepmd_lite.model import load_model, read_header, save_model
from deepmd_lite.system import InputError, ModelFileError
from deepmd_lite.uncertainty import Calibration, add_uncertainty, compared
from deepmd_lite.uncertainty import posterior as posterior_module
from deepmd_lite.uncertainty.posterior import Information, draw
from deepmd_lite.uncertainty.rows import COMPONENTS, each_frame, n_parameters, rows_of

SILICON = Path(__file__).parents[2] / "data" / "silicon"
MODELS = {
    "one descriptor": lambda: random_potential(("H", "O"), resnet_dt=True),
    "hybrid": lambda: hybrid_potential((NEAR, FAR, BETWEEN)).freeze(),
    "se_e2_q": lambda: random_potential(("H", "O"), kind="se_e2_q"),
}


def labelled(potential, seed, n_frames=6, noise=0.1, **missing):
    """Frames with what `potential` says and noise; `missing` labels are None."""
    rng, frames = np.random.default_rng(seed), []
    for k in range(n_frames):
        atoms = random_atoms("H4O4", 6.0, seed + k, skew=0.1)
        periodic = environment_of(atoms, potential.type_map, potential.rcut)
        found = potential.evaluate(periodic.env)
        frame = Frame(
            symbols=tuple(atoms.get_chemical_symbols()),
            positions=atoms.positions,
            cell=atoms.cell.array,
            pbc=atoms.pbc,
            energy=float(found.energies.sum()) + noise * rng.normal(),
            forces=periodic.fold(found.forces).numpy() + noise * rng.normal(size=(8, 3)),
            virial=found.virial.numpy() + noise * np.diag(rng.normal(size=3)),
        )
        frames.append(replace(frame, **missing))
    return frames


def draws(frame):
    """What `rows_of` draws for 3 directions and 4 strains of seed 7."""
    rng = np.random.default_rng(7)
    return rng.standard_normal((3, frame.n_atoms, 3)), rng.standard_normal((4, 6))


def prepared(potential, *arguments, **keywords):
    return prepare(labelled(potential, *arguments, **keywords), potential.type_map, potential.rcut)


# --- rows ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_energy_forces_and_virial_are_linear_in_the_last_layer(name):
    """With its own weights, rows give what the model itself says."""
    potential = MODELS[name]()
    (frame,) = prepared(potential, 1, n_frames=1)
    potential.repulsion = None
    found = potential.evaluate(frame.env)
    rows = rows_of(potential, frame, 3, 4, np.random.default_rng(7))
    own = torch.cat([torch.cat([f.weight_out, f.bias_out]) for f in potential.fitting]).detach()
    n_each = torch.bincount(frame.env.types[: frame.n_atoms].long())
    energy = float(found.energies.sum() - (n_each * potential.energy_bias).sum())
    assert float(rows.energy @ own) == pytest.approx(energy, abs=1e-9)
    forces = frame.periodic.fold(found.forces).numpy()
    directions, strains = draws(frame)
    np.testing.assert_allclose(rows.forces @ own, -(directions * forces).sum((1, 2)), atol=1e-9)
    virial = -strains @ [float(found.virial[a, b]) for a, b in COMPONENTS]
    np.testing.assert_allclose(rows.virial @ own, virial, atol=1e-9)
    assert min(np.abs(forces).max(), np.abs(virial).max(), abs(energy)) > 0.1


def test_rows_are_what_members_add():
    """Also where a table of close pairs takes over: its switch moves with the atoms."""
    potential = with_members(short_range_potential(("H", "O"), sw_rmin=1.6, sw_rmax=2.9))
    (frame,) = prepared(potential, 3, n_frames=1)
    share = potential.short_range.weights(frame.env)
    assert ((share > 0.05) & (share < 0.95)).sum() > 2
    rows = rows_of(potential, frame, 3, 4, np.random.default_rng(7))
    m = potential.members
    added = torch.cat([m.weights[0], m.biases[0][:, None]], dim=1).flatten()
    own, other = (x.evaluate(frame.env) for x in (potential, potential.member(0)))
    energy = float(other.energies.sum() - own.energies.sum())
    assert float(rows.energy @ added) == pytest.approx(energy, abs=1e-10)
    forces = frame.periodic.fold(other.forces - own.forces).numpy()
    directions, strains = draws(frame)
    along = -(directions * forces).sum((1, 2))
    np.testing.assert_allclose(rows.forces @ added, along, atol=1e-9)
    virial = -strains @ [float((other.virial - own.virial)[a, b]) for a, b in COMPONENTS]
    np.testing.assert_allclose(rows.virial @ added, virial, atol=1e-9)
    assert np.abs(along).min() > 1e-3


# --- members ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_the_mean_of_the_members_is_the_model(name):
    potential = with_members(MODELS[name]())
    env = environment_of(random_atoms("H4O4", 6.0, 1), potential.type_map, potential.rcut).env
    own = potential.evaluate(env)
    members = [potential.member(k).evaluate(env) for k in range(3)]
    assert float((members[0].forces - own.forces).abs().max()) > 1e-3
    for quantity in ("energies", "forces", "virial"):
        mean = torch.stack([getattr(m, quantity) for m in members]).mean(0)
        torch.testing.assert_close(mean, getattr(own, quantity), rtol=0, atol=1e-10)
    again = potential.evaluate(env)
    assert torch.equal(again.forces, own.forces)  # making members has changed nothing
    assert potential.member(0).members is None


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_in_the_file(precision, tmp_path):
    potential = with_members(random_potential(("H", "O"), precision=precision))
    save_model(potential, tmp_path / "model.dpl")
    assert read_header(tmp_path / "model.dpl")["format_version"] == 6
    read = load_model(tmp_path / "model.dpl")
    assert torch.equal(read.members.weights, potential.members.weights)
    assert torch.equal(read.members.biases, potential.members.biases)
    assert read.members.facts == {"a": 1}
    env = environment_of(random_atoms("H4O4", 6.0, 1), ["H", "O"], potential.rcut).env
    for k in range(3):
        found = read.member(k).evaluate(env)
        assert torch.equal(found.forces, potential.member(k).evaluate(env).forces)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda a: a.pop("members.biases"), r"members.biases': expected \(3, 2\).*nothing"),
        (lambda a: a.update({"members.weights": torch.ones(3, 2, 5, dtype=torch.float64)}),
         r"members.weights': expected \(3, 2, 24\).*\(3, 2, 5\)"),
        (lambda a: a["members.weights"].fill_(torch.nan), "members.weights' holds values not"),
        (lambda a: a.update({"members.weights": torch.tensor(1.0, dtype=torch.float64)}),
         r"expected \(0, 2, 24\)"),
    ],
)  # fmt: skip
def test_damaged_files(damage, message, tmp_path):
    save_model(with_members(random_potential(("H", "O"))), tmp_path / "model.dpl")
    metadata = {"deepmd_lite": json.dumps(_plain_header(tmp_path / "model.dpl"))}
    arrays = load_file(tmp_path / "model.dpl")
    damage(arrays)
    save_file(arrays, tmp_path / "bad.dpl", metadata=metadata)
    with pytest.raises(ModelFileError, match=message):
        load_model(tmp_path / "bad.dpl")


def _plain_header(path):
    return {k: v for k, v in read_header(path).items() if k != "arrays"}


# --- draws --------------------------------------------------------------------------------------


def test_members_are_drawn_from_the_inverse_of_the_precision(monkeypatch):
    monkeypatch.setattr(posterior_module, "PRIOR", 1e-3)
    potential = random_potential(("H", "O"))
    information = Information(potential)
    for frame, rows in each_frame(potential, labelled(potential, 1), 1):
        information.add(potential, frame, rows)
    precision = information.precision()
    scales = np.sqrt(np.diag(precision))
    expected = np.linalg.inv(precision + 1e-3 * np.diag(scales**2))
    members = draw(potential, information, 20000, 5)
    drawn = torch.cat([members.weights, members.biases[:, :, None]], dim=2).flatten(1).numpy()
    assert np.abs(drawn.mean(0)).max() < 1e-12 * np.abs(drawn).max()
    size = np.sqrt(np.diag(expected))
    correlation = np.cov(drawn.T) / np.outer(size, size)
    np.testing.assert_allclose(correlation, expected / np.outer(size, size), atol=0.05)


def test_each_label_counts_by_the_error_that_is_left():
    """Twice the noise of a label: a quarter of its precision."""
    potential = random_potential(("H", "O"))
    found = []
    for noise in (0.1, 0.2):
        information = Information(potential)
        for frame, rows in each_frame(potential, labelled(potential, 1, noise=noise), 1):
            information.add(potential, frame, rows)
        found.append(information)
    for kind in ("energies", "forces", "virials"):
        first, second = (getattr(x, kind).precision() for x in found)
        np.testing.assert_allclose(first, 4 * second, rtol=1e-4, atol=1e-6 * np.abs(first).max())


def test_random_directions_stand_for_all_forces():
    """Their mean square is that of the whole matrix of forces."""
    potential = random_potential(("H", "O"))
    (frame,) = prepared(potential, 1, n_frames=1)
    rows = rows_of(potential, frame, 2000, 0, np.random.default_rng(1)).forces.numpy()
    exact = []
    for i in range(frame.n_atoms):
        for axis in range(3):
            unit = np.zeros((1, frame.n_atoms, 3))
            unit[0, i, axis] = 1.0

            class Unit:
                def standard_normal(self, shape, unit=unit):
                    return unit if len(shape) == 3 else np.empty(shape)

            exact.append(rows_of(potential, frame, 1, 0, Unit()).forces.numpy()[0])
    whole, sampled = np.stack(exact), rows / np.sqrt(len(rows))
    np.testing.assert_allclose(
        sampled.T @ sampled, whole.T @ whole, atol=0.1 * np.abs(whole.T @ whole).max()
    )


def test_energies_without_data():
    """All members say the same of the mean atom of each element, and so of the data as a whole."""
    potential = random_potential(("H", "O"))
    information = Information(potential)
    sums = 0.0
    for frame, rows in each_frame(potential, labelled(potential, 1, energy=None, virial=None), 1):
        information.add(potential, frame, rows)
        sums = sums + rows.energy
    members = draw(potential, information, 4, 1)
    each = torch.cat([members.weights, members.biases[:, :, None]], dim=2)
    for element in (0, 1):
        spread = each[:, element] @ sums.view(2, -1)[element]
        scale = float((each[:, element].abs() @ sums.view(2, -1)[element].abs()).max())
        assert float(spread.abs().max()) < 1e-12 * scale
    assert members.weights.abs().max() > 0


def test_as_many_rows_as_parameters():
    potential = random_potential(("H", "O"))
    n = n_parameters(potential)
    assert n == 2 * 25
    rows = [r for _, r in each_frame(potential, labelled(potential, 1), 1)]
    assert sum(len(r.forces) for r in rows) >= 4 * n
    again = [r for _, r in each_frame(potential, labelled(potential, 1), 1)]
    assert all(torch.equal(a.forces, b.forces) for a, b in zip(rows, again, strict=True))


# --- calibration --------------------------------------------------------------------------------


def test_calibration_of_known_numbers():
    rng = np.random.default_rng(2)
    deviations = rng.uniform(0.1, 1.0, 4000)
    found = Calibration(deviations, 3.0 * deviations, np.repeat(np.arange(400), 10))
    assert found.factor == pytest.approx(3.0)
    found = found.scaled(found.factor)
    for deviation, error in found.bins():
        assert deviation == pytest.approx(error)
    facts = found.facts()
    assert facts["rank_correlation_atoms"] == pytest.approx(1.0)
    largest = found.largest()[0]
    assert (largest <= facts["trust_lower"]).mean() == pytest.approx(0.95, abs=0.01)
    assert facts["trust_upper"] == pytest.approx(3 * facts["trust_lower"])


def calibration_of(n_frames, seed=3):
    """Errors that deviations foretell up to noise, larger in some frames by ten times."""
    rng = np.random.default_rng(seed)
    frames = np.repeat(np.arange(n_frames), 20)
    deviations = np.exp(rng.normal(size=n_frames))[frames] * rng.uniform(0.1, 0.2, len(frames))
    errors = 2 * deviations * np.linalg.norm(rng.normal(size=(len(frames), 3)), axis=1) / 3**0.5
    return Calibration(deviations, errors, frames)


@pytest.mark.parametrize("n_frames", [5, 8, 40, 400])
def test_no_frame_of_right_labels_decides(n_frames):
    assert not len(calibration_of(n_frames).deciding())


def test_a_wrong_label_does_not_decide():
    found = calibration_of(60)
    spoilt = Calibration(found.deviations, found.errors.copy(), found.frames)
    spoilt.errors[found.frames == 7] = 40.0
    spoilt.errors[found.frames == 30] += 10.0
    assert spoilt.factor > 4 * found.factor
    np.testing.assert_array_equal(spoilt.deciding(), [7, 30])
    kept = spoilt.without(spoilt.deciding())
    assert kept.factor == pytest.approx(found.factor, rel=0.05)
    assert kept.frames.max() == 57
    assert kept.largest()[1].min() > 0


@pytest.mark.parametrize(("error", "deciding"), [(40.0, []), (200.0, [3]), (1.0, [3])])
def test_a_frame_that_outweighs_all_others(error, deciding):
    """It counts where the committee foretells its errors as others'."""
    found = calibration_of(60)
    found.deviations[found.frames == 3] += 20.0
    found.errors[found.frames == 3] += error
    np.testing.assert_array_equal(found.deciding(), deciding)


def test_compared_with_the_labels():
    potential = with_members(random_potential(("H", "O")))
    frames = prepared(potential, 1, n_frames=3)
    found = compared(Committee.of_members(potential), frames)
    own = potential.evaluate(frames[1].env)
    error = np.linalg.norm(
        frames[1].periodic.fold(own.forces).numpy() - frames[1].frame.forces, axis=1
    )
    np.testing.assert_allclose(found.errors[found.frames == 1], error)
    with pytest.raises(InputError, match="frames with forces, found none"):
        compared(Committee.of_members(potential), prepared(potential, 1, forces=None))


# --- a real model -------------------------------------------------------------------------------


@pytest.fixture(name="silicon", scope="module")
def _silicon(tmp_path_factory):
    """The model of the data folder, with a committee, and the log's lines."""
    folder = tmp_path_factory.mktemp("silicon")
    frames = read(SILICON / "train.extxyz", ":")
    known = [a for a in frames if a.info["config_type"] in ("diamond", "strained", "eos")]
    write(folder / "known.extxyz", known[::2])
    write(folder / "held_out.extxyz", known[1::6])
    add_uncertainty(
        SILICON / "silicon.dpl",
        folder / "known.extxyz",
        validation=folder / "held_out.extxyz",
        output=folder / "model.dpl",
        plot=folder / "picture.png",
        quiet=True,
    )
    return folder


def test_the_model_itself_stays_to_the_bit(silicon):
    before, after = load_model(SILICON / "silicon.dpl"), load_model(silicon / "model.dpl")
    for name, x in before.state_dict().items():
        assert torch.equal(x, after.state_dict()[name]), name
    assert after.provenance == before.provenance
    assert len(after.reference_frames) == len(before.reference_frames)
    assert after.members.facts["calibrated_on"].endswith("held out")
    assert (silicon / "picture.png").stat().st_size > 1000


def test_tells_the_liquid_from_the_crystal(silicon):
    """What it was not fitted to deviates more, frame by frame, and by as much as it errs."""
    model = load_model(silicon / "model.dpl")
    frames = read(SILICON / "test.extxyz", ":")
    calculator = Calculator(model)
    found = {"diamond": [], "liquid": [], "amorphous": []}
    for atoms in frames:
        if (kind := atoms.info["config_type"]) in found:
            found[kind].append(calculator.get_property("uncertainty", atoms))
    assert max(found["diamond"]) < min(found["liquid"] + found["amorphous"])


def test_a_fit_asks_for_the_gradients_that_the_caller_has_switched_off(silicon, tmp_path):
    known = silicon / "known.extxyz"
    with torch.inference_mode():
        add_uncertainty(
            SILICON / "silicon.dpl", known, n_members=2, output=tmp_path / "m.dpl", quiet=True
        )
    assert load_model(tmp_path / "m.dpl").members is not None


def test_a_wrong_label_is_named_and_left_out(silicon, tmp_path, caplog):
    frames = read(silicon / "held_out.extxyz", ":")
    frames[3].calc.results["forces"][0] += [300.0, 0.0, 0.0]
    write(tmp_path / "held_out.extxyz", frames)
    before = load_model(silicon / "model.dpl").members.facts
    fitted = add_uncertainty(
        SILICON / "silicon.dpl",
        silicon / "known.extxyz",
        validation=tmp_path / "held_out.extxyz",
        output=tmp_path / "model.dpl",
        quiet=True,
    )
    assert "held_out.extxyz, frame 3: errors of up to 300 eV/Å" in caplog.text
    facts = fitted.potential.members.facts
    assert facts["trust_lower"] == pytest.approx(before["trust_lower"], rel=0.2)


def test_facts_are_shown(silicon, capsys):
    assert main(["info", str(silicon / "model.dpl")]) == 0
    assert "8 last layers beside the model's own; trusted below" in capsys.readouterr().out


def test_calculator(silicon):
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.1, seed=1)
    atoms.calc = Calculator(silicon / "model.dpl")
    atoms.get_forces()
    assert "uncertainty" not in atoms.calc.results  # it costs, and nobody asked
    spread = atoms.calc.get_property("forces_std", atoms)
    assert atoms.calc.get_property("uncertainty", atoms) == spread.max() > 0
    each = atoms.calc.get_property("forces_comm", atoms)
    assert each.shape == (9, 8, 3)
    np.testing.assert_allclose(each[1:].mean(0), atoms.get_forces(), atol=1e-9)
    assert atoms.calc.get_property("energy_var", atoms) > 0
    atoms.calc = Calculator(SILICON / "silicon.dpl")
    with pytest.raises(PropertyNotImplementedError, match="dpl uncertainty"):
        atoms.calc.get_property("uncertainty", atoms)


# --- molecular dynamics -------------------------------------------------------------------------


def simulation(model, folder, **keys):
    return Simulation(
        bulk("Si", cubic=True),
        model,
        replicate=(2, 2, 2),
        velocities={"temperature": 600, "seed": 1},
        **{"output": {"directory": folder, "thermo": 5, "trajectory": 0, "model_devi": 5}} | keys,
    )


def test_md_writes_the_deviation(silicon, tmp_path):
    output = {"directory": tmp_path, "thermo": 5, "trajectory": 5, "model_devi": 10}
    run = simulation(silicon / "model.dpl", tmp_path, output=output)
    run.run(10)
    rows = np.loadtxt(tmp_path / "model_devi.out")
    assert rows[:, 0].tolist() == [0, 10]
    frames = read(tmp_path / "trajectory.extxyz", ":")
    assert ["forces_std" in a.arrays for a in frames] == [True, False, True]
    spread = Calculator(silicon / "model.dpl").get_property("forces_std", frames[2].copy())
    np.testing.assert_allclose(frames[2].arrays["forces_std"], spread, atol=1e-6)
    assert frames[2].arrays["forces_std"].max() == pytest.approx(rows[1, 4], rel=1e-5)
    write(tmp_path / "last.extxyz", run.atoms)
    out = tmp_path / "own.out"
    command = ["devi", "-m", silicon / "model.dpl", "-s", tmp_path / "last.extxyz", "-o", out]
    assert main([*map(str, command), "-q"]) == 0
    np.testing.assert_allclose(rows[-1, 1:], np.loadtxt(out)[1 : 1 + len(COLUMNS)], rtol=1e-4)
    quiet = simulation(silicon / "model.dpl", tmp_path / "b", output={"directory": tmp_path / "b"})
    quiet.run(1)
    assert not (tmp_path / "b" / "model_devi.out").exists()  # it costs, and nobody asked


def test_md_ends_where_the_models_deviate(silicon, tmp_path):
    run = simulation(silicon / "model.dpl", tmp_path, guards={"deviation": 1e-3})
    with pytest.raises(
        SharedError, match=r"step 5: the model's committee deviates by .* eV/Å on atom \d+ "
    ):
        run.run(10)
    assert len(read(tmp_path / "failed.extxyz")) == 64
    assert len(np.loadtxt(tmp_path / "model_devi.out")) == 2
    calm = simulation(silicon / "model.dpl", tmp_path / "calm", guards={"deviation": 10.0})
    calm.run(5)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"model": SILICON / "silicon.dpl"}, "output/model_devi needs several models.*dpl uncert"),
        (
            {"model": SILICON / "silicon.dpl", "guards": {"deviation": 1.0}},
            "guards/deviation needs",
        ),
        ({"output": None, "guards": {"deviation": 1.0}}, "guards/deviation: is looked at with"),
    ],
)
def test_md_says_what_is_missing(keys, message, silicon, tmp_path):
    model = keys.pop("model", silicon / "model.dpl")
    with pytest.raises(InputError, match=message):
        simulation(model, tmp_path, **keys)


# --- the verb -----------------------------------------------------------------------------------


def test_verb(tmp_path, capsys):
    potential = random_potential(("H", "O"))
    save_model(potential, tmp_path / "model.dpl")
    frames = labelled(potential, 1)
    _write(tmp_path / "train.extxyz", frames[:4])
    _write(tmp_path / "other.extxyz", frames[4:])
    data = [str(tmp_path / "train.extxyz"), "-v", str(tmp_path / "other.extxyz")]
    common = ["-n", "3", "-q", "-o", str(tmp_path / "out.dpl")]
    assert main(["uncertainty", str(tmp_path / "model.dpl"), *data, *common]) == 0
    out = capsys.readouterr().out
    assert "3 members, fitted to 4 frames, scaled by errors on 2 frames held out" in out
    assert len(load_model(tmp_path / "out.dpl").members) == 3
    by_data = load_model(tmp_path / "out.dpl").members.weights
    (tmp_path / "input.yaml").write_text(
        f"training:\n  training_data: {{systems: [{tmp_path}/train.extxyz]}}\n"
        f"  validation_data: {{systems: [{tmp_path}/other.extxyz]}}\n  numb_steps: 1\n"
        "model: {type_map: [H, O]}\n"
    )
    by_input = ["--input", str(tmp_path / "input.yaml")]
    assert main(["uncertainty", str(tmp_path / "model.dpl"), *by_input, *common]) == 0
    assert torch.equal(load_model(tmp_path / "out.dpl").members.weights, by_data)
    devi = ["devi", "-m", str(tmp_path / "out.dpl"), "-s", data[0], "-o", str(tmp_path / "d.out")]
    assert main(devi) == 0
    assert "4 frames, 4 models" in capsys.readouterr().out


def _write(path, frames):
    """As extended XYZ with labels."""
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator

    images = []
    for f in frames:
        atoms = Atoms(f.symbols, f.positions, cell=f.cell, pbc=f.pbc)
        labels = {k: v for k, v in (("energy", f.energy), ("forces", f.forces)) if v is not None}
        atoms.calc = SinglePointCalculator(atoms, **labels)
        images.append(atoms)
    write(path, images)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"missing": {"forces": None}}, "expected data with forces, found none"),
        ({"type_map": ("H", "O", "Na")}, "knows Na, which the data lack"),
        ({"arguments": ["-n", "1"]}, "members: expected 2 or more, found 1"),
        ({"arguments": ["--seed", "-1"]}, "seed: expected 0 or more, found -1"),
        ({"arguments": ["--input", "input.json"]}, "--input: names the data; give it or data"),
        ({"arguments": ["-o", "train.extxyz"]}, "train.extxyz: is an input, which would be lost"),
    ],
)
def test_verb_says_what_is_wrong(change, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    potential = random_potential(change.get("type_map", ("H", "O")))
    save_model(potential, "model.dpl")
    _write("train.extxyz", labelled(potential, 1, n_frames=2, **change.get("missing", {})))
    arguments = ["-o", "out.dpl", *change.get("arguments", [])]
    assert main(["uncertainty", "model.dpl", "train.extxyz", *arguments, "-q"]) == 1
    found = capsys.readouterr().err
    assert message in found
    assert len(found.splitlines()) == 1
    assert not Path("out.dpl").exists()


def test_deepmd_kit_has_no_place_for_a_committee(tmp_path, capsys):
    save_model(with_members(random_potential(("H", "O"))), tmp_path / "model.dpl")
    command = ["convert", tmp_path / "model.dpl", tmp_path / "model.dp", "--without-repulsion"]
    assert main([*map(str, command)]) == 0
    assert "without the committee of last layers" in capsys.readouterr().out


def test_devi_of_one_model_without_a_committee(tmp_path, capsys):
    save_model(random_potential(("H", "O")), tmp_path / "model.dpl")
    write(tmp_path / "a.extxyz", random_atoms("H4O4", 6.0, 1))
    command = ["devi", "-m", tmp_path / "model.dpl", "-s", tmp_path / "a.extxyz"]
    assert main([*map(str, command), "-o", str(tmp_path / "d.out")]) == 1
    assert "holds no committee that could deviate" in capsys.readouterr().err
