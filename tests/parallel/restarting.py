"""A run that goes on with another number of ranks, for `test_killed.py`.

    mpiexec -n N python restarting.py begin|continue FOLDER OUT

`begin` makes 20 steps, leaves the files of that moment in FOLDER, and 30 more steps elsewhere;
`continue` makes these 30 from there. OUT (npz) holds forces and positions after 20 steps, and
positions after every tenth step from there.
"""

import shutil
import sys

import numpy as np
import systems
import torch
from pair_potential import PairPotential

from deepmd_lite.md import Simulation, communicator

OPTIONS = {
    "ensemble": {"type": "nvt-langevin", "temperature": 900, "friction": 0.02, "seed": 7},
    "velocities": {"temperature": 900, "seed": 3},
    "timestep": 2.0,
    "skin": 0.4,
}


def main(how, folder, out):
    comm = communicator()
    output = {
        "directory": f"{folder}-whole" if how == "begin" else folder,
        "thermo": 5,
        "trajectory": 10,
        "restart": 0,
    }
    simulation = Simulation(
        systems.triclinic(),
        PairPotential(systems.RCUT),
        output=output,
        resume=folder if how == "continue" else None,
        comm=comm,
        **OPTIONS,
    )
    if how == "begin":
        simulation.run(20)
        if comm.rank == 0:
            shutil.copytree(f"{folder}-whole", folder)
    first, path = simulation.atoms, []
    for _ in range(3):
        simulation.run(10)
        path.append(simulation.atoms)
    if comm.rank == 0:
        positions = [atoms.positions for atoms in (first, *path)]
        np.savez(out, forces=first.get_forces(), positions=np.array(positions))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
