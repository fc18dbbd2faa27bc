"""Relaxations: where they end, what they leave as it is, and how they go on."""

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.optimize import BFGS
from pair_potential import PairPotential

from deepmd_lite.md import SharedError, Simulation, run_input
from deepmd_lite.md.integrate.cell_motion import modes, projected
from deepmd_lite.model import save_model
from deepmd_lite.neighbors import periodic_env
from deepmd_lite.system import InputError
from deepmd_lite.units import EV_PER_A3_IN_GPA

MODEL = PairPotential()


class Morse(Calculator):
    """The pair potential for ASE's optimisers."""

    implemented_properties = ["energy", "forces"]

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        types = np.zeros(len(atoms), dtype=np.int32)
        periodic = periodic_env(atoms.positions, atoms.cell.array, atoms.pbc, types, MODEL.rcut)
        found = MODEL.evaluate(periodic.env)
        energy = float(found.energies.sum())
        self.results = {"energy": energy, "forces": periodic.fold(found.forces).numpy()}


def vacancy(a=3.3, rattled=0.1):
    atoms = bulk("Cu", cubic=True, a=a).repeat(3)
    del atoms[7]
    atoms.rattle(rattled, seed=4)
    return atoms


def search(atoms, steps=1000, fmax=1e-3, **options):
    keys = {k: options.pop(k) for k in ("coupling", "pressure", "smax") if k in options}
    made = Simulation(atoms, MODEL, ensemble={"type": "relax", "fmax": fmax, **keys}, **options)
    return made, made.run(steps)


def largest_force(atoms):
    atoms.calc = Morse()
    return np.linalg.norm(atoms.get_forces(), axis=1).max()


def test_the_minimum_of_another_optimiser():
    made, result = search(vacancy())
    expected = vacancy()
    expected.calc = Morse()
    BFGS(expected, logfile=None).run(fmax=1e-4)
    found = made.atoms
    assert made.integrator.ends
    assert 10 < result.steps < 120
    assert largest_force(found.copy()) == pytest.approx(result.thermo.largest_force, rel=1e-9)
    assert result.thermo.largest_force <= 1e-3
    assert result.thermo.potential == pytest.approx(expected.get_potential_energy(), abs=1e-4)
    np.testing.assert_array_equal(found.cell.array, vacancy().cell.array)


def test_atoms_are_at_rest():
    """Those of the structure before the search, and all during it: no temperature, no pressure."""
    atoms = vacancy()
    atoms.set_velocities(np.full((len(atoms), 3), 0.1))
    made, result = search(atoms, steps=9)
    assert result.thermo.temperature == result.thermo.kinetic == 0.0
    assert not made.atoms.get_velocities().any()
    assert not made.integrator.ends


@pytest.mark.parametrize(
    "coupling", ["isotropic", "anisotropic", "flexible", "semi-isotropic", "z", "xy"]
)
def test_cells(coupling):
    """The stresses that the cell may follow are the pressure; of the others nothing changes."""
    atoms = vacancy(a=3.5)
    atoms.set_cell(atoms.cell.array @ [[1.02, 0, 0], [0.03, 0.99, 0], [0, 0.01, 1]], True)
    made, result = search(atoms, coupling=coupling, pressure="3 GPa", smax="1 MPa")
    assert made.integrator.ends
    assert result.steps < 250
    allowed = modes(coupling)
    stress = result.thermo.stress * EV_PER_A3_IN_GPA + 3.0 * np.eye(3)
    assert np.abs(projected(stress, allowed)).max() < 1.1e-3
    strained = np.linalg.solve(atoms.cell.array, result.thermo.cell)
    if coupling == "isotropic":
        np.testing.assert_allclose(strained, strained[0, 0] * np.eye(3), atol=1e-12)
    if coupling == "z":
        np.testing.assert_allclose(strained[:2], np.eye(3)[:2], atol=1e-12)
    assert np.abs(strained - np.eye(3)).max() > 0.005
    free = np.abs(stress - projected(stress, allowed)).max()
    assert (free < 1.1e-3) == (coupling == "flexible")


def test_the_enthalpy_goes_down():
    """p V is in what is conserved elsewhere; a search may go up where it begins anew, not far."""
    made = Simulation(
        vacancy(a=3.5),
        MODEL,
        ensemble={"type": "relax", "coupling": "isotropic", "pressure": "3 GPa"},
    )
    enthalpies = []
    while not made.integrator.ends:
        thermo = made.run(1).thermo
        enthalpies.append(thermo.conserved)
    expected = thermo.potential + 3.0 / EV_PER_A3_IN_GPA * thermo.volume
    assert enthalpies[-1] == pytest.approx(expected, abs=1e-10)
    assert enthalpies[-1] == pytest.approx(min(enthalpies), abs=1e-3)
    assert enthalpies[0] - enthalpies[-1] > 1.0


def test_atoms_that_are_held_do_not_count():
    atoms = vacancy()
    made, result = search(atoms, frozen={"indices": "0:40"})
    assert made.integrator.ends
    found = made.atoms
    np.testing.assert_allclose(found.positions[:40], atoms.positions[:40], atol=1e-13)
    forces = np.linalg.norm(found.get_forces(apply_constraint=False), axis=1)
    assert forces[40:].max() == pytest.approx(result.thermo.largest_force, rel=1e-9)
    assert forces[:40].max() > 0.1


def test_a_cluster_and_what_is_relaxed_already():
    made, _ = search(Atoms("Cu4", [[0, 0, 0], [2.9, 0, 0], [0, 2.2, 0.3], [0.2, 0, 2.9]]))
    assert made.integrator.ends
    again, result = search(made.atoms)
    assert again.integrator.ends
    assert result.steps == 0


def test_atoms_that_stand_too_close():
    """Forces far beyond the guard of dynamics, and no atom leaps out of the crystal."""
    atoms = vacancy(rattled=0.0)
    atoms.positions[1] = atoms.positions[0] + [0.0, 0.9, 0.0]
    made = Simulation(atoms, PairPotential(alpha=3.0), ensemble={"type": "relax", "fmax": 0.01})
    assert made.thermo.largest_force > 500.0
    made.run(500)
    assert made.integrator.ends
    assert np.abs(made.atoms.positions - atoms.positions).max() < 3.0
    kept = {"guards": {"force": 500}}
    with pytest.raises(SharedError, match=r"has a force of .*guards: force"):
        Simulation(atoms, PairPotential(alpha=3.0), ensemble={"type": "relax"}, **kept)


@pytest.mark.parametrize("coupling", [None, "flexible"])
def test_in_parts_it_takes_the_same_way(tmp_path, coupling):
    def go(name, steps, **options):
        output = {"directory": tmp_path / name, "thermo": 5, "restart": 0}
        return search(vacancy(a=3.5), steps, coupling=coupling, output=output, **options)[0]

    whole = go("whole", 1000)
    go("parts", 17)
    parts = go("parts", 1000, resume=tmp_path / "parts")
    assert whole.integrator.ends
    np.testing.assert_array_equal(parts.atoms.positions, whole.atoms.positions)
    for name in ("thermo.csv", "trajectory.extxyz"):
        own = (tmp_path / "parts" / name).read_bytes()
        assert own == (tmp_path / "whole" / name).read_bytes()
    assert ase.io.read(tmp_path / "whole/trajectory.extxyz").info["step"] == whole.step


def test_dynamics_after_a_search_and_a_search_after_dynamics(tmp_path):
    """In one folder. What the first search was doing means nothing to the second."""
    output = {"directory": tmp_path / "run"}
    go = {"output": output, "resume": output["directory"]}
    search(vacancy(), 20, output=output)
    hot = Simulation(None, MODEL, ensemble={"type": "nvt-langevin", **WARM}, timestep=2.0, **go)
    assert hot.run(30).thermo.temperature > 50.0
    made, result = search(None, **go)
    assert made.integrator.ends
    assert result.thermo.temperature == 0.0


def test_what_the_search_carries_goes_with_it(tmp_path):
    output = {"directory": tmp_path / "run"}
    made, _ = search(vacancy(), 20, output=output)
    assert "relaxation" in made.state.carried
    warm = {"type": "nvt-langevin", **WARM}
    after = Simulation(None, MODEL, ensemble=warm, resume=output["directory"])
    assert "relaxation" not in after.state.carried
    with pytest.raises(InputError, match="scales velocities, and all are zero"):
        Simulation(None, MODEL, ensemble=MTK, resume=output["directory"])


MTK = {"type": "npt-mtk", "temperature": 300, "pressure": "0.1 GPa"}
WARM = {"temperature": 300, "friction": 0.05}


@pytest.fixture(name="text")
def _text(tmp_path, monkeypatch):
    """An input of `dpl md`, with a model that knows copper."""
    monkeypatch.chdir(tmp_path)
    from models import random_potential

    save_model(random_potential(("Cu",), rcut=4.0), "cu.dpl")
    ase.io.write("cu.extxyz", vacancy())
    text = {"model": "cu.dpl", "structure": "cu.extxyz", "steps": 3, "timestep": 0.1}
    return {**text, "ensemble": {"type": "relax"}, "output": {"directory": "run", "thermo": 1}}


def test_the_log_tells_how_it_went(text, tmp_path, caplog):
    run_input(text, quiet=True)
    log = (tmp_path / "run/log").read_text()
    assert log.count("largest force") == 5
    assert "warning: not relaxed after step 3: largest force" in log
    assert "raise steps and go on with --continue" in caplog.text
    loose = {**text, "ensemble": {"type": "relax", "fmax": 1e3}, "output": {"directory": "b"}}
    assert run_input(loose, quiet=True).steps == 0
    log = (tmp_path / "b/log").read_text()
    assert "relaxed after step 0: largest force" in log
    assert "not relaxed" not in log
    assert len(ase.io.read(tmp_path / "b/trajectory.extxyz", ":")) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ensemble": {"type": "relax", "temperature": 300}}, "has no key 'temperature'; its keys"),
        ({"ensemble": {"type": "relax", "pressure": "1 GPa"}}, "has no key 'pressure'"),
        ({"ensemble": {"type": "relax", "fmax": 0}}, "fmax"),
        (
            {"ensemble": {"type": "relax", "coupling": "z", "pressure": ["1 GPa", "2 GPa"]}},
            "a relaxation has one pressure",
        ),
        ({"ensemble": {"type": "relax", "coupling": "z", "smax": 0.1}}, "has no unit"),
        ({"velocities": {"temperature": 300}}, "begins and ends with atoms at rest"),
        (
            {"ensemble": {"type": "relax", "coupling": "z"}, "frozen": {"indices": "0:3"}},
            "the 3 held atoms would have to move with it",
        ),
    ],
)
def test_what_makes_no_sense_is_one_line(text, change, message):
    with pytest.raises(InputError, match=message) as error:
        run_input({**text, **change}, quiet=True)
    assert "\n" not in str(error.value)
