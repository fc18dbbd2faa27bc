"""Programs that start the processes of a parallel run: the one that is there, and what the
environment tells a process of the one that has started it among others."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS")
"""Set by mpiexec of Open MPI, MPICH and its relatives: the number of ranks."""
MARKS = ("PMIX_RANK", "PMI_RANK")
"""Set by other launchers without saying how many ranks there are."""
TASKS = "SLURM_STEP_NUM_TASKS"
"""Set by srun, whether or not its tasks are ranks of MPI: their number. SLURM_NTASKS is that of the
job, which the processes of a batch script have, too."""


def mpiexec() -> str | None:
    """Path of the mpiexec beside this Python, else of the first in PATH; None without any."""
    beside = Path(sys.executable).parent
    return shutil.which("mpiexec", path=str(beside)) or shutil.which("mpiexec")


def ranks_started(environment: Mapping[str, str]) -> int | None:
    """Ranks that an MPI launcher has started; 0 where it does not say, None where there is none."""
    ranks = max((int(environment.get(name, 0)) for name in SIZES), default=0)
    return ranks if ranks or any(name in environment for name in MARKS) else None


def of_unconnected_tasks(environment: Mapping[str, str]) -> str:
    """What to add where a run finds another one at work in its folder: that it may be one of the
    same start. Empty where MPI connects what was started, or there is one process."""
    n = tasks_of_srun(environment) if ranks_started(environment) is None else 0
    return (
        f"; srun started {n} tasks, which srun --mpi=pmix or --mpi=pmi2 connects" if n > 1 else ""
    )


def of_several_trainings(environment: Mapping[str, str]) -> str:
    """As `of_unconnected_tasks`, of a training."""
    n = max(ranks_started(environment) or 0, tasks_of_srun(environment))
    way = f"torchrun --nproc-per-node {n} -m deepmd_lite train …"
    return f"; {n} processes were started, which a training takes by {way}" if n > 1 else ""


def tasks_of_srun(environment: Mapping[str, str]) -> int:
    """Tasks that srun has started beside each other; 0 without it, or where an mpiexec that says
    how many ranks there are has started this process in turn."""
    return 0 if ranks_started(environment) else int(environment.get(TASKS, 0))
