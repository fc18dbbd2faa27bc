"""What the benchmarks share: the water-like system, the stock model, workers, tables, results.

Every measurement runs in a process of its own (`worker.py`), one for each code, precision and
number of threads. The processes of a comparison live at the same time and take turns
(A B A B …), so that a slow spell of the machine hits all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms

from deepmd_lite.model import (
    ModelConfig,
    Potential,
    refine_table,
    save_model,
    statistics_from,
)
from deepmd_lite.neighbors import periodic_env
from deepmd_lite.system import type_indices

HERE = Path(__file__).resolve().parent
WORK = HERE.parent / "build" / "benchmarks"
"""Models, structures and logs of the runs; git ignores it."""

TYPE_MAP = ["O", "H"]
STOCK = {
    "descriptor": {
        "type": "se_e2_a",
        "rcut": 6.0,
        "rcut_smth": 0.5,
        "sel": [46, 92],
        "neuron": [25, 50, 100],
        "axis_neuron": 16,
        "type_one_side": True,
        "activation_function": "tanh",
        "seed": 1,
    },
    "fitting_net": {"neuron": [240, 240, 240], "resnet_dt": True, "seed": 1},
}
"""DeePMD-kit's water example, the keys of an `input.json`."""

CELL_EDGE, MOLECULES_PER_EDGE = 12.4447, 4  # Å; liquid water at 10.04 Å³ per atom


class BenchmarkError(Exception):
    """A benchmark that cannot run; the message is one line for a person."""


# --- the system and the model -------------------------------------------------------------------


def water_box(n_atoms: int, seed: int = 0) -> Atoms:
    """A water-like periodic box: 192 atoms or 192 · k³.

    Molecules at random orientations on a jiggled lattice of liquid density, replicated k times
    along each axis; then every atom is moved by up to 0.02 Å, so that no two neighbourhoods are
    the same. Raises BenchmarkError for another number of atoms.
    """
    unit = 3 * MOLECULES_PER_EDGE**3
    k = round((n_atoms / unit) ** (1 / 3))
    if k < 1 or n_atoms != unit * k**3:
        raise BenchmarkError(f"{n_atoms} atoms: expected 192 · k³, for example 192, 1536 or 12288")
    rng = np.random.default_rng(seed)
    axes = [np.arange(MOLECULES_PER_EDGE)] * 3
    lattice = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    oxygen = (lattice + rng.uniform(-0.07, 0.07, lattice.shape)) * CELL_EDGE / MOLECULES_PER_EDGE
    bond, half_angle = 0.97, np.radians(52.25)
    arms = bond * np.array(
        [[np.cos(half_angle), sign * np.sin(half_angle), 0.0] for sign in (1, -1)]
    )
    rotations = np.linalg.qr(rng.normal(size=(len(oxygen), 3, 3)))[0]
    hydrogen = oxygen[:, None, :] + np.einsum("hc,mdc->mhd", arms, rotations)
    positions = np.concatenate([oxygen[:, None, :], hydrogen], axis=1).reshape(-1, 3)
    atoms = Atoms("OH2" * len(oxygen), positions, cell=np.eye(3) * CELL_EDGE, pbc=True)
    atoms = atoms.repeat(k)
    atoms.positions += rng.uniform(-0.02, 0.02, atoms.positions.shape)
    return atoms


def save_structure(atoms: Atoms, path: Path) -> Path:
    """Write what a worker needs of `atoms`; returns `path`."""
    np.savez(path, numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell.array)
    return path


def neighbors_per_atom(atoms: Atoms, rcut: float) -> float:
    """Mean number of neighbours within `rcut` Å."""
    types = np.array(type_indices(atoms.get_chemical_symbols(), TYPE_MAP, "box"), dtype=np.int32)
    env = periodic_env(atoms.positions, atoms.cell.array, atoms.pbc, types, rcut).env
    return env.n_edges / env.n_local


def model_section(precision: str) -> dict[str, Any]:
    """The `model` section of an input for the stock water model."""
    return {
        "type_map": TYPE_MAP,
        "descriptor": {**STOCK["descriptor"], "precision": precision},
        "fitting_net": {**STOCK["fitting_net"], "precision": precision},
    }


def stock_potential(precision: str) -> Potential:
    """The stock water model with random weights and the statistics of a 192-atom box.

    Its table is refined to forces within 1e-6 eV/Å of the networks, as at the end of a training.
    The weights are the same numbers in either precision, up to rounding.
    """
    atoms = water_box(192)
    config = ModelConfig(**model_section(precision))
    types = np.array(type_indices(atoms.get_chemical_symbols(), TYPE_MAP, "box"), dtype=np.int32)
    rcut = config.descriptor.rcut
    env = periodic_env(atoms.positions, atoms.cell.array, atoms.pbc, types, rcut).env
    potential = Potential(config, statistics_from([(env, -190.0 * len(atoms))], config), seed=1)
    with torch.no_grad():  # forces of the size of a liquid's, so that differences mean something
        for fitting in potential.fitting:
            fitting.weight_out *= 30.0
    refine_table(potential, env)
    return potential


def save_potential(potential: Potential, folder: Path) -> Path:
    """Write `<precision>.dpl` and, for other codes, the plain arrays `<precision>.npz`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{potential.precision}.dpl"
    save_model(potential, path, {"made by": "benchmarks"})
    arrays = {k: v.detach().double().numpy() for k, v in potential.state_dict().items()}
    section = json.dumps(model_section(potential.precision))
    np.savez(
        path.with_suffix(".npz"), model=section, min_distance=potential.min_distance, **arrays
    )
    return path


# --- processes ----------------------------------------------------------------------------------


def thread_environment(threads: int) -> dict[str, str]:
    """Environment variables that hold every library of either code to `threads` threads."""
    names = (
        *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"),
        *("DP_INTRA_OP_PARALLELISM_THREADS", "TF_INTRA_OP_PARALLELISM_THREADS"),
    )
    inter = dict.fromkeys(("DP_INTER_OP_PARALLELISM_THREADS", "TF_INTER_OP_PARALLELISM_THREADS"))
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": ""}
    return {**os.environ, **dict.fromkeys(names, str(threads)), **dict.fromkeys(inter, "1"), **quiet}


class Worker:
    """A process of `worker.py` that answers one JSON line for each JSON line."""

    def __init__(self, python: str | Path, threads: int, log: Path, **job: Any) -> None:
        """Start it; `job` says what it loads (see `worker.py`), `log` gets its stderr."""
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "w") as stderr:
            self.process = subprocess.Popen(
                [str(python), str(HERE / "worker.py"), json.dumps({**job, "threads": threads})],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env=thread_environment(threads),
                cwd=log.parent,
            )
        try:
            self.ready = self._answer()
        except BenchmarkError:
            self.close()
            raise

    def ask(self, do: str, **details: Any) -> dict[str, Any]:
        """The answer to one question. Raises BenchmarkError where the process ended."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps({"do": do, **details}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise BenchmarkError(f"worker ended: {self._last_words()}") from None
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            status = self.process.wait()
            raise BenchmarkError(f"worker ended with status {status}: {self._last_words()}")
        return json.loads(line)

    def _last_words(self) -> str:
        lines = [x for x in self.log.read_text(errors="replace").splitlines() if x.strip()]
        errors = [x for x in lines if re.match(r"\S*(Error|Exception)\b", x)] or lines
        return f"{errors[-1] if errors else 'no message'} (log: {self.log})"

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None and self.process.stdout is not None
        if not self.process.stdin.closed:
            try:
                self.process.stdin.close()
            except BrokenPipeError:
                pass
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


def alternate(workers: Mapping[str, Worker], repeats: int, seconds: float) -> dict[str, list[float]]:
    """Seconds per call of every worker: `repeats` times each in turn for about `seconds`.

    A worker's number of calls is chosen once, after two calls that are not counted.
    """
    calls = {}
    for name, worker in workers.items():
        worker.ask("time", calls=1)  # builds lists, graphs, work space
        once = worker.ask("time", calls=1)["seconds"]
        calls[name] = max(1, round(seconds / max(once, 1e-6)))
    times: dict[str, list[float]] = {name: [] for name in workers}
    for _ in range(repeats):
        for name, worker in workers.items():
            times[name].append(worker.ask("time", calls=calls[name])["seconds"] / calls[name])
    return times


median = statistics.median


# --- arguments, tables, results -----------------------------------------------------------------


def parser(description: str | None) -> argparse.ArgumentParser:
    """Arguments that all benchmarks have."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--threads", type=int, nargs="+", default=None, help="default: 1 and all")
    made.add_argument(
        "--precision",
        nargs="+",
        choices=("float64", "float32"),
        default=["float64", "float32"],
    )
    made.add_argument("--repeats", type=int, default=5, help="turns of each code (median taken)")
    made.add_argument("--peer", choices=("deepmd-kit",), help="measure this code as well")
    made.add_argument(
        "--peer-venv",
        type=Path,
        default=HERE.parent / "build" / "peer",
        help="folder of the peer's environments, made from PyPI where missing",
    )
    made.add_argument(
        *("--out", "--json"),
        type=Path,
        metavar="FILE.json",
        help="write the results there, and the tables beside it as FILE.md",
    )
    return made


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def chosen_threads(arguments: argparse.Namespace) -> list[int]:
    """As given, or one and all of at most two cores."""
    return arguments.threads or sorted({1, min(2, cores())})


@dataclass
class Table:
    """Rows for a person; numbers are shown with three digits."""

    title: str
    columns: Sequence[str]
    rows: list[Sequence[Any]]
    notes: Sequence[str] = ()

    def lines(self) -> list[str]:
        """Markdown, aligned so that it reads well in a terminal too."""
        cells = [list(self.columns), *([shown(x) for x in row] for row in self.rows)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(self.columns))]
        body = ["| " + " | ".join(c.rjust(w) for c, w in zip(r, widths, strict=True)) + " |" for r in cells]
        body.insert(1, "|" + "|".join("-" * (w + 1) + ":" for w in widths) + "|")
        return [f"## {self.title}", "", *body, "", *[f"- {note}" for note in self.notes], ""]


def shown(value: Any) -> str:
    """A table cell."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def machine() -> dict[str, Any]:
    """Where and with what the figures were made."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as info:
            model = next(x.split(":", 1)[1].strip() for x in info if x.startswith("model name"))
    except (OSError, StopIteration):
        pass
    from deepmd_lite import kernels

    return {
        "date": time.strftime("%Y-%m-%d %H:%M:%S%z"),
        "cpu": model,
        "cores": cores(),
        "instruction set": kernels.instruction_set(),
        "system": platform.platform(terse=True),
        "load average": [round(x, 2) for x in os.getloadavg()],
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in ("deepmd_lite", "torch", "numpy", "ase")},
        },
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def report(
    arguments: argparse.Namespace,
    tables: Sequence[Table],
    results: Mapping[str, Any],
    peer: Mapping[str, Any] | None,
) -> None:
    """Print the tables; write them and `results` where --out says."""
    facts = machine()
    head = f"{facts['cpu']}, {facts['cores']} cores, {facts['instruction set']}; {facts['date']}"
    versions = {**facts["versions"], **((peer or {}).get("versions", {}))}
    lines = [head, "", ", ".join(f"{k} {v}" for k, v in versions.items()), ""]
    for table in tables:
        lines += table.lines()
    print("\n".join(lines), flush=True)
    if arguments.out is None:
        return
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    content = {"command": sys.argv[1:], "machine": facts, "peer": peer, **results}
    arguments.out.write_text(json.dumps(content, indent=1) + "\n")
    title = f"# {Path(sys.argv[0]).name}\n\n"
    arguments.out.with_suffix(".md").write_text(title + "\n".join(lines))
    print(f"written: {arguments.out} and {arguments.out.with_suffix('.md').name}", file=sys.stderr)


def progress(text: str) -> None:
    """What is being measured, on stderr."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def run_main(main: Any) -> None:
    """Run `main()`; an expected failure is one line and status 1."""
    from deepmd_lite.system import DeepmdLiteError

    try:
        main()
    except (BenchmarkError, DeepmdLiteError) as error:
        sys.exit(f"error: {error}")
