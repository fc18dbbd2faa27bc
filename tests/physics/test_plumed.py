"""Biased dynamics: forces, virial and conserved energy with a PLUMED bias, its files, restarts.

With PLUMED itself where it is installed, otherwise with a stand-in of the same interface.
"""

import os
import re
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
import stand_in_plumed
import yaml
from ase.build import bulk, fcc111
from models import random_potential
from pair_potential import PairPotential

from deepmd_lite.cli import main
from deepmd_lite.md import Simulation
from deepmd_lite.md.plumed import KJ_PER_MOL, _mark, take_back
from deepmd_lite.model import save_model
from deepmd_lite.system import InputError
from deepmd_lite.units import EV_PER_A3_IN_GPA

MODEL = PairPotential(5.0)
PULLED = [
    "d: DISTANCE ATOMS=1,3  # between layers",
    *("r: RESTRAINT ...", "ARG=d AT=0.31", "KAPPA=4000", "..."),
]
SQUEEZED = ["v: VOLUME", "r: RESTRAINT ARG=v AT=0.3 KAPPA=3e5"]
HEATED = ["e: ENERGY", "r: RESTRAINT ARG=e AT=0.0 KAPPA=0.0 SLOPE=0.25"]


@pytest.fixture(params=["stand-in", "PLUMED"], autouse=True)
def kind(request, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    if request.param == "stand-in":
        monkeypatch.setitem(sys.modules, "plumed", stand_in_plumed)
    else:
        pytest.importorskip("plumed", exc_type=ImportError)
        if "PLUMED_KERNEL" not in os.environ:
            pytest.skip("PLUMED_KERNEL does not say where PLUMED's library is")
    return request.param


def copper(n=1):
    atoms = bulk("Cu", cubic=True, a=3.7).repeat(n)
    atoms.set_cell(atoms.cell @ [[1, 0.05, 0], [0, 1, -0.1], [0.02, 0, 1]], scale_atoms=True)
    atoms.rattle(0.1, seed=3)
    return atoms


def energy_of(atoms, plumed):
    """eV: of the model, and of the bias."""
    run = Simulation(atoms, MODEL, plumed=plumed)
    return run.thermo.potential + run.bias.energy(run.engine)


# --- physics --------------------------------------------------------------------------------------


@pytest.mark.parametrize("plumed", [PULLED, SQUEEZED, HEATED], ids=["atoms", "cell", "energy"])
def test_forces_and_virial_are_derivatives_of_energy_and_bias(plumed):
    """Of a distance through the cell's faces, of the volume, and of the energy itself."""
    atoms = copper()
    run = Simulation(atoms, MODEL, plumed=plumed)
    assert abs(run.bias.energy(run.engine)) > 0.01
    step = 1e-4
    numerical = np.zeros((4, 3))
    for index in np.ndindex(4, 3):
        ends = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[index] += sign * step
            ends.append(energy_of(moved, plumed))
        numerical[index] = -(ends[0] - ends[1]) / (2 * step)
    forces = run.engine.forces.numpy()[np.argsort(run.state.ids.numpy())]
    np.testing.assert_allclose(forces, numerical, atol=2e-6)
    virial = np.zeros((3, 3))
    for a, b in np.ndindex(3, 3):
        ends = []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[a, b] += sign * step
            strained = atoms.copy()
            strained.set_cell(atoms.cell @ strain, scale_atoms=True)
            ends.append(energy_of(strained, plumed))
        virial[a, b] = -(ends[0] - ends[1]) / (2 * step)
    found = run.engine.totals().virial
    np.testing.assert_allclose(found, virial, atol=2e-5)
    free = Simulation(atoms, MODEL)
    assert np.abs(found - free.engine.totals().virial).max() > 0.1  # the bias counts
    # what is shown of the model is the model's
    np.testing.assert_array_equal(run.atoms.get_forces(), free.atoms.get_forces())
    np.testing.assert_allclose(run.atoms.get_stress(), free.atoms.get_stress(), atol=1e-12)
    assert run.atoms.get_potential_energy() == free.atoms.get_potential_energy()


@pytest.mark.parametrize("plumed", [PULLED, HEATED], ids=["atoms", "energy"])
def test_energy_with_the_bias_is_conserved_and_the_error_is_second_order(plumed):
    drifts = []
    for timestep in (2.0, 1.0):
        thermal = {"temperature": 300, "seed": 5}
        run = Simulation(copper(), MODEL, timestep=timestep, velocities=thermal, plumed=plumed)
        first, values, bias = run.thermo.conserved, [], []
        for _ in range(int(100 / timestep)):
            run.run(1)
            values.append(run.thermo.conserved - first)
            bias.append(run.bias.energy(run.engine))
        assert np.ptp(bias) > 0.02
        drifts.append(np.abs(values).max())
    assert drifts[1] < 2e-3
    assert 2.5 < drifts[0] / drifts[1] < 5.5


def test_a_barostat_feels_the_bias():
    """The volume settles where the model, stretched by the bias, pulls as hard as that pushes."""
    thermal = {"temperature": 50, "thermostat_time": 50}
    ensemble = {"type": "npt-mtk", **thermal, "pressure": "1 bar", "barostat_time": 200}
    at = 1.05 * copper(2).get_volume() / 1000
    run = Simulation(
        copper(2),
        MODEL,
        ensemble=ensemble,
        velocities={"temperature": 50, "seed": 1},
        plumed=["v: VOLUME", f"r: RESTRAINT ARG=v AT={at:.9f} KAPPA=5e4"],
    )
    run.run(400)
    conserved, pressures, alone = run.thermo.conserved, [], []
    for _ in range(100):
        run.run(20)
        pressures.append(run.thermo.pressure * EV_PER_A3_IN_GPA)
        alone.append(-run.atoms.get_stress()[:3].mean() * EV_PER_A3_IN_GPA)
    assert np.mean(alone) < -1.0
    assert abs(np.mean(pressures)) < 0.1
    assert run.thermo.conserved == pytest.approx(conserved, abs=0.05)


def test_no_image_is_found_along_an_open_axis():
    """A slab: the distance along its normal is the long one."""
    atoms = fcc111("Cu", (2, 2, 4), a=3.7)
    atoms.cell[2] = [0, 0, 10.0]
    first, last = int(atoms.positions[:, 2].argmin()), int(atoms.positions[:, 2].argmax())
    length = np.linalg.norm(atoms.get_distance(first, last, mic=True, vector=True))
    plumed = [f"d: DISTANCE ATOMS={first + 1},{last + 1}", "PRINT ARG=d FILE=COLVAR"]
    Simulation(atoms, MODEL, plumed=plumed)
    assert float(np.loadtxt("COLVAR")[1]) == pytest.approx(length / 10, abs=1e-6)
    atoms.set_pbc(True)
    Simulation(atoms, MODEL, plumed=plumed)
    assert float(np.loadtxt("COLVAR")[1]) < length / 10 - 0.05


def test_a_molecule_without_a_cell():
    atoms = copper()
    atoms.set_cell(None)
    atoms.set_pbc(False)
    run = Simulation(atoms, MODEL, plumed=[*PULLED, "PRINT ARG=d FILE=COLVAR"])
    assert float(np.loadtxt("COLVAR")[1]) == pytest.approx(atoms.get_distance(0, 2) / 10, abs=1e-6)
    assert run.bias.energy(run.engine) == pytest.approx(
        2000 * (atoms.get_distance(0, 2) / 10 - 0.31) ** 2 / KJ_PER_MOL, rel=1e-5
    )


# --- files and restarts ---------------------------------------------------------------------------


def md_input(folder, **changes):
    save_model(random_potential(("Cu",), rcut=4.0), folder / "cu.dpl")
    ase.io.write(folder / "cu.extxyz", copper(2))
    (folder / "plumed.dat").write_text(
        "# pulls two atoms\n" + "\n".join(PULLED) + "\nPRINT ARG=d,r.bias FILE=COLVAR STRIDE=2\n"
    )
    text = {
        "model": "cu.dpl",
        "structure": "cu.extxyz",
        "ensemble": {"type": "nvt-langevin", "temperature": 50, "friction": 0.05},
        "velocities": {"temperature": 50, "seed": 4},
        "timestep": 0.5,
        "steps": 12,
        "plumed": "plumed.dat",
        "output": {"directory": "run", "thermo": 2, "trajectory": 6, "restart": 5},
        **changes,
    }
    (folder / "md.yaml").write_text(yaml.safe_dump(text))


def test_a_run_and_its_continuation_leave_the_files_of_one(tmp_path, monkeypatch, capsys):
    for name, steps in (("whole", (12,)), ("parts", (7, 12))):
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.chdir(folder)
        for k, last in enumerate(steps):
            md_input(folder, steps=last)
            assert main(["md", "md.yaml", *(["--continue"] if k else [])]) == 0
            if last == 7:  # as a run that went on beyond its last restart leaves it
                with open("COLVAR", "a") as f:
                    f.write(" 0.004000 9 9\n 0.005000 9 9\n")
    one, two = (np.loadtxt(tmp_path / name / "COLVAR") for name in ("whole", "parts"))
    assert one[:, 0].tolist() == pytest.approx([0, 0.001, 0.002, 0.003, 0.004, 0.005, 0.006])
    np.testing.assert_array_equal(two, one)
    files = [(tmp_path / name / "run" / "thermo.csv").read_bytes() for name in ("whole", "parts")]
    assert files[0] == files[1]
    assert (tmp_path / "whole" / "run" / "plumed.log").stat().st_size > 0
    assert re.search(r"plumed \d+ %", (tmp_path / "whole" / "run" / "log").read_text())
    assert "plumed" in (tmp_path / "whole" / "run" / "log").read_text()
    conserved = np.genfromtxt(tmp_path / "whole" / "run" / "thermo.csv", names=True, delimiter=",")
    shift = conserved["conserved_eV"] - conserved["total_eV"]
    assert shift[0] == pytest.approx(one[0, 2] / KJ_PER_MOL, abs=1e-6)


def test_a_change_of_its_input_is_said(tmp_path, capsys):
    md_input(tmp_path, steps=4)
    assert main(["md", "md.yaml"]) == 0
    with open("plumed.dat", "a") as f:
        f.write("# another comment\n")
    config = yaml.safe_load((tmp_path / "md.yaml").read_text()) | {"steps": 6}
    (tmp_path / "md.yaml").write_text(yaml.safe_dump(config))
    assert main(["md", "md.yaml", "--continue"]) == 0
    log = (tmp_path / "run" / "log").read_text()
    assert "note: plumed differs from the input that the run began with\n" in log


def test_it_may_end_the_run(tmp_path, capsys):
    """Once the two atoms have come near enough to the restraint."""
    committor = "COMMITTOR ARG=d BASIN_LL1=0.27 BASIN_UL1=9 FILE=basins STRIDE=1"
    pulled = [PULLED[0], "r: RESTRAINT ARG=d AT=0.31 KAPPA=40000", committor]
    md_input(tmp_path, plumed=pulled, steps=400)
    assert main(["md", "md.yaml"]) == 0
    log = (tmp_path / "run" / "log").read_text()
    ended = int(re.search(r"PLUMED has ended the run after step (\d+)", log)[1])
    assert 5 < ended < 400
    assert [x.name for x in (tmp_path / "run/restart").glob("step-*")][-1].endswith(str(ended))
    atoms = ase.io.read("cu.extxyz")
    first = atoms.get_distance(0, 2, mic=True)
    assert first < 2.7
    run = Simulation(atoms, MODEL, plumed=pulled, timestep=1.0)
    steps = run.run(400).steps
    assert run.bias.ends
    assert 5 < steps < 400
    assert run.run(3).steps == 1  # it asks again


def test_what_a_continued_run_drops(tmp_path):
    """What a file has grown by; one that is another by now is told, and one that is gone is not."""
    names = ("grown", "same", "rewritten", "shorter", "gone", "empty")
    paths = [tmp_path / name for name in names]
    for path in paths:
        path.write_text("x" * 9000 if path.name != "empty" else "")
    marks = {str(path): _mark(str(path)) for path in paths}
    for name, text in (("grown", "x" * 9000 + " 1 2\n"), ("rewritten", "y" * 9100), ("empty", "z")):
        (tmp_path / name).write_text(text)
    (tmp_path / "shorter").write_text("x" * 5000)
    (tmp_path / "gone").unlink()
    assert take_back(marks) == [str(tmp_path / name) for name in ("rewritten", "shorter")]
    sizes = [path.stat().st_size for path in paths if path.exists()]
    assert sizes == [9000, 9000, 9100, 5000, 0]


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({}, {}),
        ({"plumed": ["UNITS TIME=fs", *PULLED, "PRINT ARG=d FILE=COLVAR"]}, {}),
        ({}, {"timestep": 0.25}),
        ({"plumed": ["INCLUDE FILE=plumed.dat"]}, {}),
    ],
    ids=["plain", "units", "timestep", "include"],
)
def test_rows_are_kept_whatever_they_say(kind, tmp_path, first, then):
    """After a clean end, each step of both parts has one row."""
    if kind == "stand-in" and ("UNITS" in str(first) or "INCLUDE" in str(first)):
        pytest.skip("it knows no such action")
    md_input(tmp_path, steps=8, **first)
    assert main(["md", "md.yaml"]) == 0
    rows = [x for x in (tmp_path / "COLVAR").read_text().splitlines() if x[0] != "#"]
    config = yaml.safe_load((tmp_path / "md.yaml").read_text()) | {"steps": 16, **then}
    (tmp_path / "md.yaml").write_text(yaml.safe_dump(config))
    assert main(["md", "md.yaml", "--continue"]) == 0
    both = [x for x in (tmp_path / "COLVAR").read_text().splitlines() if x[0] != "#"]
    assert both[: len(rows)] == rows
    assert len(both) == 2 * len(rows) - 1


def test_a_run_may_go_on_with_a_bias_that_it_did_not_begin_with(tmp_path):
    md_input(tmp_path, steps=4, plumed=None)
    assert main(["md", "md.yaml"]) == 0
    config = yaml.safe_load((tmp_path / "md.yaml").read_text()) | {"steps": 8}
    config["plumed"] = "plumed.dat"
    (tmp_path / "md.yaml").write_text(yaml.safe_dump(config))
    assert main(["md", "md.yaml", "--continue"]) == 0
    assert np.loadtxt("COLVAR")[:, 0].tolist() == [0.002, 0.003, 0.004]


def test_a_dry_run_asks_nothing_of_it(tmp_path, capsys):
    md_input(tmp_path)
    assert main(["md", "md.yaml", "--dry-run"]) == 0
    assert not (tmp_path / "COLVAR").exists()


# --- what else looks at forces ----------------------------------------------------------------


def test_the_deviation_of_models_is_without_the_bias(tmp_path):
    options = {"output": {"directory": "run", "model_devi": 1, "thermo": 1}}
    options |= {"plumed": [*PULLED, *HEATED[:1], "s: RESTRAINT ARG=e AT=0 SLOPE=0.25"]}
    run = Simulation(copper(), [MODEL, MODEL], guards={"deviation": 1e-6}, **options)
    run.run(3)
    assert np.abs(np.loadtxt("run/model_devi.out")[:, 1:]).max() < 1e-12
    assert float((run.engine.forces - run.engine.model_forces).abs().max()) > 0.1


def test_what_comes_later_is_told_as_well(kind, monkeypatch):
    """Forces that begin in the run, as those of hills do, and where nothing is held alone."""
    if kind != "stand-in":
        pytest.skip("its forces are made up here")
    compute = stand_in_plumed.Plumed.performCalc

    def pushes(self):
        compute(self)
        if int(self.given["StepLong"][0]) >= 2:
            self.given["Forces"][0] += 1.0

    monkeypatch.setattr(stand_in_plumed.Plumed, "performCalc", pushes)
    for name, options, told in (
        ("free", {}, 1),
        ("held", {"frozen": {"indices": [2]}}, 0),
        ("pulled", {"pull": {"indices": [2], "force": [0, 0, 0.1]}}, 0),
    ):
        output = {"directory": name}
        run = Simulation(copper(), MODEL, plumed=PULLED[:1], output=output, **options)
        run.run(4)
        assert Path(name, "log").read_text().count("system as a whole") == told


def test_forces_on_the_whole_are_told_once(kind, tmp_path):
    if kind == "stand-in":
        pytest.skip("it knows no such variable")
    position = ["p: POSITION ATOM=1", "RESTRAINT ARG=p.x AT=0.5 KAPPA=100"]
    langevin = {"type": "nvt-langevin", "temperature": 300, "friction": 0.1}
    for name, plumed, ensemble, told in (
        ("whole", position, {"type": "nve"}, 1),
        ("langevin", position, langevin, 0),
        ("within", PULLED, {"type": "nve"}, 0),
    ):
        output = {"directory": name}
        run = Simulation(copper(), MODEL, plumed=plumed, ensemble=ensemble, output=output)
        run.run(3)
        log = tmp_path / name / "log"
        assert log.read_text().count("system as a whole") == told


# --- what it says when it cannot ------------------------------------------------------------------


def test_an_input_that_plumed_does_not_accept(tmp_path, capsys):
    md_input(tmp_path)
    (tmp_path / "plumed.dat").write_text("d: DISTANCE ATOMS=1,99\n")
    assert main(["md", "md.yaml"]) == 1
    err = capsys.readouterr().err
    assert "plumed.dat: PLUMED says: " in err
    assert "out of range" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "run" / "plumed.log").exists()
    with pytest.raises(InputError, match='plumed: PLUMED says: Action "DISTANC" is not known'):
        Simulation(copper(), MODEL, plumed=["d: DISTANC ATOMS=1,2"])


def test_a_file_that_is_not_there(tmp_path, capsys):
    md_input(tmp_path, plumed="elsewhere.dat")
    assert main(["md", "md.yaml"]) == 1
    assert "md.yaml: plumed: nothing at 'elsewhere.dat'" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"plumed: elsewhere\.dat: there is no such file"):
        Simulation(copper(), MODEL, plumed="elsewhere.dat")


def test_without_plumed(monkeypatch):
    def unable(self):
        raise RuntimeError("PLUMED not available, check your PLUMED_KERNEL environment variable")

    monkeypatch.setitem(sys.modules, "plumed", stand_in_plumed)
    monkeypatch.setattr(stand_in_plumed.Plumed, "__init__", unable)
    with pytest.raises(InputError, match="set the environment variable PLUMED_KERNEL"):
        Simulation(copper(), MODEL, plumed=PULLED)
    monkeypatch.setitem(sys.modules, "plumed", None)
    with pytest.raises(InputError, match="Python module is missing: conda install"):
        Simulation(copper(), MODEL, plumed=PULLED)


# --- PLUMED itself --------------------------------------------------------------------------------


def test_metadynamics_goes_on_with_its_hills(kind, tmp_path, monkeypatch):
    if kind == "stand-in":
        pytest.skip("it has no metadynamics")
    lines = [
        "d: DISTANCE ATOMS=1,3",
        "m: METAD ARG=d PACE=5 HEIGHT=1.0 SIGMA=0.01 BIASFACTOR=5",
        "PRINT ARG=d,m.bias FILE=COLVAR",
    ]
    results = []
    for name, steps in (("whole", (40,)), ("parts", (20, 40))):
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.chdir(folder)
        for k, last in enumerate(steps):
            md_input(folder, steps=last, plumed=lines)
            assert main(["md", "md.yaml", *(["--continue"] if k else [])]) == 0
        results.append((np.loadtxt("HILLS"), np.loadtxt("COLVAR")))
    (hills, colvar), (hills_of_parts, colvar_of_parts) = results
    assert len(hills) == len(hills_of_parts) == 8  # none at step 0
    np.testing.assert_allclose(hills_of_parts, hills, rtol=1e-5)
    np.testing.assert_allclose(colvar_of_parts, colvar, atol=2e-4)
    assert colvar[-1, 2] > 0.5
