"""The program that starts the ranks of a parallel run."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path


def mpiexec() -> str | None:
    """Path of the mpiexec beside this Python, else of the first in PATH; None without any."""
    beside = Path(sys.executable).parent
    return shutil.which("mpiexec", path=str(beside)) or shutil.which("mpiexec")
