"""Run under mpiexec by `machine.ranks`: forces of all ranks beside those of rank 0 alone.

Reads the structure as JSON from rank 0's standard input; prints BEGUN once the ranks have found
each other, and the largest difference, eV/Å.
"""

from __future__ import annotations

import json
import sys

import numpy as np
from ase import Atoms

from ..md import Simulation, communicator
from ..md.comm import Communicator, guarded
from ..model import load_model
from .machine import BEGUN


def main() -> None:
    """Print one word and one number."""
    comm = communicator()
    with guarded(comm):
        _compare(comm)


def _compare(comm: Communicator) -> None:
    job = comm.share(json.load(sys.stdin) if comm.rank == 0 else None)
    if comm.rank == 0:
        print(BEGUN, flush=True)
    atoms = Atoms(job["symbols"], positions=job["positions"], cell=job["cell"], pbc=job["pbc"])
    model = load_model(job["model"], "float64")
    together = Simulation(atoms, model, comm=comm).atoms
    if together is not None:  # on rank 0
        alone = Simulation(atoms, model).atoms
        assert alone is not None
        print(float(np.abs(together.get_forces() - alone.get_forces()).max()))


if __name__ == "__main__":
    main()
