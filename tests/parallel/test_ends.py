"""How a run under mpiexec ends when it must: at once, on all ranks, with one message.

What all ranks find out together is in `stops.py`; here one rank alone is concerned.
"""

import os
import signal
import subprocess
import sys
import time

import ase.io
import pytest
from ase.build import bulk
from launching import SILICON, dpl, environment, launch, script

from deepmd_lite.md import restart

pytest.importorskip("mpi4py")
PATIENCE = 300
"""Seconds; a rank that waits for a dead one waits for ever."""


def error_lines(done):
    """Lines of standard error that are ours; MPI adds some when ranks are ended."""
    return [line for line in done.stderr.splitlines() if line.startswith("dpl")]


@pytest.mark.parametrize(("evaluation", "ranks"), [(0, 2), (5, 3)])
def test_an_error_on_one_rank_ends_all(evaluation, ranks):
    done = launch(script(ranks, "ending.py", "unilateral", evaluation), timeout=PATIENCE)
    assert done.returncode != 0
    assert error_lines(done) == [
        f"dpl: error on rank {ranks - 1} of {ranks}: ValueError: "
        f"the model of rank {ranks - 1} has had enough"
    ]
    assert "finished" not in done.stdout


def test_an_error_on_one_rank_before_the_first_step_ends_all():
    done = launch(script(2, "ending.py", "placing"), timeout=PATIENCE)
    assert done.returncode != 0
    (line,) = error_lines(done)
    assert "error on rank 1 of 2: MemoryError: no memory for the copies" in line
    assert "finished" not in done.stdout


def test_a_disk_without_room_for_thermo_ends_all(tmp_path):
    folder = tmp_path / "run"
    done = launch(script(3, "ending.py", "full", folder, "thermo.csv"), timeout=PATIENCE)
    assert done.returncode != 0
    assert "finished" not in done.stdout
    path = folder / "thermo.csv"
    message = f"dpl: error on rank 0 of 3: {path}: cannot be written: File too large"
    assert error_lines(done) == [message]
    assert restart.describe(folder)["step"] == "2"


def test_an_unknown_element_is_said_once_by_the_command(tmp_path):
    ase.io.write(tmp_path / "gold.extxyz", bulk("Au", cubic=True))
    text = f"model: {SILICON}\nstructure: gold.extxyz\nsteps: 5"
    (tmp_path / "md.yaml").write_text(text)
    done = launch(dpl(2, "md", "md.yaml"), tmp_path, timeout=PATIENCE)
    assert done.returncode == 1
    assert len(error_lines(done)) == 1
    assert "element Au is not in the type map ['Si']" in error_lines(done)[0]


# --- signals --------------------------------------------------------------------------------


def lines_of(path):
    return path.read_text().count("\n") if path.exists() else 0


def stopped(command, folder, thermo, number, pid=None):
    """What a command prints that has been sent a signal, itself or the process that `pid` names,
    when a few steps were made; it must return 0."""
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + PATIENCE
        while lines_of(thermo) < 4 or (pid is not None and not pid.exists()):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        os.kill(process.pid if pid is None else int(pid.read_text()), number)
        printed, errors = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    return printed


def test_sigterm_to_one_rank_stops_all_after_the_same_step(tmp_path):
    folder = tmp_path / "run"
    command = script(3, "ending.py", "signalled", folder)
    stopped(command, tmp_path, folder / "thermo.csv", signal.SIGTERM, folder / "pid")
    ends = {(folder / f"rank-{rank}").read_text() for rank in range(3)}
    assert len(ends) == 1
    assert ends.pop() == f"SIGTERM {restart.describe(folder)['step']}"


@pytest.mark.parametrize(("number", "ranks"), [(signal.SIGUSR1, 2), (signal.SIGTERM, 0)])
def test_the_command_heeds_a_signal_also_through_mpiexec(tmp_path, number, ranks):
    ase.io.write(tmp_path / "si.extxyz", bulk("Si", cubic=True))
    text = f"model: {SILICON}\nstructure: si.extxyz\nsteps: 10000000\noutput: {{thermo: 1}}"
    (tmp_path / "md.yaml").write_text(text)
    alone = [sys.executable, "-m", "deepmd_lite", "md", "md.yaml"]
    command = dpl(ranks, "md", "md.yaml") if ranks else alone
    printed = stopped(command, tmp_path, tmp_path / "run/thermo.csv", number)
    step = restart.describe(tmp_path / "run")["step"]
    assert f"stopped by {number.name} after step {step}; a restart is written" in printed
