"""The check of data: clean real sets, reports, odd data, and what a training does with errors."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from copper import copper, settings

from deepmd_lite.check import check_data, copies, distances, elements, findings_in_sample, order
from deepmd_lite.check.pairs import Pairs, displacement, near_pairs
from deepmd_lite.check.run import _findings
from deepmd_lite.check.survey import Survey, robust_fit
from deepmd_lite.check.works import Works
from deepmd_lite.cli import main
from deepmd_lite.data import Frame, System, load
from deepmd_lite.data.ase_labels import frame_from_atoms
from deepmd_lite.system import InputError
from deepmd_lite.training import train

SHARED = Path(
    os.environ.get("DPL_SHARED_DATA", Path(__file__).parents[2].parent / "shared" / "data")
)
SILICON = Path(__file__).parents[2] / "data" / "silicon"
WARNINGS = {
    "ethanol_rmd17": set(),
    "mo_mlearn": set(),
    "pbte_nep25": set(),
    "si_mlearn": {"leakage"},
    "ta_snap": {"leakage", "copies", "atoms-close", "energy-outlier"},
    "water_pbe0ts": set(),
}
"""Real sets and what is to be warned of there: copies, and cells compressed to a fifth."""


def codes(report, severity):
    return {f.code for f in report.findings if f.severity == severity}


@pytest.mark.parametrize("name", WARNINGS)
def test_clean_real_sets(name):
    folder = SHARED / name
    if not folder.exists():
        pytest.skip(f"no {folder}")
    sets = {role: [folder / f"{role}.xyz"] for role in ("train", "test")}
    report = check_data({k: v for k, v in sets.items() if v[0].exists()})
    assert codes(report, "error") == set()
    assert codes(report, "warning") == WARNINGS[name]


def test_the_silicon_set_is_clean():
    names = ("train", "validation", "test")
    report = check_data({name: [SILICON / f"{name}.extxyz"] for name in names})
    untested = {f"{label}-untested" for label in ("force", "virial", "virial-order")}
    assert {f.code for f in report.findings} <= {"cell-small", *untested}
    assert not report.failed(strict=True)


# --- reports ----------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path):
    write(tmp_path / "train.extxyz", copper(12, seed=1))
    write(tmp_path / "validation.extxyz", copper(4, seed=2))
    return tmp_path


def test_text_json_and_page(data, capsys):
    argv = ["check", "--train", str(data / "train.extxyz"), "--test", str(data / "train.extxyz")]
    status = main([*argv, "--json", str(data / "r.json"), "--html", str(data / "r.html")])
    out = capsys.readouterr().out
    assert status == 1
    assert "error [leakage] 12 of 12 frames of test are in train too" in out
    assert "Cu–Cu" in out
    assert "neighbours within 6 Å" in out
    report = json.loads((data / "r.json").read_text())
    assert report["counts"]["error"] == 1
    assert [len(f["frames"]) for f in report["findings"] if f["code"] == "leakage"] == [12]
    page = (data / "r.html").read_bytes()
    assert len(page) < 2_000_000
    assert b"data:image/png;base64," in page
    assert b"http" not in page.replace(b"http-equiv", b"")
    assert "leakage" in page.decode()


def test_slabs_and_clusters_have_no_virials_to_be_missed(tmp_path):
    frames = copper(12, seed=1)
    for atoms, pbc in zip(frames[:2], ((True, True, False), (False, False, False)), strict=True):
        del atoms.calc.results["stress"]
        atoms.pbc = pbc
    write(tmp_path / "train.extxyz", frames)
    assert "virial-missing" not in codes(check_data({"data": [tmp_path / "train.extxyz"]}), "note")
    del frames[2].calc.results["stress"]
    write(tmp_path / "train.extxyz", frames)
    (found,) = (
        f
        for f in check_data({"data": [tmp_path / "train.extxyz"]}).findings
        if f.code == "virial-missing"
    )
    assert "virial 9/10 frames" in found.what
    for atoms in frames:
        atoms.calc.results.pop("stress", None)
    write(tmp_path / "train.extxyz", frames)
    assert "virial-missing" in codes(check_data({"data": [tmp_path / "train.extxyz"]}), "note")


def test_stresses_of_slabs_are_no_warning(tmp_path):
    frames = copper(12, seed=1)
    for atoms in frames:
        atoms.pbc = (True, True, False)
    write(tmp_path / "train.extxyz", frames)
    report = check_data({"data": [tmp_path / "train.extxyz"]})
    assert all(frame.virial is not None for frame in report.survey.frames)
    assert codes(report, "warning") == codes(report, "error") == set()
    assert "periodicity-partial" in codes(report, "note")


def test_quiet_prints_errors_and_warnings_alone(data, capsys):
    main(["check", "-q", "--train", str(data / "train.extxyz")])
    assert capsys.readouterr().out.strip() == ""


def test_nothing_to_check(capsys):
    assert main(["check"]) == 1
    assert "nothing to check" in capsys.readouterr().err


def test_what_cannot_be_read_is_a_finding(data):
    (data / "broken.extxyz").write_text("2\nnonsense\nCu 0 0 0\n")
    report = check_data({"a": [data / "nowhere", data / "broken.extxyz", data / "train.extxyz"]})
    errors = [f.what for f in report.findings if f.code == "unreadable"]
    assert len(errors) == 2
    assert "nowhere: no such file" in errors[0]
    assert len(report.survey) == 12
    assert check_data({"a": [data / "nowhere"]}).failed()


# --- parts ------------------------------------------------------------------------------------


def test_work_of_forces_and_virials_between_near_frames(data):
    frames = copper(1, seed=3)
    strained = frames[0].copy()
    calculator = frames[0].calc
    strain = 0.004 * np.array([[1.0, 0.4, -0.2], [0.4, -0.5, 0.3], [-0.2, 0.3, 0.8]])
    strained.set_cell(frames[0].cell.array @ (np.eye(3) + strain), scale_atoms=True)
    strained.positions += 0.01 * np.random.default_rng(1).normal(size=strained.positions.shape)
    strained.positions += [1.0, -7.0, 2.0]
    strained.calc = type(calculator)()
    strained.get_stress()
    frames[0].get_stress()
    write(data / "two.extxyz", [frames[0], strained])
    survey = Survey.of({"data": load(data / "two.extxyz")})
    pairs = near_pairs(survey, np.arange(2))
    assert len(pairs) == 1
    np.testing.assert_allclose(pairs.strain[0], strain, atol=1e-4)
    work = pairs.force_work[0] - (pairs.virial[0] * pairs.strain[0]).sum()
    assert abs(pairs.difference[0] - work) < 0.02 * max(abs(work), abs(pairs.force_work[0]))


def test_displacement_forgets_translations_and_images():
    rng = np.random.default_rng(2)
    cell = 6 * np.eye(3) + rng.uniform(-1, 1, (3, 3))
    a = Frame(("Cu",) * 5, rng.random((5, 3)) @ cell, cell, np.ones(3, bool))
    moved = 0.05 * rng.normal(size=(5, 3))
    images = rng.integers(-2, 3, (5, 3)) @ cell
    b = Frame(a.symbols, a.positions + moved + images + [3.1, -0.7, 9.0], cell, a.pbc)
    np.testing.assert_allclose(displacement(a, b), moved - moved.mean(axis=0), atol=1e-12)


def test_a_robust_fit_is_not_moved_by_outliers():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(60, 2))
    y = x @ [2.0, -1.0] + 0.01 * rng.normal(size=60)
    y[:6] += 50.0
    coefficients, scale = robust_fit(x, y)
    np.testing.assert_allclose(coefficients, [2.0, -1.0], atol=0.02)
    assert scale < 0.03


def of_frames(**sets):
    """Findings by their codes."""
    report = Survey.of({role: [System(role, frames)] for role, frames in sets.items()})
    return {f.code: f for f in _findings(report, 6.0, None)}


def frames_of(images, name="x"):
    """Frames with EMT's labels."""
    return [frame_from_atoms(atoms, f"{name}, frame {k}") for k, atoms in enumerate(images)]


def test_one_energy_for_all_frames_is_no_energy():
    frames = frames_of(copper(8, seed=4))
    assert "energy-constant" not in of_frames(data=frames)
    for frame in frames[:6]:
        frame.energy = 0.0
    finding = of_frames(data=frames)["energy-constant"]
    assert (finding.severity, len(finding.frames)) == ("error", 6)
    assert "the same energy to all digits (0 eV)" in finding.what


def test_a_step_after_another_is_no_copy():
    """Labels that differ as the places do; labels that do not are those of one structure."""
    (first,) = copper(1, seed=5)
    step = first.copy()
    step.positions[0, 0] += 3e-4
    step.calc = EMT()
    step.get_forces()
    found = of_frames(data=frames_of([first, step]))
    assert "copies" not in found
    assert "1 frame is within 0.002 Å of another" in found["copies-near"].what
    one, other = frames_of([first, step])
    other.energy, other.forces = one.energy, one.forces
    assert "1 frame is a copy of another in the same" in of_frames(data=[one, other])["copies"].what
    again = replace(one, energy=one.energy + 1e-3)  # with other settings
    assert "copies" in of_frames(data=[one, again])
    assert "leakage" in of_frames(train=[one], test=frames_of([step], "y"))


def test_a_unit_of_length_is_told_once():
    frames = frames_of(copper(4, seed=6))
    for frame in frames:
        frame.positions, frame.cell = frame.positions / 0.529177, frame.cell / 0.529177
    systems = [System(f"s{k}", [frame]) for k, frame in enumerate(frames)]
    (found,) = distances.findings(Survey.of({"data": systems}), np.arange(4))
    assert found.code == "units-length"
    assert found.what.startswith("s0 and 3 more: atoms are typically")


ODD = product(
    [("H",) * 8, ("Ar",) * 8, ("Si", "O", "H", "Si") * 2],
    [(1, 1, 1), (0, 0, 0), (1, 1, 0)],
    [1, 2, 8],
    [0, 1, 3, 4, 7],
    [1, 2, 25],
)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_any_data_can_be_checked():
    rng = np.random.default_rng(4)
    for symbols, pbc, n, labels, count in ODD:
        periodic = np.array(pbc, dtype=bool)
        frames = [
            Frame(
                symbols[:n],
                8 * rng.random((n, 3)),
                8.0 * np.eye(3) if any(pbc) else np.zeros((3, 3)),
                periodic,
                energy=float(rng.normal()) if labels & 1 else None,
                forces=rng.normal(size=(n, 3)) if labels & 2 else None,
                virial=np.eye(3) if labels & 4 else None,
                source=f"x, frame {i}",
            )
            for i in range(count)
        ]
        for finding in findings_in_sample(frames, "data", cutoff=4.0):
            assert "\n" not in finding.line()
    report = Survey.of({"a": [System("x", frames)], "b": [System("y", frames)]})
    assert len(report) == 2 * count


# --- before a training ------------------------------------------------------------------------


def test_a_training_refuses_errors_in_its_data(data):
    frames = copper(12, seed=1)
    for atoms in frames:
        atoms.calc.results["forces"] = -atoms.get_forces()
    write(data / "train.extxyz", frames)
    write(data / "validation.extxyz", copper(4, seed=2))
    with pytest.raises(InputError, match=r"the training data have errors.*\n  \[force-sign\]"):
        train(settings(data), output=data / "out", quiet=True)
    train(settings(data, check=False, numb_steps=2), output=data / "out", quiet=True)
    assert (data / "out" / "model.dpl").exists()


def test_a_training_does_not_load_what_only_notes_need():
    code = """
import sys
import numpy as np
from deepmd_lite.data import Frame
from deepmd_lite.training.precheck import findings_in_sample
cell, pbc = np.zeros((3, 3)), np.zeros(3, dtype=bool)
frames = [
    Frame(("H", "H"), np.array([[0.0, 0, 0], [0.7 + 0.01 * k, 0, 0]]), cell, pbc, 0.1 * k)
    for k in range(40)
]
findings_in_sample(frames, "training", cutoff=4.0)
assert "scipy.spatial" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_training_tells_warnings(data, caplog):
    train(settings(data, numb_steps=1), output=data / "out", quiet=True)
    assert "force-outlier" not in caplog.text
    frames = copper(12, seed=1)
    frames[5].calc.results["forces"] = 1e4 * frames[5].get_forces()
    write(data / "train.extxyz", frames)
    train(settings(data, numb_steps=1), output=data / "out", quiet=True)
    assert "training data: warning [force-outlier]" in caplog.text
    assert "train.extxyz, frame 5" in caplog.text


def test_all_frames_with_extreme_forces_are_named():
    """Atoms too close explain such forces, and no training wants them."""
    frames = frames_of(copper(90, seed=1))
    assert "force-extreme" not in of_frames(data=frames)
    near = copper(4, seed=2)
    for atoms, distance in zip(near, (1.0, 1.15, 1.3, 1.45), strict=True):
        atoms.positions[1] = atoms.positions[0] + distance * np.array([0.6, 0.8, 0.0])
        atoms.calc = EMT()
        atoms.get_forces()
    found = of_frames(data=frames + frames_of(near, "near"))
    finding = found["force-extreme"]
    assert set(finding.frames) == {f"near, frame {k}" for k in range(4)}
    assert all(frame in finding.what for frame in finding.frames)
    assert "force-outlier" not in found  # which close pairs explain


@pytest.mark.parametrize(
    ("spoilt", "message"),
    [
        (lambda atoms: atoms.info.update(weight=0.0), "the weight of every frame is 0"),
        (lambda atoms: atoms.set_cell(20 * atoms.cell, scale_atoms=True), "no two atoms are with"),
    ],
    ids=["weights", "far apart"],
)
def test_a_training_refuses_data_without_anything_to_learn(data, spoilt, message):
    frames = copper(12, seed=1)
    for atoms in frames:
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        spoilt(atoms)
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    write(data / "train.extxyz", frames)
    with pytest.raises(InputError, match=message):
        train(settings(data, check=False, numb_steps=1), output=data / "out", quiet=True)


def test_a_training_warns_of_frames_that_it_is_validated_on(data, caplog):
    train(settings(data, numb_steps=1), output=data / "out", quiet=True)
    assert "are trained on too" not in caplog.text
    write(data / "validation.extxyz", copper(12, seed=1)[:3] + copper(4, seed=2))
    train(settings(data, numb_steps=1), output=data / "out", quiet=True)
    assert "3 of 7 validation frames are trained on too" in caplog.text


def test_forces_may_be_missing_where_none_are_trained(data):
    for name, n in (("train", 12), ("validation", 4)):
        frames = copper(n, seed=n)
        for atoms in frames:
            atoms.calc.results = {"energy": atoms.calc.results["energy"]}
        write(data / f"{name}.extxyz", frames)
    config = settings(data, numb_steps=2)
    with pytest.raises(InputError, match=r"\[force-missing\] training: force 0/12 frames"):
        train(config, output=data / "out", quiet=True)
    config["loss"] |= {"start_pref_f": 0, "limit_pref_f": 0}
    train(config, output=data / "out", quiet=True)


def test_frames_of_weight_0_are_not_looked_at(data, caplog):
    frames = copper(12, seed=1)
    for atoms in frames[::2]:
        atoms.info["weight"] = 0.0
        atoms.calc.results["energy"] += 1e4
    write(data / "train.extxyz", frames)
    train(settings(data, numb_steps=1), output=data / "out", quiet=True)
    assert "training data: warning" not in caplog.text
    report = check_data({"training": [data / "train.extxyz"]})
    assert codes(report, "error") == codes(report, "warning") == set()
    (note,) = (f.what for f in report.findings if f.code == "weight")
    assert note.endswith("train.extxyz: 6 of 12 frames have weight 0: not looked at")
    for atoms in frames[::2]:
        atoms.info["weight"] = 1.0
    write(data / "train.extxyz", frames)
    train(settings(data, numb_steps=1), output=data / "out", quiet=True)
    assert "training data: warning [labels-contradict]" in caplog.text


def test_names_that_are_no_elements(tmp_path):
    """DeePMD-kit knows types by any name; their distances are not judged."""
    write(tmp_path / "train.extxyz", copper(12, seed=1))
    (system,) = load([tmp_path / "train.extxyz"])
    renamed = [replace(f, symbols=("CuX",) * f.n_atoms) for f in system.frames]
    (finding,) = findings_in_sample(renamed, "training", cutoff=4.0)
    assert (finding.severity, finding.code) == ("warning", "element-unknown")
    assert finding.what.startswith("CuX: no chemical element")
    assert not findings_in_sample(system.frames, "training", cutoff=4.0)


@pytest.mark.parametrize(("center", "ligand", "length"), [("Cl", "O", 1.44), ("Br", "F", 1.72)])
def test_halogens_bind_as_much_oxygen_and_fluorine_as_they_like(center, ligand, length):
    corners = np.array([[1, 1, 1], [-1, -1, 1], [-1, 1, -1], [1, -1, -1]]) / np.sqrt(3)
    places = np.vstack([[0, 0, 3.2], [0, 0, 0], length * corners])

    def accused(*symbols):
        frame = Frame(symbols, places, np.zeros((3, 3)), np.zeros(3, bool), source="x, frame 0")
        survey = Survey.of({"data": [System("x", [frame])]})
        return {f.code for f in elements.findings(survey, None)}

    assert accused("K", center, *[ligand] * 4) == set()
    assert accused("K", center, *["Cl"] * 4) != set()


@pytest.mark.parametrize("pbc", [False, True])
@pytest.mark.parametrize(
    ("push", "severity"), [(200.0, "warning"), (3.0, "error"), (-200.0, "error"), (None, "error")]
)
def test_atoms_that_are_meant_to_be_near_are_pushed_apart(push, severity, pbc):
    """As in scans of dimers and in collision cascades, also through a face of the cell."""
    places = 2.5 * np.argwhere(np.ones((3, 2, 2)))
    places[-1] = -0.9 + 8.0 * pbc, 0.0, 0.0
    forces = np.zeros((12, 3))
    forces[[0, -1], 0] = push or 0.0, -(push or 0.0)
    frame = Frame(("Cu",) * 12, places, 8.0 * np.eye(3), np.full(3, pbc))
    frame.forces = None if push is None else forces
    survey = Survey.of({"data": [System("x", [replace(frame, source="x, frame 0")])]})
    (found,) = (f for f in distances.findings(survey, np.arange(1)) if f.code == "atoms-close")
    assert found.severity == severity
    assert ("not pushed apart" in found.do) == (severity == "error")


@pytest.mark.parametrize("turned", [True, False])
def test_symmetric_copies_have_forces_of_the_same_sizes(turned):
    """Others are small displacements along which fingerprint and energy hardly change."""
    random = np.random.default_rng(1)
    grid = 2.9 * np.argwhere(np.ones((2, 2, 2)))
    frames = []
    for k in range(2):
        step = random.normal(size=(8, 3))
        step *= 0.01 / np.sqrt((step**2).sum() / 8)
        if turned and k:
            step = np.roll(frames[0].positions - grid, 1, axis=1)[::-1]
        places = np.roll(grid, 1, axis=1)[::-1] if turned and k else grid
        frames.append(
            Frame(
                ("Cu",) * 8,
                places + step,
                5.8 * np.eye(3),
                np.ones(3, bool),
                energy=-28.0,
                forces=-20 * step,
                source=f"x, frame {k}",
            )
        )
    survey = Survey.of({"data": [System("x", frames)]})
    survey.geometry.fingerprint[1] = survey.geometry.fingerprint[0]
    assert [c.same_atoms for c in copies.copies(survey)] == ([False] if turned else [])


def pairs_of(first, second):
    """Pairs of which nothing is known but their frames."""
    none, matrices = np.zeros(len(first)), np.zeros((len(first), 3, 3))
    return Pairs(first, second, none, none, none, none, matrices, matrices, none, none, none)


def test_the_error_of_a_mean_over_pairs_without_a_common_frame():
    values = np.random.default_rng(0).normal(size=20)
    pairs = pairs_of(np.arange(20), np.arange(20, 40))
    found = pairs.standard_error(lambda chosen: float(values[chosen].mean()))
    assert found == pytest.approx(values.std(ddof=1) / np.sqrt(20))


@pytest.mark.parametrize(("n", "severity"), [(18, "warning"), (200, "error")])
def test_few_pairs_that_seem_unrelated_refuse_no_data(n, severity, monkeypatch):
    """Of eighteen a correlation of nothing is not told from one of 0.5."""
    monkeypatch.setattr(order, "_restoring", lambda *_: None)
    monkeypatch.setattr(order, "_spring", lambda *_: False)
    random = np.random.default_rng(4)
    pairs = pairs_of(np.arange(n), np.arange(n, 2 * n))
    pairs.force_work, pairs.uncertainty = random.normal(size=n), np.full(n, 0.1)
    pairs.difference, pairs.n_atoms = random.normal(size=n), np.ones(n)
    found = order.misplaced(Works.of(pairs), None, "a")
    assert (found.severity, found.code) == (severity, "force-order")


def test_pairs_that_share_a_frame_say_nothing_of_their_error():
    pairs = pairs_of(np.zeros(15, dtype=int), np.arange(1, 16))
    assert pairs.standard_error(lambda chosen: float(chosen.sum())) == np.inf
