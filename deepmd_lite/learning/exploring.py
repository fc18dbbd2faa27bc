"""Molecular dynamics with a model, and how far it was to be trusted on the way."""

from __future__ import annotations

import copy
import json
import logging
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms

from ..files import write_atomically
from ..md import SharedError, run_input
from ..md.config import MdConfig
from ..schema import parse
from .config import Select

log = logging.getLogger(__name__)

DIFFERENT = 7919
"""Added to all seeds from round to round."""


@dataclass(frozen=True)
class Explored:
    """What one run saw."""

    folder: str
    steps: list[int]
    """Of the structures that were looked at."""
    deviations: list[float]
    """eV/Å: the largest of each, of the force on an atom."""
    broke_off: str | None = None
    """What the guard said that ended it."""

    def structures(self, wanted: Collection[int]) -> list[tuple[Atoms, float]]:
        """Those at the places `wanted` among `steps`, with their deviations."""
        if not wanted:
            return []
        deviations = {self.steps[k]: self.deviations[k] for k in wanted}
        frames = ase.io.iread(Path(self.folder) / "trajectory.extxyz")
        return [(a, deviations[a.info["step"]]) for a in frames if a.info["step"] in deviations]

    def beyond(self, lower: float) -> list[int]:
        """Places of what deviates by more than `lower` eV/Å."""
        return [k for k, deviation in enumerate(self.deviations) if not deviation <= lower]


def explore(
    entry: Mapping[str, Any],
    model: Path,
    folder: Path,
    select: Select,
    upper: float,
    turn: int,
) -> Explored:
    """Run an MD input with a model that has a committee; in round `turn` with seeds of its own.

    What a run has found is kept in `folder`/explored.json; one that was interrupted begins anew.
    """
    path = folder / "explored.json"
    if path.exists():
        return Explored(**json.loads(path.read_text()))
    if folder.exists():
        shutil.rmtree(folder)
    every = select.every
    output = {
        "directory": str(folder),
        **{"thermo": every, "model_devi": every, "trajectory": every, "restart": 0},
    }
    inputs = _reseeded(dict(entry), DIFFERENT * turn)
    guards = {"deviation": upper} | (inputs.get("guards") or {})
    log.info("exploring: %s", folder)
    content = {**inputs, "model": str(model), "output": output, "guards": guards}
    parse(MdConfig, content, "explore")
    broke_off = None
    try:
        result = run_input(content, quiet=True)
        if result.signal:
            raise KeyboardInterrupt
    except SharedError as e:
        broke_off = str(e)
        log.info("%s: %s", folder, broke_off)
    table = folder / "model_devi.out"  # not there where forces at the first step were unbearable
    lines = table.read_text().splitlines()[1:] if table.exists() else []
    steps = [int(line.split()[0]) for line in lines]
    deviations = [float(line.split()[4]) for line in lines]
    found = Explored(str(folder), steps, deviations, broke_off)
    write_atomically(path, json.dumps(asdict(found)).encode())
    return found


def _reseeded(entry: dict[str, Any], shift: int) -> dict[str, Any]:
    """The same run with other random numbers."""
    entry = copy.deepcopy(entry)
    for section in ("velocities", "ensemble"):
        own = entry.get(section)
        if isinstance(own, dict) and (section == "velocities" or "seed" in own or _random(own)):
            own["seed"] = int(own.get("seed", 1)) + shift
    return entry


def _random(ensemble: Mapping[str, Any]) -> bool:
    return str(ensemble.get("type", "nve")) in ("nvt-langevin", "nvt-bussi", "npt-scr")


def counted(runs: Sequence[Explored], lower: float, upper: float) -> dict[str, int]:
    """How many structures are accurate, candidates and beyond the upper level."""
    d = np.concatenate([np.array(run.deviations) for run in runs])
    return {
        "explored": len(d),
        "accurate": int((d <= lower).sum()),
        "candidates": int(((d > lower) & (d <= upper)).sum()),
        "failed": int((~(d <= upper)).sum()),
    }
