"""The MD input, the files of a run, going on with it, and what it says when it cannot."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import ase.io
import numpy as np
import pytest
import yaml
from ase.build import bulk
from ase.constraints import FixAtoms
from ase.units import fs
from models import random_potential
from pair_potential import PairPotential

from deepmd_lite.files import InUse
from deepmd_lite.md import Simulation, restart, run_input
from deepmd_lite.md import communicator as find_communicator
from deepmd_lite.md.comm import Communicator, guarded
from deepmd_lite.md.config import MdConfig, Settings
from deepmd_lite.md.keys import Keys
from deepmd_lite.model import save_model
from deepmd_lite.schema import parse
from deepmd_lite.system import InputError

MINIMAL = {"model": "m.dpl", "structure": "s.xyz", "steps": 10}


def copper(n=2, **kwargs):
    return bulk("Cu", cubic=True, a=3.7, **kwargs).repeat(n)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a model, a structure and an input file."""
    monkeypatch.chdir(tmp_path)
    save_model(random_potential(("Cu",), rcut=4.0), tmp_path / "cu.dpl")
    atoms = copper(2)
    atoms.rattle(0.05, seed=1)
    ase.io.write(tmp_path / "cu.extxyz", atoms)
    text = {
        "model": "cu.dpl",
        "structure": "cu.extxyz",
        "replicate": [1, 1, 2],
        "ensemble": {"type": "nvt-langevin", "temperature": 50, "friction": 0.05},
        "velocities": {"temperature": 50, "seed": 4},
        "timestep": 0.1,
        "steps": 12,
        "output": {"directory": "run", "thermo": 2, "trajectory": 6, "restart": 4},
    }
    (tmp_path / "md.yaml").write_text(yaml.safe_dump(text))
    return tmp_path


def rows(path):
    with open(path) as f:
        return list(csv.DictReader(f))


# --- input ----------------------------------------------------------------------------------


def test_defaults():
    config = parse(MdConfig, MINIMAL, "md.yaml")
    assert config.ensemble.type == "nve"
    assert config.skin == 1.0
    assert parse(MdConfig, {**MINIMAL, "model": ["a.dpl"]}, "md.yaml").model == ["a.dpl"]
    assert parse(MdConfig, {**MINIMAL, "skin": 6}, "md.yaml").skin == 6.0  # as in `Simulation`
    several = parse(MdConfig, {**MINIMAL, "model": ["a.dpl", "b.dpl"]}, "md.yaml")
    assert several.model == ["a.dpl", "b.dpl"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"timestp": 1}, "unknown key 'timestp'; did you mean 'timestep'?"),
        ({"timestep": 0}, "key 'timestep': .*greater than 0"),
        ({"skin": 0}, "key 'skin'"),
        ({"steps": -1}, "key 'steps'"),
        ({"device": "gpu"}, "key 'device': .*expected 'cpu', 'cuda' or 'cuda:N', found 'gpu'"),
        ({"precision": "float16"}, "key 'precision'"),
        ({"model": []}, "key 'model': .*at least 1"),
        ({"ensemble": {"type": "npt"}}, "'type' of nve, nvt-langevin.*, found 'npt'"),
        ({"ensemble": {"type": "nvt-langevin"}}, r"needs temperature \(K\) and friction"),
        ({"ensemble": {"temperature": 3}}, "'nve' has no key 'temperature'"),
        ({"output": {"trajectry": 1}}, "did you mean 'trajectory'"),
        ({"masses": {"Cu": 0}}, "key 'masses/Cu'"),
    ],
)
def test_bad_input_is_named(change, message):
    with pytest.raises(InputError, match=message):
        parse(MdConfig, {**MINIMAL, **change}, "md.yaml")


LANGEVIN = {"type": "nvt-langevin", "temperature": 300}
SCR = {"type": "npt-scr", "temperature": 300, "pressure": "1 bar"}
BUSSI = {"type": "nvt-bussi", "temperature": 50}
STRAIN = {"type": "strain", "axis": "c"}
OBSERVE = {name: {} for name in ("rdf", "msd", "vacf", "stress", "heat_flux")}


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        ({"timestep": 0.001}, ["timestep 0.001 fs .* fs, not ps"]),
        ({"ensemble": {**LANGEVIN, "friction": 10}}, ["friction 10/fs .* 1/fs, not 1/ps"]),
        ({"ensemble": {**SCR, "thermostat_time": 0.1}}, ["thermostat_time 0.1 fs .* fs, not ps"]),
        (
            {"ensemble": {**SCR, "thermostat_time": 0.1, "barostat_time": 1}},
            ["thermostat_time", "barostat_time 1 fs .* 10 timesteps of 1 fs"],
        ),
        ({"ensemble": {**STRAIN, "rate": 0.02}}, ["rate 0.02/fs is 2e[+]13/s.* whole run 0.2;"]),
        ({"ensemble": {**STRAIN, "rate": -1e-5}}, []),
        ({"timestep": 0.1, "ensemble": {**LANGEVIN, "friction": 0.1}}, []),
        (
            {"ensemble": {**LANGEVIN, "friction": 0.01}, "output": {"observe": OBSERVE}},
            ["^msd, vacf, heat_flux: .* friction slows down"],
        ),
        ({"ensemble": BUSSI, "output": {"observe": OBSERVE}}, []),
        ({"ensemble": SCR, "output": {"observe": OBSERVE}}, []),
        (
            {"ensemble": {**SCR, "coupling": "flexible"}, "output": {"observe": OBSERVE}},
            [r"^stress, msd, vacf, heat_flux: .* changes its shape \(flexible\)"],
        ),
        (
            {"ensemble": {**STRAIN, "rate": 1e-6}, "output": {"observe": {"stress": {}}}},
            ["^stress: the cell changes its shape"],
        ),
        ({"ensemble": {**SCR, "coupling": "flexible"}, "output": {"observe": {"rdf": {}}}}, []),
        ({"ensemble": {**SCR, "thermostat_time": 20, "barostat_time": 100}}, []),
    ],
)
def test_what_is_rarely_meant_is_noted(change, messages):
    notes = parse(MdConfig, {**MINIMAL, **change}, "md.yaml").notes()
    assert len(notes) == len(messages)
    for note, message in zip(notes, messages, strict=True):
        assert re.search(message, note)


def test_notes_are_in_the_log(folder):
    whole = yaml.safe_load((folder / "md.yaml").read_text())
    run_input({**whole, "timestep": 0.001, "steps": 1}, quiet=True)
    assert "note: timestep 0.001 fs is very short" in (folder / "run/log").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timestep": -1.0}, "timestep"),
        ({"skin": 0.0}, "skin"),
        ({"grid": (2, 1, 1)}, "2 subdomains for 1 ranks"),
        ({"masses": {"Au": 3.0}}, "element Au is not in the structure"),
        ({"precision": "float32"}, r"copy.deepcopy\(model\).to_precision"),
        ({"ensemble": {"type": "nvt"}}, "a 'type' of nve"),
        ({"ensemble": "nvt"}, "a 'type' of nve"),
        ({"ensemble": 3}, "key 'ensemble'"),
        ({"output": 3}, "key 'output'"),
        ({"velocities": 600}, "key 'velocities'"),
        ({"timestep": "1 fs"}, "key 'timestep'"),
        ({"timestep": np.inf}, "key 'timestep'"),
        ({"replicate": "two"}, "key 'replicate'"),
        ({"replicate": (2, 0, 1)}, "key 'replicate/1'"),
        ({"steps": "x"}, "key 'steps'"),
        ({"balance": "evenly"}, "key 'balance'"),
        ({"timestp": 1}, "unknown key 'timestp'; did you mean 'timestep'"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(InputError, match=message):
        Simulation(copper(), PairPotential(), **options)


def test_what_is_no_model_structure_or_number_of_steps():
    with pytest.raises(InputError, match=r"model: expected the path of a model file.* found int"):
        Simulation(copper(), 1)
    with pytest.raises(InputError, match="expected ASE's Atoms, found str"):
        Simulation("cu.extxyz", PairPotential())
    simulation = Simulation(copper(), PairPotential())
    for steps in (-5, 2.5, "3"):
        with pytest.raises(InputError, match=r"run: steps .* expected a whole number"):
            simulation.run(steps)


def test_short_forms_of_arguments(tmp_path):
    made = Simulation(
        copper(),
        PairPotential(),
        ensemble="nve",
        output=tmp_path / "out",
        replicate=np.array([1, 1, 2]),
        masses=None,
    )
    assert (made.ensemble.type, made.n_atoms) == ("nve", 64)
    made.run(np.int64(1))
    assert (tmp_path / "out/thermo.csv").exists()


def test_bad_structures_are_named():
    gold, broken, open_slab = bulk("Au"), copper(), copper()
    broken.positions[3, 1] = np.nan
    open_slab.pbc = (True, True, False)
    with pytest.raises(InputError, match="element Au is not in the type map"):
        Simulation(gold, PairPotential())
    with pytest.raises(InputError, match="position of atom 3 is not finite"):
        Simulation(broken, PairPotential())
    with pytest.raises(InputError, match="lattice vector 2 is not periodic"):
        Simulation(open_slab, PairPotential(), replicate=(1, 1, 2))


def test_missing_structure_file(folder):
    data = {**yaml.safe_load((folder / "md.yaml").read_text()), "structure": "no.xyz"}
    with pytest.raises(InputError, match=r"structure: nothing at 'no.xyz'"):
        run_input(data, quiet=True)


# --- files ----------------------------------------------------------------------------------


def test_files_of_a_run(folder):
    result = run_input("md.yaml", quiet=True)
    assert result.steps == 12
    assert result.n_atoms == 64
    thermo = rows("run/thermo.csv")
    assert [int(r["step"]) for r in thermo] == [0, 2, 4, 6, 8, 10, 12]
    assert float(thermo[0]["temperature_K"]) == pytest.approx(50.0)
    for r in thermo:
        v = {k: float(x) for k, x in r.items()}
        assert v["total_eV"] == pytest.approx(v["potential_eV"] + v["kinetic_eV"])
        trace = v["stress_xx_GPa"] + v["stress_yy_GPa"] + v["stress_zz_GPa"]
        assert v["pressure_GPa"] == pytest.approx(-trace / 3)
        assert v["time_fs"] == pytest.approx(0.1 * v["step"])
    frames = ase.io.read("run/trajectory.extxyz", ":")
    assert [f.info["step"] for f in frames] == [0, 6, 12]
    expected = ase.io.read("cu.extxyz").repeat((1, 1, 2))
    np.testing.assert_allclose(frames[0].positions, expected.positions, atol=1e-7)
    from deepmd_lite.calculator import Calculator

    frame, last = frames[-1], thermo[-1]
    forces, energy = frame.get_forces(), frame.get_potential_energy()
    stress = frame.get_stress()
    frame.calc = Calculator("cu.dpl")
    np.testing.assert_allclose(frame.get_forces(), forces, atol=1e-5)  # 8 digits in the file
    np.testing.assert_allclose(frame.get_stress(), stress, atol=1e-6)
    assert energy == pytest.approx(float(last["potential_eV"]), abs=1e-6)
    names = sorted(p.name for p in (folder / "run/restart").iterdir())
    assert names == [f"step-{n:012d}" for n in (8, 12)]
    assert "µs/atom/step" in (folder / "run/log").read_text()


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_a_run_does_without_an_output(folder, monkeypatch, closed):
    """As `>&-` and `2>&-` leave it."""
    monkeypatch.setattr(sys, closed, None)
    assert run_input("md.yaml").steps == 12


def test_an_error_of_one_rank_ends_all_without_an_output_too(monkeypatch):
    class Two(Communicator):
        size = 2

    monkeypatch.setattr("sys.stderr", None)
    with pytest.raises(SystemExit), guarded(Two()):
        raise ValueError("of this rank alone")


def test_a_second_run_does_not_overwrite_the_first(folder):
    run_input("md.yaml", quiet=True)
    before = (folder / "run/thermo.csv").read_text()
    with pytest.raises(InputError, match=r"holds a run already.*--continue"):
        run_input("md.yaml", quiet=True)
    assert (folder / "run/thermo.csv").read_text() == before
    for manifest in (folder / "run/restart").glob("*/manifest.json"):
        manifest.unlink()
    with pytest.raises(InputError, match=r"run: holds a run .* ended before its first restart"):
        run_input("md.yaml", quiet=True)


def test_going_on_appends_and_drops_what_came_after_the_restart(folder):
    whole = yaml.safe_load((folder / "md.yaml").read_text())
    run_input({**whole, "output": {**whole["output"], "directory": "whole"}}, quiet=True)
    run_input({**whole, "steps": 8}, quiet=True)
    with open("run/thermo.csv", "a") as f:  # as left by a run that was killed at step 11
        f.write("10,1.0,0,0,0\n")
    result = run_input(whole, resume=True, quiet=True)
    assert result.steps == 4
    for name in ("thermo.csv", "trajectory.extxyz"):
        assert (folder / "run" / name).read_text() == (folder / "whole" / name).read_text()
    with pytest.raises(InputError, match="is at step 12 already"):
        run_input(whole, resume=True, quiet=True)


def test_a_format_that_comes_back_finds_its_file(folder):
    """What an earlier part of the run wrote in it is kept."""
    whole = yaml.safe_load((folder / "md.yaml").read_text())

    def part(steps, kind, **more):
        output = {**whole["output"], "trajectory": 2, "format": kind}
        run_input({**whole, "steps": steps, "output": output}, quiet=True, **more)

    part(4, "traj")
    part(8, "extxyz", resume=True)
    part(12, "traj", resume=True)
    frames = [ase.io.read(f"run/trajectory.{kind}", ":") for kind in ("traj", "extxyz")]
    assert [len(own) for own in frames] == [5, 2]  # of steps 0 2 4 10 12, and 6 8


def test_a_trajectory_that_was_moved_away(folder):
    """The run goes on with a link to where it is now, or in another format."""
    whole = yaml.safe_load((folder / "md.yaml").read_text())
    path, moved = folder / "run/trajectory.extxyz", folder / "archive.extxyz"

    def part(steps, kind, **more):
        output = {**whole["output"], "trajectory": 2, "format": kind}
        run_input({**whole, "steps": steps, "output": output}, quiet=True, **more)

    part(4, "extxyz")
    path.rename(moved)
    with pytest.raises(InputError, match=r"is not there any more.*a link.*format"):
        part(8, "extxyz", resume=True)
    path.symlink_to(moved)
    part(8, "extxyz", resume=True)
    assert len(ase.io.read(moved, ":")) == 5
    path.unlink()
    part(12, "lammps", resume=True)
    assert (folder / "run/trajectory.lammpstrj").read_text().count("TIMESTEP") == 2
    assert len(ase.io.read(moved, ":")) == 5


def test_a_run_of_no_steps_is_its_beginning(folder):
    whole = yaml.safe_load((folder / "md.yaml").read_text())
    run_input({**whole, "output": {**whole["output"], "directory": "whole"}}, quiet=True)
    run_input({**whole, "steps": 0}, quiet=True)
    run_input(whole, resume=True, quiet=True)
    for name in ("thermo.csv", "trajectory.extxyz"):
        assert (folder / "run" / name).read_text() == (folder / "whole" / name).read_text()
    simulation = Simulation(copper(), PairPotential(), output={"directory": "twice", "thermo": 1})
    simulation.run(0)
    simulation.run(2)
    assert [row["step"] for row in rows("twice/thermo.csv")] == ["0", "1", "2"]


def test_a_failed_start_leaves_no_files(tmp_path):
    """Though there was something to warn of before it failed."""
    barostat = {"type": "npt-scr", "temperature": 300, "pressure": "1 bar"}
    options = {"ensemble": barostat, "output": tmp_path / "run"}
    model = PairPotential()
    model.provenance = {}
    with pytest.raises(InputError, match="all are zero"):
        Simulation(copper(), model, **options)
    run = Simulation(copper(), model, velocities={"temperature": 300}, **options)
    assert "does not say whether it was trained on virials" in (tmp_path / "run/log").read_text()
    run.run(1)


def test_a_restart_from_within_its_folder(tmp_path, monkeypatch):
    Simulation(copper(), PairPotential(), output=tmp_path / "run").run(3)
    (found,) = (tmp_path / "run/restart").glob("step-*")
    monkeypatch.chdir(found.parent)
    again = Simulation(None, PairPotential(), resume=found.name, output=tmp_path / "run")
    again.run(2)
    assert again.step == 5


def test_restarts_may_lie_elsewhere(tmp_path):
    """Where `restart` is a link, to a faster disk for example."""
    Simulation(copper(), PairPotential(), output=tmp_path / "run").run(3)
    (tmp_path / "run/restart").rename(tmp_path / "fast")
    (tmp_path / "run/restart").symlink_to(tmp_path / "fast")
    options = {"resume": tmp_path / "run", "output": tmp_path / "run"}
    assert Simulation(None, PairPotential(), **options).run(2).thermo.step == 5


def test_going_on_in_another_folder(folder):
    """Files begin there; those of the first folder stay as they are."""
    run_input("md.yaml", quiet=True)
    before = (folder / "run/thermo.csv").read_text()
    output = {"directory": "other", "thermo": 2}
    simulation = Simulation(None, "cu.dpl", resume="run", timestep=0.1, output=output)
    simulation.run(4)
    assert [row["step"] for row in rows("other/thermo.csv")] == ["14", "16"]
    assert (folder / "run/thermo.csv").read_text() == before
    again = Simulation(None, "cu.dpl", resume="other", timestep=0.1, output=output)
    again.run(2)
    assert [row["step"] for row in rows("other/thermo.csv")] == ["14", "16", "18"]


def test_atoms_held_by_the_structure_are_said_and_stay_held(folder):
    atoms = ase.io.read("cu.extxyz")
    atoms.set_constraint(FixAtoms(indices=[3]))
    ase.io.write("cu.traj", atoms)
    whole = {**yaml.safe_load((folder / "md.yaml").read_text()), "structure": "cu.traj"}
    run_input({**whole, "steps": 6}, quiet=True)
    assert "2 atoms are held, by constraints of the structure" in (folder / "run/log").read_text()
    run_input(whole, resume=True, quiet=True)
    first, *_, last = ase.io.read("run/trajectory.extxyz", ":")
    still = np.flatnonzero(np.abs(first.positions - last.positions).max(axis=1) < 1e-7)
    assert still.tolist() == [3, 35]


def test_a_deviation_written_by_others_is_left_alone(folder):
    """model_devi.out is also what `dpl devi` writes: a run of one model does not own it."""
    whole = yaml.safe_load((folder / "md.yaml").read_text())
    run_input({**whole, "steps": 8}, quiet=True)
    (folder / "run/model_devi.out").write_text("of another command\n")
    run_input(whole, resume=True, quiet=True)
    assert (folder / "run/model_devi.out").read_text() == "of another command\n"


@pytest.fixture
def begun(folder):
    """The input of a run of 8 steps."""
    whole = yaml.safe_load((folder / "md.yaml").read_text())
    run_input({**whole, "steps": 8}, quiet=True)
    return whole


@pytest.mark.parametrize(
    "change",
    [
        {"masses": {"Cu": 64.0}},
        {"frozen": {"indices": [0]}},
        {"replicate": [1, 1, 3]},
        {"structure": "other.extxyz"},
        {"velocities": {"temperature": 80, "seed": 4}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_changes_that_would_have_no_effect_are_refused(begun, folder, change):
    ase.io.write("other.extxyz", copper(2))
    before = {p: p.read_bytes() for p in sorted((folder / "run").iterdir()) if p.is_file()}
    (key,) = change
    with pytest.raises(InputError, match=f"^{key}.* differs .* has no effect .* begin a new run"):
        run_input({**begun, **change}, resume=True, quiet=True)
    assert before == {p: p.read_bytes() for p in sorted((folder / "run").iterdir()) if p.is_file()}


def test_changes_that_count_are_said(begun, folder):
    model = random_potential(("Cu",), rcut=4.0, seed=9)
    save_model(model, "other.dpl")
    langevin = {**begun["ensemble"], "temperature": 60}
    changed = {**begun, "model": "other.dpl", "ensemble": langevin, "timestep": 0.2}
    run_input(changed, resume=True, quiet=True)
    notes = [x for x in (folder / "run/log").read_text().splitlines() if x.startswith("note: ")]
    said = "differs from the input that the run began with"
    assert sorted(notes) == [
        f"note: ensemble/temperature {said}: 50 then, 60 now",
        f"note: model {said}",
        f"note: timestep {said}: 0.1 then, 0.2 now",
    ]


def test_another_ensemble_is_said_as_a_whole(begun, folder):
    strain = {"type": "strain", "axis": "a", "rate": -2e-5}
    run_input({**begun, "ensemble": strain}, resume=True, force=True, quiet=True)
    notes = [x for x in (folder / "run/log").read_text().splitlines() if x.startswith("note: ")]
    (said,) = [x for x in notes if "differs" in x]
    assert said.startswith("note: ensemble differs from the input that the run began with: {type: ")
    assert said.endswith(
        "temperature: 50, friction: 0.05, seed: 1} then, {type: strain, axis: a, rate: -2e-05, "
        "measure: engineering, lateral: fixed, thermostat: none} now"
    )


def test_another_ramp_goes_over_the_steps_that_are_left(begun, folder):
    """From where the run is; the same ramp goes on as it began, and says when it is over."""
    log = folder / "run/log"

    def heated(temperature, steps):
        ramp = {**begun["ensemble"], "temperature": temperature}
        run_input({**begun, "ensemble": ramp, "steps": steps}, resume=True, quiet=True)
        return json.loads(next((folder / "run/restart").glob(f"*{steps}/*.json")).read_text())

    ramp = heated([100, 20], 16)["integrator"]
    assert (ramp["ramp_start"], ramp["ramp_steps"]) == (8, 8)
    assert "the ramp goes from step 8 to 16\n" in log.read_text()
    ramp = heated([100, 20], 20)["integrator"]
    assert (ramp["ramp_start"], ramp["ramp_steps"]) == (8, 8)
    assert "note: the ramp goes from step 8 to 16, and is over: its last values" in log.read_text()


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        ({}, ["velocities: drawn at 50 K; those of the structure are not used"]),
        (
            {"velocities": None},
            ["velocities: those of the structure", "note: its 2 copies have the same velocities"],
        ),
        (
            {"velocities": None, "replicate": 1, "ensemble": "nve"},
            ["velocities: those of the structure", "0.001 Å/fs; this motion stays"],
        ),
        (
            {"velocities": None, "replicate": 1, "ensemble": BUSSI},
            ["velocities: those of the structure", "0.001 Å/fs; the thermostat would feed"],
        ),
        ({"velocities": None, "structure": "rest.extxyz"}, ["velocities: all atoms begin at rest"]),
    ],
    ids=["drawn", "copies", "nve", "bussi", "rest"],
)
def test_what_moves_the_atoms_is_said(folder, change, lines):
    atoms = ase.io.read("cu.extxyz")
    ase.io.write("rest.extxyz", atoms)
    atoms.set_velocities(np.random.default_rng(1).normal(size=(len(atoms), 3)) * 0.01)
    momentum = atoms.get_momenta().sum(axis=0) / atoms.get_masses().sum()
    atoms.set_velocities(atoms.get_velocities() - momentum + [0.001 / fs, 0.0, 0.0])
    ase.io.write("cu.extxyz", atoms)
    whole = yaml.safe_load((folder / "md.yaml").read_text())
    run_input({**whole, **change, "steps": 1}, quiet=True)
    said = (folder / "run/log").read_text().splitlines()
    first = next(i for i, line in enumerate(said) if line.startswith("velocities: "))
    for line, expected in zip(said[first:], lines, strict=False):
        assert expected in line
    moves = [line for line in said if "moves as a whole" in line]
    assert len(moves) == any("this motion" in x or "would feed" in x for x in lines)


def test_what_is_free_to_change_is_not_said(begun, folder):
    """Files that have moved and velocities left out are no changes; the structure may be gone."""
    (folder / "elsewhere").mkdir()
    for name in ("cu.dpl", "cu.extxyz"):
        (folder / name).rename(folder / "elsewhere" / name)
    moved = {"model": "elsewhere/cu.dpl", "structure": "elsewhere/cu.extxyz"}
    output = {**begun["output"], "thermo": 1}
    begun.pop("velocities")
    run_input({**begun, **moved, "steps": 9, "output": output}, resume=True, quiet=True)
    (folder / "elsewhere/cu.extxyz").unlink()
    run_input({**begun, "model": "elsewhere/cu.dpl", "steps": 10}, resume=True, quiet=True)
    assert "note:" not in (folder / "run/log").read_text()


def test_paths_with_an_at_sign(folder):
    """Of the structure, with and without the number of a frame, found beside the input."""
    (folder / "a@b").mkdir()
    for name in ("si@ge.extxyz", "cu@0"):
        ase.io.write(f"a@b/{name}", [copper(1), copper(2)], format="extxyz")
    given = {**yaml.safe_load((folder / "md.yaml").read_text()), "replicate": [1, 1, 1]}
    names = {"si@ge.extxyz": 32, "si@ge.extxyz@0": 4, "a@b/cu@0": 32, "cu@0@0": 4}
    for structure, n in names.items():
        given |= {"structure": structure, "steps": 0, "output": f"run-{n}-{structure[0]}"}
        (folder / "a@b/md.yaml").write_text(yaml.safe_dump(given))
        assert run_input("a@b/md.yaml", quiet=True).n_atoms == n
        (folder / "a@b/md.yaml").write_text(yaml.safe_dump({**given, "steps": 1}))
        assert run_input("a@b/md.yaml", resume=True, quiet=True).steps == 1


def test_restarts_without_a_record_are_read(begun, folder):
    for path in (folder / "run/restart").glob("*/manifest.json"):
        header = json.loads(path.read_text())
        header.pop("began_with")
        header.pop("sha256")
        path.write_text(json.dumps({**header, "sha256": restart._digest(header)}))
    assert run_input({**begun, "masses": {"Cu": 64.0}}, resume=True, quiet=True).steps == 4
    assert "note: the restart has no record of the input" in (folder / "run/log").read_text()


def test_nothing_to_go_on_from(folder):
    with pytest.raises(InputError, match="no restart to continue from"):
        run_input("md.yaml", resume=True, quiet=True)


def test_masses_and_velocities_of_the_structure_are_kept():
    atoms = copper()
    atoms.set_masses(np.linspace(1, 60, len(atoms)))
    atoms.set_velocities(np.random.default_rng(0).normal(size=(len(atoms), 3)) * 0.01)
    out = Simulation(atoms, PairPotential(), replicate=(2, 1, 1)).atoms
    np.testing.assert_allclose(out.get_masses(), np.tile(atoms.get_masses(), 2))
    np.testing.assert_allclose(out.get_velocities(), np.tile(atoms.get_velocities(), (2, 1)))
    heavy = Simulation(copper(), PairPotential(), masses={"Cu": 65.0}).atoms
    np.testing.assert_allclose(heavy.get_masses(), 65.0)


def test_velocity_units():
    """An atom alone flies velocity · time."""
    atoms = bulk("Cu", cubic=True, a=30.0)[:1]
    atoms.set_velocities([[0.02 / fs, 0, 0]])  # 0.02 Å/fs
    simulation = Simulation(atoms, PairPotential(), timestep=2.0)
    simulation.run(50)
    assert simulation.atoms.positions[0, 0] == pytest.approx(2.0)
    assert simulation.time == 100.0


# --- lists, launchers -----------------------------------------------------------------------


def test_lists_are_reused_and_never_stale():
    """Energies along a hot run are those of a list made at every step."""
    options = {"velocities": {"temperature": 2000}, "timestep": 2.0}
    lazy = Simulation(copper(3), PairPotential(), skin=0.5, **options)
    eager = Simulation(copper(3), PairPotential(), skin=1e-6, **options)
    builds, n_steps = 0, 60
    for _ in range(n_steps // 10):
        a, b = lazy.run(10), eager.run(10)
        builds += a.list_builds
        assert a.thermo.potential == pytest.approx(b.thermo.potential, abs=1e-9)
    assert 2 <= builds <= n_steps / 3


@pytest.mark.parametrize("tasks", [{}, {"SLURM_STEP_NUM_TASKS": "1"}])
def test_without_a_launcher_there_is_one_rank(tasks):
    """As in the batch script of a job of four tasks."""
    environment = {"SLURM_NTASKS": "4", "SLURM_PROCID": "0", **tasks}
    assert type(find_communicator(environment)) is Communicator


TASKS = {"SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"}


def test_tasks_of_srun_that_mpi_does_not_connect_are_an_error(folder):
    """Where its plugin for MPI is another one than mpi4py's."""
    pytest.importorskip("mpi4py")
    environment = {**os.environ, **TASKS, "PMI_RANK": "1"}
    command = [sys.executable, "-m", "deepmd_lite", "md", "md.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    (line,) = done.stderr.splitlines()
    assert line.startswith("dpl md: error: srun started 2 tasks, but MPI does not connect them")
    assert done.returncode == 1
    assert not Path("run").exists()


def test_tasks_of_srun_without_mpi_may_be_runs_of_their_own(folder):
    """Those that want one folder are told what connects them."""
    environment = {**os.environ, **TASKS}
    command = [sys.executable, "-m", "deepmd_lite", "md", "md.yaml"]
    Path("run").mkdir()
    with InUse("run"):
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert "; srun started 2 tasks, which srun --mpi=pmix or --mpi=pmi2 connects" in done.stderr
    shutil.rmtree("run")
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)


def test_ranks_of_mpiexec_within_a_job_of_slurm(folder):
    """Its mpiexec may itself have been started by srun, once on each machine."""
    pytest.importorskip("mpi4py")
    for n in (1, 2):
        launcher = Path(sys.executable).parent / "mpiexec"
        command = [launcher, "-n", str(n), sys.executable, "-m", "deepmd_lite", "md", "md.yaml"]
        environment = {**os.environ, **TASKS, "OMP_NUM_THREADS": "1"}
        subprocess.run([*command, "--dry-run"], check=True, env=environment)


def test_a_launcher_without_its_mpi_is_an_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(InputError, match=r"pip install 'deepmd_lite\[mpi\]'"):
        find_communicator({"OMPI_COMM_WORLD_SIZE": "4"})
    assert type(find_communicator({"PMI_SIZE": "1"})) is Communicator


def test_mpi_is_loaded_when_asked_for_and_a_launcher_of_another_one_is_an_error():
    """Matplotlib is not loaded either: one process for all that a fresh one must tell."""
    pytest.importorskip("mpi4py")
    code = (
        "import sys\n"
        "from deepmd_lite.md import communicator\n"
        "print([x for x in ('mpi4py', 'matplotlib') if x in sys.modules])\n"
        "try: communicator({'OMPI_COMM_WORLD_SIZE': '4'})\n"
        "except Exception as e: print(e)\n"
        "print('mpi4py' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded, message, then = done.stdout.splitlines()
    assert loaded == "[]"
    assert "each finds itself alone" in message
    assert then == "True"


def test_time_goes_on_from_run_to_run():
    simulation = Simulation(copper(), PairPotential(), velocities={"temperature": 300})
    times = [simulation.run(n).thermo.time for n in (3, 0, 4)]
    assert times == [3.0, 3.0, 7.0]
    assert all(a <= b for a, b in pairwise(times))


def test_editors_know_the_keywords_of_a_simulation():
    assert set(Keys.__annotations__) == set(Settings.model_fields)


def test_a_result_shows_itself_as_its_summary():
    result = Simulation(bulk("Cu", cubic=True), PairPotential()).run(3)
    assert repr(result) == "\n".join(result.summary())
    assert repr(result).startswith("3 steps of 4 atoms on 1 rank")
