"""The cases of `cases.py` on 1 to 8 ranks, and how a run under mpiexec ends when it must."""

import os
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import ase.io
import pytest
import systems
from cases import CASES

from deepmd_lite.md import restart

HERE = Path(__file__).parent
RANKS = (1, 2, 3, 4, 8)


def command(n_ranks, script, *args):
    """Launched by the mpiexec of this environment; any number of ranks on any machine."""
    mpiexec = Path(sys.executable).parent / "mpiexec"
    return [mpiexec, "-n", str(n_ranks), sys.executable, str(HERE / script), *map(str, args)]


def environment():
    paths = [str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


def launch(n_ranks, script, *args):
    return subprocess.run(
        command(n_ranks, script, *args),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
    )


@cache
def results(n_ranks):
    """What the series left, one launch for all cases; and the end of what it printed."""
    folder = Path(mkdtemp(prefix=f"parallel-{n_ranks}-"))
    done = launch(n_ranks, "cases.py", folder)
    return folder, done.stderr[-2000:]


@pytest.mark.parametrize("n_ranks", RANKS)
@pytest.mark.parametrize("case", CASES)
def test_case(case, n_ranks):
    pytest.importorskip("mpi4py")
    folder, printed = results(n_ranks)
    failed = folder / f"{case}.failed"
    assert not failed.exists(), failed.read_text()
    passed = folder / f"{case}.passed"
    assert passed.exists(), f"not reached: {[f.name for f in folder.glob('*.failed')]} {printed}"
    assert passed.read_text() == str(n_ranks)


def error_lines(done):
    """Lines of standard error that are ours; MPI adds some when ranks are ended."""
    return [line for line in done.stderr.splitlines() if line.startswith("dpl: error")]


@pytest.mark.parametrize("where", ["evaluate", "construct"])
def test_an_error_on_one_rank_ends_all(where):
    pytest.importorskip("mpi4py")
    done = launch(4, "ending.py", where)
    assert done.returncode != 0
    assert error_lines(done) == [
        "dpl: error on rank 2 of 4: ValueError: the model of rank 2 has had enough"
    ]
    assert "finished" not in done.stdout


def test_a_motion_that_breaks_down_is_one_error_for_all(tmp_path):
    pytest.importorskip("mpi4py")
    done = launch(3, "ending.py", "breakdown", tmp_path / "run")
    assert done.returncode == 1
    caught = [line for line in done.stdout.splitlines() if line.startswith("caught")]
    assert len(caught) == 1, done.stdout + done.stderr
    assert "step 3: atom 17 has a force or energy that is not finite" in caught[0]
    assert len(ase.io.read(tmp_path / "run/failed.extxyz")) == len(systems.cubic())


def test_bad_input_is_said_once():
    pytest.importorskip("mpi4py")
    done = launch(3, "ending.py", "input")
    assert done.returncode == 1
    assert [line for line in done.stdout.splitlines() if "caught" in line] == [
        "caught: MD input: unknown key 'timestp'; did you mean 'timestep'?"
    ]


def lines_of(path):
    return path.read_text().count("\n") if path.exists() else 0


def test_sigterm_writes_a_restart_and_ends_cleanly(tmp_path):
    """The signal goes to one rank; all stop after the same step."""
    pytest.importorskip("mpi4py")
    folder = tmp_path / "run"
    process = subprocess.Popen(
        command(3, "ending.py", "sigterm", folder),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 300
        while not (folder / "pid").exists() or lines_of(folder / "thermo.csv") < 4:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        os.kill(int((folder / "pid").read_text()), signal.SIGTERM)
        printed, errors = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    steps = {line.split()[-1] for line in printed.splitlines() if line.startswith("stopped at")}
    assert len(steps) == 1
    assert int(restart.newest(folder).stem.split("-")[1]) == int(steps.pop())
