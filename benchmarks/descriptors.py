"""Descriptors on the same data: errors on frames that no training saw, and what they cost.

    python benchmarks/descriptors.py --out descriptors.json

Each is trained with the rest of the input as it is. Evaluations of a crystal are timed in turns
(A B A B …) in one process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from ase.io import read
from common import HERE

from deepmd_lite import train
from deepmd_lite.evaluate import evaluate
from deepmd_lite.model import Potential, load_model
from deepmd_lite.neighbors import periodic_env
from deepmd_lite.system import LocalEnv, type_indices

DESCRIPTORS = (
    {"type": "se_e2_a", "axis_neuron": 4},
    {"type": "se_e2_a", "axis_neuron": 8},
    {"type": "se_e2_a", "axis_neuron": 16},
    {"type": "se_e2_q", "axis_neuron": 2},
    {"type": "se_e2_q", "axis_neuron": 4},
    {"type": "se_e2_q", "axis_neuron": 8},
)
INPUT = HERE.parent / "examples" / "01_train_silicon" / "input.json"
TEST = HERE.parent / "data" / "silicon" / "test.extxyz"
MILLI = 1e3


def trained(source: Path, descriptor: dict[str, Any], seed: int, out: Path) -> float:
    """Seconds of a training whose model is left in `out`."""
    config = json.loads(source.read_text())
    own = config["model"]["descriptor"]
    own |= descriptor
    if own["type"] != "se_e2_q":
        own.pop("cubic_neuron", None)
    config["training"]["seed"] = seed
    for section in ("training_data", "validation_data"):  # found beside the input, as `dpl` does
        data = config["training"].get(section)
        if data is not None:
            data["systems"] = [str((source.parent / x).resolve()) for x in data["systems"]]
    began = time.perf_counter()
    train(config, output=out, quiet=True)
    return time.perf_counter() - began


def crystal(potential: Potential, structure: Path, atoms: int) -> LocalEnv:
    """The first structure, repeated to at least `atoms` atoms, with a skin of 1 Å."""
    frame = read(structure, 0)
    while len(frame) < atoms:
        shortest = int(frame.cell.lengths().argmin())
        frame = frame.repeat([2 if k == shortest else 1 for k in range(3)])
    types = type_indices(frame.get_chemical_symbols(), potential.type_map, str(structure))
    cell = frame.cell.array
    return periodic_env(frame.positions, cell, frame.pbc, types, potential.rcut + 1.0).env


def evaluation_times(paths: list[Path], structure: Path, atoms: int) -> list[dict[str, float]]:
    """µs/atom of energies, forces and virial in float64 and float32, one thread."""
    torch.set_num_threads(1)
    results: list[dict[str, float]] = [{} for _ in paths]
    for precision in ("float64", "float32"):
        models = [load_model(path, precision) for path in paths]
        env = crystal(models[0], structure, atoms)
        times: list[list[float]] = [[] for _ in models]
        for turn in range(8):
            for own, model in zip(times, models, strict=True):
                began = time.perf_counter()
                model.evaluate(env)
                if turn > 0:
                    own.append((time.perf_counter() - began) / env.n_local * 1e6)
        for result, own in zip(results, times, strict=True):
            result[f"µs/atom, {precision}"] = statistics.median(own)
    return results


def errors(path: Path, test: Path) -> dict[str, float]:
    """RMSE on the test set."""
    found = evaluate(path, test).total()
    return {
        "force RMSE, meV/Å": found.force_rmse * MILLI,
        "energy RMSE, meV/atom": found.energy_rmse_per_atom * MILLI,
    }


def table(rows: dict[str, dict[str, float]]) -> str:
    """As Markdown."""
    names = list(next(iter(rows.values())))
    lines = ["| | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for label, row in rows.items():
        lines.append(
            f"| {label} | "
            + " | ".join(f"{x:.0f}" if x >= 1000 else f"{x:.3g}" for x in row.values())
            + " |"
        )
    return "\n".join(lines)


def report(rows: dict[str, dict[str, float]], title: str, out: Path | None) -> None:
    """Print the table; write JSON to `out`, and the table under `title` beside it."""
    print(table(rows))
    if out is not None:
        out.write_text(json.dumps(rows, indent=2, ensure_ascii=False) + "\n")
        out.with_suffix(".md").write_text(f"# {title.strip()}\n\n{table(rows)}\n")


def main() -> None:
    """Train, test, time; print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--input", type=Path, default=INPUT, help="all but the descriptor's type")
    parser.add_argument("--test", type=Path, default=TEST, help="frames for the errors")
    parser.add_argument("--seeds", type=int, default=2, help="trainings of each (2)")
    parser.add_argument("--atoms", type=int, default=4096, help="of the timed structure (4096)")
    parser.add_argument("--out", type=Path, help="write JSON there, and a table beside it")
    args = parser.parse_args()
    rows: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        paths = []
        for k, descriptor in enumerate(DESCRIPTORS):
            seconds, found = [], []
            for seed in range(1, args.seeds + 1):
                out = Path(name) / f"{k}-{seed}"
                seconds.append(trained(args.input, descriptor, seed, out))
                found.append(errors(out / "model.dpl", args.test))
            paths.append(out / "model.dpl")
            means = {key: statistics.mean(e[key] for e in found) for key in found[0]}
            label = f"{descriptor['type']}, {descriptor['axis_neuron']} axes"
            rows[label] = {"training, s": statistics.median(seconds), **means}
            print(label, {key: round(x, 2) for key, x in rows[label].items()}, flush=True)
        for row, times in zip(
            rows.values(), evaluation_times(paths, args.test, args.atoms), strict=True
        ):
            row |= times
    report(rows, __doc__, args.out)


if __name__ == "__main__":
    main()
