"""The sections `ensemble` and `frozen`: units, defaults, and what is wrong said in one line."""

from types import SimpleNamespace

import ase.io
import numpy as np
import pytest
from ase.build import bulk, fcc111
from models import random_potential
from pair_potential import PairPotential

from deepmd_lite.cli import main
from deepmd_lite.md import Simulation, run_input
from deepmd_lite.md.cell_changes import check_cell_changes
from deepmd_lite.md.config import MdConfig
from deepmd_lite.md.ensemble import Ensemble
from deepmd_lite.md.integrate import MartynaTobiasKlein, NoseHooverChain, Ramp, integrator
from deepmd_lite.model import load_model, save_model
from deepmd_lite.schema import parse
from deepmd_lite.system import DeepmdLiteError, InputError

SCR = {"type": "npt-scr", "temperature": 300, "pressure": "1 bar"}
STRAIN = {"type": "strain", "axis": "c", "rate": 1e-6}
MINIMAL = {"model": "m.dpl", "structure": "s.xyz", "steps": 10}


def copper(n=2, a=3.3):
    return bulk("Cu", cubic=True, a=a).repeat(n)


@pytest.mark.parametrize(
    ("text", "gigapascal"),
    [
        ("1 bar", 1e-4),
        ("1000 bar", 0.1),
        ("-0.5 GPa", -0.5),
        ("1 atm", 1.01325e-4),
        ("3 kbar", 0.3),
        ("20 MPa", 0.02),
        ("101325 Pa", 1.01325e-4),
        (0, 0.0),
        (["1 bar", "10 GPa"], (1e-4, 10.0)),
    ],
)
def test_pressures_have_units(text, gigapascal):
    first, last = Ensemble(**{**SCR, "pressure": text}).pressure
    assert (first, last) == pytest.approx(
        gigapascal if isinstance(gigapascal, tuple) else (gigapascal, gigapascal)
    )


def test_defaults_belong_to_their_type():
    scr = Ensemble(**SCR)
    assert (scr.thermostat_time, scr.barostat_time, scr.coupling) == (100.0, 1000.0, "isotropic")
    assert scr.compressibility == 0.05
    assert scr.chain_length is None
    assert Ensemble(type="nvt-nhc", temperature=300).chain_length == 3
    assert Ensemble(type="nvt-bussi", temperature=[300, 900]).temperature == (300.0, 900.0)
    assert Ensemble(**STRAIN).lateral == "fixed"
    free = Ensemble(**STRAIN, lateral="stress-free", thermostat="nhc", temperature=300)
    assert free.compressibility == 0.05
    assert scr.title == "npt-scr 300 K 0.0001 GPa"
    assert Ensemble(type="nvt-bussi", temperature=[1, 9]).title == "nvt-bussi 1 to 9 K"


def test_an_ensemble_that_is_not_there_is_named_once():
    with pytest.raises(InputError, match=r"'ensemble': expected a mapping .*, found 'nvt'$") as e:
        Simulation(bulk("Cu"), PairPotential(), ensemble="nvt")
    assert str(e.value).count("found") == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"type": "npt"}, "a mapping with a 'type' of nve, nvt-langevin.*found 'npt'"),
        ({"type": "nve", "seed": 3}, "'nve' has no key 'seed'; it has none"),
        (
            {"type": "nvt-nhc", "temperature": 3, "friction": 1},
            "has no key 'friction'; its keys",
        ),
        ({"type": "nvt-bussi"}, r"needs temperature \(K\)"),
        ({"type": "nvt-bussi", "temperature": 0}, "above 0 K; nvt-langevin can do 0 K"),
        ({"type": "nvt-bussi", "temperature": [300, 0]}, "above 0 K"),
        ({"type": "nvt-bussi", "temperature": [1, 2, 3]}, r"or \[first, last\] for a ramp"),
        ({"type": "nvt-bussi", "temperature": "hot"}, "expected a temperature in K"),
        ({"type": "nvt-bussi", "temperature": -3}, "not negative"),
        ({"type": "nvt-nhc", "temperature": 3, "chain_length": 0}, "chain_length"),
        ({"type": "nvt-bussi", "temperature": 3, "termostat_time": 9}, "mean 'thermostat_time'"),
        ({**SCR, "pressure": 0.1}, "has no unit; write '0.1 GPa'"),
        ({**SCR, "pressure": "0.1"}, "expected a number and a unit.*units: GPa, MPa"),
        ({**SCR, "pressure": "1 psi"}, "expected a number and a unit"),
        ({**SCR, "pressure": "nan bar"}, "expected a number and a unit"),
        ({"type": "npt-scr", "temperature": 3}, r"needs pressure \(text with unit\)"),
        ({**SCR, "coupling": "cubic"}, "'isotropic', 'anisotropic', 'flexible', 'semi-isotropic'"),
        ({**SCR, "barostat_time": 0}, "barostat_time"),
        ({**SCR, "type": "npt-mtk", "compressibility": 1}, "has no key 'compressibility'"),
        ({"type": "strain", "axis": "c"}, r"needs rate \(1/fs\)"),
        ({**STRAIN, "axis": "z"}, "'a', 'b' or 'c'"),
        ({**STRAIN, "temperature": 300}, "thermostat 'none'.* has no key 'temperature'"),
        ({**STRAIN, "thermostat": "nhc"}, r"needs temperature \(K\)"),
        ({**STRAIN, "lateral": "stress-free"}, "needs a thermostat"),
    ],
)
def test_bad_ensembles_are_named(given, message):
    with pytest.raises(InputError, match=message) as e:
        parse(MdConfig, {**MINIMAL, "ensemble": given}, "md.yaml")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "says no atoms"),
        ({"below": 3}, "need an axis"),
        ({"axis": "z"}, "needs 'below' or 'above'"),
        ({"indices": "0-10"}, "a slice such as '0:100'"),
        ({"indices": "::0"}, "a slice such as"),
        ({"element": ["Cu"]}, "did you mean 'elements'"),
    ],
)
def test_bad_selections_are_named(given, message):
    with pytest.raises(InputError, match=message):
        parse(MdConfig, {**MINIMAL, "frozen": given}, "md.yaml")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"elements": ["Ag"]}, "no atom meets"),
        ({"elements": ["Au"]}, "Au"),
        ({"indices": [3, 99]}, "index 99 of 32 atoms"),
        ({"axis": "z", "below": -50}, "no atom meets"),
        ({"indices": ":"}, "holds all 32 atoms"),
    ],
)
def test_selections_that_do_not_fit_the_structure(given, message):
    with pytest.raises(InputError, match=message):
        Simulation(copper(), PairPotential(), frozen=[given])


def held(**selection):
    simulation = Simulation(copper(), PairPotential(), frozen=selection)
    return set(simulation.state.ids[simulation.state.mobile == 0].tolist())


@pytest.mark.parametrize("name", ["extxyz", "traj"])
def test_frames_keep_what_is_held(tmp_path, name):
    """For ASE, and for a run that begins with one of them."""
    output = {"directory": tmp_path, "trajectory": 2, "format": name}
    run = Simulation(copper(), PairPotential(), frozen=[{"indices": "3:7"}], output=output)
    run.run(2)
    frame = ase.io.read(tmp_path / f"trajectory.{name}", index=-1)
    assert frame.get_temperature() == pytest.approx(run.thermo.temperature, rel=1e-5)
    assert run.atoms.constraints[0].index.tolist() == [3, 4, 5, 6]
    forces = run.atoms.calc.results["forces"]
    assert np.abs(forces[3:7]).max() > 0
    again = Simulation(frame, PairPotential())
    assert again.state.ids[again.state.mobile == 0].tolist() == [3, 4, 5, 6]
    free = Simulation(copper(), PairPotential(), output=output | {"directory": tmp_path / "free"})
    free.run(2)
    assert not ase.io.read(tmp_path / f"free/trajectory.{name}").constraints


def test_selections():
    z = copper().positions[:, 2]
    assert held(indices="0:10") == set(range(10))
    assert held(indices="-3:") == {29, 30, 31}
    assert held(indices=[5, 7]) == {5, 7}
    assert held(axis="z", below=1.0) == set(np.flatnonzero(z < 1.0))
    assert held(axis="z", above=1.0, below=4.0) == set(np.flatnonzero((z > 1) & (z < 4)))
    assert held(axis="z", below=1.0, indices="0:10") == set(np.flatnonzero(z[:10] < 1.0))
    both = Simulation(copper(), PairPotential(), frozen=[{"indices": [0]}, {"indices": [3]}])
    assert int(both.state.mobile.sum()) == 30
    assert parse(MdConfig, {**MINIMAL, "frozen": {"indices": "3:"}}, "x").frozen[0].indices == "3:"


def chosen_by(atoms, **selection):
    """In a run that begins with `atoms`: held, and those that a thermostat comes to act upon."""
    kept = Simulation(atoms, PairPotential(), frozen=selection).state
    bath = {"type": "nvt-langevin", "temperature": 300, "friction": 0.01, "atoms": selection}
    acted = Simulation(atoms, PairPotential(), ensemble=bath).state
    found = set(kept.ids[kept.mobile == 0].tolist())
    assert found == set(acted.ids[acted.carried["bath"][:, 0].bool()].tolist())
    return found


@pytest.mark.parametrize("skewed", [False, True])
def test_a_region_is_in_the_box_wherever_atoms_have_gone(skewed):
    """As in a frame of an earlier trajectory, whose positions are not wrapped."""
    atoms = bulk("Cu", cubic=True, a=4.6).repeat((3, 3, 4))
    atoms.positions += 4.6 / 4  # no plane within 1 Å of a face
    if skewed:
        sheared = atoms.cell.array + np.array([[0, 0, 0], [1.5, 0, 0], [2.0, -1.0, 0]])
        atoms.set_cell(sheared, scale_atoms=True)
    gone = atoms.copy()
    rng = np.random.default_rng(1)
    gone.positions += rng.integers(-3, 4, (len(atoms), 3)) @ atoms.cell.array
    for given in (
        {"axis": "z", "below": 3.0},
        {"axis": "x", "above": 5.0},
        {"axis": "y", "above": 2.0, "below": 6.5},
    ):
        along = atoms.positions[:, "xyz".index(given["axis"])]
        inside = (along > given.get("above", -99)) & (along < given.get("below", 99))
        assert chosen_by(gone, **given) == set(np.flatnonzero(inside)) != set()


def test_a_plane_in_a_face_of_the_box_stays_together():
    """Its atoms vibrate on both sides; far from there one has gone round the box."""
    atoms = bulk("Cu", cubic=True, a=3.7).repeat((2, 2, 4))
    plane = set(np.flatnonzero(atoms.positions[:, 2] < 0.1))
    atoms.positions[:, 2] += 0.1 * np.cos(np.arange(len(atoms)))
    assert min(atoms.positions[:, 2]) < -0.05
    other = int(np.argmin(abs(atoms.positions[:, 2] - 9.25)))
    for turns in (0, -1, 2):
        gone = atoms.copy()
        gone.positions[other, 2] += turns * atoms.cell[2, 2]
        assert chosen_by(gone, axis="z", below=1.0) == plane
        assert other in chosen_by(gone, axis="z", above=8.0, below=10.0)


@pytest.mark.parametrize("pbc", [True, False])
def test_a_slab_anywhere_is_taken_where_it_is(pbc):
    slab = fcc111("Cu", (3, 3, 5), a=3.7, vacuum=10.0)
    slab.pbc = (True, True, pbc)
    slab.center(about=(0.0, 0.0, 0.0))
    lowest = np.flatnonzero(slab.positions[:, 2] < slab.positions[:, 2].min() + 0.1)
    assert chosen_by(slab, axis="z", below=-3.9) == set(lowest)
    if not pbc:  # far below an open slab it is not in it
        slab.positions[20, 2] -= 100.0
        assert chosen_by(slab, axis="z", below=-3.9) == {*lowest, 20}


@pytest.mark.parametrize("ensemble", [SCR, {**SCR, "type": "npt-mtk"}, STRAIN])
def test_cells_that_must_not_change(ensemble):
    slab = fcc111("Cu", (3, 3, 3), a=3.3, vacuum=6.0)
    slab.pbc = (True, True, False)
    options = {"ensemble": ensemble, "velocities": {"temperature": 300}}
    with pytest.raises(InputError, match=r"axes that are not periodic.*use an nvt ensemble"):
        Simulation(slab, PairPotential(), **options)
    with pytest.raises(InputError, match="the 4 held atoms would have to move with it"):
        Simulation(copper(), PairPotential(), frozen=[{"indices": "0:4"}], **options)


@pytest.mark.parametrize(
    ("changes", "pbc", "allowed"),
    [
        ({"coupling": "xy"}, "TTF", True),
        ({"coupling": "x"}, "TTF", True),
        ({"coupling": "z"}, "FFT", True),
        ({"coupling": "xz"}, "TTF", False),
        ({"coupling": "semi-isotropic"}, "TTF", False),
        ({"coupling": "isotropic"}, "TTF", False),
        ({"coupling": "xy"}, "FFT", False),
        ({"coupling": "xy"}, "FFF", False),
        ({"type": "relax", "coupling": "xy"}, "TTF", True),
        ({"type": "relax", "coupling": "flexible"}, "TTF", False),
        ({**STRAIN, "axis": "a"}, "TTF", True),
        ({**STRAIN, "axis": "c"}, "TTF", False),
    ],
)
def test_cells_with_open_axes_change_along_the_others(changes, pbc, allowed):
    """Also where they are skewed within the plane; not where a vector is missing."""
    keys = {**SCR, **changes} if changes.get("type", "npt-scr") == "npt-scr" else changes
    ensemble, periodic = Ensemble(**keys), [x == "T" for x in pbc]
    cell = np.array([[5.0, 0.0, 0.0], [2.0, 6.0, 0.0], [0.0, 0.0, 30.0]])
    asked = ensemble, cell, periodic
    if allowed:
        assert check_cell_changes(*asked, [False] * 3, 0, PairPotential(), False) == []
    else:
        with pytest.raises(InputError, match="not periodic"):
            check_cell_changes(*asked, [False] * 3, 0, PairPotential(), False)
    with pytest.raises(InputError, match="all its vectors"):
        check_cell_changes(*asked, [not x for x in periodic], 0, PairPotential(), False)


def test_a_slab_under_strain_is_told_what_it_can_do():
    ensemble = Ensemble(**STRAIN, lateral="stress-free", thermostat="bussi", temperature=300)
    cell = np.diag([5.0, 5.0, 20.0]), (True, True, False), (False,) * 3
    with pytest.raises(InputError, match="strain a periodic axis, with lateral: fixed"):
        check_cell_changes(ensemble, *cell, 0, PairPotential(), False)


def test_models_without_virials():
    ensemble, cell = Ensemble(**SCR), (np.eye(3), (True,) * 3, (False,) * 3)
    unknown, never = SimpleNamespace(provenance={}), {"virials trained": False}
    never = SimpleNamespace(provenance=never)
    assert check_cell_changes(ensemble, *cell, 0, PairPotential(), False) == []
    with_virials = SimpleNamespace(provenance={"virials trained": True})
    assert check_cell_changes(ensemble, *cell, 0, with_virials, False) == []
    (warning,) = check_cell_changes(ensemble, *cell, 0, unknown, False)
    assert "does not say whether it was trained on virials" in warning
    with pytest.raises(InputError, match=r"not trained on virials.*start_pref_v.*--force"):
        check_cell_changes(ensemble, *cell, 0, never, False)
    (warning,) = check_cell_changes(ensemble, *cell, 0, never, True)
    assert "going on as asked" in warning
    assert (
        check_cell_changes(Ensemble(), np.eye(3), (False,) * 3, (False,) * 3, 4, never, False) == []
    )


def test_the_command_refuses_a_model_without_virials_unless_forced(tmp_path, capsys, caplog):
    save_model(random_potential(("Cu",), rcut=4.0), tmp_path / "cu.dpl", {"virials trained": False})
    assert load_model(tmp_path / "cu.dpl").provenance == {"virials trained": False}
    copper(2, 3.7).write(tmp_path / "cu.extxyz")
    (tmp_path / "md.yaml").write_text(
        f"model: cu.dpl\nstructure: cu.extxyz\nsteps: 2\ntimestep: 0.1\n"
        f"output: {{directory: {tmp_path / 'run'}}}\nvelocities: {{temperature: 30}}\n"
        "ensemble: {type: npt-scr, temperature: 30, pressure: 1 bar}\n"
    )
    assert main(["md", str(tmp_path / "md.yaml"), "-q"]) == 1
    assert "not trained on virials" in capsys.readouterr().err
    assert main(["md", str(tmp_path / "md.yaml"), "-q", "--force"]) == 0
    assert "going on as asked" in caplog.text
    text = (tmp_path / "md.yaml").read_text().partition("ensemble")[0]
    (tmp_path / "md.yaml").write_text(text.replace("'run'", "").replace("/run", "/constant"))
    assert main(["md", str(tmp_path / "md.yaml"), "-q"]) == 0
    told = "not trained on virials: do not trust pressure and stresses"
    assert told in (tmp_path / "constant" / "log").read_text()


def test_a_ramp_goes_over_all_steps():
    ramp = Ramp(300.0, 1200.0, 9)
    assert [ramp(n) for n in (-1, 0, 8, 20)] == [300.0, 400.0, 1200.0, 1200.0]
    assert Ramp(5.0, 5.0)(7) == 5.0
    heating = {"type": "nvt-bussi", "temperature": [300, 1200]}
    with pytest.raises(InputError, match="give Simulation 'steps'"):
        Simulation(copper(), PairPotential(), ensemble=heating, velocities={"temperature": 300})


def test_a_ramp_that_is_continued_keeps_its_length():
    heating = Ensemble(type="nvt-bussi", temperature=[300, 1200])
    first = integrator(heating, 1.0, 100)
    memory = {**first.label, "given": 7}
    assert integrator(heating, 1.0, 900, memory, 60).thermostat.temperature.steps == 100
    cooling = Ensemble(type="nvt-bussi", temperature=[1200, 300])
    other = integrator(cooling, 1.0, 900, memory, 100).thermostat.temperature
    assert [other(n) for n in (99, 499, 899, 1000)] == [1200.0, 750.0, 300.0, 300.0]
    of_before = {key: memory[key] for key in ("type", "ramp_steps", "given")}
    assert integrator(heating, 1.0, 900, of_before, 60).thermostat.temperature.start == 0
    assert integrator(heating, 1.0, 900).thermostat.temperature.steps == 900


def test_another_ensemble_does_not_use_the_memory():
    chain = integrator(Ensemble(type="nvt-nhc", temperature=300), 1.0)
    chain.thermostat.chain.velocities[:] = 0.5
    memory = {**chain.label, "given": 3, **chain.thermostat.memory(None)}
    again = integrator(Ensemble(type="nvt-nhc", temperature=300), 1.0, memory=memory)
    assert again.thermostat.chain.velocities.tolist() == [0.5] * 3
    other = integrator(Ensemble(**{**SCR, "type": "npt-mtk"}), 1.0, memory=memory)
    assert isinstance(other, MartynaTobiasKlein)
    assert other.atoms_chain.velocities.tolist() == [0.0] * 3
    longer = integrator(
        Ensemble(type="nvt-nhc", temperature=300, chain_length=5), 1.0, None, memory
    )
    assert isinstance(longer.thermostat, NoseHooverChain)
    assert longer.thermostat.chain.velocities.tolist() == [0.5] * 3 + [0.0] * 2


@pytest.mark.parametrize("kind", ["nvt-bussi", "nvt-nhc", "npt-scr", "npt-mtk"])
def test_atoms_at_rest_cannot_be_scaled(kind):
    pressure = {"pressure": "1 bar"} if "npt" in kind else {}
    ensemble = {"type": kind, "temperature": 300, **pressure}
    with pytest.raises(InputError, match="scales velocities, and all are zero"):
        Simulation(copper(), PairPotential(), ensemble=ensemble)


@pytest.mark.parametrize("kind", ["nvt-bussi", "nvt-nhc"])
def test_a_motion_of_the_centre_of_mass_is_not_fed(kind):
    atoms = copper()
    rng = np.random.default_rng(1)
    atoms.set_velocities(0.1 * rng.normal(size=(len(atoms), 3)) + [1.0, 0, 0])
    ensemble = {"type": kind, "temperature": 300}
    simulation = Simulation(atoms, PairPotential(), ensemble=ensemble)
    momentum = (simulation.state.masses[:, None] * simulation.state.velocities).sum(0)
    assert float(momentum.abs().max()) < 1e-12
    assert simulation.freedom == 3 * len(atoms) - 3


def test_lateral_directions_must_be_perpendicular():
    ensemble = {**STRAIN, "lateral": "stress-free", "thermostat": "bussi", "temperature": 300}
    atoms = bulk("Cu", a=3.3).repeat(4)
    with pytest.raises(InputError, match="lattice vector c must be perpendicular"):
        Simulation(atoms, PairPotential(), ensemble=ensemble, velocities={"temperature": 300})


def test_a_strain_that_tears_is_refused():
    ensemble = {**STRAIN, "rate": 0.5}
    with pytest.raises(InputError, match=r"rate 0\.5/fs strains by 0\.5 in a timestep of 1 fs"):
        Simulation(copper(3), PairPotential(), ensemble=ensemble)


def test_compression_has_an_end(monkeypatch):
    monkeypatch.setattr("deepmd_lite.md.integrate.strain.LARGEST", 1.0)
    ensemble = {**STRAIN, "rate": -0.3}
    simulation = Simulation(copper(3), PairPotential(), ensemble=ensemble)
    with pytest.raises(Exception, match="has left 5% of the length"):
        simulation.run(10)


@pytest.mark.parametrize("kind", ["npt-scr", "npt-mtk"])
def test_a_barostat_out_of_control_says_so(kind):
    ensemble = {"type": kind, "temperature": 300, "pressure": "-200 GPa", "barostat_time": 0.5}
    options = {"ensemble": ensemble, "velocities": {"temperature": 300}}
    simulation = Simulation(copper(3), PairPotential(), **options)
    with pytest.raises(DeepmdLiteError, match="the barostat would strain the cell by"):
        simulation.run(20)


def test_keys_reach_the_run_from_an_input(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_model(random_potential(("Cu",), rcut=4.0), tmp_path / "cu.dpl", {"virials trained": True})
    copper(2, 3.7).write(tmp_path / "cu.extxyz")
    text = {
        "model": "cu.dpl",
        "structure": "cu.extxyz",
        "ensemble": {"type": "nvt-langevin", "temperature": [50, 90], "friction": 0.1},
        "velocities": {"temperature": 50},
        "frozen": {"axis": "x", "below": 1.0},
        "timestep": 0.1,
        "steps": 4,
        "output": {"trajectory": 4},
    }
    run_input(text, quiet=True)
    log = (tmp_path / "run/log").read_text()
    assert "nvt-langevin 50 to 90 K" in log
    from ase.io import read

    first, last = read("run/trajectory.extxyz", ":")
    moved = np.abs(first.positions - last.positions).max(axis=1)
    low = first.positions[:, 0] < 1.0
    assert moved[low].max() == 0.0
    assert moved[~low].min() > 0.0
