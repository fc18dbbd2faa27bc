"""Guards: each stops what it is for and nothing else (on several ranks: `parallel/stops.py`)."""

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from models import random_potential, short_range_potential
from pair_potential import PairPotential

from deepmd_lite import kernels
from deepmd_lite.md import Simulation
from deepmd_lite.md.clock import Clock
from deepmd_lite.md.comm import SharedError
from deepmd_lite.md.config import Guards, MdConfig
from deepmd_lite.md.guards import Monitor, closest_pair
from deepmd_lite.schema import parse
from deepmd_lite.system import DeepmdLiteError, Evaluation, InputError, LocalEnv


@pytest.fixture(autouse=True)
def one_thread():
    """Threads of torch that wait for each other over a few atoms help nobody."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def copper(n=2):
    return bulk("Cu", cubic=True, a=3.7).repeat(n)


class Broken(PairPotential):
    """Wrong in one way, from the third evaluation on."""

    def __init__(self, kind, push=1e6):
        super().__init__()
        self.kind, self.push, self.count = kind, push, 0

    def evaluate(self, env) -> Evaluation:
        result = super().evaluate(env)
        self.count += 1
        if self.count >= 3:
            if self.kind == "nan":
                result.forces[5] = float("nan")
            elif self.kind == "energy":
                result.energies[5] = float("inf")
            elif self.kind == "push":
                result.forces[5, 0] = self.push
            elif self.kind == "close":
                result.beyond_table = 3
        return result


OFF = {"force": None, "displacement": None, "distance": None, "temperature_jump": None}


@pytest.mark.parametrize(
    ("kind", "guards", "message"),
    [
        ("nan", OFF, "step 2: atom \\d+ \\(Cu\\) has a force or energy that is not finite"),
        ("energy", OFF, "step 2: atom \\d+ \\(Cu\\) has a force or energy that is not finite"),
        ("push", {}, "step 2: atom \\d+ \\(Cu\\) has a force of 1e\\+06 eV/Å, more than 500 eV/Å"),
        (
            "push",
            {"force": None},
            "step 3: atom \\d+ \\(Cu\\) moves .* Å in one step, more than 1 Å",
        ),
        (
            "push",
            {"force": None, "displacement": None},
            "step 3: the temperature is \\d+ K, .*; the fastest is atom \\d+ \\(Cu\\)",
        ),
        ("close", {"beyond_table": "stop"}, "step 2: 2 pairs are closer than the model's table"),
    ],
)
def test_a_run_that_breaks_down_says_so_and_saves_the_frame(tmp_path, kind, guards, message):
    atoms, output = copper(), {"directory": tmp_path / "run", "restart": 1}
    simulation = Simulation(atoms, Broken(kind), output=output, guards=guards)
    with pytest.raises(DeepmdLiteError, match=message) as e:
        simulation.run(20)
    assert "\n" not in str(e.value)
    assert "halve the timestep" in str(e.value)
    assert f"the last restart is {simulation.archive.last}" in str(e.value)
    frame = ase.io.read(tmp_path / "run/failed.extxyz")
    assert len(frame) == len(atoms)
    if "has a force of" in message:
        assert np.abs(frame.get_forces()).max() == pytest.approx(1e6)


def test_motion_that_is_not_finite_stops_with_all_guards_off():
    simulation = Simulation(copper(), PairPotential(), guards=OFF)
    simulation.state.velocities[7, 1] = torch.nan
    with pytest.raises(DeepmdLiteError, match=r"step 1: atom 7 .* moves inf Å in one step"):
        simulation.run(1)


def test_guards_that_are_off_let_pass():
    simulation = Simulation(copper(), Broken("push", 2000.0), guards=OFF)
    simulation.run(3)
    with pytest.raises(DeepmdLiteError, match="force of 2000 eV/Å"):
        Simulation(copper(), Broken("push", 2000.0)).run(3)


def test_pairs_beyond_the_table_are_reported_once_and_in_total(tmp_path, caplog):
    output = {"directory": tmp_path / "run", "thermo": 1}
    result = Simulation(copper(), Broken("close"), output=output).run(6)
    assert result.beyond_table == (5 * 3 + 1) // 2
    log = (tmp_path / "run/log").read_text()
    assert log.count("step 2: 2 pairs are closer than the model's table reaches") == 1
    words = "8 times in 6 steps a pair was closer than the model's table reaches; do not trust"
    assert words in log
    assert words in caplog.text
    caplog.clear()
    Simulation(copper(), Broken("close")).run(6)  # without files as well
    assert words in caplog.text


def test_pairs_beyond_the_table_can_be_meant(tmp_path, caplog):
    output = {"directory": tmp_path / "run", "thermo": 1}
    guards = {"beyond_table": "off"}
    result = Simulation(copper(), Broken("close"), output=output, guards=guards).run(6)
    assert result.beyond_table == (5 * 3 + 1) // 2
    assert "closer than" not in (tmp_path / "run/log").read_text() + caplog.text


# --- distance -------------------------------------------------------------------------------


def overlapping():
    atoms = copper()
    atoms.positions[20] = atoms.positions[3] + [0.0, 0.0, 0.2]
    return atoms


def test_distance_is_looked_at_from_the_first_step():
    with pytest.raises(DeepmdLiteError, match=r"step 0: atom 3 \(Cu\) and atom 20 .* 0.2 Å apart"):
        Simulation(overlapping(), PairPotential())
    Simulation(overlapping(), PairPotential(), guards={"distance": None, "force": None})


@pytest.mark.parametrize(("kind", "step"), [(None, 100), ("close", 2)])
def test_distance_is_looked_at_when_the_model_asks_and_every_hundred_steps(kind, step):
    """Two atoms that nothing keeps apart are put together after the first step."""
    atoms = Atoms("Cu2", [[0, 0, 0], [9, 0, 0]], cell=[30, 30, 30], pbc=True)
    simulation = Simulation(atoms, Broken(kind), skin=0.5, guards={**OFF, "distance": 0.3})
    simulation.run(1)
    simulation.state.positions[1] = simulation.state.positions[0] + torch.tensor([0.0, 0.25, 0.0])
    simulation.engine.model.depth[:] = 0.0
    with pytest.raises(DeepmdLiteError, match=f"step {step}: .* are 0.25 Å apart, less than 0.3 Å"):
        simulation.run(200)


@pytest.mark.parametrize("pairs", [1, 7, 2**20])
def test_closest_pair(monkeypatch, pairs):
    """Against all distances, in pieces of any size; atoms without neighbours are passed over."""
    monkeypatch.setattr("deepmd_lite.pairs.ENTRIES", pairs)
    rng = np.random.default_rng(5)
    positions = torch.from_numpy(rng.uniform(0, 6, (40, 3)))
    positions[[0, 11, 39]] += torch.tensor([[50.0, 0, 0], [100, 0, 0], [150, 0, 0]]).double()
    types = torch.zeros(40, dtype=torch.int32)
    offsets, indices = kernels.neighbor_list(positions, types, 40, 3.0)
    distance, i, j = closest_pair(LocalEnv(positions, types, 40, offsets, indices))
    all_distances = torch.cdist(positions, positions) + 1e9 * torch.eye(40)
    assert distance == pytest.approx(float(all_distances.min()))
    assert float(all_distances[i, j]) == pytest.approx(distance)
    offsets, indices = kernels.neighbor_list(positions, types, 40, 1e-6)
    assert closest_pair(LocalEnv(positions, types, 40, offsets, indices)) == (np.inf, -1, -1)


# --- temperature ----------------------------------------------------------------------------


def monitor(freedom, target=0.0, **guards):
    return Monitor(Guards(**guards), Clock(1.0), freedom, target, print)


def trips_at(monitor, kelvins):
    """Step at which a course of temperatures trips; None: never."""
    simulation = Simulation(copper(), PairPotential())
    boltzmann = 8.617333262e-5
    for step, kelvin in enumerate(kelvins):
        kinetic = 0.5 * monitor.freedom * boltzmann * kelvin
        if monitor._heated(simulation.engine, kinetic):
            return step
    return None


def test_a_jump_trips_and_a_slow_rise_does_not():
    many, jump = 30000, {"temperature_jump": 500.0, "temperature_steps": 20}
    assert trips_at(monitor(many, **jump), [300.0] * 30 + [900.0]) == 30
    assert trips_at(monitor(many, **jump), [300.0] * 30 + [700.0]) is None
    slow = 300.0 + 20.0 * np.arange(200)
    assert trips_at(monitor(many, **jump), slow) is None
    fast = 300.0 + 100.0 * np.arange(200)
    assert trips_at(monitor(many, **jump), fast) is not None


def test_a_thermostat_may_heat_as_fast_as_it_likes():
    jump = {"temperature_jump": 500.0}
    course = [0.0, 1000.0, 2500.0, 3000.0]
    assert trips_at(monitor(30000, **jump), course) == 1
    assert trips_at(monitor(30000, 3000.0, **jump), course) is None


def test_small_systems_fluctuate():
    """Temperatures of a few atoms in equilibrium (χ²) never trip; the same in a large one do."""
    rng = np.random.default_rng(3)
    for freedom in (3, 6, 30):
        course = 300.0 * rng.chisquare(freedom, 20000) / freedom
        assert trips_at(monitor(freedom, 300.0, temperature_jump=100.0), course) is None
    assert trips_at(monitor(30000, 300.0, temperature_jump=100.0), course) is not None


# --- legitimate runs ------------------------------------------------------------------------


def test_hot_hydrogen_passes():
    """H₂ of 2000 K at 0.5 fs, of 5000 K at 0.25 fs; bonds of 0.74 Å and 4.5 eV."""
    molecule = Atoms("Cu2", [[0, 0, 0], [0.74, 0, 0]], cell=[20.0, 20.0, 20.0], pbc=True)
    gas = molecule.repeat(3)
    gas.set_masses(np.full(len(gas), 1.008))
    model = PairPotential(rcut=2.6, r0=0.74, alpha=1.94)
    model.depth[:] = 4.5
    for kelvin, timestep in ((2000, 0.5), (5000, 0.25)):
        thermal = {"temperature": kelvin}
        simulation = Simulation(gas, model, velocities=thermal, timestep=timestep, skin=0.5)
        simulation.run(150)
        assert simulation.step == 150
        assert 0.1 * kelvin < simulation.thermo.temperature < 2 * kelvin


def test_a_melt_of_5000_kelvin_passes():
    """Also where a strong thermostat has to heat it from rest."""
    ensemble = {"type": "nvt-langevin", "temperature": 5000, "friction": 0.2}
    simulation = Simulation(copper(3), PairPotential(), ensemble=ensemble, timestep=2.0)
    simulation.run(100)
    assert simulation.thermo.temperature > 3500


# --- input ----------------------------------------------------------------------------------


def test_defaults_and_input():
    minimal = {"model": "m.dpl", "structure": "s.xyz", "steps": 10}
    assert parse(MdConfig, minimal, "md.yaml").guards.force == 500.0
    given = {**minimal, "guards": {"force": None, "beyond_table": "stop"}}
    guards = parse(MdConfig, given, "md.yaml").guards
    assert guards.force is None
    assert guards.beyond_table == "stop"


@pytest.mark.parametrize(
    ("guards", "message"),
    [
        ({"forces": 3}, "unknown key 'guards/forces'; did you mean 'force'"),
        ({"force": 0}, "key 'guards/force': .*greater than 0"),
        ({"distance": -1}, "key 'guards/distance'"),
        ({"temperature_steps": 0}, "key 'guards/temperature_steps'"),
        ({"beyond_table": "ignore"}, "key 'guards/beyond_table': .*'off', 'warn' or 'stop'"),
    ],
)
def test_bad_input_is_named(guards, message):
    minimal = {"model": "m.dpl", "structure": "s.xyz", "steps": 10, "guards": guards}
    with pytest.raises(InputError, match=message):
        parse(MdConfig, minimal, "md.yaml")


def test_atoms_that_coincide_have_their_numbers_of_the_structure():
    """Rows are sorted and ghosts have rows too; here the pair is only seen through a face."""
    atoms = bulk("Si", cubic=True, a=5.43).repeat(2)
    order = np.random.default_rng(5).permutation(len(atoms))
    atoms = atoms[order]
    corner = int(np.argmin(np.abs(atoms.positions).sum(axis=1)))
    other = (corner + 17) % len(atoms)
    atoms.positions[other] = atoms.positions[corner] + atoms.cell[0] + [-1e-9, 0, 0]
    first, second = sorted((corner, other))
    names = rf"structure: atoms {first} \(Si\) and {second} \(Si\) coincide .*1e-6 Å"
    with pytest.raises(InputError, match=names):
        Simulation(atoms, random_potential(("Si",), rcut=4.0))


@pytest.mark.parametrize("skin", [5.0, 0.5])
def test_atoms_that_come_to_coincide_end_the_run(tmp_path, skin):
    """Between two lists it is the model that finds them; at a new list it is the list."""
    atoms = bulk("Si", cubic=True, a=5.43).repeat(2)
    output = {"directory": tmp_path / "run"}
    simulation = Simulation(
        atoms, random_potential(("Si",), rcut=4.0), skin=skin, guards=OFF, output=output
    )
    state = simulation.engine.state
    row, near = (int((state.ids == k).nonzero()) for k in (10, 11))
    state.positions[near] = state.positions[row]
    state.velocities[:] = 0.0
    simulation.engine.forces[:] = 0.0
    with pytest.raises(SharedError, match=r"step 1: atoms 10 \(Si\) and 11 \(Si\) coincide"):
        simulation.run(3)
    assert len(ase.io.read(tmp_path / "run/failed.extxyz")) == len(atoms)


def test_atoms_nearer_than_a_short_range_table_begins_are_named():
    potential = short_range_potential(("Si",))  # from 0.05 Å on
    atoms = bulk("Si", cubic=True, a=5.43).repeat(2)
    atoms.positions[7] = atoms.positions[3] + [0.01, 0.0, 0.0]
    message = (
        r"atoms 3 \(Si\) and 7 \(Si\) are 0\.01 Å apart; the short-range table begins at 0\.05"
    )
    with pytest.raises(InputError, match=message):
        Simulation(atoms, potential)
