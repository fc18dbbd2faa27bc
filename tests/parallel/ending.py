"""Runs that end before their time, for `test_ends.py`: mpiexec -n N python ending.py HOW …"""

import os
import resource
import sys
from pathlib import Path

import systems
import torch
from pair_potential import PairPotential

from deepmd_lite.md import Simulation, communicator, initial

THERMAL = {"temperature": 300}


class Unwilling(PairPotential):
    """Raises at one evaluation; the constructor makes number 0."""

    def __init__(self, at, rank):
        super().__init__(systems.RCUT)
        self.at, self.rank = at, rank
        self.count = -1

    def evaluate(self, env):
        self.count += 1
        if self.count == self.at:
            raise ValueError(f"the model of rank {self.rank}\nhas had enough")
        return super().evaluate(env)


def unilateral(comm, at):
    model = Unwilling(int(at) if comm.rank == comm.size - 1 else None, comm.rank)
    Simulation(systems.cubic(), model, velocities=THERMAL, comm=comm).run(50)
    print("finished")


def placing(comm):
    """One rank runs out of memory while the atoms are brought to their ranks."""

    def lacks_memory(*_):
        raise MemoryError("no memory for the copies")

    atoms, model = systems.cubic(), PairPotential(systems.RCUT)
    if comm.rank == comm.size - 1:
        initial.np.tile = lacks_memory
    Simulation(atoms, model, replicate=(2, 1, 1), comm=comm)
    print("finished")


def full(comm, folder, name):
    """Rank 0 has no room for one more line or frame of a file."""
    output = {"directory": folder, "restart": 2, "thermo": 0, "trajectory": 0}
    model = PairPotential(systems.RCUT)
    run = Simulation(systems.cubic(), model, velocities=THERMAL, output=output, comm=comm)
    run.run(2)
    setattr(run.output, Path(name).stem, 1)
    if comm.rank == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, resource.RLIM_INFINITY))
    run.run(50)
    print("finished")


def signalled(comm, folder):
    output = {"directory": folder, "thermo": 1}
    model = PairPotential(systems.RCUT)
    run = Simulation(systems.cubic(), model, velocities=THERMAL, output=output, comm=comm)
    if comm.rank == comm.size - 1:
        Path(folder, "pid").write_text(str(os.getpid()))
    result = run.run(10**7)
    Path(folder, f"rank-{comm.rank}").write_text(f"{result.signal} {run.step}")


HOW = {"unilateral": unilateral, "placing": placing, "full": full, "signalled": signalled}

if __name__ == "__main__":
    torch.set_num_threads(1)
    HOW[sys.argv[1]](communicator(), *sys.argv[2:])
