"""Time of a training step of the stock water model, the time before the first step, and accuracy.

    python benchmarks/train.py --data FOLDER [--batch N …] [--steps N] [--out FILE.json]
    python benchmarks/train.py --data FOLDER --peer deepmd-kit
    python benchmarks/train.py --data FOLDER --accuracy 20000 [--seeds N] [--peer deepmd-kit]

FOLDER holds deepmd/npy systems of H and O; the last in order of names is the test set, the others
are trained on. Meant for `examples/water/data` of a DeePMD-kit checkout: data_0 to data_2 train
(320 frames of 192 atoms), data_3 tests (80 frames). It may be given as DPL_WATER_DATA instead.

Each run is a `train` command of its own; the codes take turns (A B A B …). Every code gets one and
the same input.json; the optimiser is Adam in DeePMD-kit, Adam and SOAP (the default) here. 's/step'
is the time between the log lines of step --skip and of the last step; 'before' the time from the
start of the process to its first report (DeePMD-kit: before its first step, this project: after
it), reading data, statistics and building included. No validation set in timed runs.

--accuracy trains each code for that many steps, learning rate 1e-3 to 3.51e-8 in 200 equal stairs,
energy and force prefactors as in the example, batches of --batch frames (the first given), and
prints the RMSE of the last model on all test frames: the mean over --seeds trainings, each with
other first weights and another order of frames, and its standard error. With a peer, this project
trains once more, with --time-limit for a tenth of the minutes that the peer took.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from common import (
    BenchmarkError,
    Table,
    chosen_threads,
    median,
    parser,
    progress,
    report,
    run_main,
    thread_environment,
)
from peer import BACKENDS, Peer, peers
from water import model_section

REPORT = re.compile(r"(?:batch|step)\s+(\d+)(?:/\d+)?: (?:trn|training|validation)", re.IGNORECASE)
STAIRS = 200


def systems_in(folder: Path | None) -> list[Path]:
    """The deepmd/npy systems of `folder`; the last is the test set."""
    if folder is None:
        raise BenchmarkError(
            "--data (or DPL_WATER_DATA): give a folder with deepmd/npy systems of water, for "
            "example examples/water/data of a DeePMD-kit checkout"
        )
    found = sorted(p.parent.resolve() for p in folder.glob("*/type.raw"))
    if len(found) < 2:
        raise BenchmarkError(
            f"{folder}: expected at least 2 deepmd/npy systems, found {len(found)}"
        )
    return found


def input_section(
    systems: Sequence[Path], precision: str, batch: int, steps: int, display: int, seed: int = 1
) -> dict[str, Any]:
    """An `input.json` that both codes read."""
    model = model_section(precision)
    # far apart: weights of neighbouring seeds are the same numbers in other places in DeePMD-kit
    # with TensorFlow, and those of equal seeds begin alike in both networks here
    model["descriptor"]["seed"], model["fitting_net"]["seed"] = 1000 * seed, 1000 * seed + 500
    return {
        "model": model,
        "learning_rate": {
            "type": "exp",
            "start_lr": 1e-3,
            "stop_lr": 3.51e-8,
            "decay_steps": max(1, steps // STAIRS),
        },
        "loss": {
            "type": "ener",
            **{"start_pref_e": 0.02, "limit_pref_e": 1, "start_pref_f": 1000, "limit_pref_f": 1},
            **{"start_pref_v": 0, "limit_pref_v": 0},
        },
        "training": {
            "training_data": {"systems": [str(s) for s in systems], "batch_size": batch},
            "numb_steps": steps,
            "disp_freq": display,
            "save_freq": steps,
            "seed": seed,
        },
    }


def codes_of(
    optimizers: Sequence[str], found: Sequence[Peer]
) -> dict[str, tuple[str, Peer | None]]:
    """Name → (optimiser, peer or None)."""
    own: dict[str, tuple[str, Peer | None]] = {
        f"this project, {name}": (name, None) for name in optimizers
    }
    return {**own, **{f"DeePMD-kit, {p.backend}": ("Adam", p) for p in found}}


def training_command(
    content: dict[str, Any],
    optimizer: str,
    peer: Peer | None,
    folder: Path,
    minutes: float | None = None,
) -> list[str]:
    """Write the input into an empty `folder`; the command that trains there.

    `minutes`: let this project fit its schedule to a time limit.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if peer is None:
        content = {**content, "optimizer": {"type": optimizer}}
        content["learning_rate"] = {**content["learning_rate"], "smooth": False}  # as the peer
        command = [sys.executable, "-m", "deepmd_lite", "train", "input.json"]
        if minutes is not None:
            rate = content["learning_rate"]
            content["learning_rate"] = {k: rate[k] for k in ("type", "start_lr", "stop_lr")}
            command += ["--time-limit", f"{60 * minutes:.0f}s"]
    else:
        flag = "--pt" if peer.backend == "pytorch" else "--tf"
        command = [str(peer.python), "-m", "deepmd", flag, "train", "input.json"]
    (folder / "input.json").write_text(json.dumps(content, indent=1))
    return command


def run_training(command: Sequence[str], folder: Path, threads: int) -> dict[int, float]:
    """Seconds from the start of the process to its report on each displayed step."""
    start, reports = time.perf_counter(), {}
    with (
        open(folder / "log", "w") as log,
        subprocess.Popen(
            command,
            cwd=folder,
            env={**thread_environment(threads), "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            log.write(line)
            hit = REPORT.search(line)
            if hit:
                reports.setdefault(int(hit.group(1)), time.perf_counter() - start)
    if process.returncode or len(reports) < 2:
        raise BenchmarkError(
            f"{command[2]}: status {process.returncode}, {len(reports)} reports; see {folder}/log"
        )
    return reports


def speed(
    case: dict[str, Any],
    train: Sequence[Path],
    codes: dict[str, tuple[str, Peer | None]],
    arguments: argparse.Namespace,
) -> dict[str, dict[str, list[float]]]:
    """Seconds per step and before the first, of every code and repeat."""
    found: dict[str, dict[str, list[float]]] = {}
    skip = arguments.skip
    content = input_section(train, case["precision"], case["batch"], arguments.steps, skip)
    for repeat in range(arguments.repeats):
        for name, (optimizer, peer) in codes.items():
            shown = ", ".join(f"{key} {value}" for key, value in case.items())
            progress(f"{shown}, repeat {repeat + 1}: {name}")
            folder = arguments.work.resolve() / "train" / name.replace(", ", "-").replace(" ", "-")
            command = training_command(content, optimizer, peer, folder)
            try:
                reports = run_training(command, folder, case["threads"])
            except BenchmarkError as error:
                progress(f"{name}: {error}")
                continue
            last = max(reports)
            entry = found.setdefault(name, {"step": [], "before": []})
            entry["step"].append((reports[last] - reports[skip]) / (last - skip))
            entry["before"].append(reports[min(reports)])
    return found


def accuracy(
    precision: str,
    threads: int,
    systems: Sequence[Path],
    codes: dict[str, tuple[str, Peer | None]],
    arguments: argparse.Namespace,
) -> dict[str, dict[str, list[float]]]:
    """RMSE on the test set after as many steps, energy eV/atom, force eV/Å, and minutes: each a
    list over seeds."""
    from deepmd_lite.evaluate import evaluate

    *train, test = systems
    steps = arguments.accuracy
    found: dict[str, dict[str, list[float]]] = {}

    def train_and_test(
        name: str, optimizer: str, peer: Peer | None, seed: int, limit: float | None = None
    ) -> None:
        progress(f"accuracy, {steps} steps, {precision}, seed {seed}: {name}")
        display = min(100, steps // 2)
        content = input_section(train, precision, arguments.batch[0], steps, display, seed)
        folder = arguments.work.resolve() / "accuracy" / name.replace(", ", "-").replace(" ", "-")
        command = training_command(content, optimizer, peer, folder, limit)
        start = time.perf_counter()
        run_training(command, folder, threads)
        minutes = (time.perf_counter() - start) / 60
        if peer is None:
            total = evaluate(folder / "model.dpl", [test]).total()
            errors = {"energy": total.energy_rmse_per_atom, "force": total.force_rmse}
        else:
            frozen = folder / ("frozen.pth" if peer.backend == "pytorch" else "frozen.pb")
            peer.dp("freeze", "-o", frozen, folder=folder)
            errors = peer.test(frozen, test, folder)
        progress(f"energy {errors['energy']:.3e} eV/atom, force {errors['force']:.3e} eV/Å")
        for key, value in {**errors, "minutes": minutes}.items():
            found.setdefault(name, {}).setdefault(key, []).append(value)

    for seed in range(1, arguments.seeds + 1):
        for name, (optimizer, peer) in codes.items():
            train_and_test(name, optimizer, peer, seed)
    for name, (_, peer) in codes.items():
        if peer is not None:
            shown = f"this project, SOAP, a tenth of the time of {peer.backend}"
            train_and_test(shown, "SOAP", None, 1, median(found[name]["minutes"]) / 10)
    return found


def speed_table(cases: list[dict[str, Any]], codes: Sequence[str]) -> Table:
    """ms per step of each code; each peer over this project with the same optimiser."""
    columns = ["precision", "threads", "batch"]
    for name in codes:
        columns += [f"{name} ms/step", "before s"]
        if name.startswith("DeePMD"):
            columns += ["ratio to Adam", "to SOAP"]
    rows = []
    for case in cases:
        ms = {n: 1e3 * median(e["step"]) for n, e in case["codes"].items()}
        row = [case["precision"], case["threads"], case["batch"]]
        for name in codes:
            entry = case["codes"].get(name)
            row += [ms.get(name), median(entry["before"]) if entry else None]
            if name.startswith("DeePMD"):
                for own in ("this project, Adam", "this project, SOAP"):
                    row.append(ms[name] / ms[own] if name in ms and own in ms else None)
        rows.append(row)
    notes = [
        "medians of alternating runs; batch: frames of 192 atoms",
        "before: from the start of the process to its first report",
    ]
    return Table("Training", columns, rows, notes)


def accuracy_table(found: dict[str, dict[str, dict[str, list[float]]]], steps: int) -> Table:
    """Errors on the test set."""
    rows = []
    for precision, codes in found.items():
        for name, e in codes.items():
            row: list[Any] = [name, precision, len(e["force"])]
            for key in ("energy", "force"):
                error = standard_error(e[key])
                row += [1e3 * mean(e[key]), None if error is None else 1e3 * error]
            rows.append([*row, mean(e["minutes"])])
    return Table(
        f"RMSE on the test frames after {steps:,} steps",
        ["code", "precision", "seeds", "energy meV/atom", "±", "force meV/Å", "±", "minutes"],
        rows,
        ["same frames, learning rates and prefactors; last weights; ±: standard error of the mean"],
    )


def standard_error(values: Sequence[float]) -> float | None:
    """Of the mean; None for a single value."""
    return stdev(values) / len(values) ** 0.5 if len(values) > 1 else None


def read_arguments() -> argparse.Namespace:
    made = parser(__doc__)
    made.set_defaults(repeats=3)
    made.add_argument("--data", type=Path, default=os.environ.get("DPL_WATER_DATA"))
    made.add_argument("--batch", type=int, nargs="+", default=[1, 4], help="frames in a batch")
    made.add_argument("--steps", type=int, default=400, help="of a timed run")
    made.add_argument("--skip", type=int, default=100, help="steps before the timed ones")
    made.add_argument("--accuracy", type=int, metavar="STEPS", help="compare accuracy instead")
    made.add_argument("--seeds", type=int, default=1, help="trainings of each code for accuracy")
    both = ("SOAP", "Adam")
    made.add_argument("--optimizer", nargs="+", choices=both, default=both, help="here")
    made.add_argument("--peer-backend", nargs="+", choices=BACKENDS, default=["tensorflow"])
    arguments = made.parse_args()
    arguments.data = Path(arguments.data) if arguments.data else None
    if arguments.skip < 1 or arguments.steps < 2 * arguments.skip:
        raise BenchmarkError(f"--steps {arguments.steps}: expected at least twice --skip")
    if arguments.accuracy is not None and arguments.accuracy < 2:
        raise BenchmarkError(f"--accuracy {arguments.accuracy}: expected at least 2 steps")
    if arguments.seeds < 1:
        raise BenchmarkError(f"--seeds {arguments.seeds}: expected at least 1")
    return arguments


def main() -> None:
    arguments = read_arguments()
    systems = systems_in(arguments.data)
    found = peers(arguments.peer_venv, arguments.peer_backend) if arguments.peer else []
    codes = codes_of(arguments.optimizer, found)
    threads = chosen_threads(arguments)
    if arguments.accuracy:
        errors = {
            p: accuracy(p, max(threads), systems, codes, arguments) for p in arguments.precision
        }
        tables, results = [accuracy_table(errors, arguments.accuracy)], {"accuracy": errors}
    else:
        cases = []
        for precision in arguments.precision:
            for n in threads:
                for batch in arguments.batch:
                    case = {"precision": precision, "threads": n, "batch": batch}
                    timed = speed(case, systems[:-1], codes, arguments)
                    cases.append({**case, "codes": timed})
        tables, results = [speed_table(cases, list(codes))], {"cases": cases}
    versions = {k: v for peer in found for k, v in peer.versions.items()}
    report(arguments, tables, results, {"versions": versions} if found else None)


if __name__ == "__main__":
    run_main(main)
