"""What must hold on any number of ranks. Run by `test_parallel.py`, in one launch.

    mpiexec -n 8 python cases.py FOLDER

Each case is a function of the communicator that all ranks call. What a rank asserts in vain ends
all ranks and what is left of every series: the folder of this one then says where and why.
"""

import shutil
import sys
import tempfile
import time
import traceback
from functools import partial
from pathlib import Path
from typing import Any

import ase.io
import h5py
import numpy as np
import pytest
import stand_in_plumed
import stops
import systems
import torch
from ase import Atoms
from ase.build import bulk
from ase.constraints import FixAtoms
from models import (
    FAR,
    NEAR,
    environment_of,
    hybrid_potential,
    random_potential,
    short_range_potential,
    with_members,
)
from pair_potential import PairPotential

from deepmd_lite import kernels
from deepmd_lite.calculator import Calculator
from deepmd_lite.deviation import COLUMNS, deviation
from deepmd_lite.md import SharedError, Simulation
from deepmd_lite.md.comm import Communicator, wrap
from deepmd_lite.md.domain import Domain, choose_grid
from deepmd_lite.md.halo import Halo, decompose
from deepmd_lite.md.initial import from_structure
from deepmd_lite.md.state import State
from deepmd_lite.model.known_pairs import KnownPairs
from deepmd_lite.neighbors import periodic_env
from deepmd_lite.system import DeepmdLiteError, InputError, LocalEnv, type_indices
from deepmd_lite.units import EV_PER_A3_IN_GPA

RCUT = systems.RCUT
MODEL = PairPotential(RCUT)
LANGEVIN = {"type": "nvt-langevin", "temperature": 400, "friction": 0.02, "seed": 5}
ADAPTIVE = {"max": 2.0, "displacement": 0.02}
THERMAL = {"temperature": [700, 900], "thermostat_time": 30}
BAROSTAT = {**THERMAL, "pressure": ["20 kbar", "5 GPa"], "barostat_time": 100}
STRAIN = {"type": "strain", "axis": "c", "rate": 1e-3}
FREE = {"lateral": "stress-free", "barostat_time": 100, **THERMAL}
ENSEMBLES = {
    "nve": {"type": "nve"},
    "langevin": LANGEVIN,
    "bussi": {"type": "nvt-bussi", **THERMAL},
    "nhc": {"type": "nvt-nhc", **THERMAL},
    **{
        f"scr_{c}": {"type": "npt-scr", **BAROSTAT, "coupling": c}
        for c in ("isotropic", "flexible")
    },
    **{
        f"mtk_{c}": {"type": "npt-mtk", **BAROSTAT, "coupling": c}
        for c in ("isotropic", "flexible")
    },
    "strain": {**STRAIN, "thermostat": "nhc", **THERMAL},
}
ORTHOGONAL = {
    "scr_anisotropic": {"type": "npt-scr", **BAROSTAT, "coupling": "anisotropic"},
    "heat_flow": {"type": "heat-flow", "axis": "b", "hot": 2000, "cold": 500, "width": 2.7},
    "strain_free": {**STRAIN, **FREE, "thermostat": "bussi"},
}
"""With those above every ensemble, with ramps where they may have them."""
STEPS = 26
"""Of a run in the cases of restarts."""
SIDE_BY_SIDE = ((8,), (4, 3, 1), (2,))
"""Numbers of ranks that run their series at the same time, and those that follow them. A rank takes
longer to import torch than to run its cases: the ranks of one launch serve all of them."""


def reference(atoms):
    """Types, `PeriodicEnv` and forces of a structure in one process."""
    types = type_indices(atoms.get_chemical_symbols(), MODEL.type_map, "test")
    env = periodic_env(atoms.positions, atoms.cell.array, atoms.pbc, np.array(types), RCUT)
    return env, env.fold(MODEL.evaluate(env.env).forces).numpy()


def edges_of(offsets, indices, positions, ids):
    """Rows (id of centre, id of neighbour, vector in 1e-6 Å): the set of edges."""
    centre = torch.repeat_interleave(torch.arange(len(offsets) - 1), offsets.diff())
    neighbor = indices.long()
    vectors = torch.round((positions[neighbor] - positions[centre]) * 1e6)
    return torch.cat([ids[centre, None], ids[neighbor, None], vectors], dim=1).numpy()


def gathered(comm, rows):
    """Rows (n, k) of all ranks one after the other on rank 0; None elsewhere."""
    everyone = comm.collect(np.asarray(rows))
    return np.concatenate(everyone) if comm.rank == 0 else None


def lexsorted(rows):
    return rows[np.lexsort(rows.T[::-1])]


def same_edges(found, expected):
    """Equal sets up to the last digit of the vectors."""
    assert found.shape == expected.shape, f"{len(found)} edges, expected {len(expected)}"
    assert np.abs(lexsorted(found) - lexsorted(expected)).max(initial=0) <= 1


def halo_of(atoms, comm, grid=None, domain=None):
    """Atoms brought to their ranks: halo and state."""
    start = from_structure(atoms, MODEL.type_map, (1, 1, 1), {}, comm)
    if domain is None:
        domain = decompose(start.state.positions.numpy(), start.cell, start.pbc, comm, grid)
    halo = Halo(domain, comm)
    return halo, halo.migrate(start.state)


def check_halo(halo, state, atoms, comm):
    """Ownership, edges and folded forces against one process."""
    ids = gathered(comm, state.ids.double()[:, None].numpy())
    positions, types, all_ids = halo.exchange(state, RCUT)
    offsets, indices = kernels.neighbor_list(positions, types, len(state), RCUT)
    edges = gathered(comm, edges_of(offsets, indices, positions, all_ids))

    moved = positions.clone()
    moved[len(state) :] = torch.nan
    halo.update(moved)
    env = LocalEnv(moved, types, len(state), offsets, indices)
    forces = halo.reverse(MODEL.evaluate(env).forces)
    rows = gathered(comm, torch.cat([state.ids.double()[:, None], forces], dim=1).numpy())
    np.testing.assert_array_equal(moved.numpy(), positions.numpy())
    if comm.rank:
        return
    np.testing.assert_array_equal(np.sort(ids[:, 0]), np.arange(len(atoms)))
    env, expected = reference(atoms)
    e = env.env
    same_edges(edges, edges_of(e.offsets, e.indices, e.positions, env.owner))
    found = rows[np.argsort(rows[:, 0]), 1:]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)


def forces_of(structure, comm):
    atoms = structure()
    halo, state = halo_of(atoms, comm)
    check_halo(halo, state, atoms, comm)


def forces_along_axis(axis, comm):
    """All ranks in a row, so that a subdomain is thinner than the halo: several hops."""
    grid = [1, 1, 1]
    grid[axis] = comm.size
    for structure in (systems.cubic, systems.skewed, systems.slab, systems.cluster):
        atoms = structure()
        halo, state = halo_of(atoms, comm, grid)
        check_halo(halo, state, atoms, comm)


def atoms_on_faces(comm):
    """A perfect crystal whose planes are exactly those of a uniform grid, and of the cell."""
    atoms = bulk("Cu", cubic=True, a=3.6).repeat(4)
    for cell_sign in (1, -1):
        atoms.set_cell(cell_sign * atoms.cell.array, scale_atoms=True)
        grid = choose_grid([1, 1, 1], comm.size)
        cuts = tuple(np.arange(n + 1) / n for n in grid)
        domain = Domain(atoms.cell.array.copy(), (True, True, True), cuts)
        halo, state = halo_of(atoms, comm, domain=domain)
        check_halo(halo, state, atoms, comm)
        check_halo(halo, halo.migrate(state), atoms, comm)


def uneven_cuts(comm):
    """Planes anywhere, two of them nearly together."""
    atoms = systems.triclinic()
    for axis in range(3):
        inner = np.sort(np.random.default_rng(axis).random(comm.size - 1))
        if comm.size > 2:
            inner[1] = inner[0]
        cuts = [np.array([0.0, 1.0])] * 3
        cuts[axis] = np.concatenate([[0.0], np.sort(inner), [1.0]])
        halo, state = halo_of(
            atoms, comm, domain=Domain(atoms.cell.array, (True,) * 3, tuple(cuts))
        )
        check_halo(halo, state, atoms, comm)


def all_atoms_on_one_rank(comm):
    """Every other rank is empty, has ghosts or has not, and must still take part."""
    atoms = systems.cluster()
    cuts = (np.linspace(900.0, 1000.0, comm.size + 1), np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    domain = Domain(np.eye(3), (False, False, False), cuts)
    halo, state = halo_of(atoms, comm, domain=domain)
    assert len(state) == (len(atoms) if comm.rank == 0 else 0)
    check_halo(halo, state, atoms, comm)


def neighbours_that_no_model_knows(comm):
    """Two dimers in corners: ranks between them have no rows, and all say the same."""
    atoms = Atoms("Cu4", [[1, 1, 1], [3, 1, 1], [37, 37, 37], [39, 37, 37]], cell=[40.0] * 3)
    model = PairPotential(systems.RCUT)
    model.known_pairs = KnownPairs(torch.full((2, 2), 2.5, dtype=torch.float64))
    free = {"force": None, "displacement": None, "temperature_jump": None}
    simulation = Simulation(atoms, model, comm=comm, guards=free, timestep=0.1)
    simulation.run(2)
    with pytest.raises(SharedError, match=r"step 0: Cu-Cu 2\.00 Å apart, .* 2\.50 Å at least"):
        Simulation(atoms, model, comm=comm, guards={**free, "beyond_table": "stop"})


def migration_of_anything(comm):
    """Atoms thrown any distance arrive, each at the one rank that owns the place."""
    atoms = systems.triclinic()
    halo, state = halo_of(atoms, comm)
    rng = np.random.default_rng(comm.rank)
    for _ in range(5):
        jump = torch.from_numpy(rng.normal(size=(len(state), 3)) * 40.0)
        before = state.path(atoms.cell.array)
        path = gathered(comm, torch.cat([state.ids[:, None], before + jump], dim=1).numpy())
        state.positions = state.positions + jump
        state = halo.migrate(state)
        assert (halo.domain.owner(state.positions.numpy()) == comm.rank).all()
        after = state.path(atoms.cell.array)
        rows = gathered(comm, torch.cat([state.ids[:, None], after], dim=1).numpy())
        if comm.rank == 0:
            np.testing.assert_allclose(lexsorted(rows), lexsorted(path), atol=1e-9)


def numbers_of_all_ranks(comm):
    """Whole numbers are added exactly, also beyond what a float64 holds."""
    n = comm.size * (comm.size - 1) // 2
    for found, expected in (
        (comm.total(2**55 + comm.rank), comm.size * 2**55 + n),
        (comm.total(np.int64(comm.rank)), n),
        (comm.total(0.5 * comm.rank), 0.5 * n),
        (comm.largest(-comm.rank), 0),
        (comm.largest(0.5 * comm.rank), 0.5 * (comm.size - 1)),
    ):
        assert (found, type(found)) == (expected, type(expected))


def uneven(atoms, comm):
    """A simulation in which the first rank along z begins with nearly all atoms."""
    simulation = Simulation(atoms, MODEL, comm=comm, grid=(1, 1, comm.size))
    z = np.concatenate([[0.0], np.linspace(0.95, 1.0, comm.size)])
    flat = np.array([0.0, 1.0])
    simulation.engine.halo.domain = Domain(atoms.cell.array, (True,) * 3, (flat, flat, z))
    simulation.engine.balance = "off"
    simulation.engine.refresh(stale=True)
    return simulation


def share_of(simulation, comm):
    """Atoms of the fullest rank over the mean."""
    return comm.largest(len(simulation.state)) * comm.size / simulation.n_atoms


def planes_follow_the_atoms(comm):
    """A slab with 60 % vacuum, badly divided, is even after the next list; forces stay."""
    atoms = bulk("Cu", cubic=True, a=3.7).repeat((2, 2, 8))
    atoms.cell[2] /= 0.4
    simulation = uneven(systems.rattled(atoms, 11, 0.05), comm)
    assert comm.size == 1 or share_of(simulation, comm) > 0.8 * comm.size
    simulation.engine.balance = "atoms"
    simulation.engine.refresh(stale=True)
    assert share_of(simulation, comm) < 1.1
    simulation.engine.evaluate()
    found = simulation.atoms
    if comm.rank == 0:
        np.testing.assert_allclose(found.get_forces(), reference(atoms)[1], rtol=0, atol=1e-10)


def planes_follow_the_time(comm):
    """Where the ranks' atoms cost unequal time, the slow ones get fewer."""
    atoms = systems.rattled(bulk("Cu", cubic=True, a=3.7).repeat((2, 2, 8)), 12)
    simulation = Simulation(atoms, MODEL, comm=comm, grid=(1, 1, comm.size), balance="time")
    engine, before = simulation.engine, len(simulation.state)
    slow = comm.rank == 0
    engine._model_seconds = (3.0 if slow else 1.0) * before
    engine.refresh(stale=True)
    if comm.size > 1 and slow:  # it shall have (size + 2) / size of the cost of one fast rank
        expected = (comm.size + 2) / (3 * comm.size)
        assert len(simulation.state) == pytest.approx(expected * before, abs=8)  # a plane
    engine.evaluate()
    found = simulation.atoms
    if comm.rank == 0:
        np.testing.assert_allclose(found.get_forces(), reference(atoms)[1], rtol=0, atol=1e-10)


def a_cell_that_is_deformed(comm):
    """Strain and shear bit by bit: forces stay those of one process; the list is made anew when,
    and only when, the deformation uses up the skin."""
    simulation = Simulation(systems.triclinic(), MODEL, comm=comm, skin=0.6)
    engine, built = simulation.engine, 0
    strain = np.array([[0.01, 0.003, 0.0], [0.0, -0.02, 0.006], [0.003, 0.0, 0.006]])
    for _ in range(12):
        engine.deform(engine.cell @ (np.eye(3) + strain))
        stale = comm.largest(engine.movement()[0]) > 1.0
        built += stale
        engine.refresh(stale)
        engine.evaluate()
        found = simulation.atoms
        if comm.rank == 0:
            expected = reference(found)[1]
            np.testing.assert_allclose(found.get_forces(), expected, rtol=0, atol=1e-10)
    assert 0 < built < 6


def a_lost_atom_is_an_error(comm):
    halo, state = halo_of(systems.cubic(), comm)
    if comm.rank == comm.size - 1:
        state = State.unpack(state.pack()[1:])
    with pytest.raises(SharedError, match="atoms found"):
        halo.migrate(state)


def difference(parallel, serial):
    """Largest difference of positions and velocities of two simulations, on rank 0."""
    a, b = parallel.atoms, serial.atoms
    if a is None:
        return 0.0
    np.testing.assert_array_equal(a.numbers, b.numbers)
    positions = np.abs(a.positions - b.positions).max()
    return max(positions, np.abs(a.get_velocities() - b.get_velocities()).max())


def trajectory(structure, ensemble, comm, timestep=2.0):
    """The same motion as in one process; enough of it for lists to be made and atoms to move."""
    options = {
        "ensemble": ensemble,
        "velocities": {"temperature": 1500, "seed": 3},
        "timestep": timestep,
        "skin": 0.4,
        "steps": 24,
    }
    parallel = Simulation(structure(), MODEL, comm=comm, **options)
    serial = Simulation(structure(), MODEL, **options)
    assert difference(parallel, serial) < 1e-12
    result, expected = parallel.run(24), serial.run(24)
    assert result.list_builds == expected.list_builds > 1
    assert difference(parallel, serial) < 1e-9
    assert (result.timestep == 2.0) == (timestep == 2.0)
    np.testing.assert_allclose(parallel.timestep, serial.timestep, rtol=1e-9)
    a, b = result.thermo, expected.thermo
    np.testing.assert_allclose(a.time, b.time, rtol=1e-9)
    np.testing.assert_allclose(a.total, b.total, atol=1e-8)
    np.testing.assert_allclose(a.temperature, b.temperature, atol=1e-6)
    np.testing.assert_allclose(a.stress, b.stress, atol=1e-10)
    np.testing.assert_allclose(a.conserved, b.conserved, atol=1e-7)
    np.testing.assert_allclose(a.cell, b.cell, atol=1e-10)


def a_bias(comm):
    """Forces of PLUMED on atoms of several ranks, and on all of them through the energy."""
    sys.modules["plumed"] = stand_in_plumed
    lines = [
        *("d: DISTANCE ATOMS=2,31", "e: ENERGY", "v: VOLUME"),
        *("RESTRAINT ARG=d AT=0.5 KAPPA=2000", "RESTRAINT ARG=e AT=0 KAPPA=0 SLOPE=0.2"),
        "RESTRAINT ARG=v AT=1.2 KAPPA=500",
    ]
    options = {
        "ensemble": ENSEMBLES["scr_flexible"],
        "velocities": {"temperature": 900, "seed": 3},
        "timestep": 2.0,
        "skin": 0.4,
        "steps": 16,
        "plumed": lines,
    }
    parallel = Simulation(systems.triclinic(), MODEL, comm=comm, **options)
    serial = Simulation(systems.triclinic(), MODEL, **options)
    free = Simulation(systems.triclinic(), MODEL)
    a, b = parallel.run(16), serial.run(16)
    assert difference(parallel, serial) < 1e-9
    np.testing.assert_allclose(a.thermo.stress, b.thermo.stress, atol=1e-10)
    np.testing.assert_allclose(a.thermo.conserved, b.thermo.conserved, atol=1e-7)
    assert abs(parallel.bias.energy(parallel.engine)) > 1.0
    assert np.abs(parallel.bias.virial).max() > 1.0
    assert free.bias.energy(free.engine) == 0.0
    assert "plumed" in a.parts
    broken = [*lines[:1], "RESTRAINT ARG=nothing AT=0.5 KAPPA=1"]
    with pytest.raises((SharedError, InputError), match=r"PLUMED says: .*nothing"):
        Simulation(systems.triclinic(), MODEL, comm=comm, plumed=broken)


def a_relaxation(comm):
    """Of atoms and cell, on atoms that change ranks; it ends on all ranks at the same step."""
    ensemble = {"type": "relax", "coupling": "flexible", "pressure": "2 GPa", "fmax": 0.005}
    options = {"ensemble": ensemble, "skin": 0.1, "frozen": []}
    parallel = Simulation(systems.triclinic(), MODEL, comm=comm, **options)
    serial = Simulation(systems.triclinic(), MODEL, **options)
    a, b = parallel.run(12), serial.run(12)
    assert a.list_builds == b.list_builds > 1
    assert difference(parallel, serial) < 1e-9
    np.testing.assert_allclose(a.thermo.conserved, b.thermo.conserved, atol=1e-8)
    np.testing.assert_allclose(a.thermo.largest_force, b.thermo.largest_force, atol=1e-8)
    end = parallel.run(1000)
    assert parallel.integrator.ends
    assert end.thermo.largest_force <= 0.005
    assert end.thermo.pressure * EV_PER_A3_IN_GPA == pytest.approx(2.0, abs=0.05)


def replicated(comm):
    """Copies made on the ranks that share them are those of ASE."""
    unit = systems.cubic()
    parallel = Simulation(unit, MODEL, replicate=(2, 1, 3), comm=comm)
    atoms = parallel.atoms
    if comm.rank == 0:
        expected = unit.repeat((2, 1, 3))
        np.testing.assert_array_equal(atoms.numbers, expected.numbers)
        np.testing.assert_allclose(atoms.positions, expected.positions, atol=1e-9)
        np.testing.assert_allclose(atoms.get_forces(), reference(expected)[1], atol=1e-10)


def held_atoms(comm):
    """Some are held, on whichever rank they are."""
    frozen = [{"elements": ["Ag"], "axis": "x", "below": 9.0}, {"indices": "::7"}]
    options = {"ensemble": {"type": "nvt-nhc", "temperature": 500}, "timestep": 2.0}
    velocities = {"temperature": 900, "seed": 3}
    atoms = systems.cubic()
    atoms.set_constraint(FixAtoms(indices=[1, 2, 40]))
    atoms.positions[::3] += [2, -1, 0] @ atoms.cell  # as in a frame that is not wrapped
    parallel, serial = (
        Simulation(given, MODEL, comm=c, frozen=frozen, velocities=velocities, **options)
        for c, given in ((comm, atoms if comm.rank == 0 else None), (None, atoms))
    )
    loose = Simulation(systems.cubic(), MODEL, comm=comm, frozen=frozen)
    assert loose.n_held < parallel.n_held == serial.n_held <= loose.n_held + 3
    assert parallel.freedom == serial.freedom < 3 * parallel.n_atoms - 20
    parallel.run(20)
    serial.run(20)
    assert difference(parallel, serial) < 1e-9


def groups(comm):
    """Driven, pulled, and in touch with a thermostat, on whichever rank they are."""
    options = {
        "moving": [
            {"axis": "x", "below": 3.0, "velocity": [0.02, 0.0, 0.03]},
            {"indices": "::9", "axis": "x", "above": 3.0, "velocity": [0.0, -0.02, 0.0]},
        ],
        "pull": {"indices": "1::9", "axis": "x", "above": 3.0, "force": [0.0, 0.1, -0.2]},
        "ensemble": {**LANGEVIN, "atoms": {"axis": "z", "below": 8.0}},
        "velocities": {"temperature": 900, "seed": 3},
        **{"timestep": 2.0, "skin": 0.3},
    }
    parallel, serial = (Simulation(systems.cubic(), MODEL, comm=c, **options) for c in (comm, None))
    a, b = parallel.run(30), serial.run(30)
    assert a.list_builds == b.list_builds > 2
    assert difference(parallel, serial) < 1e-9
    np.testing.assert_allclose(a.thermo.conserved, b.thermo.conserved, atol=1e-7)
    one, other = (run.engine.drive.rows(run.comm, 30, 60.0) for run in (parallel, serial))
    values = [[float(x) for x in row.split(",")] for row in (one + other).splitlines()]
    np.testing.assert_allclose(values[:2], values[2:], atol=1e-6)
    assert np.abs(values).max() > 0.1


def selections_in_vain(comm):
    """An error on all ranks alike, though no rank holds all atoms."""
    for frozen, message in (
        ({"indices": ":"}, "holds all"),
        ({"axis": "x", "above": 1e3}, "meets"),
    ):
        with pytest.raises((SharedError, InputError), match=message):
            Simulation(systems.cubic(), MODEL, comm=comm, frozen=[frozen])
    with pytest.raises((SharedError, InputError), match="all are zero"):
        Simulation(systems.cubic(), MODEL, comm=comm, ensemble=ENSEMBLES["nhc"], steps=9)


def restart_is_exact(structure, ensemble, comm, frozen=(), timestep=2.0):
    """N steps, a restart and N steps are 2N steps, bit for bit, in files too; on one rank also."""
    root = Path(comm.share(tempfile.mkdtemp()))
    options = {
        "ensemble": ensemble,
        "velocities": {"temperature": 1500},
        "timestep": timestep,
        "skin": 0.4,
        "steps": STEPS,
    }
    every = {"thermo": 5, "trajectory": 10, "restart": 0}

    def run(name, steps, resume=None, **more):
        output = {"directory": str(root / name), **every}
        simulation = Simulation(
            structure(), MODEL, frozen=frozen, output=output, resume=resume, comm=comm, **options
        )
        simulation.run(steps)
        return simulation

    whole = run("whole", STEPS)
    run("parts", 13)
    parts = run("parts", 13, resume=root / "parts/restart/step-000000000013")
    assert difference(whole, parts) == 0.0
    assert (whole.time, whole.timestep) == (parts.time, parts.timestep)
    if comm.rank == 0:
        serial = Simulation(
            None,
            MODEL,
            resume=root / "parts/restart/step-000000000013",
            **options,
        )
        serial.run(13)
        for name in ("thermo.csv", "trajectory.extxyz"):
            assert (root / "whole" / name).read_text() == (root / "parts" / name).read_text()
        moved = serial.atoms.positions
    atoms = whole.atoms
    if comm.rank == 0:
        assert np.abs(atoms.positions - moved).max() < 1e-9
        shutil.rmtree(root)


OBSERVE = {
    "rdf": {"every": 4, "bins": 50},
    "msd": {"every": 2, "window": 10, "origins": 3},
    "vacf": {"every": 1, "window": 12, "origins": 2},
    "stress": {"every": 3, "window": 10},
    "heat_flux": {"every": 4, "window": 10},
    "temperature_profile": {"every": 5, "axis": 1, "bins": 7},
}
FORMATS = ["extxyz", "traj", "h5md", "lammps"]
MOVING = {"ensemble": LANGEVIN, "velocities": {"temperature": 1500}, "timestep": 2.0, "skin": 0.4}


def same_numbers(found, expected, name):
    """Tables of an observable, but for a first column of words."""
    skipped = 1 if isinstance(expected.rows[0][0], str) else 0
    x, y = (np.array([r[skipped:] for r in t.rows]) for t in (found, expected))
    np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-9, err_msg=name)


def observables_are_those_of_one_rank(r_max, comm):
    """Every table, and every frame of every format to the last digits; all ranks know the sums."""
    root = Path(comm.share(tempfile.mkdtemp()))
    observe = {**OBSERVE, "rdf": {**OBSERVE["rdf"], "r_max": r_max}}

    def run(name, comm):
        output = {"directory": root / name, "trajectory": 8, "format": FORMATS, "observe": observe}
        simulation = Simulation(systems.triclinic(), MODEL, comm=comm, output=output, **MOVING)
        simulation.run(32)
        return simulation.observables

    found = run("parallel", comm)
    memories = comm.collect([o.memory() for o in found])
    assert all(m == memories[0] for m in memories)
    if comm.rank == 0:
        for a, b in zip(found, run("serial", None), strict=True):
            assert a.samples == b.samples > 6
            ours, theirs = a.result(), b.result()
            assert ours.keys() == theirs.keys() != set()
            for name, table in theirs.items():
                same_numbers(ours[name], table, name)
        for kind in ("extxyz", "traj"):
            paths = [root / r / f"trajectory.{kind}" for r in ("parallel", "serial")]
            x, y = (ase.io.read(path, ":", parallel=False) for path in paths)
            assert len(x) == len(y) == 5
            for a, b in zip(x, y, strict=True):
                np.testing.assert_array_equal(a.numbers, b.numbers)
                np.testing.assert_allclose(a.positions, b.positions, atol=1e-7)
        with (
            h5py.File(root / "parallel/trajectory.h5md") as a,
            h5py.File(root / "serial/trajectory.h5md") as b,
        ):
            np.testing.assert_array_equal(a["particles/all/species"], b["particles/all/species"])
            np.testing.assert_array_equal(a["particles/all/id"], b["particles/all/id"])
            for name in ("position", "velocity", "force"):
                x, y = (f[f"particles/all/{name}/value"][:] for f in (a, b))
                np.testing.assert_allclose(x, y, atol=1e-6)
        lines = [
            (root / r / "trajectory.lammpstrj").read_text().splitlines()
            for r in ("parallel", "serial")
        ]
        assert len(lines[0]) == len(lines[1])
        x, y = ([line.split()[:4] for line in text] for text in lines)
        assert [r for r in x if r[0] != "ITEM:"] == [r for r in y if r[0] != "ITEM:"]
        shutil.rmtree(root)


def observables_go_on(comm):
    """A continued run ends with the tables and trajectories of one never interrupted, byte for
    byte, although steps after the restart had been made and written before."""
    root = Path(comm.share(tempfile.mkdtemp()))

    def run(name, steps, resume=None):
        output = {"directory": root / name, "trajectory": 4, "format": FORMATS, "observe": OBSERVE}
        output["restart"] = 13
        options = {"resume": resume, "output": output, "comm": comm, **MOVING}
        Simulation(systems.cubic(), MODEL, **options).run(steps)

    run("whole", 30)
    run("parts", 13)
    at_13 = root / "parts" / "restart" / "step-000000000013"
    run("parts", 9, at_13)
    run("parts", 17, at_13)
    if comm.rank == 0:
        names = sorted(p.name for p in (root / "whole").iterdir() if p.is_file())
        names = [n for n in names if n != "log" and not n.startswith(".")]
        assert len(names) == 4 + 1 + 10, names
        for name in names:
            whole, parts = ((root / run / name).read_bytes() for run in ("whole", "parts"))
            assert whole == parts, name
        shutil.rmtree(root)


def few_atoms_observed(comm):
    """Three atoms, of which a rank may have none: what atoms carry, as on one rank."""
    root = Path(comm.share(tempfile.mkdtemp()))

    def run(name, comm):
        output = {"directory": root / name, "restart": 5, "observe": {"msd": {}, "vacf": {}}}
        simulation = Simulation(systems.three_atoms(), MODEL, comm=comm, output=output, **MOVING)
        simulation.run(20)
        return simulation.observables

    found = run("parallel", comm)
    if comm.rank == 0:
        for a, b in zip(found, run("serial", None), strict=True):
            for name, table in b.result().items():
                same_numbers(a.result()[name], table, name)
        shutil.rmtree(root)


def observables_that_make_no_sense_are_one_error(comm):
    observe = {"rdf": {}, "temperature_profile": {}}
    root = Path(comm.share(tempfile.mkdtemp()))
    with pytest.raises(DeepmdLiteError, match="rdf: needs the volume"):
        output = {"directory": root, "observe": observe}
        Simulation(systems.cluster(), MODEL, output=output, comm=comm)
    if comm.rank == 0:
        shutil.rmtree(root)


def model_deviation(comm):
    """Of models with other elements and cutoffs: that of the calculator, on any number of ranks;
    a continued run ends with the file of one never interrupted, byte for byte."""
    root = Path(comm.share(tempfile.mkdtemp()))
    other = [("Ag", "Cu"), ("Cu", "Ag"), ("Si", "Ag", "Cu")]
    models = [random_potential(m, rcut=3.0 + k, seed=k) for k, m in enumerate(other)]

    def run(name, steps, resume=None, structure=systems.cubic, models=(MODEL, *models), **more):
        output = {"directory": root / name, "thermo": 2, "model_devi": 3, "restart": 0}
        options = {"resume": resume, "output": output, "comm": comm, **MOVING, **more}
        Simulation(structure(), models, **options).run(steps)

    run("whole", 12)
    run("parts", 6)
    run("parts", 6, root / "parts")
    run("few", 0, structure=systems.three_atoms)
    committee = with_members(random_potential(("Ag", "Cu"), rcut=4.0), n=2)
    run("members", 0, models=committee)
    with pytest.raises(SharedError, match="step 0: the model's committee deviates by"):
        run("guarded", 3, models=committee, guards={"deviation": 1e-6})
    if comm.rank == 0:
        whole, parts = ((root / r / "model_devi.out").read_text() for r in ("whole", "parts"))
        assert whole == parts
        lines = whole.splitlines()
        assert lines[0].split()[1:] == ["step", *COLUMNS]
        assert [int(line.split()[0]) for line in lines[1:]] == [0, 3, 6, 9, 12]
        for name, atoms in (("whole", systems.cubic()), ("few", systems.three_atoms())):
            row = np.loadtxt(root / name / "model_devi.out", ndmin=2)[0]
            parts = [Calculator(m) for m in models]
            forces = [reference(atoms)[1], *(c.get_forces(atoms) for c in parts)]
            virials = [single_virial(atoms), *(c.get_property("virial", atoms) for c in parts)]
            expected = deviation(np.zeros(4), np.stack(forces), np.stack(virials))
            np.testing.assert_allclose(row[1:], expected.columns, rtol=1e-6, atol=1e-9)
            assert expected.max_f > 0.01
        frame = ase.io.read(root / "members" / "trajectory.extxyz", parallel=False)
        own = Calculator(committee).get_property("forces_std", systems.cubic())
        np.testing.assert_allclose(frame.arrays["forces_std"], own, rtol=0, atol=1e-7)
        row = np.loadtxt(root / "members" / "model_devi.out")
        spread = Calculator(committee).get_property("forces_std", systems.cubic())
        expected = spread.max(), spread.min(), spread.mean()
        np.testing.assert_allclose(row[4:], expected, rtol=1e-6)
        shutil.rmtree(root)


class _Unsure(PairPotential):
    """Forces on one atom of this rank that are not numbers."""

    def evaluate(self, env):
        found = super().evaluate(env)
        found.forces[0] = np.nan
        return found


def a_deviation_that_is_not_a_number(comm):
    """Whichever rank it is on, all know of it, and a guard ends the run."""
    for rank in (0, comm.size - 1):
        other = _Unsure(RCUT) if comm.rank == rank else MODEL
        root = Path(comm.share(tempfile.mkdtemp()))
        output = {"directory": root, "model_devi": 1, "trajectory": 0}
        options = {"output": output, "guards": {"deviation": 1.0}, "comm": comm}
        simulation = Simulation(systems.cubic(), (MODEL, other), **options)
        with pytest.raises(SharedError, match="deviate by inf"):
            simulation.run(0)
        if comm.rank == 0:
            row = np.loadtxt(root / "model_devi.out")
            assert np.isnan(row[4:]).all()
            shutil.rmtree(root)


def single_virial(atoms):
    """(3, 3) eV of `MODEL` in one process."""
    return MODEL.evaluate(reference(atoms)[0].env).virial.numpy()


def deep_potential(comm):
    agrees_with_ase(random_potential(("Cu", "Ag")), comm)


def hybrid(comm):
    """The halo is as wide as the largest cutoff, which the first descriptor does not have."""
    model = hybrid_potential((NEAR, FAR), type_map=("Cu", "Ag"))
    agrees_with_ase(model.freeze(), comm)


def short_range_table(comm):
    """Of pairs across the planes as well: the atoms of all structures are in the switch."""
    model = short_range_potential(("Cu", "Ag"), sw_rmin=2.0, sw_rmax=2.9)
    atoms = systems.cubic()
    value = 1 - model.short_range.weights(environment_of(atoms, model.type_map, model.rcut).env)
    assert (value > 0.05).sum() > len(atoms) / 2
    agrees_with_ase(model, comm)


def agrees_with_ase(model, comm):
    """Energy, forces and stress of a Deep Potential as the ASE calculator gives them."""
    structures = (
        systems.cubic,
        systems.triclinic,
        systems.skewed,
        systems.thinner_than_two_cutoffs,
        systems.thinner_than_one_cutoff,
    )
    for structure in structures:
        atoms = structure()
        found = Simulation(atoms, model, comm=comm).atoms
        if comm.rank == 0:
            atoms.calc = Calculator(model)
            forces = atoms.get_forces()
            assert np.abs(forces).max() > 0.05
            np.testing.assert_allclose(found.get_forces(), forces, rtol=0, atol=1e-10)
            np.testing.assert_allclose(found.get_stress(), atoms.get_stress(), rtol=0, atol=1e-10)
            energy = atoms.get_potential_energy()
            np.testing.assert_allclose(found.get_potential_energy(), energy, rtol=0, atol=1e-8)


CASES = {
    "deep_potential": deep_potential,
    "hybrid": hybrid,
    "short_range_table": short_range_table,
    "model_deviation": model_deviation,
    "a_deviation_that_is_not_a_number": a_deviation_that_is_not_a_number,
    **{f"forces_{s.__name__}": partial(forces_of, s) for s in systems.ALL},
    **{f"forces_along_axis_{i}": partial(forces_along_axis, i) for i in range(3)},
    "atoms_on_faces": atoms_on_faces,
    "uneven_cuts": uneven_cuts,
    "all_atoms_on_one_rank": all_atoms_on_one_rank,
    "neighbours_that_no_model_knows": neighbours_that_no_model_knows,
    "migration_of_anything": migration_of_anything,
    "numbers_of_all_ranks": numbers_of_all_ranks,
    "planes_follow_the_atoms": planes_follow_the_atoms,
    "planes_follow_the_time": planes_follow_the_time,
    "a_cell_that_is_deformed": a_cell_that_is_deformed,
    "a_lost_atom_is_an_error": a_lost_atom_is_an_error,
    **{f"trajectory_{k}": partial(trajectory, systems.triclinic, e) for k, e in ENSEMBLES.items()},
    **{f"trajectory_{k}": partial(trajectory, systems.cubic, e) for k, e in ORTHOGONAL.items()},
    "trajectory_cluster": partial(trajectory, systems.cluster, ENSEMBLES["nhc"]),
    "trajectory_of_few_atoms": partial(trajectory, systems.three_atoms, LANGEVIN),
    "trajectory_adaptive": partial(trajectory, systems.triclinic, LANGEVIN, timestep=ADAPTIVE),
    "restart_adaptive": partial(restart_is_exact, systems.triclinic, LANGEVIN, timestep=ADAPTIVE),
    "trajectory_slab": partial(trajectory, systems.slab, LANGEVIN),
    "a_bias": a_bias,
    "a_relaxation": a_relaxation,
    "replicated": replicated,
    "observables": partial(observables_are_those_of_one_rank, 4.0),
    "observables_far": partial(observables_are_those_of_one_rank, 7.0),
    "observables_go_on": observables_go_on,
    "few_atoms_observed": few_atoms_observed,
    "observables_that_make_no_sense": observables_that_make_no_sense_are_one_error,
    **stops.CASES,
    "restart_held": partial(
        restart_is_exact, systems.cubic, ENSEMBLES["bussi"], frozen={"indices": "::7"}
    ),
    "held_atoms": held_atoms,
    "groups": groups,
    "selections_in_vain": selections_in_vain,
    **{
        f"restart_{k}": partial(restart_is_exact, systems.triclinic, e)
        for k, e in ENSEMBLES.items()
    },
    **{f"restart_{k}": partial(restart_is_exact, systems.cubic, e) for k, e in ORTHOGONAL.items()},
}


def cases_of(n_ranks: int) -> dict[str, Any]:
    """More ranks than processors take their time: restarts are the same for them as for two (and
    for four in `test_killed`), files and most ensembles for them as for one and two, ends for four
    as for three. On eight there is what asks where atoms and ghosts are."""
    left_out: tuple[str, ...] = () if n_ranks == 2 else ("restart_",)
    if n_ranks > 2:
        left_out += "observables_", "trajectory_scr_", "trajectory_bussi", "trajectory_nhc"
        left_out += ("trajectory_strain",)
    if n_ranks > 3:
        left_out += *stops.CASES, "trajectory_mtk", "held_atoms", "model_deviation", "selections"
    if n_ranks == 8:
        left_out += "hybrid", "short_range_table", "observables", "planes_follow_the_time"
        left_out += "forces_along_axis", "forces_cubic", "trajectory_langevin", "trajectory_slab"
    return {k: c for k, c in CASES.items() if not k.startswith(left_out)}


def main(folder: Path) -> None:
    """Leaves a folder for each number of ranks, and in it a file for each case that passed, and one
    for the rank that ended the series."""
    from mpi4py import MPI

    torch.set_num_threads(1)
    world = MPI.COMM_WORLD
    for counts in SIDE_BY_SIDE:
        which = np.repeat(np.arange(len(counts)), counts)
        own = int(which[world.rank]) if world.rank < len(which) else MPI.UNDEFINED
        part = world.Split(own, world.rank)
        if part != MPI.COMM_NULL:
            series(folder, wrap(part))
        everyone = world.Ibarrier()
        while not everyone.Test():  # asleep: the others need the processor
            time.sleep(0.02)


def series(folder: Path, comm: Communicator) -> None:
    """The cases of a number of ranks."""
    found = folder / str(comm.size)
    found.mkdir(exist_ok=True)
    for name, case in cases_of(comm.size).items():
        try:
            case(comm)
        except BaseException:
            (found / f"{name}.failed").write_text(f"rank {comm.rank}: {traceback.format_exc()}")
            comm.end()
        if comm.rank == 0:
            (found / f"{name}.passed").write_text(str(comm.size))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
