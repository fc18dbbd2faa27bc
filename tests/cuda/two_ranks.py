"""Run under mpiexec by test_cuda_dynamics.py: each rank has an emulated GPU, from which halos go to
the other by way of the host, or at once as with an MPI that takes the addresses of GPUs.

    two_ranks.py LIBRARY
"""

import copy
import functools
import sys
from pathlib import Path

import numpy as np
import strict_device
from ase.build import bulk

from deepmd_lite.kernels.cuda import native
from deepmd_lite.md import Simulation
from deepmd_lite.md.comm import communicator, guarded

SILICON = Path(__file__).parents[2] / "data" / "silicon" / "silicon.dpl"
STEPS = 6


def run(device, comm, pbc, **options):
    """Atoms on rank 0 after steps with lists made anew, and the simulation."""
    atoms = bulk("Si", cubic=True).repeat((2, 1, 1))
    atoms.pbc = pbc
    atoms.rattle(0.05, seed=2)
    made = Simulation(
        atoms,
        SILICON,
        ensemble={"type": "nvt-langevin", "temperature": 900, "friction": 0.1},
        velocities={"temperature": 900, "seed": 3},
        timestep=2.0,
        skin=0.2,
        grid=(2, 1, 1),
        device=device,
        comm=comm,
        **options,
    )
    assert made.run(STEPS).list_builds > 0
    return made.atoms, made


def main(library):
    comm = communicator()
    assert comm.size == 2
    assert not comm.reads_gpus  # the MPI of these tests was built without
    for pbc in (True, False):
        compare(library, comm, pbc, staged=True)
    comm.reads_gpus = True  # an emulated GPU's memory is the host's
    for pbc in (True, False):
        compare(library, comm, pbc, staged=False)
    compare(library, comm, True, staged=True, ghosts="host")
    if comm.rank == 0:
        print("two ranks agree")


@functools.cache
def on_the_processor(comm, pbc):
    """What all of them are compared with: the atoms on rank 0."""
    return run("cpu", comm, pbc)[0]


def compare(library, comm, pbc, staged, **options):
    """The same as on the processor, the same bits again, and no more passes than must."""
    expected = on_the_processor(comm, pbc)
    with strict_device.emulated(native.opened(Path(library))) as traffic, guarded(comm):
        found, simulation = run("cuda", comm, pbc, **options)
        again, _ = run("cuda", comm, pbc, **options)
        engine = simulation.engine
        before = copy.copy(traffic)
        engine.refresh(stale=False)
        engine.evaluate()
        passed = traffic.since(before)
        assert engine.halo.by_way_of_host == staged
        swaps = [s for s in engine.halo._swaps if s.to != comm.rank and not s.is_void]
        numbers = sum(3 * (len(s.rows) + s.stop - s.start) for s in swaps)
        assert numbers > 0
        if staged:
            assert all(x.device.type == "cpu" for s in swaps for x in s.staging)
            # positions and forces of ghosts of the other rank, each once, and nothing else
            assert passed.numbers == 2 * numbers
            assert passed.to_host + passed.to_device == sum(
                2 * (len(s.rows) > 0) + 2 * (s.stop > s.start) for s in swaps
            )
        else:
            assert passed.numbers == passed.to_host == passed.to_device == 0
        # once each way, also where nothing leaves: what came last may not have been read yet
        assert passed.waits == 2 * len(swaps) + 1  # and for the faults of the kernels
        if comm.rank == 0:
            np.testing.assert_allclose(found.positions, expected.positions, atol=1e-9)
            np.testing.assert_array_equal(found.positions, again.positions)


if __name__ == "__main__":
    main(*sys.argv[1:])
