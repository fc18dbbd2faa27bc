"""Molecular dynamics that is killed again and again, and goes on until it is done.

Used by `parallel/test_killed.py` (a few rounds) and `validation/kill_and_continue.py` (fifty).
Linux: the ranks are found in /proc.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import ase.io
from ase.build import bulk

SILICON = Path(__file__).parents[1] / "data/silicon/silicon.dpl"
PATIENCE = 120
"""Seconds for a step to be made, or for ranks to end when one of them is gone."""
INPUT = """\
model: {model}
structure: si.extxyz
ensemble: {{type: nvt-langevin, temperature: 900, friction: 0.02}}
velocities: {{temperature: 900, seed: 4}}
timestep: 2.0
skin: 0.2
steps: {steps}
output: {{directory: run, thermo: 1, trajectory: 5, restart: 7}}
"""


@dataclass
class Tally:
    """What was hit."""

    kills: int = 0
    of_one_rank: int = 0
    before_the_first_restart: int = 0
    inside_a_restart: int = 0
    """An unfinished restart was left behind."""
    inside_a_line: int = 0
    """The last line of thermo.csv was cut."""
    steps_lost: list[int] = field(default_factory=list)
    """Steps that had to be made again, from rows of thermo.csv."""


class Killed:
    """A run of `dpl md` on some ranks in a folder of its own."""

    def __init__(self, folder: Path, n_ranks: int, steps: int) -> None:
        folder.mkdir(parents=True)
        self.folder, self.n_ranks, self.steps = folder, n_ranks, steps
        self.run = folder / "run"
        atoms = bulk("Si", cubic=True, a=5.47).repeat((2, 2, 2))
        atoms.rattle(0.05, seed=1)
        ase.io.write(folder / "si.extxyz", atoms)
        (folder / "md.yaml").write_text(INPUT.format(model=SILICON, steps=steps))

    def start(self, resume: bool) -> subprocess.Popen:
        launcher = [str(Path(sys.executable).parent / "mpiexec"), "-n", str(self.n_ranks)]
        command = [*launcher, sys.executable, "-m", "deepmd_lite", "md", "md.yaml", "-q"]
        return subprocess.Popen(
            command + ["--continue"] * resume,
            cwd=self.folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finish(self, resume: bool) -> None:
        process = self.start(resume)
        printed, _ = process.communicate(timeout=20 * PATIENCE)
        assert process.returncode == 0, printed

    @property
    def step(self) -> int:
        """Of the last whole row of thermo.csv; −1: none."""
        path = self.run / "thermo.csv"
        rows = path.read_text().split("\n")[1:-1] if path.exists() else []
        return int(rows[-1].split(",")[0]) if rows else -1

    @property
    def restarts(self) -> list[int]:
        """Steps of the restarts that are complete."""
        found = (self.run / "restart").glob("step-*/manifest.json")
        return sorted(int(p.parent.name.split("-")[1]) for p in found)

    def kill_once(self, dice: random.Random, one_rank: bool, tally: Tally) -> bool:
        """Start or go on, and kill at a random moment; False if the run is done before."""
        resume = bool(self.restarts)
        if not resume and self.run.exists():
            shutil.rmtree(self.run)  # killed before there was anything to go on from
        first = self.restarts[-1] if resume else -1
        process = self.start(resume)
        try:
            self._choose_the_moment(process, first, dice)
            ranks = self._ranks(process)
            for pid in [dice.choice(ranks)] if one_rank and ranks else ranks:
                kill(pid)
            printed, _ = process.communicate(timeout=PATIENCE)
        finally:
            if process.poll() is None:
                process.kill()
        if process.returncode == 0:
            return False
        assert "BAD TERMINATION" in printed, printed
        assert not [pid for pid in ranks if alive(pid)]
        self._count(tally, one_rank)
        return True

    def _choose_the_moment(
        self, process: subprocess.Popen, first: int, dice: random.Random
    ) -> None:
        """While it starts, at any time after some steps, or in the middle of a restart."""
        when = dice.random()
        if when < 0.15:
            time.sleep(dice.uniform(0.5, 4.0))
            return
        deadline, step = time.monotonic() + PATIENCE, first + 1 + dice.randrange(24)
        while process.poll() is None and self.step < step:
            assert time.monotonic() < deadline, f"no step {step} in {PATIENCE} s"
            time.sleep(0.002)
        if when < 0.6:
            time.sleep(dice.uniform(0.0, 0.03))
            return
        while process.poll() is None and not self.unfinished:
            assert time.monotonic() < deadline, f"no restart in {PATIENCE} s"
        time.sleep(dice.choice((0.0, 0.0, 0.001, 0.002, 0.005)))

    def _ranks(self, process: subprocess.Popen) -> list[int]:
        """Process ids, as soon as they are all there."""
        ranks: list[int] = []
        while process.poll() is None and len(ranks) < self.n_ranks:
            ranks = sorted(ranks_of(process.pid))
        return ranks

    @property
    def unfinished(self) -> bool:
        """A restart is being written, or was when the run was killed."""
        folders = (self.run / "restart").glob("step-*")
        return any(not (f / "manifest.json").exists() for f in folders)

    def _count(self, tally: Tally, one_rank: bool) -> None:
        tally.kills += 1
        tally.of_one_rank += one_rank
        tally.before_the_first_restart += not self.restarts
        tally.inside_a_restart += self.unfinished
        thermo = self.run / "thermo.csv"
        tally.inside_a_line += thermo.exists() and not thermo.read_bytes().endswith(b"\n")
        if self.restarts:
            tally.steps_lost.append(max(0, self.step - self.restarts[-1]))

    def results(self) -> dict[str, bytes]:
        """Contents of the files of a run that is done, the last restart's shards among them."""
        assert self.restarts[-1] == self.steps
        # three where the kill fell between the last manifest and the removal of the oldest
        assert len(list((self.run / "restart").iterdir())) in (2, 3)
        shards = (self.run / f"restart/step-{self.steps:012d}").glob("shard-*")
        paths = [self.run / "thermo.csv", self.run / "trajectory.extxyz", *shards]
        return {str(p.relative_to(self.run)): p.read_bytes() for p in paths}


def killed_and_whole(
    folder: Path, n_ranks: int, rounds: int, seed: int
) -> Iterator[tuple[Tally, dict[str, bytes], dict[str, bytes]] | Tally]:
    """Kill a run `rounds` times, let it finish, and make the same run without interruption.

    Yields the tally after each round, and in the end the tally and the files of both runs. Every
    other round one rank alone is killed.
    """
    steps, dice, tally = 30 * rounds + 60, random.Random(seed), Tally()
    killed = Killed(folder / "killed", n_ranks, steps)
    for k in range(rounds):
        if not killed.kill_once(dice, k % 2 == 1, tally):
            break
        yield tally
    if killed.step < steps or killed.restarts[-1:] != [steps]:
        if not killed.restarts:
            shutil.rmtree(killed.run, ignore_errors=True)
        killed.finish(resume=bool(killed.restarts))
    whole = Killed(folder / "whole", n_ranks, steps)
    whole.finish(resume=False)
    yield tally, killed.results(), whole.results()


def kill(pid: int) -> None:
    """At once, without a chance to do anything."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def alive(pid: int) -> bool:
    """Whether a process is there that has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def ranks_of(launcher: int) -> Iterator[int]:
    """Processes that descend from `launcher` and run this package."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int(
                    (entry / "stat").read_text().rsplit(")", 1)[1].split()[1]
                )
            except OSError:
                continue
    for pid in parents:
        ancestor = pid
        while ancestor in parents and ancestor != launcher:
            ancestor = parents[ancestor]
        if ancestor == launcher and pid != launcher:
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if command[0].decode() == sys.executable:
                yield pid
