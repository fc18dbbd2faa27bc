"""Molecular dynamics with a model, and how far it was to be trusted on the way."""

from __future__ import annotations

import copy
import json
import logging
import shutil
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.neighborlist import neighbor_list
from tqdm import tqdm

from ..files import write_atomically
from ..md import SharedError, run_input
from ..md.config import MdConfig
from ..md.ensemble import SEED_LIMIT
from ..md.structure import read_structure
from ..schema import parse
from .config import Select

log = logging.getLogger(__name__)

FOUND = "explored.json"
RUNS = 20
"""Runs of one entry in a round, at most."""
LOOKS = 10
"""Looks that a run is to have on the way to where the one before it broke off."""
ANOTHER = 104729
"""Between the seeds of a run and of the one that follows where it breaks off."""
PERIOD = 30.0
"""Seconds between two lines on how far a run is."""


@dataclass(frozen=True)
class Explored:
    """What one run saw, its first step left out: that is the structure of the input."""

    steps: list[int]
    """Steps at which structures were looked at."""
    deviations: list[float]
    """eV/Å: the largest of each, of the force on an atom."""
    broke_off: str | None = None
    """What the guard said that ended it."""

    def beyond(self, lower: float) -> list[int]:
        """Places of what deviates by more than `lower` eV/Å."""
        return [k for k, deviation in enumerate(self.deviations) if not deviation <= lower]


@dataclass(frozen=True)
class Run:
    """What a run saw, and where it is."""

    folder: Path
    explored: Explored

    def structures(self, wanted: Collection[int]) -> list[tuple[Atoms, float]]:
        """Those at the places `wanted` among the explored, with their deviations."""
        if not wanted:
            return []
        e = self.explored
        deviations = {e.steps[k]: e.deviations[k] for k in wanted}
        frames = ase.io.iread(self.folder / "trajectory.extxyz")
        return [
            (_free(a), deviations[a.info["step"]]) for a in frames if a.info["step"] in deviations
        ]

    @property
    def ended_at_once(self) -> bool:
        """Whether it broke off at the structure with which it began."""
        path = self.folder / "failed.extxyz"
        if self.explored.broke_off is None or not path.exists():
            return False
        return int(read_structure(str(path)).info.get("step", -1)) == 0

    def failed(self, nearest: float) -> list[Atoms]:
        """The structure at which it broke off, where no atoms are closer than `nearest` Å."""
        path = self.folder / "failed.extxyz"
        if self.explored.broke_off is None or not path.exists():
            return []
        atoms = read_structure(str(path))
        return [] if len(neighbor_list("i", atoms, nearest)) else [_free(atoms)]


def _free(atoms: Atoms) -> Atoms:
    """Without constraints: for atoms that a run held ASE would give forces of 0 as labels."""
    atoms.set_constraint()
    return atoms


def explore(
    entry: Mapping[str, Any],
    model: Path,
    folder: Path,
    select: Select,
    upper: float,
    shift: int,
    over: bool,
) -> list[Run]:
    """Run an MD input with a model that has a committee, its random numbers shifted by `shift`.

    A run that breaks off is followed by another one, in `folder`-2 and so on, with other random
    numbers and with more looks at the way to where the last one ended: until there are as many
    structures to label as a round takes, as many steps as the input asks for, or `RUNS`. Without
    random numbers it is the same run, and takes the place of the other. Nothing follows one that
    ends where it begins, and no new one where the round is `over`.
    """
    wanted = parse(MdConfig, {**entry, "model": str(model)}, str(folder)).steps
    repeats = reseeded(entry, shift + ANOTHER) == reseeded(entry, shift)
    runs: list[Run] = []
    every, made = select.every, 0
    for number in range(RUNS):
        place = folder.with_name(f"{folder.name}-{number + 1}") if number else folder
        if number and over and not (place / FOUND).exists():
            break
        run = _explored(reseeded(entry, shift + ANOTHER * number), model, place, every, upper)
        runs = [run] if repeats else [*runs, run]
        end = run.explored.steps[-1] if run.explored.steps else every
        made += end
        candidates = counted(runs, select.lower, upper)["candidates"]
        enough = made >= wanted or candidates >= select.most
        finer = min(every, max(1, end // LOOKS))
        if run.explored.broke_off is None or run.ended_at_once or enough:
            break
        if repeats and finer == every:
            break
        every = finer
    return runs


def _explored(entry: Mapping[str, Any], model: Path, folder: Path, every: int, upper: float) -> Run:
    """One run, looked at each `every` steps.

    What it has found is kept in `folder`; one that was interrupted begins anew.
    """
    path = folder / FOUND
    if path.exists():
        return Run(folder, Explored(**json.loads(path.read_text())))
    if folder.exists():
        shutil.rmtree(folder)
    log.info("exploring: %s, a look each %d steps", folder, every)
    output = {
        "directory": str(folder),
        **{"thermo": every, "model_devi": every, "trajectory": every, "restart": 0},
    }
    guards = {"deviation": upper} | (entry.get("guards") or {})
    content = {**entry, "model": str(model), "output": output, "guards": guards}
    broke_off = None
    try:
        with _watched(folder, parse(MdConfig, content, str(folder)).steps):
            result = run_input(content, quiet=True)
        if result.signal:
            raise KeyboardInterrupt
    except SharedError as e:
        broke_off = str(e)
        log.info("%s: %s", folder, broke_off)
    steps, deviations = _looked_at(folder)
    found = Explored(steps, deviations, broke_off)
    write_atomically(path, json.dumps(asdict(found)).encode())
    return Run(folder, found)


def _looked_at(folder: Path) -> tuple[list[int], list[float]]:
    """Steps of the structures that a run has looked at, its first step left out, and their largest
    deviations in eV/Å."""
    table = folder / "model_devi.out"
    if not table.exists():  # where forces at the first step were unbearable
        return [], []
    # the last row may be half written while the run goes on
    rows = [x.split() for x in table.read_text().splitlines(keepends=True)[2:] if x.endswith("\n")]
    return [int(row[0]) for row in rows], [float(row[4]) for row in rows]


@contextmanager
def _watched(folder: Path, steps: int) -> Iterator[None]:
    """Meanwhile, say now and then how far the run in `folder` is, by what it has written."""
    begun, ended = time.monotonic(), threading.Event()

    def watch() -> None:
        while not ended.wait(PERIOD):
            line = _progress(folder, steps, time.monotonic() - begun)
            if line:
                log.info("%s: %s", folder, line)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def _progress(folder: Path, steps: int, seconds: float) -> str | None:
    """How far a run of `steps` is after `seconds`; None where it has not looked at anything."""
    seen, deviations = _looked_at(folder)
    if not seen:
        return None
    left = tqdm.format_interval((steps - seen[-1]) * seconds / seen[-1])
    largest = np.max(deviations)  # of which nan is the largest
    return f"step {seen[-1]}/{steps}: largest deviation {largest:.3g} eV/Å, {left} left"


def reseeded(entry: Mapping[str, Any], shift: int) -> dict[str, Any]:
    """The same run with other random numbers, where it uses any."""
    found = copy.deepcopy(dict(entry))
    config = parse(MdConfig, {**entry, "model": "model.dpl"}, "explore")
    for section, own in (("velocities", config.velocities), ("ensemble", config.ensemble)):
        if own is not None and own.seed is not None:
            found[section]["seed"] = (own.seed + shift) % SEED_LIMIT
    return found


def counted(runs: Sequence[Run], lower: float, upper: float) -> dict[str, int]:
    """How many structures are accurate, candidates and beyond the upper level."""
    d = np.concatenate([np.array(run.explored.deviations) for run in runs])
    return {
        "explored": len(d),
        "accurate": int((d <= lower).sum()),
        "candidates": int(((d > lower) & (d <= upper)).sum()),
        "failed": int((~(d <= upper)).sum()),
    }


def sampled(runs: Sequence[Run], most: int, seed: int) -> list[Atoms]:
    """Some at random of all that were explored."""
    places = [(r, k) for r, run in enumerate(runs) for k in range(len(run.explored.steps))]
    rng = np.random.default_rng(seed)
    drawn = rng.choice(len(places), min(most, len(places)), replace=False)
    wanted = [places[k] for k in drawn]
    return [
        atoms
        for r, run in enumerate(runs)
        for atoms, _ in run.structures([k for of, k in wanted if of == r])
    ]
