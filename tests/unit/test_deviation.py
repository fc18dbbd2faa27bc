"""Model deviation: its definition, its files, and models that differ in elements and cutoff."""

import copy
import pickle

import numpy as np
import pytest
from ase.io import write
from models import environment_of, random_atoms, random_potential

from deepmd_lite.calculator import Calculator
from deepmd_lite.cli import main
from deepmd_lite.committee import Committee
from deepmd_lite.deviation import Relative, deviation, deviations, force_deviation, virial_deviation
from deepmd_lite.model import save_model
from deepmd_lite.system import InputError

MAPS = (("Si", "C"), ("C", "Si"), ("O", "C", "Si"))
CUTOFFS = (4.0, 5.0, 3.5)
STRUCTURE = random_atoms("Si4C4", 6.5, 5, skew=0.1)


@pytest.fixture(name="models", scope="module")
def _models():
    return [
        random_potential(types, rcut=rcut, one_side=k == 1, seed=10 + k)
        for k, (types, rcut) in enumerate(zip(MAPS, CUTOFFS, strict=True))
    ]


@pytest.fixture(name="files")
def _files(models, tmp_path):
    paths = [tmp_path / f"{k}.dpl" for k in range(3)]
    for model, path in zip(models, paths, strict=True):
        save_model(model, path)
    return [str(path) for path in paths]


def alone(models, atoms):
    """Energies, forces (n_models, n, 3) and virials of a structure, model by model."""
    found = []
    for model in models:
        periodic = environment_of(atoms, model.type_map, model.rcut)
        e = model.evaluate(periodic.env)
        found.append((float(e.energies.sum()), periodic.fold(e.forces).numpy(), e.virial.numpy()))
    energies, forces, virials = zip(*found, strict=True)
    return np.array(energies), np.stack(forces), np.stack(virials)


def test_definition():
    """Against the formulas written with standard deviations."""
    rng = np.random.default_rng(0)
    e, f, v = rng.normal(size=4), rng.normal(size=(4, 5, 3)), rng.normal(size=(4, 3, 3))
    d = deviation(e, f, v)
    by_atom = np.linalg.norm(np.std(f, axis=0), axis=-1)
    by_component = np.std(v / 5, axis=0)
    np.testing.assert_allclose(d.atoms, by_atom, rtol=1e-12)
    expected = (
        *(by_component.max(), by_component.min(), np.sqrt((by_component**2).mean())),
        *(by_atom.max(), by_atom.min(), by_atom.mean()),
    )
    np.testing.assert_allclose(d.columns, expected, rtol=1e-12)
    assert d.energy == pytest.approx(np.std(e) / 5)


def test_relative_deviations():
    rng = np.random.default_rng(1)
    f, v = rng.normal(size=(3, 5, 3)), rng.normal(size=(3, 3, 3))
    size = np.linalg.norm(f.mean(axis=0), axis=1)
    np.testing.assert_allclose(force_deviation(f, 0.5), force_deviation(f) / (size + 0.5))
    size = np.linalg.norm(v.mean(axis=0))
    np.testing.assert_allclose(virial_deviation(v, 0.2), virial_deviation(v) / (size + 0.2))


def test_elements_go_by_name_and_lists_serve_every_cutoff(models):
    committee = Committee(models)
    assert committee.rcut == max(CUTOFFS)
    assert committee.type_map == ["Si", "C"]
    _, forces, _ = alone(models, STRUCTURE)
    periodic = environment_of(STRUCTURE, committee.type_map, committee.rcut + 0.7)
    found = [committee.evaluate(periodic.env), *committee.others(periodic.env)]
    for e, expected in zip(found, forces, strict=True):
        np.testing.assert_allclose(periodic.fold(e.forces).numpy(), expected, atol=1e-10)
    assert np.abs(forces[0] - forces[1]).max() > 0.05


def test_an_element_that_one_model_lacks_is_named(models):
    with pytest.raises(InputError, match=r"b\.dpl: does not know O.*fewest elements first"):
        Committee([models[2], models[0]], ["a.dpl", "b.dpl"])
    with pytest.raises(InputError, match="two models or more, found 1"):
        Committee(models[:1])


def test_the_calculator_of_several_models(models, files):
    atoms = STRUCTURE.copy()
    atoms.calc = Calculator(files)
    energies, forces, virials = alone(models, atoms)
    assert atoms.get_potential_energy() == pytest.approx(energies[0], abs=1e-9)
    np.testing.assert_allclose(atoms.get_forces(), forces[0], atol=1e-10)
    np.testing.assert_allclose(atoms.get_stress()[0], -virials[0][0, 0] / atoms.get_volume())
    results = atoms.calc.results
    np.testing.assert_allclose(results["forces_std"], force_deviation(forces), atol=1e-10)
    assert results["uncertainty"] == results["forces_std"].max() > 0.01
    assert results["energy_var"] == pytest.approx(np.var(energies))
    np.testing.assert_allclose(results["forces_comm"], forces, atol=1e-10)
    one = Calculator([models[0]])
    assert one.get_potential_energy(atoms) == pytest.approx(energies[0], abs=1e-9)
    assert "uncertainty" not in one.results


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_calculator_of_several_models_can_be_copied(models, copied):
    calculator = Calculator(models)
    forces = calculator.get_property("forces_comm", STRUCTURE)
    found = copied(calculator).get_property("forces_comm", STRUCTURE)
    np.testing.assert_array_equal(found, forces)


def test_models_are_not_asked_again_of_the_same_structure(models, monkeypatch):
    calculator, calls = Calculator(models), []
    evaluate = type(models[0]).evaluate
    monkeypatch.setattr(
        type(models[0]), "evaluate", lambda *given: calls.append(0) or evaluate(*given)
    )
    for name in ("forces", "stresses", "uncertainty", "stress"):
        calculator.get_property(name, STRUCTURE)
    assert len(calls) == len(models)


def labelled(models, seed):
    """A structure whose labels are the first model's values."""
    atoms = random_atoms("Si4C4", 6.5, seed, skew=0.1)
    energies, forces, virials = alone(models, atoms)
    atoms.info["REF_energy"], atoms.arrays["REF_forces"] = energies[0], forces[0]
    atoms.info["virial"] = virials[0]
    return atoms


def test_the_command_writes_the_file_of_dp_model_devi(models, files, tmp_path, capsys):
    frames = [random_atoms("Si4C4", 6.5, seed, skew=0.1) for seed in (1, 2)]
    write(tmp_path / "bare.extxyz", frames)
    output = tmp_path / "model_devi.out"
    argv = ["devi", "-m", *files, "-s", str(tmp_path / "bare.extxyz"), "-o", str(output)]
    assert main([*argv, "-f", "10", "--atomic", "-q"]) == 0
    expected = [deviation(*alone(models, atoms)) for atoms in frames]
    name, header, *rows = output.read_text().splitlines()
    assert name == f"# {tmp_path / 'bare.extxyz'}"
    assert header == (
        "# step      max_devi_v         min_devi_v         avg_devi_v         "
        "max_devi_f         min_devi_f         avg_devi_f         devi_e             "
        "atm_devi_f(N)      "
    )
    assert rows[1].startswith("          10" + f"{expected[1].max_v:19.6e}")
    table = np.loadtxt(output)
    assert table[:, 0].tolist() == [0, 10]
    for line, d in zip(table, expected, strict=True):
        np.testing.assert_allclose(line[1:], [*d.columns, d.energy, *d.atoms], rtol=1e-5)
    largest = max(d.max_f for d in expected)
    assert f"largest force deviation {largest:.4g}" in capsys.readouterr().out


def test_the_largest_deviation_is_named_by_system_and_frame(models, files, tmp_path, capsys):
    """As the file numbers frames: within their system."""
    frames = [random_atoms("Si4C4", 6.5, seed, skew=0.1) for seed in range(1, 5)]
    frames.sort(key=lambda atoms: deviation(*alone(models, atoms)).max_f)
    paths = [tmp_path / name for name in ("a.extxyz", "b.extxyz")]
    write(paths[0], frames[:2])
    write(paths[1], [frames[3], frames[2]])
    argv = ["-s", *map(str, paths), "-o", str(tmp_path / "devi.out"), "-q"]
    assert main(["devi", "-m", *files, *argv]) == 0
    assert capsys.readouterr().out.endswith(f"eV/Å, frame 0 of {paths[1]}\n")


def test_errors_instead_of_deviations(models, files, tmp_path):
    write(tmp_path / "labelled.extxyz", [labelled(models, 1)])
    output = tmp_path / "errors.out"
    argv = ["model-devi", "-m", files[0], files[0], "-s", str(tmp_path / "labelled.extxyz")]
    assert main([*argv, "-o", str(output), "--real_error", "-q"]) == 0
    assert np.loadtxt(output)[1:].max() < 1e-7  # the labels are text of 8 digits
    argv[2] = files[1]
    assert main([*argv, "-o", str(output), "--real_error", "--relative", "0.5", "-q"]) == 0
    energies, forces, _ = alone(models[:2], random_atoms("Si4C4", 6.5, 1, skew=0.1))
    size = np.linalg.norm(forces[0], axis=1) + 0.5
    errors = np.linalg.norm(forces[1] - forces[0], axis=1) / np.sqrt(2) / size
    row = np.loadtxt(output)
    np.testing.assert_allclose(row[[4, 6]], [errors.max(), errors.mean()], rtol=1e-5)
    error = abs(energies[1] - energies[0]) / np.sqrt(2) / 8
    assert row[7] == pytest.approx(error, rel=1e-5)


def test_errors_need_labels(models, files, tmp_path, capsys):
    write(tmp_path / "bare.extxyz", [STRUCTURE])
    argv = ["devi", "-m", *files, "-s", str(tmp_path / "bare.extxyz"), "--real_error"]
    assert main(argv) == 1
    assert "none of 1 frames has an energy or forces" in capsys.readouterr().err


def test_several_systems_follow_one_another(models, tmp_path):
    from deepmd_lite.data import load

    for name in ("a", "b"):
        write(tmp_path / f"{name}.extxyz", [labelled(models, 1), labelled(models, 2)])
    systems = load([tmp_path / "a.extxyz", tmp_path / "b.extxyz"])
    found = deviations(Committee(models), systems, Relative(force=1.0))
    assert [len(part) for part in found.values()] == [2, 2]
    assert list(found) == [s.name for s in systems]
