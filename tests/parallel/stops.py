"""Runs that all ranks end together, as cases for `cases.py`: guards that trip, bad input, a disk
without room for a shard."""

import resource
import shutil
import signal
import tempfile
from functools import partial
from pathlib import Path

import ase.io
import pytest
import systems
import torch
from ase.build import bulk
from launching import SILICON
from pair_potential import PairPotential

from deepmd_lite.md import SharedError, Simulation, run_input
from deepmd_lite.md.output import Writer
from deepmd_lite.md.restart import find
from deepmd_lite.md.structure import read_structure
from deepmd_lite.system import InputError

VICTIM = 17
"""Atom at which the potential goes wrong."""


class Moody(PairPotential):
    """Wrong in one way near one point, from the fourth evaluation on."""

    def __init__(self, how, position):
        super().__init__(systems.RCUT)
        self.how, self.position, self.count = how, torch.from_numpy(position), 0

    def evaluate(self, env):
        result = super().evaluate(env)
        self.count += 1
        near = (env.positions[: env.n_local] - self.position).norm(dim=1) < 0.5
        if self.count < 4 or not near.any():
            return result
        if self.how == "nan":
            result.forces[: env.n_local][near] = torch.nan
        elif self.how == "push":
            result.forces[: env.n_local][near] = torch.tensor([0.0, 5000.0, 0.0]).double()
        elif self.how == "close":
            result.beyond_table = 3
        elif self.how == "met":
            raise InputError(f"rows {int(near.nonzero()[0])} and 0 coincide (distance < 1e-6 Å)")
        return result


def wrapped():
    atoms = systems.cubic()
    atoms.wrap()
    return atoms


def overlapping():
    """The victim is put 0.2 Å from an atom far away in the list of atoms."""
    atoms = wrapped()
    atoms.positions[VICTIM] = atoms.positions[80] + [0.2, 0.0, 0.0]
    return atoms


HOT = {"velocities": {"temperature": 300}, "timestep": 50.0}
"""A timestep at which copper gains energy from nothing."""
TRIPS = {
    "force_that_is_nan": ("nan", {}, r"step 3: atom 17 \(Cu\) has a force or energy that is not"),
    "force": ("push", {}, r"step 3: atom 17 \(Cu\) has a force of 5000 eV/Å, more than 500 eV/Å"),
    "displacement": (
        "push",
        {"force": None, "displacement": 0.3},
        r"step 4: atom 17 \(Cu\) moves .* Å in one step, more than 0.3 Å \(guards: displacement\)",
    ),
    "table": (
        "close",
        {"beyond_table": "stop"},
        r"step 3: 2 pairs are closer than the model's table reaches .*; atom \d+ .* Å apart",
    ),
    "distance": (
        "overlap",
        {"force": None, "distance": 0.4},
        r"step 0: atom 17 .* and atom 80 .* are 0.2 Å apart, less than 0.4 Å \(guards: distance\)",
    ),
    "atoms_that_meet": ("met", {}, r"step 3: atoms \d+ \(\w+\) and \d+ \(\w+\) coincide"),
    "temperature": (
        "hot",
        {"displacement": None, "force": None},
        r"the temperature is \d+ K, more than \d+ K, .* the fastest is atom \d+",
    ),
}


def guard_trips(how, guards, message, comm):
    """One message on all ranks; frame and last restart are there to be looked at."""
    root = Path(comm.share(tempfile.mkdtemp()))
    atoms = overlapping() if how == "overlap" else wrapped()
    options = HOT if how == "hot" else {"velocities": {"temperature": 300}}
    output = {"directory": root / "run", "restart": 1}
    model = Moody(how, atoms.positions[VICTIM])
    with pytest.raises(SharedError, match=message) as e:
        Simulation(atoms, model, guards=guards, output=output, comm=comm, **options).run(400)
    assert "\n" not in str(e.value)
    assert "halve the timestep" in str(e.value)
    assert len(set(comm.collect(str(e.value)))) == 1
    frame = ase.io.read(root / "run/failed.extxyz", parallel=False)
    assert len(frame) == len(atoms)
    assert f"step {frame.info['step']}:" in str(e.value)
    if frame.info["step"] > 0:
        found, header, damaged = find(root / "run", comm)
        assert header["step"] == frame.info["step"] - 1
        assert not damaged
        assert f"the last restart is {found}" in str(e.value)
    remove(root, comm)


def input_that_cannot_be_run(comm):
    """Said on rank 0; the others end in silence."""
    root = Path(comm.share(tempfile.mkdtemp()))
    if comm.rank == 0:
        ase.io.write(root / "gold.extxyz", bulk("Au", cubic=True), parallel=False)
    cases = (
        ({"model": "none.dpl"}, "model: nothing at 'none.dpl'"),
        ({}, "element Au is not in the type map"),
        ({"timestp": 2}, "unknown key 'timestp'; did you mean 'timestep'?"),
    )
    for change, message in cases:
        data = {"model": str(SILICON), "structure": str(root / "gold.extxyz"), "steps": 1}
        data |= {"output": {"directory": str(root / "run")}, **change}
        with pytest.raises((SharedError, SystemExit, ValueError)) as e:
            run_input(data, comm=comm, quiet=True)
        if comm.rank == 0:
            assert message in str(e.value)
        else:
            assert e.value.code == 1
    assert not (root / "run/thermo.csv").exists()
    remove(root, comm)


def no_room_for_a_shard(comm):
    """The last rank cannot write: all raise the same error, and the last restart is whole."""
    root = Path(comm.share(tempfile.mkdtemp()))
    output = {"directory": root / "run", "restart": 1}
    options = {"velocities": {"temperature": 300}, "output": output, "comm": comm}
    run = Simulation(systems.cubic(), PairPotential(systems.RCUT), **options)
    run.run(2)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if comm.rank == comm.size - 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    name = f"shard-{comm.size - 1:04d}.safetensors: cannot be written: File too large"
    with pytest.raises((SharedError, ValueError), match=name):
        run.run(5)
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, ignored)
    _, header, damaged = find(root / "run", comm)
    assert header["step"] == 2
    assert not damaged
    names = sorted(p.name for p in (root / "run/restart").iterdir())
    assert names == ["step-000000000001", "step-000000000002"]
    remove(root, comm)


def files_are_the_business_of_rank_0(comm):
    """ASE, which knows of MPI too, must not talk to ranks that do not listen."""
    root = Path(comm.share(tempfile.mkdtemp()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ase.parallel.broadcast", lambda *_, **__: pytest.fail("ASE broadcasts"))
        if comm.rank == 0:
            Writer(root, True, None).frame(systems.cubic(), "trajectory.extxyz")
            assert len(read_structure(str(root / "trajectory.extxyz"))) == len(systems.cubic())
    remove(root, comm)


def remove(root, comm):
    comm.collect(None)  # everyone has looked
    if comm.rank == 0:
        shutil.rmtree(root)


CASES = {
    **{f"guard_{name}": partial(guard_trips, *trip) for name, trip in TRIPS.items()},
    "files_are_the_business_of_rank_0": files_are_the_business_of_rank_0,
    "input_that_cannot_be_run": input_that_cannot_be_run,
    "no_room_for_a_shard": no_room_for_a_shard,
}
