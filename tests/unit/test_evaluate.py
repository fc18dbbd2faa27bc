"""Errors of a model on data whose true errors are known."""

import itertools
import json
import math

import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from models import environment_of, random_atoms, random_potential

from deepmd_lite.calculator import Calculator
from deepmd_lite.data import load
from deepmd_lite.evaluate import (
    evaluate,
    format_report,
    plot_parity,
    write_details,
    write_page,
)
from deepmd_lite.evaluate.pictures import _parity
from deepmd_lite.system import InputError


@pytest.fixture(scope="module")
def model():
    return random_potential(("Si", "C"))


def labelled(model, seed, *, energy=0.0, force=0.0, virial=0.0, **info):
    """A frame whose labels are the model's values plus the given errors."""
    atoms = random_atoms("Si4C4", 6.5, seed, skew=0.1)
    periodic = environment_of(atoms, model.type_map, model.rcut)
    found = model.evaluate(periodic.env)
    atoms.info["REF_energy"] = float(found.energies.sum()) + energy
    atoms.arrays["REF_forces"] = periodic.fold(found.forces).numpy() + force
    atoms.info["virial"] = found.virial.numpy() + virial
    atoms.info.update(info)
    return atoms


@pytest.fixture
def report(model, tmp_path):
    write(tmp_path / "a.extxyz", [labelled(model, 1, energy=0.8, force=0.1, virial=-0.4)])
    write(
        tmp_path / "b.extxyz",
        [
            labelled(model, 2, energy=-1.6, force=0.3, virial=0.8, config_type="hot"),
            labelled(model, 3, config_type="cold"),
        ],
    )
    return evaluate(model, [tmp_path / "a.extxyz", tmp_path / "b.extxyz"])


def test_errors_are_those_that_were_put_in(report):
    s = report.total()
    assert (s.frames, s.atoms, s.energy_frames, s.force_atoms) == (3, 24, 3, 24)
    assert s.energy_rmse == pytest.approx(math.sqrt((0.8**2 + 1.6**2) / 3), rel=1e-6)
    assert s.energy_mae == pytest.approx(2.4 / 3, rel=1e-6)
    assert s.energy_rmse_per_atom == pytest.approx(s.energy_rmse / 8, rel=1e-12)
    assert s.force_rmse == pytest.approx(math.sqrt((0.01 + 0.09) / 3), rel=1e-6)
    assert s.force_mae == pytest.approx(0.4 / 3, rel=1e-6)
    assert s.virial_rmse_per_atom == pytest.approx(math.sqrt(0.8 / 3) / 8, rel=1e-6)


def test_groups(report):
    by_system = list(report.by_system().values())
    assert [s.frames for s in by_system] == [1, 2]
    assert by_system[0].energy_mae == pytest.approx(0.8, rel=1e-6)
    by_type = report.by_config_type()
    assert set(by_type) == {"(none)", "hot", "cold"}
    assert by_type["hot"].force_mae == pytest.approx(0.3, rel=1e-6)
    assert by_type["cold"].force_mae < 1e-6


def test_the_report_says_what_dp_test_says(report):
    """Line for line, with nothing behind the units."""
    lines = format_report(report).splitlines()
    one, two = report.by_system()
    total = report.total()
    ends = lines.index("# ----------weighted average of errors----------- ")
    assert lines[0] == "# ---------------output of dp test--------------- "
    assert lines[1:3] == [f"# testing system : {one}", "# number of test data : 1 "]
    assert f"# testing system : {two}" in lines[:ends]
    assert lines[ends + 1 : ends + 15] == [
        "# number of systems : 2",
        f"Energy MAE         : {total.energy_mae:e} eV",
        f"Energy RMSE        : {total.energy_rmse:e} eV",
        f"Energy MAE/Natoms  : {total.energy_mae_per_atom:e} eV",
        f"Energy RMSE/Natoms : {total.energy_rmse_per_atom:e} eV",
        f"Force  MAE         : {total.force_mae:e} eV/Å",
        f"Force  RMSE        : {total.force_rmse:e} eV/Å",
        f"Virial MAE         : {total.virial_mae:e} eV",
        f"Virial RMSE        : {total.virial_rmse:e} eV",
        f"Virial MAE/Natoms  : {total.virial_mae_per_atom:e} eV",
        f"Virial RMSE/Natoms : {total.virial_rmse_per_atom:e} eV",
        f"Stress MAE         : {total.stress_mae:e} eV/Å³",
        f"Stress RMSE        : {total.stress_rmse:e} eV/Å³",
        "# ----------------------------------------------- ",
    ]
    assert len([line for line in lines if line.startswith("Force  RMSE")]) == 3


def test_the_report_says_it_in_practical_units_too(report):
    text = format_report(report)
    practical = text[text.rindex("# ---") :]
    total = report.total()
    assert f"force {1e3 * total.force_rmse:.3f} meV/Å" in practical
    assert f"energy {1e3 * total.energy_mae_per_atom:.3f} meV/atom" in practical
    assert "cold" in practical
    assert not any(f"{q} {e}" in practical for q in ("Energy", "Force ") for e in ("RMSE", "MAE"))
    assert "warning" not in text


def test_errors_of_the_stress_are_those_of_the_virial_over_the_volume(report):
    one = report.by_system()
    first = next(iter(one.values()))
    volume = abs(np.linalg.det(report.results[0].frame.cell))
    assert first.stress_mae == pytest.approx(0.4 / volume, rel=1e-6)
    assert first.stress_frames == 1


def test_details_are_the_files_of_dp_test(report, tmp_path):
    paths = write_details(report, tmp_path / "detail")
    assert [p.name for p in paths] == [
        f"detail.{s}.out" for s in ("e", "e_peratom", "f", "v", "v_peratom")
    ]
    a, b = (r.system for r in (report.results[0], report.results[1]))
    text = paths[0].read_text().splitlines()
    assert [line for line in text if line.startswith("#")] == [
        f"# {a}: data_e pred_e",
        f"# {b}: data_e pred_e",
    ]
    tables = [np.loadtxt(path) for path in paths]
    assert [t.shape for t in tables] == [(3, 2), (3, 2), (24, 6), (3, 18), (3, 18)]
    np.testing.assert_allclose(tables[0][:, 0] - tables[0][:, 1], [0.8, -1.6, 0.0], atol=1e-6)
    np.testing.assert_allclose(tables[1], tables[0] / 8)
    for k, r in enumerate(report.results):
        np.testing.assert_array_equal(tables[2][8 * k : 8 * k + 8, :3], r.frame.forces)
        np.testing.assert_array_equal(tables[2][8 * k : 8 * k + 8, 3:], r.forces)
        np.testing.assert_array_equal(tables[3][k, 9:], r.virial.ravel())
        np.testing.assert_array_equal(tables[4][k, :9], r.frame.virial.ravel() / 8)
    assert "data_vxx data_vxy" in paths[3].read_text()
    with pytest.raises(InputError, match="expected the beginning of file names"):
        write_details(report, ".")
    assert "pred_vzy pred_vzz" in paths[3].read_text()


def test_details_of_a_frame_without_a_label_are_no_numbers(model, tmp_path):
    atoms = labelled(model, 1)
    del atoms.info["virial"]
    write(tmp_path / "x.extxyz", [atoms])
    path = write_details(evaluate(model, tmp_path / "x.extxyz"), tmp_path / "detail")[3]
    table = np.loadtxt(path)
    assert np.isnan(table[:9]).all()
    assert np.isfinite(table[9:]).all()


def test_the_errors_are_json(report):
    errors = json.loads(json.dumps(report.errors(), allow_nan=False))
    assert errors["total"]["force_mae"] == report.total().force_mae
    assert set(errors["by_config_type"]) == {"(none)", "hot", "cold"}


def test_frames_without_a_label_are_left_out_of_it_and_counted(model, tmp_path):
    whole, bare = labelled(model, 1, energy=0.8), labelled(model, 2)
    del bare.info["virial"], bare.info["REF_energy"]
    write(tmp_path / "x.extxyz", [whole, bare])
    report = evaluate(model, tmp_path / "x.extxyz")
    s = report.total()
    assert (s.frames, s.energy_frames, s.virial_frames, s.force_atoms) == (2, 1, 1, 16)
    assert s.energy_mae == pytest.approx(0.8, rel=1e-6)


def test_without_virials_they_are_not_mentioned(model, tmp_path):
    atoms = labelled(model, 1)
    del atoms.info["virial"]
    write(tmp_path / "x.extxyz", [atoms])
    report = evaluate(model, tmp_path / "x.extxyz")
    assert math.isnan(report.total().virial_rmse)
    assert "Virial" not in format_report(report)
    assert report.errors()["total"]["virial_rmse"] is None


def test_a_prediction_that_is_no_number_is_not_hidden(model, tmp_path):
    write(tmp_path / "x.extxyz", [labelled(model, 1), labelled(model, 2)])
    report = evaluate(model, tmp_path / "x.extxyz")
    report.results[0].energy = math.nan
    assert math.isnan(report.total().energy_rmse)


def test_errors_of_the_stress_of_a_slab(model, tmp_path):
    slab = random_atoms("Si4C4", 6.5, 1, skew=0.1)
    slab.pbc, slab.calc, volume = (1, 1, 0), Calculator(model), slab.get_volume()
    labels = {"energy": slab.get_potential_energy(), "forces": slab.get_forces()}
    stress = slab.get_stress() + np.array([0.4 / volume, 0, 0, 0, 0, 0])
    slab.calc = SinglePointCalculator(slab, **labels, stress=stress)
    write(tmp_path / "slab.extxyz", slab)
    total = evaluate(model, tmp_path / "slab.extxyz").total()
    assert total.stress_rmse == pytest.approx(0.4 / volume / 3, rel=1e-5)
    assert total.stress_frames == 1
    report = evaluate(model, tmp_path / "slab.extxyz")
    report.results[0].frame.pbc[:] = False  # a molecule in a box has none
    assert report.total().stress_frames == 0


def test_pairs_beyond_the_table_are_reported(model, tmp_path):
    atoms = labelled(model, 1)
    atoms.positions[1] = atoms.positions[0] + [0.4, 0, 0]
    write(tmp_path / "x.extxyz", [atoms])
    report = evaluate(model, tmp_path / "x.extxyz")
    assert report.beyond_table == 1
    assert "extrapolations" in format_report(report)


@pytest.mark.parametrize(("middle", "width"), [(-155.965, 0.003), (-13596.965, 0.0007)])
def test_energies_of_many_digits_do_not_run_into_one_another(middle, width):
    labels = middle + width * np.random.default_rng(1).normal(size=300)
    figure = _parity([("energy", labels, labels + 0.1 * width, 0.1 * width, "eV/atom")] * 3)
    figure.canvas.draw()
    axis = figure.axes[0]
    low, high = axis.get_xlim()
    ticks = zip(axis.get_xticks(), axis.get_xticklabels(), strict=True)
    shown = [label.get_window_extent() for x, label in ticks if low <= x <= high]
    assert len(shown) > 1
    assert all(a.x1 + 5 < b.x0 for a, b in itertools.pairwise(shown))


def test_parity_plot(report, tmp_path):
    plot_parity(report, tmp_path / "parity.png")
    assert (tmp_path / "parity.png").read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in tmp_path.glob(".*")] == []
    with pytest.raises(InputError, match="cannot be written"):
        plot_parity(report, tmp_path / "missing" / "parity.png")


def test_forces_of_each_element(model, tmp_path):
    wrong = np.array([0.01] * 4 + [0.3] * 4)[:, None]  # Si4C4
    write(tmp_path / "x.extxyz", [labelled(model, 1, force=wrong)])
    report = evaluate(model, tmp_path / "x.extxyz")
    found = report.force_by_element()
    assert {name: n for name, (n, _) in found.items()} == {"C": 4, "Si": 4}
    assert found["C"][1] == pytest.approx(0.3, abs=1e-6)
    assert found["Si"][1] == pytest.approx(0.01, abs=1e-6)
    assert report.errors()["force_rmse_by_element"]["C"] == pytest.approx(0.3, abs=1e-6)
    assert ": C 300.00, Si 10.00 meV/Å" in format_report(report)


def test_page(report, tmp_path):
    write_page(report, tmp_path / "page.html", "model on <data>")
    text = (tmp_path / "page.html").read_text()
    assert len(text) < 2_000_000
    assert text.count("data:image/png;base64,") == 2
    assert "model on &lt;data&gt;" in text
    worst = max(
        report.results, key=lambda r: np.linalg.norm(r.forces - r.frame.forces, axis=1).max()
    )
    first = text.index("largest force error")
    assert worst.frame.source in text[first : first + 400]
    assert f"{1e3 * report.total().force_rmse:.2f} (" in text
    report.results[-1].forces[3] = math.nan  # what is no number is the worst, and no traceback
    write_page(report, tmp_path / "page.html", "model")
    text = (tmp_path / "page.html").read_text()
    first = text.index("largest force error")
    assert report.results[-1].frame.source in text[first : first + 400]
    assert "nan meV/Å, atom 3" in text


def test_page_of_forces_that_are_all_zero(model, tmp_path):
    atoms = labelled(model, 1)
    atoms.arrays["REF_forces"] = np.zeros((8, 3))
    write(tmp_path / "x.extxyz", [atoms])
    write_page(evaluate(model, tmp_path / "x.extxyz"), tmp_path / "page.html", "model")
    text = (tmp_path / "page.html").read_text()
    assert "of the RMS force" not in text
    assert "largest force error" in text


def test_loaded_systems_are_taken_as_they_are(model, tmp_path):
    write(tmp_path / "x.extxyz", [labelled(model, 1)])
    systems = load([tmp_path / "x.extxyz"], type_map=model.type_map)
    from_systems = evaluate(model, systems).total()
    np.testing.assert_equal(from_systems, evaluate(model, tmp_path / "x.extxyz").total())


def test_an_element_that_the_model_lacks_is_an_error(model, tmp_path):
    write(tmp_path / "x.extxyz", [labelled(model, 1)])
    other = random_potential(("Ge", "C"))
    with pytest.raises(InputError, match="Si"):
        evaluate(other, tmp_path / "x.extxyz")
