"""Parallel molecular dynamics: scaling over ranks, what a step is made of, and memory.

    python benchmarks/md.py [--ranks N …] [--atoms N …] [--steps N] [--out FILE.json]
    python benchmarks/md.py --large 10000000 --ranks 2 --steps 10

Silicon (`data/silicon/silicon.dpl`, diamond at 600 K, NVE) on the given numbers of ranks, a thread
each, started by the mpiexec beside this Python. Strong scaling: so many atoms in all; weak: so many
for each rank. Runs of one comparison take turns. Efficiency: time on one rank over ranks × time
(strong), or over time (weak). A step's share outside forces is all but the model; thermo, and the
trajectory in the format given, are written every 100 steps where --output says so.

--large makes a single run and compares its peak of memory with the forecast of `dpl md --dry-run`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from common import (
    HERE,
    BenchmarkError,
    Table,
    median,
    parser,
    progress,
    report,
    run_main,
    thread_environment,
)

MODEL = HERE.parent / "data" / "silicon" / "silicon.dpl"
LATTICE = 5.477  # Å, of the model
HOT = 2000
"""K, of the atoms that --large starts with: so fast that ten steps need a second neighbour list,
which is when a rank needs most memory."""
PARTS = ("model", "neighbours", "communicate", "integrate", "output")


def copies_for(n_atoms: int) -> tuple[int, int, int]:
    """Cubic cells along each axis for about `n_atoms` (eight to a cell), as even as can be."""
    edge = max(1, round((n_atoms / 8) ** (1 / 3)))
    return edge, edge, max(1, round(n_atoms / (8 * edge * edge)))


def run_job(job: dict[str, Any]) -> None:
    """One run, on every rank of it; rank 0 prints its figures as JSON."""
    from ase.build import bulk

    from deepmd_lite.md import MdConfig, Simulation, communicator
    from deepmd_lite.md.plan import make_plan

    comm = communicator()
    atoms = bulk("Si", cubic=True, a=LATTICE)
    given: dict[str, Any] = {
        "timestep": 2.0,
        "velocities": {"temperature": job["temperature"]},
        "replicate": tuple(job["copies"]),
        "precision": job["precision"],
    }
    output = None
    if job["output"]:
        output = {"directory": job["output"], "thermo": 100, "trajectory": 100, "restart": 0}
        output["format"] = job["format"]
    plan = None
    if job["forecast"]:
        config = MdConfig(model=job["model"], structure="", steps=job["steps"], **given)
        plan = make_plan(config, atoms if comm.rank == 0 else None, comm)
    simulation = Simulation(atoms, job["model"], comm=comm, output=output, **given)
    if job["warm"]:
        simulation.run(job["warm"])
    result = simulation.run(job["steps"])
    peak = comm.collect(peak_bytes())
    largest = comm.largest(len(simulation.state))
    env = simulation.engine.env
    ghosts = comm.total(env.n_all - env.n_local)
    if comm.rank == 0:
        found = {
            "n_atoms": result.n_atoms,
            "n_ghosts": ghosts,
            "grid": simulation.domain.grid,
            "seconds_per_step": result.seconds / result.steps,
            "parts": {k: result.parts[k] / result.steps for k in PARTS},
            "imbalance": largest * comm.size / result.n_atoms,
            "peak_bytes": peak,
            "list_builds": result.list_builds,
        }
        if plan is not None:
            found["forecast_bytes"] = plan.bytes_per_rank
            found["forecast_seconds"] = plan.seconds_per_step
        print(json.dumps(found), flush=True)


def peak_bytes() -> int:
    """Of this process, as the kernel counts them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(x for x in lines if x.startswith("VmHWM")).split()[1])


def launch(ranks: int, work: Path, **job: Any) -> dict[str, Any]:
    """Run a job under mpiexec; its figures."""
    defaults = {"model": str(MODEL), "warm": 0, "output": None, "forecast": False}
    job = {**defaults, "format": "extxyz", "temperature": 600, **job}
    if job["output"]:
        shutil.rmtree(job["output"], ignore_errors=True)
    command = [sys.executable, str(HERE / "md.py"), "--job", json.dumps(job)]
    if ranks > 1:
        command = [str(Path(sys.executable).parent / "mpiexec"), "-n", str(ranks), *command]
    work.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        command, capture_output=True, text=True, env=thread_environment(1), cwd=work
    )
    if done.returncode:
        words = (done.stderr or done.stdout).strip().splitlines()
        raise BenchmarkError(f"{ranks} ranks: status {done.returncode}: {words[-1:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def scaling(arguments: argparse.Namespace, weak: bool) -> tuple[Table, list[dict[str, Any]]]:
    """Seconds per step on every number of ranks, in turns."""
    cases = []
    for n_atoms in arguments.atoms:
        runs: dict[int, list[dict[str, Any]]] = {n: [] for n in arguments.ranks}
        for repeat in range(arguments.repeats):
            for ranks in arguments.ranks:
                total = n_atoms * ranks if weak else n_atoms
                progress(
                    f"{'weak' if weak else 'strong'}, {total:,} atoms, {ranks} ranks, {repeat + 1}"
                )
                found = launch(
                    ranks,
                    arguments.work,
                    copies=copies_for(total),
                    steps=arguments.steps,
                    warm=2,
                    precision=arguments.precision[0],
                )
                runs[ranks].append(found)
        for ranks, made in runs.items():
            seconds = median([r["seconds_per_step"] for r in made])
            alone = median([r["seconds_per_step"] for r in runs[min(runs)]])
            parts = {k: median([r["parts"][k] for r in made]) for k in PARTS}
            ideal = alone if weak else alone * min(runs) / ranks
            cases.append(
                {
                    "ranks": ranks,
                    "n_atoms": made[0]["n_atoms"],
                    "seconds_per_step": seconds,
                    "efficiency": ideal / seconds,
                    "parts": parts,
                    "imbalance": made[0]["imbalance"],
                }
            )
    rows = [
        [
            c["n_atoms"],
            c["ranks"],
            1e6 * c["seconds_per_step"] / c["n_atoms"],
            f"{100 * c['efficiency']:.0f} %",
            *(f"{100 * c['parts'][k] / c['seconds_per_step']:.1f} %" for k in PARTS),
        ]
        for c in cases
    ]
    title = "Weak scaling" if weak else "Strong scaling"
    columns = ["atoms", "ranks", "µs/atom/step", "efficiency", *PARTS]
    return Table(title, columns, rows, ["medians; parts: share of a step, mean over ranks"]), cases


def step_parts(arguments: argparse.Namespace) -> tuple[Table, dict[str, Any]]:
    """What 200 steps of 50,000 atoms spend outside the model, output every 100 steps included."""
    copies, rows, cases = copies_for(50_000), [], {}
    for ranks in arguments.ranks:
        progress(f"parts of a step, {ranks} ranks")
        found = launch(
            ranks,
            arguments.work,
            copies=copies,
            steps=200,
            precision=arguments.precision[0],
            output=str(arguments.work.resolve() / "md-run"),
        )
        seconds = found["seconds_per_step"]
        other = seconds - found["parts"]["model"]
        shares = [f"{100 * found['parts'][k] / seconds:.1f} %" for k in PARTS]
        rows.append([found["n_atoms"], ranks, *shares, f"{100 * other / seconds:.1f} %"])
        cases[str(ranks)] = found
    columns = ["atoms", "ranks", *PARTS, "all but the model"]
    notes = ["200 steps; thermo and an extended-XYZ frame of all atoms every 100 steps"]
    return Table("What a step is made of", columns, rows, notes), cases


def large(arguments: argparse.Namespace) -> tuple[Table, dict[str, Any]]:
    """One run of many atoms: peak memory beside its forecast."""
    ranks = max(arguments.ranks)
    progress(f"{arguments.large:,} atoms on {ranks} ranks, {arguments.steps} steps")
    found = launch(
        ranks,
        arguments.work,
        copies=copies_for(arguments.large),
        steps=arguments.steps,
        precision=arguments.precision[0],
        temperature=HOT,
        forecast=True,
    )
    peak, n = max(found["peak_bytes"]), found["n_atoms"]
    row = [
        n,
        ranks,
        arguments.steps,
        found["seconds_per_step"],
        1e6 * found["seconds_per_step"] / n,
        peak / 1e9,
        found["forecast_bytes"] / 1e9,
        f"{100 * (found['forecast_bytes'] / peak - 1):+.1f} %",
        sum(found["peak_bytes"]) / n,
        found["list_builds"],
    ]
    columns = ["atoms", "ranks", "steps", "s/step", "µs/atom/step", "peak GB/rank"]
    columns += ["forecast GB", "forecast off by", "bytes/atom in all", "lists"]
    return Table("Many atoms", columns, [row], ["peak: VmHWM of the fullest rank"]), found


def read_arguments() -> argparse.Namespace:
    made = parser(__doc__)
    made.set_defaults(repeats=3)
    made.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    made.add_argument("--atoms", type=int, nargs="+", default=[8000, 50000])
    made.add_argument("--steps", type=int, default=50)
    made.add_argument("--large", type=int, metavar="ATOMS", help="one run of so many atoms instead")
    made.add_argument("--job", help=argparse.SUPPRESS)
    return made.parse_args()


def main() -> None:
    arguments = read_arguments()
    if arguments.job:
        run_job(json.loads(arguments.job))
        return
    results: dict[str, Any]
    if arguments.large:
        table, results = large(arguments)
        report(arguments, [table], {"large": results}, None)
        return
    strong, strong_cases = scaling(arguments, weak=False)
    weak, weak_cases = scaling(arguments, weak=True)
    parts, part_cases = step_parts(arguments)
    results = {"strong": strong_cases, "weak": weak_cases, "parts": part_cases}
    report(arguments, [strong, weak, parts], results, None)


if __name__ == "__main__":
    run_main(main)
