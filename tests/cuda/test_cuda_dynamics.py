"""Molecular dynamics whose state stays on a device, beside the same on the processor."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import stand_in_plumed
import torch
from ase import Atoms
from ase.build import bulk
from ase.io import read
from models import random_atoms, random_potential
from strict_device import DeviceTensor

from deepmd_lite import kernels
from deepmd_lite.md import Simulation
from deepmd_lite.md.comm import SharedError
from deepmd_lite.system import InputError

SILICON = Path(__file__).parents[2] / "data" / "silicon" / "silicon.dpl"
ENSEMBLES = {
    "nve": {"type": "nve"},
    "langevin": {"type": "nvt-langevin", "temperature": 900, "friction": 0.1},
    "bussi": {"type": "nvt-bussi", "temperature": 900},
    "chain": {"type": "nvt-nhc", "temperature": 900},
    "rescaled cell": {"type": "npt-scr", "temperature": 900, "pressure": "5 GPa"},
    "mtk": {"type": "npt-mtk", "temperature": 900, "pressure": "5 GPa"},
    "heat flow": {"type": "heat-flow", "axis": "b", "hot": 900, "cold": 300, "width": 1.2},
    "strain": {"type": "strain", "axis": "a", "rate": 1e-3},
}
OBSERVE = {
    "rdf": {"every": 2, "r_max": 6.5},  # beyond the cutoff: a list of its own
    "msd": {"every": 1, "window": 10, "origins": 2},
    "vacf": {"every": 1, "window": 10, "origins": 2},
    "stress": {"every": 1, "window": 10},
    "temperature_profile": {"every": 1, "bins": 3},
}


def crystal() -> Atoms:
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.05, seed=2)
    return atoms


def simulation(device, atoms=None, model=SILICON, **options):
    defaults = {"velocities": {"temperature": 900, "seed": 3}, "timestep": 2.0}
    return Simulation(atoms or crystal(), model, device=device, **{**defaults, **options})


@pytest.mark.parametrize("ensemble", list(ENSEMBLES))
def test_every_ensemble(device, ensemble):
    """Lists are made anew on the way. The same bits each time, and what it conserves."""
    options = {"ensemble": ENSEMBLES[ensemble], "skin": 0.2}
    runs = [simulation(where, **options) for where in ("cpu", "cuda", "cuda")]
    assert runs[1].state.velocities.device == device.torch_device
    for run in runs:
        assert run.run(10).list_builds > 0
    expected, found, again = (run.state.to(torch.device("cpu")) for run in runs)
    assert torch.equal(found.positions, again.positions)
    assert torch.equal(found.ids, expected.ids)
    for name in ("positions", "velocities"):
        a, b = getattr(found, name), getattr(expected, name)
        torch.testing.assert_close(a, b, rtol=0, atol=1e-8)
    np.testing.assert_allclose(runs[1].engine.cell, runs[0].engine.cell, atol=1e-9)
    assert runs[1].thermo.conserved == pytest.approx(runs[0].thermo.conserved, abs=1e-7)


def written(folder: Path) -> dict[str, np.ndarray]:
    """The tables and frames of a run; words are nan."""
    tables = {x.name: np.genfromtxt(x, delimiter=",")[1:] for x in folder.rglob("*.csv")}
    frames = read(folder / "trajectory.extxyz", ":")
    arrays = [np.hstack([x.positions, x.get_forces(), x.get_velocities()]) for x in frames]
    deviation = np.loadtxt(folder / "model_devi.out")
    return tables | {"trajectory": np.array(arrays), "deviation": deviation}


def test_output_and_a_restart(device, tmp_path):
    """Thermodynamics, frames, deviation and observables; and a restart goes on with its bits."""
    models = [random_potential(("Si",), seed=seed) for seed in (1, 2)]
    atoms = random_atoms("Si16", 7.0, 3)
    every = {"thermo": 1, "trajectory": 2, "restart": 6, "model_devi": 2, "observe": OBSERVE}

    def run(name, where, steps, **options):
        given = {"ensemble": ENSEMBLES["langevin"], "timestep": 0.5, "skin": 0.3, **options}
        output = {"directory": tmp_path / name, **every}
        made = simulation(where, atoms, copy.deepcopy(models), output=output, **given)
        made.run(steps)
        return made.state.to(torch.device("cpu"))

    run("cpu", "cpu", 12)
    whole = run("whole", "cuda", 12)
    run("parts", "cuda", 6)
    parts = run("parts", "cuda", 6, resume=tmp_path / "parts", velocities=None)
    assert torch.equal(parts.positions, whole.positions)
    assert torch.equal(parts.carried["msd"], whole.carried["msd"])
    expected, found = written(tmp_path / "cpu"), written(tmp_path / "whole")
    tables = ("thermo", "rdf", "msd", "vacf", "stress", "temperature_profile")
    assert {f"{name}.csv" for name in tables} < set(expected)
    assert found.keys() == expected.keys() == written(tmp_path / "parts").keys()
    for name, numbers in expected.items():
        assert np.isfinite(numbers).sum() > 4
        np.testing.assert_allclose(found[name], numbers, rtol=1e-5, atol=1e-7, err_msg=name)


def test_atoms_that_are_held(device):
    made = simulation("cuda", frozen=[{"indices": [0, 3]}])
    before = made.atoms.positions
    made.run(3)
    moved = np.abs(made.atoms.positions - before).max(axis=1)
    assert (moved[[0, 3]] == 0.0).all()
    assert (np.delete(moved, [0, 3]) > 0.0).all()


def test_a_relaxation(device):
    ensemble = {"type": "relax", "coupling": "anisotropic"}
    options = {"ensemble": ensemble, "skin": 0.2, "velocities": None}
    runs = [simulation(where, **options) for where in ("cpu", "cuda", "cuda")]
    for run in runs:
        run.run(200)
        assert run.integrator.ends
    expected, found, again = (run.state.to(torch.device("cpu")) for run in runs)
    assert torch.equal(found.positions, again.positions)
    torch.testing.assert_close(found.positions, expected.positions, rtol=0, atol=1e-8)
    np.testing.assert_allclose(runs[1].engine.cell, runs[0].engine.cell, atol=1e-9)


def test_atoms_that_are_driven_and_pulled(device):
    """And a thermostat on some; loads are summed in whole numbers there as well."""
    options = {
        "moving": {"axis": "z", "below": 2.0, "velocity": [0.01, 0.0, 0.005]},
        "pull": {"indices": "::5", "axis": "z", "above": 2.0, "force": [0.0, 0.1, 0.0]},
        "ensemble": {**ENSEMBLES["langevin"], "atoms": {"indices": "::2"}},
        "skin": 0.2,
    }
    runs = [simulation(where, **options) for where in ("cpu", "cuda", "cuda")]
    for run in runs:
        run.run(20)
    expected, found, again = (run.state.to(torch.device("cpu")) for run in runs)
    assert torch.equal(found.positions, again.positions)
    torch.testing.assert_close(found.positions, expected.positions, rtol=0, atol=1e-8)
    conserved = [run.thermo.conserved for run in runs]
    assert conserved[1] == pytest.approx(conserved[0], abs=1e-7)
    loads = [
        [float(x) for x in run.engine.drive.rows(run.comm, 20, 0.0).split(",")] for run in runs
    ]
    np.testing.assert_allclose(loads[1], loads[0], atol=1e-6)
    assert loads[1] == loads[2]


def test_a_bias_of_plumed(device, monkeypatch):
    """Of atoms, and of the energy, which scales the forces on all."""
    monkeypatch.setitem(sys.modules, "plumed", stand_in_plumed)
    lines = [
        *("d: DISTANCE ATOMS=1,6", "RESTRAINT ARG=d AT=0.5 KAPPA=2000"),
        *("e: ENERGY", "RESTRAINT ARG=e AT=0 KAPPA=0 SLOPE=0.2"),
    ]
    options = {"ensemble": ENSEMBLES["mtk"], "skin": 0.2, "plumed": lines}
    runs = [simulation(where, **options) for where in ("cpu", "cuda")]
    for run in runs:
        run.run(10)
    expected, found = (run.state.to(torch.device("cpu")) for run in runs)
    torch.testing.assert_close(found.positions, expected.positions, rtol=0, atol=1e-8)
    expected, found = (run.bias.energy(run.engine) for run in runs)
    assert found == pytest.approx(expected, abs=1e-7)
    assert abs(found) > 0.1


@pytest.mark.parametrize("pbc", [False, [True, True, False]])
def test_open_boundaries(device, pbc):
    atoms = crystal()
    atoms.pbc = pbc
    expected, found = (simulation(where, atoms) for where in ("cpu", "cuda"))
    for run in (expected, found):
        run.run(3)
    np.testing.assert_allclose(found.atoms.positions, expected.atoms.positions, atol=1e-9)


@pytest.mark.parametrize(
    ("guards", "timestep", "words"),
    [
        ({"distance": 2.3}, 0.1, r"atoms? .* and .* are 2\.\d+ Å apart, less than 2.3 Å"),
        ({"force": 0.1}, 0.1, r"atom \d \(Si\) has a force of"),
        ({"displacement": 1e-3}, 1.0, r"atom \d \(Si\) moves"),
    ],
)
def test_guards_name_an_atom(device, guards, timestep, words):
    messages = []
    for where in ("cpu", "cuda"):
        with pytest.raises((SharedError, InputError), match=words) as error:
            simulation(where, guards=guards, timestep=timestep).run(3)
        messages.append(str(error.value))
    assert messages[0] == messages[1]


# --- what a step costs --------------------------------------------------------------------------


def of_a_step(traffic, ensemble, timestep=0.1):
    """What passes in a step without a new list, and the numbers of an atom's state that do."""
    made = simulation("cuda", ensemble=ENSEMBLES[ensemble], timestep=timestep)
    made.run(1)
    before = copy.copy(traffic)
    made.run(2)
    two = traffic.since(before)
    before = copy.copy(traffic)
    result = made.run(5)  # a run ends with the thermodynamics of that moment
    assert result.list_builds == 0
    five = traffic.since(before)
    return {name: (getattr(five, name) - getattr(two, name)) / 3 for name in vars(five)}


@pytest.mark.parametrize(
    ("ensemble", "waits", "to_host", "to_device"),
    [
        *(("nve", 3, 2, 0), ("langevin", 3, 2, 0)),
        *(("bussi", 4, 2, 0), ("chain", 5, 2, 0), ("mtk", 5, 4, 8)),
    ],
)
def test_a_step_copies_no_atoms(traffic, ensemble, waits, to_host, to_device):
    """The host waits for drift and speed, for faults of the kernels, and for force, energy and
    temperature of the guards; thermostats that scale velocities need the kinetic energy. Faults
    come without torch, and a kinetic energy alone as one number without a copy."""
    found = of_a_step(traffic, ensemble)
    assert found["waits"] == waits
    assert found["to_device"] == to_device
    assert found["to_host"] == to_host
    assert found["numbers"] < 120  # none of the atoms' 8 · 13


def test_an_adaptive_timestep_comes_with_what_the_guards_wait_for(traffic):
    fixed = of_a_step(traffic, "langevin")
    found = of_a_step(traffic, "langevin", {"max": 0.1, "displacement": 1e-3})
    assert found["numbers"] == fixed["numbers"] + 1
    for name in ("waits", "to_device", "to_host"):
        assert found[name] == fixed[name]


def test_an_adaptive_timestep_is_that_of_the_processor(device):
    timestep = {"max": 2.0, "displacement": 5e-3}
    runs = [simulation(where, timestep=timestep) for where in ("cpu", "cuda")]
    for _ in range(3):
        means = [run.run(4).timestep for run in runs]
        assert means[0] < 2.0
        assert means[1] == pytest.approx(means[0], rel=1e-9)


def test_an_old_list_makes_room(traffic, monkeypatch):
    made = simulation("cuda")
    old = weakref.ref(made.engine.env.indices)
    assert isinstance(old(), DeviceTensor)
    seen = []
    original = kernels.cuda.neighbor_list

    def spy(*arguments):
        seen.append(old())
        return original(*arguments)

    monkeypatch.setattr(kernels.cuda, "neighbor_list", spy)
    made.engine.refresh(stale=True)
    assert seen == [None]


def test_two_ranks(emulated_path):
    """Ghosts of the other rank, and nothing else, pass through the host."""
    pytest.importorskip("mpi4py")
    here = Path(__file__).parent
    launcher = Path(sys.executable).parent / "mpiexec"
    paths = [str(here), str(here.parent), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [launcher, "-n", "2", sys.executable, here / "two_ranks.py", emulated_path],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.stdout == "two ranks agree\n", done.stderr[-2000:]
    assert done.returncode == 0
