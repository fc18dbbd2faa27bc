"""A folder of results that one process, and one writer in it, writes into at a time."""

import errno
import gc
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml
from ase.build import bulk
from ase.io import write
from copper import copper as copper_frames
from copper import settings
from pair_potential import PairPotential
from test_md_run import folder  # noqa: F401  a fixture

from deepmd_lite.files import InUse, temporary_name
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


def test_one_writer_of_a_process_at_a_time(tmp_path):
    with InUse(tmp_path):
        with pytest.raises(InputError, match="this process is writing results there already"):
            InUse(tmp_path / ".." / tmp_path.name).acquire()
        assert (tmp_path / InUse.NAME).exists()
    with InUse(tmp_path):
        pass
    assert not any(tmp_path.iterdir())


def test_threads_do_not_write_into_one_temporary_file(tmp_path):
    with ThreadPoolExecutor(1) as other:
        found = other.submit(temporary_name, tmp_path / "model.dpl").result()
    assert found != temporary_name(tmp_path / "model.dpl")


def test_simulations_of_one_folder_do_not_take_turns(tmp_path):
    first, second = (
        Simulation(bulk("Cu", cubic=True), PairPotential(), output=str(tmp_path / "run"))
        for _ in range(2)
    )
    first.run(2)
    with pytest.raises(InputError, match=r"run: another run has gone on here .*resume="):
        second.run(2)
    first.run(2)


def test_a_simulation_does_not_go_on_where_another_one_has(tmp_path):
    place = str(tmp_path / "run")
    output = {"directory": place, "thermo": 100}
    first = Simulation(bulk("Cu", cubic=True), PairPotential(), output=output)
    first.run(2)
    second = Simulation(None, PairPotential(), resume=place, output=output)
    second.run(2)
    before = (tmp_path / "run" / "log").read_text()
    with pytest.raises(InputError, match="another run has gone on here"):
        first.run(2)
    second.run(2)
    assert (tmp_path / "run" / "log").read_text().startswith(before)


def test_a_simulation_does_not_begin_while_another_thread_runs_one(tmp_path):
    refused = []

    class Asking(PairPotential):
        def evaluate(self, env):
            with ThreadPoolExecutor(1) as other:
                refused.append(other.submit(second.run, 1).exception())
            return super().evaluate(env)

    place = str(tmp_path / "run")
    first = Simulation(bulk("Cu", cubic=True), PairPotential(), output=place)
    second = Simulation(bulk("Cu", cubic=True), PairPotential(), output=place)
    first.model.evaluate = Asking().evaluate
    first.run(1)
    assert "this process is writing results there already" in str(refused[0])


def test_two_trainings_of_a_process_do_not_share_a_folder(tmp_path):
    write(tmp_path / "train.extxyz", copper_frames(4, 1))
    config = settings(tmp_path, numb_steps=2)
    config["training"].pop("validation_data", None)
    (tmp_path / "results").mkdir()
    with (
        InUse(tmp_path / "results"),
        pytest.raises(InputError, match="this process is writing results there already"),
    ):
        train(config, output=tmp_path / "results", quiet=True)


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


def test_a_run_goes_on_after_a_full_disk(tmp_path, monkeypatch):
    """What was written by halves is no other run's."""
    output = {"directory": str(tmp_path / "run"), "thermo": 1}
    simulation = Simulation(bulk("Cu", cubic=True), PairPotential(), output=output)
    simulation.run(2)

    class Full:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, rows):
            self.file.write(rows[:5])
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("builtins.open", lambda *a, _real=open, **k: Full(_real(*a, **k)))
    with pytest.raises(InputError, match="No space left"):
        simulation.writer.log("a line that does not fit")
    monkeypatch.undo()
    simulation.run(2)
    assert simulation.step == 4
