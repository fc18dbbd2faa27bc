"""Observables: their input, going on with them, and what they refuse."""

import json
import re

import numpy as np
import pytest
from ase.build import bulk, fcc111
from ase.constraints import FixAtoms
from ase.units import fs
from pair_potential import PairPotential

from deepmd_lite.md import Simulation
from deepmd_lite.md.config import Output
from deepmd_lite.md.observe import KINDS
from deepmd_lite.md.observe.settings import VacfSettings
from deepmd_lite.md.report import COLUMNS
from deepmd_lite.schema import parse
from deepmd_lite.system import InputError

ALL = {name: {} for name in KINDS if name != "conduction"}  # which has an ensemble of its own
SEEN = ("msd", "vacf", "vdos")


def run(folder, observe, steps=0, resume=None, atoms=None, timestep=2.0):
    output = {"directory": folder, "thermo": 0, "trajectory": 0, "observe": observe}
    if atoms is None:
        atoms = bulk("Cu", cubic=True, a=3.7).repeat(2)
    simulation = Simulation(
        atoms,
        PairPotential(),
        velocities={"temperature": 300},
        timestep=timestep,
        output=output,
        resume=resume,
    )
    simulation.run(steps)
    return simulation


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rfd": {}}, "unknown key 'observe/rfd'; did you mean 'rdf'"),
        ({"rdf": {"bin": 3}}, "unknown key 'observe/rdf/bin'; did you mean 'bins'"),
        ({"rdf": {"every": 0}}, "key 'observe/rdf/every'"),
        ({"rdf": {"r_max": 50}}, "key 'observe/rdf/r_max'"),
        ({"rdf": None}, "'rdf' has nothing behind it; write 'rdf: {}'"),
        ({"msd": {"window": 3}}, "key 'observe/msd/window'"),
        ({"vacf": {"window": 10, "origins": 11}}, "11 origins in a window of 10 samples"),
        ({"msd": {"origins": None}}, "key 'observe/msd/origins'"),
        ({"temperature_profile": {"axis": 3}}, "key 'observe/temperature_profile/axis'"),
    ],
)
def test_bad_input_is_named(given, message):
    with pytest.raises(InputError, match=message):
        parse(Output, {"observe": given}, "output")


def test_empty_keys_are_enough_for_every_observable(tmp_path):
    simulation = run(tmp_path / "run", ALL, steps=20)
    assert [o.name for o in simulation.observables] == list(ALL)
    names = {p.name for p in (tmp_path / "run").glob("*.csv")}
    assert names == {
        *("rdf.csv", "msd.csv", "diffusion.csv", "vacf.csv", "vdos.csv"),
        *("stress.csv", "viscosity.csv", "temperature_profile.csv"),
        *("heat_flux.csv", "thermal_conductivity.csv"),
    }
    for observable in simulation.observables:
        memory = observable.memory()
        assert json.loads(json.dumps(memory)) == memory
        for table in observable.result().values():
            numbers = [x for row in table.rows for x in row if not isinstance(x, str)]
            empty = observable.name == "temperature_profile"  # slices between two planes of atoms
            assert empty or np.isfinite(numbers).all()


def test_an_open_system_has_what_needs_no_volume(tmp_path):
    slab = fcc111("Cu", (3, 3, 3), a=3.7, vacuum=6.0)
    slab.pbc = (True, True, False)
    for name in ("rdf", "stress", "heat_flux"):
        with pytest.raises(
            InputError, match=f"observe/{name}: needs the volume.*leave '{name}' out"
        ):
            run(tmp_path / name, {name: {}}, atoms=slab)
    open_to_all = {k: {} for k in ALL if k not in ("rdf", "stress", "heat_flux")}
    assert len(run(tmp_path / "run", open_to_all, 10, atoms=slab).observables) == 3
    slab.cell[2] = 0
    with pytest.raises(InputError, match="axis 2: the structure has no such lattice vector"):
        run(tmp_path / "none", {"temperature_profile": {}}, atoms=slab)
    simulation = run(tmp_path / "one", {"temperature_profile": {"axis": 0}}, atoms=slab)
    np.testing.assert_allclose(simulation.thermo.cell, slab.cell.array, atol=1e-12)
    row = dict(zip(COLUMNS, simulation.thermo.csv_row().strip().split(","), strict=True))
    assert (row["c_A"], row["volume_A3"]) == ("0", "nan")


def test_held_atoms_do_not_diffuse_and_say_what_is_at_rest(tmp_path):
    """MSD and VACF are of the atoms that move, as they are: nothing else is at rest than the held.

    An element of which all atoms are held has no columns."""
    atoms = bulk("Cu", cubic=True, a=3.7).repeat(2)
    atoms.symbols[:4] = "Ag"
    atoms.set_constraint(FixAtoms(range(8)))
    simulation = run(
        tmp_path / "run", {"msd": {"every": 1}, "vacf": {"every": 1, "origins": 4}}, atoms=atoms
    )
    first = simulation.atoms
    simulation.run(30)
    last = simulation.atoms
    found = {x: np.genfromtxt(tmp_path / f"run/{x}.csv", delimiter=",", names=True) for x in SEEN}
    assert [len(found[x].dtype.names) for x in SEEN] == [2, 2, 4]
    moved = (last.positions - first.positions)[8:]
    squares = np.mean((moved**2).sum(axis=1))
    assert found["msd"]["msd_Cu_A2"][-1] == pytest.approx(squares, rel=1e-9)
    velocities = first.get_velocities()[8:] * fs
    squares = np.mean((velocities**2).sum(axis=1))
    assert found["vacf"]["vacf_Cu_A2_per_fs2"][0] == pytest.approx(squares, rel=1e-9)


def test_the_centre_of_mass_rests_in_vacf_as_in_msd(tmp_path):
    atoms = bulk("Cu", cubic=True, a=3.7).repeat(2)
    atoms.set_velocities(np.tile([0.01 / fs, 0.0, 0.0], (len(atoms), 1)))
    output = {"directory": tmp_path / "run", "observe": {"vacf": {"every": 1}}}
    simulation = Simulation(atoms, PairPotential(), output=output)
    simulation.run(3)
    found = np.loadtxt(tmp_path / "run/vacf.csv", delimiter=",", skiprows=1)
    np.testing.assert_allclose(found[:, 1], 0.0, atol=1e-20)


def test_going_on_with_other_observables(tmp_path):
    """What is added begins then; what is left out is forgotten; what is changed is an error."""
    folder = tmp_path / "run"
    run(folder, {"msd": {"every": 1}, "rdf": {}}, 10)
    restart = folder / "restart" / "step-000000000010"
    for changed, message in (
        ({"msd": {"every": 2}}, "observe/msd: every is 2, but 1 in the run that is continued"),
        ({"rdf": {"bins": 10}}, "observe/rdf: bins is 10, but 200"),
    ):
        with pytest.raises(InputError, match=message):
            run(folder, changed, 1, resume=restart)
    with pytest.raises(InputError, match=r"observe/rdf: timestep is 1.0, but 2.0"):
        run(folder, {"rdf": {}}, 1, resume=restart, timestep=1.0)
    simulation = run(folder, {"rdf": {}, "vacf": {"every": 1}}, 10, resume=restart)
    assert {o.name: o.samples for o in simulation.observables} == {"rdf": 2 + 1, "vacf": 10}
    assert set(simulation.state.carried) == {"vacf"}


def test_columns_are_named_with_their_units(tmp_path):
    simulation = run(tmp_path / "run", ALL, 20)
    heads = {k: t.columns for o in simulation.observables for k, t in o.result().items()}
    assert heads["rdf"] == ("r_A", "g_Cu-Cu", "n_Cu-Cu")
    assert heads["msd"] == ("time_fs", "msd_Cu_A2")
    assert heads["vacf"] == ("time_fs", "vacf_Cu_A2_per_fs2")
    assert heads["vdos"][:2] == ("frequency_THz", "wavenumber_per_cm")
    assert heads["diffusion"][:3] == ("element", "D_cm2_per_s", "error_cm2_per_s")


def test_few_atoms_have_many_origins_of_the_velocity_correlation(tmp_path):
    """As many as the run that is continued had, and as many as the input says."""
    settings = VacfSettings()
    assert [settings.settled(n, None).origins for n in (1, 400, 1000, 10**6)] == [50, 50, 20, 4]
    assert VacfSettings(window=12).settled(1, None).origins == 12
    assert settings.settled(1, {"origins": 4}).origins == 4
    assert VacfSettings(origins=7).settled(1, {"origins": 4}).origins == 7


def test_the_time_of_each_is_told(tmp_path):
    """And does not count as that of the output besides."""
    simulation = run(tmp_path / "run", {"rdf": {"every": 1}, "msd": {"every": 2}})
    result = simulation.run(30)
    assert list(result.parts)[-2:] == ["rdf", "msd"]
    assert all(result.parts[name] > 0 for name in ("rdf", "msd", "output"))
    assert sum(result.parts.values()) < 1.001 * result.seconds
    assert re.search(r"rdf \d+ %, msd \d+ %", (tmp_path / "run/log").read_text())
