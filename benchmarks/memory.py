"""Peak resident memory of one evaluation of energy, forces and virial, and its growth per atom.

    python benchmarks/memory.py [--atoms N …] [--out FILE.json]
    python benchmarks/memory.py --peer deepmd-kit [--peer-atoms N …]

A process of its own for each size evaluates the stock water model (see infer.py) three times
through the ASE calculator, neighbour list included; its peak is what the kernel says (VmHWM), which
contains Python and the libraries. The slope between two sizes does not: kB per atom =
difference of the peaks / difference of the atoms.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common import (
    BenchmarkError,
    Table,
    Worker,
    parser,
    progress,
    report,
    run_main,
)
from peer import BACKENDS, Peer, peers
from water import save_potential, save_structure, stock_potential, water_box

CALLS = 3
OWN = "this project"


def peak(job: Mapping[str, Any], threads: int, name: str, log: Path) -> dict[str, Any]:
    """kB at the start (model loaded) and at the peak; an 'error' where the evaluation failed."""
    try:
        worker = Worker(threads=threads, log=log, **job)
    except BenchmarkError as error:
        return {"error": str(error)}
    try:
        worker.ask("time", calls=CALLS)
        return {"start_kb": worker.ready["now_kb"], "peak_kb": worker.ask("memory")["peak_kb"]}
    except BenchmarkError as error:
        progress(f"{name}: {error}")
        return {"error": str(error)}
    finally:
        worker.close()


def codes(found: Sequence[Peer], arrays: Path, kinds: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What a worker of each code is started with, apart from the structure."""
    own = {"python": sys.executable, "code": "own", "model": str(arrays.with_suffix(".dpl"))}
    made = {OWN: own}
    for peer in found:
        models = peer.models(arrays)
        for kind in kinds:
            job = {"python": peer.python, "code": "deepmd-kit", "model": str(models[kind])}
            made[f"{peer.backend} {kind}"] = job
    return {name: {**job, "precision": arrays.stem} for name, job in made.items()}


def rows_of(case: Mapping[str, Any]) -> list[list[Any]]:
    """A row for each size: peak in MB and the slope from the size before, in kB per atom."""
    rows, before = [], None
    for n_atoms, entry in case["sizes"].items():
        row = [case["code"], case["precision"], case["threads"], f"{n_atoms:,}"]
        if "error" in entry:
            rows.append([*row, "failed", None])
            continue
        slope = None
        if before is not None:
            slope = (entry["peak_kb"] - before[1]) / (n_atoms - before[0])
        rows.append([*row, entry["peak_kb"] / 1024, slope])
        before = (n_atoms, entry["peak_kb"])
    return rows


def read_arguments() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--atoms", type=int, nargs="+", default=[1536, 12288, 98304])
    made.add_argument("--peer-atoms", type=int, nargs="+", default=[192, 1536, 5184])
    made.add_argument("--peer-backend", nargs="+", choices=BACKENDS, default=["tensorflow"])
    made.add_argument(
        "--peer-models",
        nargs="+",
        choices=("frozen", "compressed"),
        default=["frozen", "compressed"],
    )
    return made.parse_args()


def main() -> None:
    arguments = read_arguments()
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    found = peers(arguments.peer_venv, arguments.peer_backend) if arguments.peer else []
    sizes = {*arguments.atoms, *(arguments.peer_atoms if found else [])}
    structures = {n: save_structure(water_box(n), work / f"water-{n}.npz") for n in sizes}
    cases = []
    for precision in arguments.precision:
        arrays = save_potential(stock_potential(precision), work).with_suffix(".npz")
        for threads in arguments.threads or [1]:
            for name, job in codes(found, arrays, arguments.peer_models).items():
                wanted = arguments.atoms if name == OWN else arguments.peer_atoms
                case = {"code": name, "precision": precision, "threads": threads, "sizes": {}}
                for n_atoms in sorted(wanted):
                    progress(f"{name}, {precision}, {threads} thread(s), {n_atoms} atoms")
                    whole = {**job, "structure": str(structures[n_atoms])}
                    case["sizes"][n_atoms] = peak(whole, threads, name, work / f"memory-{name}.log")
                cases.append(case)
    table = Table(
        "Peak resident memory of energy + forces + virial",
        ["code", "precision", "threads", "atoms", "peak MB", "kB per atom"],
        [row for case in cases for row in rows_of(case)],
        ["one process each, neighbour list included; kB per atom: slope from the size above"],
    )
    versions = {k: v for peer in found for k, v in peer.versions.items()}
    report(arguments, [table], {"cases": cases}, {"versions": versions} if found else None)


if __name__ == "__main__":
    run_main(main)
