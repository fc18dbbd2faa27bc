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


def tasks_of_srun(environment: Mapping[str, str]) -> int:
    """Tasks that srun has started beside each other; 0 without it, or where an mpiexec that says
    how many ranks there are has started this process in turn."""
    return 0 if ranks_started(environment) else int(environment.get(TASKS, 0))
