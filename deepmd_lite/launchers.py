"""What the environment tells a process of the launcher that has started it among others."""

from __future__ import annotations

from collections.abc import Mapping

SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS")
"""Set by mpiexec of Open MPI, MPICH and its relatives: the number of ranks."""
MARKS = ("PMIX_RANK", "PMI_RANK")
"""Set by other launchers without saying how many ranks there are."""
TASKS = "SLURM_STEP_NUM_TASKS"
"""Set by srun, whether or not its tasks are ranks of MPI: their number. SLURM_NTASKS is that of the
job, which the processes of a batch script have, too."""


def ranks_started(environment: Mapping[str, str]) -> int | None:
    """Ranks that an MPI launcher has started; 0 where it does not say, None where there is none."""
    ranks = max((int(environment.get(name, 0)) for name in SIZES), default=0)
    return ranks if ranks or any(name in environment for name in MARKS) else None


def tasks_of_srun(environment: Mapping[str, str]) -> int:
    """Tasks that srun has started beside each other; 0 without it, or where an mpiexec that says
    how many ranks there are has started this process in turn."""
    return 0 if ranks_started(environment) else int(environment.get(TASKS, 0))
