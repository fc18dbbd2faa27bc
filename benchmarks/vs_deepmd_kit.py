"""DeePMD-kit's own models converted: the same numbers, and both speeds.

    python benchmarks/vs_deepmd_kit.py --data FOLDER [--steps N] [--out FILE.json]

Trains a short stock water model with each backend of DeePMD-kit (environments of its own, made
from PyPI where missing, see `peer.py`), writes it in every format that it has, converts each with
`dpl convert`, and evaluates the converted and the original models on frames that were not trained
on. FOLDER as in `train.py`: data_0 to data_2 train, data_3 gives the frames.

A file that DeePMD-kit does not run itself (`.dp`, `.pt`) is compared with the frozen model of the
same training. All in float64 and one thread, unless --threads says otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import (
    BenchmarkError,
    Table,
    Worker,
    alternate,
    median,
    parser,
    progress,
    report,
    run_main,
    thread_environment,
)
from peer import BACKENDS, SUFFIX, Peer, peers
from train import systems_in
from water import model_section

NUMBERS = {"O": 8, "H": 1}
"""Atomic numbers of the type map."""


@dataclass
class Model:
    """One file of DeePMD-kit and what it is compared with."""

    backend: str
    kind: str
    path: Path
    reference: Path
    """What DeePMD-kit evaluates."""

    @property
    def name(self) -> str:
        return f"{self.backend} {self.kind}"


# --- models -------------------------------------------------------------------------------------


def training_input(systems: Sequence[Path], steps: int) -> dict[str, Any]:
    """DeePMD-kit's water example, shortened."""
    return {
        "model": model_section("float64"),
        "learning_rate": {"type": "exp", "start_lr": 1e-3, "stop_lr": 1e-5, "decay_steps": 50},
        "loss": {"type": "ener"},
        "training": {
            "training_data": {"systems": [str(s) for s in systems], "batch_size": 1},
            "numb_steps": steps,
            "disp_freq": steps,
            "save_freq": steps,
            "seed": 1,
        },
    }


def trained(peer: Peer, systems: Sequence[Path], steps: int, folder: Path) -> list[Model]:
    """Every file that DeePMD-kit writes of one training; what it cannot write is reported."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "input.json").write_text(json.dumps(training_input(systems, steps)))
    suffix = SUFFIX[peer.backend]
    frozen = folder / f"model{suffix}"
    if not frozen.exists():
        progress(f"{peer.backend}: {steps} steps")
        peer.dp("train", "input.json", folder=folder)
        peer.dp("freeze", "-o", frozen.name, folder=folder)
    made = [Model(peer.backend, suffix, frozen, frozen)]
    portable, compressed = folder / "model.dp", folder / f"compressed{suffix}"
    commands = {
        portable: lambda: peer.run(
            "-m", "deepmd", "convert-backend", frozen.name, portable.name, folder=folder
        ),
        compressed: lambda: peer.dp(
            *("compress", "-i", frozen.name, "-o", compressed.name, "-t", "input.json"),
            folder=folder,
        ),
    }
    for path, command in commands.items():
        try:
            if not path.exists():
                progress(f"{peer.backend}: {path.name}")
                command()
        except BenchmarkError as error:
            progress(f"{peer.backend}: left out: {error}")
            continue
        reference = path if path is compressed else frozen
        kind = f"{suffix} compressed" if path is compressed else path.suffix
        made.append(Model(peer.backend, kind, path, reference))
    if peer.backend == "pytorch":
        checkpoint = folder / f"model.ckpt-{steps}.pt"
        made.append(Model(peer.backend, ".pt", checkpoint, frozen))
    return made


def converted(model: Model) -> tuple[Path, float]:
    """The `.dpl` and the seconds that `dpl convert` took."""
    target = model.path.with_name(f"{model.path.name}.dpl")
    command = [sys.executable, "-m", "deepmd_lite", "convert", str(model.path), str(target)]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=thread_environment(1))
    if done.returncode:
        raise BenchmarkError(f"dpl convert {model.path}: {done.stderr.strip()}")
    return target, time.perf_counter() - started


# --- frames -------------------------------------------------------------------------------------


def frames_of(system: Path, count: int, folder: Path) -> tuple[Path, Path]:
    """The first `count` frames of a deepmd/npy folder, and the first as a structure."""
    names = (system / "type_map.raw").read_text().split()
    types = np.loadtxt(system / "type.raw", dtype=int)
    sets = sorted(system.glob("set.*"))
    positions, cells = (
        np.concatenate([np.load(s / f"{key}.npy") for s in sets])[:count]
        for key in ("coord", "box")
    )
    if len(positions) < count:
        raise BenchmarkError(f"{system}: {len(positions)} frames, expected {count}")
    numbers = np.array([NUMBERS[names[t]] for t in types])
    arrays = {
        "positions": positions.reshape(count, -1, 3).astype(float),
        "cells": cells.reshape(count, 3, 3).astype(float),
    }
    np.savez(folder / "frames.npz", **arrays)
    first = {"positions": arrays["positions"][0], "cell": arrays["cells"][0], "numbers": numbers}
    np.savez(folder / "structure.npz", **first)
    return folder / "frames.npz", folder / "structure.npz"


def evaluated(worker: Worker, frames: Path) -> dict[str, np.ndarray]:
    """Energies, forces and virials of all frames."""
    found = worker.ask("frames", path=str(frames))["frames"]
    return {key: np.array([frame[key] for frame in found]) for key in found[0]}


def worst(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Largest differences; energies and virials per atom."""
    n_atoms = ours["forces"].shape[1]
    apart = {key: float(np.abs(ours[key] - theirs[key]).max()) for key in ours}
    return {
        "energy_ev_per_atom": apart["energy"] / n_atoms,
        "force_ev_per_a": apart["forces"],
        "virial_ev_per_atom": apart["virial"] / n_atoms,
    }


def compared(
    model: Model,
    peer: Peer,
    files: tuple[Path, Path],
    threads: int,
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    """Conversion, differences and speeds of one file."""
    target, seconds = converted(model)
    frames, structure = files
    common = {"structure": str(structure), "precision": "float64", "threads": threads}
    logs = arguments.work / "logs"
    with ExitStack() as stack:
        workers = {}
        for name, python, code, path in (
            ("own", sys.executable, "own", target),
            ("peer", peer.python, "deepmd-kit", model.reference),
        ):
            log = logs / f"{model.name} {name}.log"
            workers[name] = Worker(python, log=log, code=code, model=str(path), **common)
            stack.callback(workers[name].close)
        apart = worst(*(evaluated(workers[name], frames) for name in ("own", "peer")))
        times = alternate(workers, arguments.repeats, arguments.seconds)
    n_atoms = len(np.load(structure)["numbers"])
    speed = {name: median(turns) / n_atoms * 1e6 for name, turns in times.items()}
    return {"file": model.name, "convert_s": seconds, "threads": threads, **apart, "us": speed}


def table(cases: Sequence[Mapping[str, Any]], frames: int) -> Table:
    """One row for each file."""
    columns = ["file", "threads", "energy eV/atom", "force eV/Å", "virial eV/atom"]
    columns += ["here µs/atom", "DeePMD-kit µs/atom", "ratio", "dpl convert s"]
    apart = ("energy_ev_per_atom", "force_ev_per_a", "virial_ev_per_atom")
    rows = [
        [
            *(case["file"], case["threads"]),
            *(f"{case[key]:.1e}" for key in apart),
            *(case["us"]["own"], case["us"]["peer"], case["us"]["peer"] / case["us"]["own"]),
            case["convert_s"],
        ]
        for case in cases
    ]
    notes = [
        f"largest differences over {frames} frames, float64",
        "µs per atom for energy + forces + virial of 192 atoms; medians of alternating turns",
        "compressed: DeePMD-kit evaluates the compressed file itself",
        ".dp and .pt: against, and timed beside, the frozen model of the same training",
    ]
    return Table("Converted models beside DeePMD-kit's own", columns, rows, notes)


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--data", type=Path, default=os.environ.get("DPL_WATER_DATA"))
    made.add_argument("--steps", type=int, default=100, help="of each training")
    made.add_argument("--frames", type=int, default=20)
    made.add_argument("--seconds", type=float, default=2.0, help="about this long for each turn")
    made.add_argument("--peer-backend", nargs="+", choices=BACKENDS, default=BACKENDS)
    arguments = made.parse_args()
    arguments.work = arguments.work.resolve() / "vs_deepmd_kit"
    arguments.work.mkdir(parents=True, exist_ok=True)
    *training, test = systems_in(Path(arguments.data) if arguments.data else None)
    files = frames_of(test, arguments.frames, arguments.work)
    found = peers(arguments.peer_venv, arguments.peer_backend)
    cases = []
    for peer in found:
        folder = arguments.work / f"{peer.backend}-{arguments.steps}"
        for model in trained(peer, training, arguments.steps, folder):
            for threads in arguments.threads or [1]:
                progress(f"{model.name}, {threads} thread(s)")
                cases.append(compared(model, peer, files, threads, arguments))
    versions = {k: v for peer in found for k, v in peer.versions.items()}
    report(
        arguments,
        [table(cases, arguments.frames)],
        {"cases": cases, "steps": arguments.steps},
        {"versions": versions},
    )


if __name__ == "__main__":
    run_main(main)
