"""Atoms that are driven or pulled, and a thermostat that acts on some alone."""

import csv

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.units import fs
from models import random_potential
from pair_potential import PairPotential

from deepmd_lite.md import Simulation, run_input
from deepmd_lite.md.config import MdConfig
from deepmd_lite.model import save_model
from deepmd_lite.schema import parse
from deepmd_lite.system import InputError
from deepmd_lite.units import ACCELERATION

MODEL = PairPotential()
TOP = {"axis": "z", "above": 6.0}
"""Two planes of atoms of `crystal`."""
BOTTOM = {"axis": "z", "below": 1.0}
WARM = {"type": "nvt-langevin", "temperature": 600, "friction": 0.02, "seed": 3}


def crystal():
    atoms = bulk("Cu", cubic=True, a=3.3).repeat(3)
    atoms.rattle(0.05, seed=4)
    return atoms


def gas(n=6):
    """Atoms that do not see one another."""
    return Atoms(
        f"Cu{n}", np.arange(n)[:, None] * [[15.0, 0, 0]], cell=[15.0 * n, 40, 40], pbc=True
    )


def rows(path):
    with open(path) as f:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(f)]


def test_everything_at_one_velocity_is_everything_at_rest():
    """Galilei: a plate that moves on with all other atoms feels what one at rest feels."""
    velocity, steps = np.array([0.013, -0.004, 0.007]), 40
    rng = np.random.default_rng(1)
    own = rng.normal(scale=0.005, size=(108, 3))
    ends, forces = [], []
    for shift in (np.zeros(3), velocity):
        atoms = crystal()
        atoms.set_velocities((own + shift) / fs)
        run = Simulation(atoms, MODEL, timestep=2.0, moving={**TOP, "velocity": shift.tolist()})
        assert run.n_held == 36
        run.run(steps)
        ends.append(run.atoms.positions - 2.0 * steps * shift)
        forces.append(
            np.array(
                [x.split(",")[6:] for x in run.engine.drive.rows(run.comm, 0, 0.0).splitlines()],
                float,
            )
        )
    np.testing.assert_allclose(ends[1], ends[0], atol=1e-10)
    np.testing.assert_allclose(forces[1], forces[0], atol=1e-6)
    assert np.abs(forces[0]).max() > 0.01


def sheared(folder, timestep, time=200.0):
    """A crystal whose upper planes are driven over it."""
    groups = [{**TOP, "velocity": [0.005, 0.0, 0.0]}]
    output = {"directory": folder, "thermo": 1, "trajectory": 10, "restart": 0}
    run = Simulation(
        crystal(), MODEL, timestep=timestep, moving=groups, frozen=BOTTOM, output=output
    )
    run.run(round(time / timestep))
    return run


def test_the_work_on_driven_atoms_is_counted(tmp_path):
    errors = []
    for timestep in (4.0, 2.0):
        sheared(tmp_path / f"{timestep}", timestep)
        found = rows(tmp_path / f"{timestep}/thermo.csv")
        conserved = np.array([row["conserved_eV"] for row in found])
        total = np.array([row["total_eV"] for row in found])
        errors.append(np.abs(conserved - conserved[0]).max())
        assert np.ptp(total) > 20.0
    assert errors[1] < 0.01
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.4)


def test_loads_are_forces_and_ways(tmp_path):
    """The mean force times the way is the work, and so the energy that came in."""
    run = sheared(tmp_path, 1.0)
    loads, thermo = rows(tmp_path / "loads.csv"), rows(tmp_path / "thermo.csv")
    assert [row["step"] for row in loads] == [row["step"] for row in thermo]
    way = np.array([row["dx_A"] for row in loads])
    np.testing.assert_allclose(way, 0.005 * np.array([row["time_fs"] for row in loads]), atol=1e-9)
    work = -sum(row["fx_eV/A"] * step for row, step in zip(loads[1:], np.diff(way), strict=True))
    gained = thermo[-1]["total_eV"] - thermo[0]["total_eV"]
    assert work == pytest.approx(gained, rel=0.01)  # the ends of the sum count half
    assert gained > 20.0
    driven = run.state.carried["moving"][:, 0].bool().numpy()
    own = run.engine.model_forces.numpy()[driven].sum(axis=0)
    np.testing.assert_allclose([loads[-1][f"f{x}_eV/A"] for x in "xyz"], own, atol=1e-6)


def test_what_driven_atoms_do_is_no_diffusion(tmp_path):
    group = {**TOP, "velocity": [0.02, 0.0, 0.0]}
    every = {"thermo": 0, "trajectory": 40, "observe": {"msd": {"every": 1, "window": 41}}}
    run = Simulation(crystal(), MODEL, moving=group, output={"directory": tmp_path, **every})
    run.run(40)
    first, last = ase.io.read(tmp_path / "trajectory.extxyz", ":")
    free = first.positions[:, 2] < 6.0
    expected = ((last.positions - first.positions)[free] ** 2).sum(axis=1).mean()
    assert rows(tmp_path / "msd.csv")[-1]["msd_Cu_A2"] == pytest.approx(expected, rel=1e-6)


def test_frames_show_how_driven_atoms_move(tmp_path):
    sheared(tmp_path, 2.0, 20.0)
    first, last = ase.io.read(tmp_path / "trajectory.extxyz", ":")
    driven = first.positions[:, 2] > 6.0
    np.testing.assert_allclose(last.get_velocities()[driven] * fs, [[0.005, 0, 0]] * 36, atol=1e-9)
    moved = (last.positions - first.positions)[driven]
    np.testing.assert_allclose(moved, [[0.1, 0.0, 0.0]] * 36, atol=1e-7)
    assert not (last.get_velocities()[last.positions[:, 2] < 0.9]).any()


def test_a_constant_force_accelerates():
    """Along a parabola, over the edge of the cell as well, with energy conserved."""
    force = np.array([3.0, 0.0, -2.0])
    pull = [{"indices": [1, 5], "force": force.tolist()}, {"indices": [5], "force": [0, 0.1, 0]}]
    run = Simulation(gas(), MODEL, timestep=2.0, pull=pull)
    assert run.freedom == 18  # the whole does not stay where it is
    before, start = run.thermo.conserved, run.atoms.positions
    run.run(150)
    way = 0.5 * ACCELERATION / 63.546 * 300.0**2
    expected = np.zeros((6, 3))
    expected[1], expected[5] = way * force, way * (force + np.array([0, 0.1, 0]))
    assert np.abs(expected).max() > 15.0
    np.testing.assert_allclose(run.atoms.positions - start, expected, atol=1e-9)
    assert run.thermo.kinetic > 10.0
    assert run.thermo.conserved == pytest.approx(before, abs=1e-9)


def test_energy_with_a_pull_is_conserved_and_the_error_is_second_order():
    errors = []
    for timestep in (4.0, 2.0):
        pull = {**TOP, "force": [0.02, 0.0, 0.05]}
        thermal = {"temperature": 300, "seed": 1}
        run = Simulation(
            crystal(), MODEL, timestep=timestep, pull=pull, velocities=thermal, frozen=BOTTOM
        )
        found = []
        for _ in range(round(200 / timestep)):
            run.run(1)
            found.append(run.thermo.conserved)
        errors.append(np.ptp(found))
        np.testing.assert_array_equal(run.bias.virial, np.zeros((3, 3)))
    assert errors[1] < 0.01
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.4)


def test_a_thermostat_on_some_leaves_the_others_alone():
    run = Simulation(gas(), MODEL, ensemble={**WARM, "atoms": {"indices": [2, 3]}})
    run.run(50)
    speeds = np.linalg.norm(run.atoms.get_velocities(), axis=1)
    np.testing.assert_array_equal(speeds > 0, [False, False, True, True, False, False])


def test_a_thermostat_on_all_that_are_named_is_one_on_all():
    thermal = {"temperature": 300, "seed": 1}
    runs = [
        Simulation(crystal(), MODEL, ensemble={**WARM, **atoms}, velocities=thermal, timestep=2.0)
        for atoms in ({}, {"atoms": {"indices": ":"}})
    ]
    for run in runs:
        run.run(30)
    np.testing.assert_allclose(runs[1].atoms.positions, runs[0].atoms.positions, atol=1e-10)
    assert runs[1].thermo.conserved == pytest.approx(runs[0].thermo.conserved, abs=1e-8)


def test_a_thermostat_may_be_on_several_groups(tmp_path):
    """As `frozen`; a run that goes on keeps them, and one alone is as before."""
    below = {"axis": "y", "below": -9.0}
    several = {**WARM, "atoms": [{"indices": [2, 3]}, {"indices": [3, 5]}]}
    run = Simulation(gas(), MODEL, ensemble=several, output=tmp_path)
    run.run(50)
    speeds = np.linalg.norm(run.atoms.get_velocities(), axis=1)
    np.testing.assert_array_equal(speeds > 0, [False, False, True, True, False, True])
    on = Simulation(None, MODEL, ensemble=several, resume=tmp_path)
    assert on.state.ids[on.state.carried["bath"][:, 0].bool()].tolist() == [2, 3, 5]
    with pytest.raises(InputError, match="ensemble: atoms: no atom meets"):
        Simulation(gas(), MODEL, ensemble={**WARM, "atoms": [{"indices": [2]}, below]})
    alone, listed = (
        parse(MdConfig, {**MINIMAL, "ensemble": {**WARM, "atoms": atoms}}, "md.yaml")
        for atoms in (below, [below])
    )
    assert alone.model_dump(mode="json") == listed.model_dump(mode="json")
    assert alone.model_dump(mode="json")["ensemble"]["atoms"]["below"] == -9.0


@pytest.mark.parametrize(
    ("atoms", "message"),
    [
        ([], "'atoms' is an empty list"),
        ("all", r"key 'ensemble/atoms': expected \{elements: …\}, .* or a list"),
        ([3], r"key 'ensemble/atoms': expected \{elements: …\}"),
        ([{"axis": "z"}], "key 'ensemble/atoms/0': 'axis' needs 'below' or 'above'"),
    ],
)
def test_atoms_of_a_thermostat_that_are_not_named_well(atoms, message):
    with pytest.raises(InputError, match=message) as e:
        parse(MdConfig, {**MINIMAL, "ensemble": {**WARM, "atoms": atoms}}, "md.yaml")
    assert "\n" not in str(e.value)


def test_heat_comes_to_all_by_way_of_some():
    """A bath below warms a crystal that it does not touch above."""
    run = Simulation(
        crystal(), MODEL, timestep=3.0, ensemble={**WARM, "friction": 0.05, "atoms": BOTTOM}
    )
    upper = crystal().positions[:, 2] > 5.0
    run.run(1500)
    kinetic = []
    for _ in range(300):
        run.run(10)
        kinetic.append(0.5 * 63.546 * (run.atoms.get_velocities()[upper] ** 2).sum())
    kelvin = np.mean(kinetic) / (1.5 * upper.sum() * 8.617333262e-5)
    assert kelvin == pytest.approx(600, rel=0.12)


GROUPS = {
    "moving": [{**TOP, "velocity": [0.004, 0.0, -0.001]}, {**BOTTOM, "velocity": [-0.002, 0, 0]}],
    "pull": {
        "indices": "40:60",
        "axis": "z",
        "above": 1.0,
        "below": 6.0,
        "force": [0.0, 0.03, 0.0],
    },
    "ensemble": {**WARM, "atoms": {"axis": "z", "below": 3.5}},
}


@pytest.fixture(name="text")
def _text(tmp_path, monkeypatch):
    """An input of `dpl md`, with a model that knows copper."""
    monkeypatch.chdir(tmp_path)
    save_model(random_potential(("Cu",), rcut=4.0), "cu.dpl")
    ase.io.write("cu.extxyz", crystal())
    text = {"model": "cu.dpl", "structure": "cu.extxyz", "steps": 20, "timestep": 0.5, "skin": 0.2}
    output = {"directory": "run", "thermo": 4, "trajectory": 10, "restart": 0}
    return {**text, **GROUPS, "velocities": {"temperature": 300}, "output": output}


def test_a_run_goes_on_as_if_it_had_not_stopped(text, tmp_path):
    run_input({**text, "output": {**text["output"], "directory": "whole"}}, quiet=True)
    run_input({**text, "steps": 10}, quiet=True)
    run_input(text, resume=True, quiet=True)
    for name in ("thermo.csv", "loads.csv", "trajectory.extxyz"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    log = (tmp_path / "run/log").read_text()
    assert "moving: 36 atoms at (0.004, 0, -0.001) Å/fs" in log
    assert "moving: 18 atoms" in log
    assert "pull: 10 atoms, (0, 0.03, 0) eV/Å on each" in log
    assert "thermostat: on 54 atoms" in log


def test_velocities_and_forces_may_change_in_a_run_that_goes_on(text, tmp_path):
    run_input({**text, "steps": 10}, quiet=True)
    back = [{**group, "velocity": [-x for x in group["velocity"]]} for group in text["moving"]]
    pull = {**text["pull"], "force": [0.0, 0.05, 0.0]}
    run_input({**text, "moving": back, "pull": pull}, resume=True, quiet=True)
    log = (tmp_path / "run/log").read_text()
    assert "note: moving/velocity differs from the input that the run began with" in log
    assert "note: pull/force differs" in log
    last = rows(tmp_path / "run/loads.csv")[-2:]
    np.testing.assert_allclose([row["dx_A"] for row in last], [0.0, 0.0], atol=1e-12)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"moving": [{**TOP, "velocity": [0, 0, 0]}]}, "moving/atoms: differs"),
        ({"pull": {"indices": "40:61", "force": [0.0, 0.03, 0.0]}}, "pull/atoms: differs"),
        ({"pull": []}, "pull/atoms: differs"),
    ],
)
def test_their_atoms_may_not(text, changed, message):
    run_input({**text, "steps": 10}, quiet=True)
    with pytest.raises(InputError, match=message):
        run_input({**text, **changed}, resume=True, quiet=True)


def test_a_restart_keeps_the_groups_that_are_asked_for(tmp_path):
    run = Simulation(crystal(), MODEL, **GROUPS, output=tmp_path / "run")
    run.run(3)
    with pytest.raises(InputError, match="moving: the run that goes on has 2 groups, found 1"):
        Simulation(None, MODEL, resume=tmp_path / "run", moving=GROUPS["moving"][:1])
    rest = Simulation(None, MODEL, resume=tmp_path / "run")
    assert rest.n_held == 54
    assert not rest.state.carried
    held = rest.state.ids[rest.state.mobile == 0].numpy()
    before = rest.atoms.positions[held]
    rest.run(5)
    np.testing.assert_array_equal(rest.atoms.positions[held], before)


def test_a_thermostat_chooses_its_atoms_where_it_comes_to_act(tmp_path):
    """Also in a run that goes on, and anew where others are named."""
    atoms = gas()
    velocities = np.zeros((6, 3))
    velocities[0, 1] = 0.1
    atoms.set_velocities(velocities / fs)
    near = {"axis": "y", "below": 20.0}
    Simulation(atoms, MODEL, timestep=4.0, output=tmp_path / "run").run(60)  # atom 0 is at 24 Å
    ensemble = {**WARM, "atoms": near}
    run = Simulation(
        None,
        MODEL,
        timestep=4.0,
        ensemble=ensemble,
        resume=tmp_path / "run",
        output=tmp_path / "run",
    )
    assert run.state.ids[run.state.carried["bath"][:, 0].bool()].tolist() == [1, 2, 3, 4, 5]
    run.run(1)
    same = Simulation(
        None, MODEL, ensemble={**ensemble, "temperature": 10}, resume=tmp_path / "run"
    )
    assert same.state.ids[same.state.carried["bath"][:, 0].bool()].tolist() == [1, 2, 3, 4, 5]
    other = {**WARM, "atoms": {"indices": [4]}}
    other = Simulation(None, MODEL, ensemble=other, resume=tmp_path / "run")
    assert other.state.ids[other.state.carried["bath"][:, 0].bool()].tolist() == [4]


MINIMAL = {"model": "m.dpl", "structure": "s.xyz", "steps": 1}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"moving": TOP}, "moving/0/velocity' is missing"),
        ({"moving": {"velocity": [0, 0, 1]}}, "says no atoms"),
        ({"moving": {**TOP, "velocity": [0, 1]}}, "velocity"),
        ({"pull": {**TOP, "velocity": [0, 0, 1]}}, "velocity"),
        ({"moving": {**TOP, "velocity": [0, 0, 1]}, "ensemble": "relax"}, "'frozen'"),
        (
            {
                "pull": {**TOP, "force": [0, 0, 1]},
                "ensemble": {"type": "npt-scr", "temperature": 300, "pressure": "1 bar"},
            },
            "changes the cell",
        ),
        ({"ensemble": {"type": "nvt-nhc", "temperature": 300, "atoms": TOP}}, "no key 'atoms'"),
        ({"moving": {**TOP, "velocity": [0, 0.6, 0.9]}}, "1.08167 Å in a timestep, more than"),
        (
            {
                "moving": {**TOP, "velocity": [0, 0, 0.1]},
                "output": {"observe": {"heat_flux": {}}},
            },
            "which is no heat",
        ),
    ],
)
def test_bad_inputs_are_named(given, message):
    with pytest.raises(InputError, match=message) as e:
        parse(MdConfig, {**MINIMAL, **given}, "md.yaml")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"moving": [{**TOP, "velocity": [0, 0, 1]}] * 2}, "36 atoms are in more than one group"),
        ({"moving": {"indices": ":", "velocity": [0, 0, 1]}}, "holds all 108 atoms"),
        ({"pull": {"elements": ["Ag"], "force": [0, 0, 1]}}, "pull: no atom meets"),
        (
            {
                "moving": {**TOP, "velocity": [0, 0, 1e-3]},
                "pull": {"elements": ["Cu"], "force": [0, 0, 1]},
            },
            "pull: 36 of its atoms are in a group of 'moving', which no force moves",
        ),
        ({"ensemble": {**WARM, "atoms": {"indices": [108]}}}, "ensemble: atoms: index 108"),
    ],
)
def test_groups_that_do_not_fit_the_structure(given, message):
    with pytest.raises(InputError, match=message):
        Simulation(crystal(), MODEL, **given)
