"""Signals that end a run (through mpiexec and on one of several ranks: `parallel/test_ends.py`)."""

import signal

import pytest
from ase.build import bulk
from pair_potential import PairPotential

from deepmd_lite.md import Simulation, restart
from deepmd_lite.md.signals import HEEDED, StopRequest


class Signalled(PairPotential):
    """Gets a signal at some evaluations; the constructor makes number 0."""

    def __init__(self, number, *at):
        super().__init__()
        self.number, self.at, self.count = number, at, -1

    def evaluate(self, env):
        self.count += 1
        if self.count in self.at:
            signal.raise_signal(self.number)
        return super().evaluate(env)


def simulation(model, folder):
    output = {"directory": folder, "thermo": 1}
    return Simulation(bulk("Cu", cubic=True, a=3.7), model, output=output)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_ends_the_run_after_the_next_step_with_a_restart(tmp_path, number):
    run = simulation(Signalled(number, 3), tmp_path / "run")
    result = run.run(50)
    assert result.signal == number.name
    assert (result.steps, run.step) == (4, 4)
    assert restart.describe(tmp_path / "run")["step"] == "4"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_in_the_last_step_is_told_and_kills_nothing(tmp_path, number):
    result = simulation(Signalled(number, 5), tmp_path / "run").run(5)
    assert (result.signal, result.steps) == (number.name, 5)
    assert restart.describe(tmp_path / "run")["step"] == "5"


@pytest.mark.parametrize("at", [3, 50])
def test_ctrl_c_ends_the_run_in_order_and_raises_and_the_next_goes_on(tmp_path, caplog, at):
    run = simulation(Signalled(signal.SIGINT, at), tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        run.run(50)
    end = min(at + 1, 50)
    assert restart.describe(tmp_path / "run")["step"] == str(run.step) == str(end)
    said = f"stopped by Ctrl-C after step {end} of 50; a restart is written"
    assert said in caplog.text
    assert said in (tmp_path / "run" / "log").read_text()
    assert run.run(2).steps == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_program_that_goes_on_after_a_signal_is_ended(tmp_path, number):
    """Once: whoever has dealt with it may go on."""
    run = simulation(Signalled(number, 3), tmp_path / "run")
    run.run(50)
    with pytest.raises(SystemExit) as ended:
        run.run(50)
    assert ended.value.code == 128 + number
    assert run.run(2).steps == 2


def test_a_second_ctrl_c_interrupts_at_once(tmp_path):
    run = simulation(Signalled(signal.SIGINT, 2), tmp_path / "run")
    run.model.evaluate = lambda env: [signal.raise_signal(signal.SIGINT) for _ in range(2)]
    with pytest.raises(KeyboardInterrupt):
        run.run(5)


def test_handlers_are_given_back():
    before = [signal.getsignal(number) for number in HEEDED]
    with StopRequest():
        assert all(signal.getsignal(number) not in before for number in HEEDED)
    assert [signal.getsignal(number) for number in HEEDED] == before


def test_what_nobody_agreed_on_is_delivered():
    got = []
    previous = signal.signal(signal.SIGUSR1, lambda number, _: got.append(number))
    try:
        with StopRequest():
            signal.raise_signal(signal.SIGUSR1)
            assert not got
        assert got == [signal.SIGUSR1]
    finally:
        signal.signal(signal.SIGUSR1, previous)
