"""Starting tests under the mpiexec of this environment."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
SILICON = HERE.parents[1] / "data/silicon/silicon.dpl"


def mpiexec(n_ranks, *command):
    """Any number of ranks on any machine."""
    launcher = Path(sys.executable).parent / "mpiexec"
    return [str(x) for x in (launcher, "-n", n_ranks, *command)]


def script(n_ranks, name, *args):
    """The command that runs a file of this folder."""
    return mpiexec(n_ranks, sys.executable, HERE / name, *args)


def dpl(n_ranks, *args):
    """The command that runs `dpl`."""
    return mpiexec(n_ranks, sys.executable, "-m", "deepmd_lite", *args)


def environment():
    paths = [str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


def launch(command, folder=None, timeout=600):
    """What a command returns and prints; it runs in `folder`."""
    return subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=timeout
    )
