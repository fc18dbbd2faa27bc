"""Runs that end before their time, for `test_parallel.py`: mpiexec -n N python ending.py HOW …"""

import os
import sys
from pathlib import Path

import systems
import torch
from pair_potential import PairPotential

from deepmd_lite.md import SharedError, Simulation, communicator, run_input

THERMAL = {"temperature": 300}


class Moody(PairPotential):
    """Raises, or returns a force that is not finite, at one evaluation."""

    def __init__(self, raises_at=None, rank=None, nan_at=None, position=None):
        super().__init__(systems.RCUT)
        self.raises_at, self.rank, self.nan_at, self.position = raises_at, rank, nan_at, position
        self.count = -1

    def evaluate(self, env):
        self.count += 1
        if self.count == self.raises_at:
            raise ValueError(f"the model of rank {self.rank}\nhas had enough")
        result = super().evaluate(env)
        if self.count == self.nan_at:
            near = (env.positions[: env.n_local] - self.position).norm(dim=1) < 0.5
            result.forces[: env.n_local][near] = torch.nan
        return result


def unilateral(comm, step):
    model = Moody(step if comm.rank == 2 else None, comm.rank)
    Simulation(systems.cubic(), model, velocities=THERMAL, comm=comm).run(50)
    print("finished")


def breakdown(comm, folder):
    atoms = systems.cubic()
    atoms.wrap()
    model = Moody(nan_at=3, position=torch.from_numpy(atoms.positions[17]))
    try:
        output = {"directory": folder}
        Simulation(atoms, model, velocities=THERMAL, output=output, comm=comm).run(50)
    except SharedError as e:
        if comm.rank == 0:
            print("caught:", e)
        raise SystemExit(1) from None


def bad_input(comm):
    data = {"model": "none.dpl", "structure": "none.xyz", "steps": 1, "timestp": 2}
    try:
        run_input(data, comm=comm)
    except SharedError as e:
        print("caught:", e)
        raise SystemExit(1) from None


def sigterm(comm, folder):
    output = {"directory": folder, "thermo": 1}
    simulation = Simulation(
        systems.cubic(), PairPotential(), velocities=THERMAL, output=output, comm=comm
    )
    if comm.rank == comm.size - 1:
        Path(folder, "pid").write_text(str(os.getpid()))
    result = simulation.run(10**7)
    assert result.signal == "SIGTERM"
    print(f"stopped at {simulation.step}", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    how, arguments = sys.argv[1], sys.argv[2:]
    comm = communicator()
    if how == "evaluate":
        unilateral(comm, 5)
    elif how == "construct":
        unilateral(comm, 0)
    else:
        {"breakdown": breakdown, "input": bad_input, "sigterm": sigterm}[how](comm, *arguments)
