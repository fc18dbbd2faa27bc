"""What a step of parallel molecular dynamics costs, fitted, and what that says of larger machines.

    python benchmarks/scaling.py [--out FILE.json] [--plot FILE.png]
    python benchmarks/scaling.py --latency 2e-6 --bandwidth 1e10

Runs of different sizes on one rank and on two give the seconds of each part of a step: the model
by atom, the neighbour list by atom and ghost, the halo by atom and ghost, integration by atom, a
trajectory by atom and frame; what is left on two ranks is time spent waiting for the other one.
The rest is arithmetic: subdomains that are cubes, each rank as fast as one here, and a network of
the given latency (s) and bandwidth (bytes/s), which are assumptions and not measurements.
docs/scaling.md explains the terms.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import Table, median, parser, progress, report, run_main
from md import LATTICE, copies_for, launch
from scipy.optimize import nnls

SIZES = (1000, 4000, 16000, 50000)
"""Atoms of a rank."""
REACH = 6.5
"""Å: cutoff of the silicon model and skin."""
DENSITY = 8 / LATTICE**3
SYSTEMS = (10**6, 10**7, 10**8, 10**9)
RANKS = (1, 8, 64, 512, 1000, 4096, 10_000)
REDUCTIONS = 3
"""Messages of a step that involve all ranks: list, guards, and thermo now and then."""
FRAME_EVERY, THERMO_EVERY = 1000, 100


@dataclass(frozen=True)
class Costs:
    """Seconds of one rank."""

    model: float
    """By atom and step."""
    integrate: float
    """By atom and step."""
    halo_atom: float
    """By atom and step: looking for how far atoms have moved, and for the largest force."""
    halo_ghost: float
    """By ghost and step: packing, unpacking, adding forces."""
    listing: float
    """By atom or ghost and list: migration, ghosts and neighbours."""
    steps_between_lists: float
    waiting: float
    """Of the model's time, on each of two ranks: for the other one."""
    frame_extxyz: float
    """By atom of the whole system and frame, on rank 0."""
    frame_h5md: float
    """The same for the trajectory that ranks write share by share."""


def ghosts(n_atoms: float) -> float:
    """Of a cubic subdomain of so many atoms in bulk."""
    edge = (n_atoms / DENSITY) ** (1 / 3)
    return n_atoms * ((1 + 2 * REACH / edge) ** 3 - 1)


def measured(arguments: argparse.Namespace) -> tuple[Costs, list[dict[str, Any]]]:
    """The costs, and the runs that they come from."""
    runs = []
    for _ in range(arguments.repeats):
        for n in SIZES:
            for ranks in (1, 2):
                progress(f"{n:,} atoms a rank, {ranks} rank{'s' if ranks > 1 else ''}")
                steps = int(np.clip(2_000_000 // n, 40, 400))
                job = {"copies": copies_for(n * ranks), "steps": steps, "warm": 2}
                found = launch(ranks, arguments.work, precision=arguments.precision[0], **job)
                runs.append({"ranks": ranks, "steps": steps, **found})
    frames = {}
    for kind in ("extxyz", "h5md"):
        progress(f"output as {kind}")
        folder = str(arguments.work.resolve() / "md-run")
        job = {"copies": copies_for(50_000), "steps": 100, "output": folder, "format": kind}
        found = launch(2, arguments.work, precision=arguments.precision[0], **job)
        frames[kind] = 100 * found["parts"]["output"] / (2 * found["n_atoms"])  # steps 0 and 100
    return fitted(runs, frames), runs


def fitted(runs: list[dict[str, Any]], frames: dict[str, float]) -> Costs:
    """Least squares with no cost below zero, every run weighted by its own size."""
    alone, pairs = ([r for r in runs if r["ranks"] == n] for n in (1, 2))

    def columns(chosen: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
        n = np.array([[r["n_atoms"], r["n_ghosts"]] for r in chosen]) / chosen[0]["ranks"]
        return n[:, 0], n[:, 1]

    def seconds(chosen: list[dict[str, Any]], part: str) -> np.ndarray:
        return np.array([r["parts"][part] for r in chosen])

    def fit(terms: list[np.ndarray], of: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return nnls(np.column_stack(terms) / weight[:, None], of / weight)[0]

    n, g = columns(alone)
    lists = np.array([r["list_builds"] / r["steps"] for r in alone])
    halo = fit([n, g], seconds(alone, "communicate"), n)
    own, others = columns(pairs)
    rest = seconds(pairs, "communicate") - halo[0] * own - halo[1] * others
    return Costs(
        model=median(list(seconds(alone, "model") / n)),
        integrate=median(list(seconds(alone, "integrate") / n)),
        halo_atom=float(halo[0]),
        halo_ghost=float(halo[1]),
        listing=float(fit([lists * (n + g)], seconds(alone, "neighbours"), n)[0]),
        steps_between_lists=1 / float(lists[n > 10_000].mean()),
        waiting=median(list(rest / seconds(pairs, "model"))),
        frame_extxyz=frames["extxyz"],
        frame_h5md=frames["h5md"],
    )


def largest_of(n: int) -> float:
    """Expected largest of n normal deviates over that of two: how waiting grows with ranks."""
    if n < 2:
        return 0.0
    quantile = math.sqrt(2 * math.log(n))
    largest = quantile - (math.log(math.log(n)) + math.log(4 * math.pi)) / (2 * quantile)
    return max(1.0, largest * math.sqrt(math.pi))


def step(costs: Costs, n_atoms: int, ranks: int, latency: float, bandwidth: float) -> dict:
    """Seconds of each part of a step of `n_atoms` on `ranks`, extended XYZ apart."""
    n = n_atoms / ranks
    g = ghosts(n)
    tree = math.ceil(math.log2(ranks)) if ranks > 1 else 0
    messages = 12 if ranks > 1 else 0
    rebuild = 1 / costs.steps_between_lists
    migration = ranks * latency * rebuild if ranks > 1 else 0.0  # an all-to-all of counts
    return {
        "model": costs.model * n,
        "integrate": costs.integrate * n,
        "halo, memory": costs.halo_atom * n + costs.halo_ghost * g,
        "halo, network": messages * latency + (2 * 24 * g / bandwidth if ranks > 1 else 0.0),
        "reductions": REDUCTIONS * tree * latency,
        "lists": costs.listing * (n + g) * rebuild + migration,
        "waiting": costs.waiting * costs.model * n * largest_of(ranks),
        "output": costs.frame_h5md * n_atoms / min(ranks, 64) / FRAME_EVERY,
    }


def prediction(costs: Costs, latency: float, bandwidth: float) -> tuple[Table, list[dict]]:
    """Time, efficiency and largest part beside the model, for systems and ranks."""
    cases, rows = [], []
    for n_atoms in SYSTEMS:
        alone = sum(step(costs, n_atoms, 1, latency, bandwidth).values())
        for ranks in RANKS:
            parts = step(costs, n_atoms, ranks, latency, bandwidth)
            total = sum(parts.values())
            efficiency = alone / (ranks * total)
            other = max((k for k in parts if k != "model"), key=parts.__getitem__)
            extxyz = costs.frame_extxyz * n_atoms
            cases.append({"n_atoms": n_atoms, "ranks": ranks, "parts": parts, "seconds": total})
            worst = f"{other} {100 * parts[other] / total:.0f} %"
            rows.append([n_atoms, ranks, total, f"{100 * efficiency:.0f} %", worst, extxyz])
    columns = ["atoms", "ranks", "s/step", "efficiency", "largest but the model", "s/extxyz frame"]
    notes = [
        f"assumed network: {1e6 * latency:g} µs, {1e-9 * bandwidth:g} GB/s for each rank",
        f"H5MD frame each {FRAME_EVERY} steps, written by at most 64 ranks at a time",
    ]
    return Table("Prediction", columns, rows, notes), cases


def plot(cases: list[dict], path: Path) -> None:
    """Steps in a second over ranks, with the line of no loss."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for n_atoms in SYSTEMS:
        mine = [c for c in cases if c["n_atoms"] == n_atoms]
        ranks = np.array([c["ranks"] for c in mine])
        line = axes.loglog(
            ranks, [1 / c["seconds"] for c in mine], "o-", label=f"{n_atoms:.0e} atoms"
        )
        axes.loglog(ranks, ranks / mine[0]["seconds"], ":", color=line[0].get_color())
    axes.set(xlabel="ranks", ylabel="steps/s", title="predicted; dotted: no loss")
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)


def main() -> None:
    made = parser(__doc__)
    made.set_defaults(repeats=3)
    made.add_argument("--latency", type=float, default=2e-6, help="s, of a message (assumed)")
    made.add_argument("--bandwidth", type=float, default=1e10, help="bytes/s of a rank (assumed)")
    made.add_argument("--plot", type=Path, metavar="FILE.png")
    arguments = made.parse_args()
    costs, runs = measured(arguments)
    shown = [[name, value] for name, value in asdict(costs).items()]
    table = Table("Costs of one rank", ["term", "seconds (or as named)"], shown)
    predicted, cases = prediction(costs, arguments.latency, arguments.bandwidth)
    results = {"costs": asdict(costs), "runs": runs, "prediction": cases}
    report(arguments, [table, predicted], results, None)
    if arguments.plot:
        plot(cases, arguments.plot)


if __name__ == "__main__":
    run_main(main)
