"""A folder of results that one process writes into at a time."""

import errno
import gc
import os
import subprocess
import sys

import pytest
import yaml
from ase.build import bulk
from ase.io import write
from copper import copper as copper_frames
from copper import settings
from pair_potential import PairPotential
from test_md_run import folder  # noqa: F401  a fixture

from deepmd_lite.files import InUse
from deepmd_lite.md import Simulation, run_input
from deepmd_lite.system import InputError
from deepmd_lite.training import train

HOLDER = """
import errno, fcntl, sys
from deepmd_lite.files import InUse
def no_locks(*_):
    raise OSError(errno.ENOLCK, "no locks")
if sys.argv[2:]:
    fcntl.lockf = no_locks
with InUse(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def without_locks(monkeypatch):
    def refused(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.lockf", refused)


@pytest.fixture(params=["with locks", "without locks"])
def held_by_another(request, tmp_path, monkeypatch):
    """A folder that another process writes into, and that process; both on a file system with or
    without locks."""
    place = tmp_path / "results"
    place.mkdir()
    command = [sys.executable, "-c", HOLDER, str(place)]
    if request.param == "without locks":
        command += ["without"]
        without_locks(monkeypatch)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        yield place, other
        other.kill()


def test_one_process_at_a_time(held_by_another):
    place, other = held_by_another
    with pytest.raises(InputError, match=f"results: process {other.pid} on .* is writing its"):
        InUse(place).acquire()
    other.stdin.close()
    other.wait()
    with InUse(place):
        assert (place / InUse.NAME).exists()
    assert not any(place.iterdir())


def test_a_simulation_that_takes_the_place_of_another_is_guarded(tmp_path):
    """Although the first one, in the same process, takes the lock away when it is forgotten."""

    class Asking(PairPotential):
        def evaluate(self, env):
            asked = subprocess.run([sys.executable, "-c", HOLDER, place], **options)
            told.append(asked.stderr)
            return super().evaluate(env)

    place, told = str(tmp_path / "run"), []
    options = {"capture_output": True, "text": True, "input": ""}
    for model in (PairPotential(), Asking()):
        simulation = Simulation(bulk("Cu", cubic=True), model, output=place)
        gc.collect()
    simulation.run(1)
    assert f"process {os.getpid()} on" in told[-1]
    assert not (tmp_path / "run" / InUse.NAME).exists()


def test_a_lock_that_was_replaced_stays(tmp_path):
    first, second = InUse(tmp_path), InUse(tmp_path)
    first.acquire()
    first.path.unlink()
    second.acquire()
    first.release()
    assert second.path.exists()
    second.release()


def test_without_locks_a_process_has_the_folder_once_more(tmp_path, monkeypatch):
    without_locks(monkeypatch)
    first, second = InUse(tmp_path), InUse(tmp_path)
    first.acquire()
    second.acquire()
    first.release()
    assert f"process {os.getpid()} on" in second.path.read_text()
    first.acquire()
    second.release()
    first.release()
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["process 7 on another-machine\n", ""])
def test_without_locks_nobody_knows_of_other_machines(tmp_path, monkeypatch, content):
    """The file stays, and the message says what to do if its process was killed."""
    without_locks(monkeypatch)
    path = tmp_path / InUse.NAME
    path.write_text(content)
    with pytest.raises(InputError, match=r"is writing.*if it has been killed, remove .*\.in-use"):
        InUse(tmp_path).acquire()
    assert path.read_text() == content
    path.unlink()
    with InUse(tmp_path):
        pass


def test_a_process_that_was_killed_holds_nothing(held_by_another):
    place, other = held_by_another
    other.kill()
    other.wait()
    with InUse(place):
        pass
    assert not any(place.iterdir())


def test_a_training_leaves_the_folder_of_another_alone(held_by_another, tmp_path):
    place, _ = held_by_another
    write(tmp_path / "train.extxyz", copper_frames(4, 1))
    config = settings(tmp_path, numb_steps=2)
    config["training"].pop("validation_data", None)
    with pytest.raises(InputError, match="is writing its results there"):
        train(config, output=place, quiet=True)
    assert [p.name for p in place.iterdir()] == [InUse.NAME]


def test_a_run_that_is_refused_leaves_no_lock(folder):  # noqa: F811
    whole = yaml.safe_load((folder / "md.yaml").read_text())
    run_input({**whole, "steps": 1}, quiet=True)
    assert not (folder / "run" / InUse.NAME).exists()
    with pytest.raises(InputError, match="holds a run already"):
        run_input(whole, quiet=True)
    gc.collect()
    assert not (folder / "run" / InUse.NAME).exists()


def test_a_run_leaves_the_folder_of_another_alone(held_by_another, folder):  # noqa: F811
    place, _ = held_by_another
    whole = yaml.safe_load((folder / "md.yaml").read_text())
    with pytest.raises(InputError, match="is writing its results there"):
        run_input({**whole, "output": {"directory": str(place)}}, quiet=True)
    assert [p.name for p in place.iterdir()] == [InUse.NAME]
