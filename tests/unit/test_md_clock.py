"""Time and timestep of a run: what is refused, said, kept in restarts, and cannot be changed."""

import csv
import json
from pathlib import Path

import ase.io
import numpy as np
import pytest
import yaml
from ase.build import bulk
from models import random_potential
from pair_potential import PairPotential

from deepmd_lite.cli import main
from deepmd_lite.md import SharedError, Simulation
from deepmd_lite.md.run import run_input
from deepmd_lite.model import save_model
from deepmd_lite.system import InputError

ADAPTIVE = {"max": 2.0, "displacement": 0.01}
LANGEVIN = {"type": "nvt-langevin", "temperature": 800, "friction": 0.02}


def copper():
    return bulk("Cu", cubic=True, a=3.7).repeat(2)


def simulation(folder=None, **keys):
    given = {"velocities": {"temperature": 1500}, "timestep": ADAPTIVE, "ensemble": LANGEVIN}
    if folder is not None:
        given["output"] = {"directory": folder, "thermo": 3, "trajectory": 5, "restart": 7}
    atoms = None if "resume" in keys else copper()
    return Simulation(atoms, PairPotential(), **given | keys)


def rows(folder):
    with open(folder / "thermo.csv") as f:
        return list(csv.DictReader(f))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"timestep": {"max": 0}}, "key 'timestep/max': .*greater than 0"),
        ({"timestep": {"displacement": -1}}, "key 'timestep/displacement': .*greater than 0"),
        ({"timestep": {"maximum": 1}}, "unknown key 'timestep/maximum'; did you mean 'max'?"),
        ({"ensemble": {"type": "nvt-nhc", "temperature": 300}}, "'nvt-nhc' needs steps of one"),
        ({"ensemble": {"type": "nvt-bussi", "temperature": 300}}, "'nvt-bussi' needs steps of one"),
        ({"ensemble": "relax", "velocities": None}, "'relax' needs steps of one length"),
        ({"ensemble": LANGEVIN | {"temperature": [300, 900]}}, "a ramp .* goes by steps"),
        ({"moving": {"indices": [0], "velocity": [0, 0, 0.001]}}, "'moving' needs steps of one"),
        ({"plumed": ["d: DISTANCE ATOMS=1,2"]}, "'plumed' needs steps of one length"),
        *(
            ({"output": {"observe": {name: {}}}}, f"'{name}' needs steps of one length")
            for name in ("msd", "vacf", "stress", "heat_flux")
        ),
    ],
)
def test_what_needs_equal_steps_is_refused_in_a_line(keys, message):
    with pytest.raises(InputError, match=message) as e:
        simulation(**keys)
    assert "\n" not in str(e.value)


def test_averages_and_pulls_go_with_it(tmp_path):
    observe = {"rdf": {"every": 2}, "temperature_profile": {"every": 2}}
    pull = {"indices": [0], "force": [0, 0, 0.01]}
    simulation(output={"directory": tmp_path / "run", "observe": observe}, pull=pull).run(4)
    assert (tmp_path / "run/rdf.csv").exists()


def test_the_timestep_is_read_only():
    run = simulation(timestep=2.0)
    run.run(2)
    with pytest.raises(AttributeError, match=r"timestep|set attribute"):
        run.timestep = 0.5
    run.run(1)
    assert (run.timestep, run.time) == (2.0, 6.0)


def test_parts_are_the_whole(tmp_path):
    """Files and restarts, byte for byte; time is a sum."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    simulation(whole).run(22)
    for steps in (9, 6, 7):
        run = simulation(parts, **({"resume": parts} if parts.exists() else {}))
        result = run.run(steps)
    for name in ("thermo.csv", "trajectory.extxyz"):
        assert (whole / name).read_bytes() == (parts / name).read_bytes()
    shard = "restart/step-000000000022/shard-0000.safetensors"
    assert (whole / shard).read_bytes() == (parts / shard).read_bytes()
    a, b = (
        json.loads((x / "restart/step-000000000022/manifest.json").read_text())
        for x in (whole, parts)
    )
    assert (a["time"], a["memory"]) == (b["time"], b["memory"])
    times = np.array([float(row["time_fs"]) for row in rows(whole)])
    assert len(np.unique(np.diff(times).round(6))) == len(times) - 1  # all different
    assert 0 < result.timestep < 2.0
    assert result.timestep * 7 == pytest.approx(run.time - run.start.time)


def test_a_restart_begins_with_the_timestep_that_was_chosen(tmp_path):
    """Velocities at the end of a step would give another one, in the last digits."""
    run = simulation(tmp_path / "run")
    run.run(7)
    again = simulation(resume=tmp_path / "run")
    assert (again.timestep, again.time) == (run.timestep, run.time)
    shorter = simulation(resume=tmp_path / "run", timestep=ADAPTIVE | {"displacement": 0.005})
    assert shorter.timestep == pytest.approx(0.5 * run.timestep, rel=0.1)


def test_time_goes_on_from_one_kind_to_the_other(tmp_path):
    time = 0.0
    for n, timestep in enumerate((0.5, ADAPTIVE, 0.25)):
        resume = {"resume": tmp_path / "run"} if n else {}
        run = simulation(tmp_path / "run", timestep=timestep, **resume)
        assert run.time == time
        result = run.run(6)
        assert run.time == pytest.approx(time + 6 * result.timestep)
        time = run.time
    assert (run.step, run.timestep) == (18, 0.25)
    table = rows(tmp_path / "run")
    assert [int(row["step"]) for row in table] == list(range(0, 19, 3))
    assert float(table[-1]["time_fs"]) == pytest.approx(time)


def test_large_forces_end_no_adaptive_run():
    """Unless the guard is given: they are what makes the steps short."""
    close = copper()
    close.positions[1] = close.positions[0] + (1.0, 0, 0)
    keys = {"velocities": None, "ensemble": "nve"}
    force = np.abs(Simulation(close, PairPotential()).atoms.get_forces()).max()
    given = {"force": 0.9 * force, "temperature_jump": None}
    assert simulation().guards.force is None
    assert simulation(timestep=1.0).guards.force == 500.0
    with pytest.raises(SharedError, match=r"guards: force.*halve displacement of timestep"):
        Simulation(close, PairPotential(), timestep=ADAPTIVE, guards=given, **keys)


def test_a_run_that_a_guard_ends_tells_its_time(tmp_path):
    """The frame is that of the end of the step, and the message has its timestep."""
    free = simulation()
    timesteps = []
    for _ in range(5):
        timesteps.append(free.timestep)
        free.run(1)
    assert len(set(timesteps)) == 5
    run = simulation(tmp_path / "run")
    run.run(4)
    run.monitor.guards = run.guards.model_copy(update={"force": 1e-9})
    with pytest.raises(SharedError, match=rf"step 5: .*timestep \({timesteps[-1]:g} fs\)"):
        run.run(1)
    frame = ase.io.read(tmp_path / "run/failed.extxyz")
    assert frame.info["time_fs"] == pytest.approx(sum(timesteps))


def test_the_end_of_a_run_says_what_its_energy_did(tmp_path):
    run = simulation(tmp_path / "run", timestep=4.0, ensemble="nve")
    first = run.thermo.conserved
    result = run.run(9)
    change = run.thermo.conserved - first
    assert result.conserved_change == pytest.approx(change, abs=1e-12)
    assert abs(change) > 1e-6
    said = f"conserved energy: last − first {change:+.3g} eV, {1e3 * change / 32:+.3g} meV/atom"
    assert said in (tmp_path / "run/log").read_text()
    relaxed = Simulation(copper(), PairPotential(), ensemble="relax").run(2)
    assert not any("conserved" in line for line in relaxed.summary())


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_model(random_potential(("Cu",), rcut=4.0), tmp_path / "cu.dpl")
    ase.io.write("cu.extxyz", copper())
    data = {"model": "cu.dpl", "structure": "cu.extxyz", "steps": 6, "timestep": {"max": 0.2}}
    data |= {"velocities": {"temperature": 300}, "output": {"directory": "run", "thermo": 2}}
    Path("md.yaml").write_text(yaml.safe_dump(data))
    return data


def test_input_log_and_plan(folder, capsys):
    run_input("md.yaml", quiet=True)
    log = Path("run/log").read_text()
    assert "nve, timestep up to 0.2 fs: no atom moves by more than 0.05 Å in a step" in log
    assert "  timestep 0.2 fs\n" in log
    run_input(folder | {"timestep": 0.1, "steps": 8}, quiet=True, resume=True)
    log = Path("run/log").read_text()
    assert "note: timestep differs from the input that the run began with" in log
    assert not log.split("going on")[1].count("  timestep ")
    assert main(["md", "md.yaml", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "6 steps of at most 0.2 fs: at most 0.0012 ps" in printed
    assert "at most" in printed.split("steps/s, ")[1].split("ns/day")[0]
