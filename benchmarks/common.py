"""What the benchmarks share: worker processes, arguments, tables, results.

Every measurement runs in a process of its own (`worker.py`), one for each code, precision and
number of threads. The processes of a comparison live at the same time and take turns
(A B A B …), so that a slow spell of the machine hits all of them.
"""

from __future__ import annotations

import argparse
import contextlib
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

HERE = Path(__file__).resolve().parent


class BenchmarkError(Exception):
    """A benchmark that cannot run; the message is one line for a person."""


# --- processes ----------------------------------------------------------------------------------


def thread_environment(threads: int) -> dict[str, str]:
    """Environment variables that hold every library of either code to `threads` threads."""
    names = (
        *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"),
        *("DP_INTRA_OP_PARALLELISM_THREADS", "TF_INTRA_OP_PARALLELISM_THREADS"),
    )
    inter = dict.fromkeys(("DP_INTER_OP_PARALLELISM_THREADS", "TF_INTER_OP_PARALLELISM_THREADS"))
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": ""}
    return {
        **os.environ,
        **dict.fromkeys(names, str(threads)),
        **dict.fromkeys(inter, "1"),
        **quiet,
    }


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
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        if not self.process.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


def alternate(
    workers: Mapping[str, Worker], repeats: int, seconds: float
) -> dict[str, list[float]]:
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
    made.add_argument("--threads", type=int, nargs="+", help="default: 1 and, if it can be, 2")
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
        "--work",
        type=Path,
        default=HERE.parent / "build" / "benchmarks",
        help="folder for models, structures and logs of the runs",
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
    """As given, or 1 and, where there are as many cores, 2."""
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
        body = [
            "| " + " | ".join(c.rjust(w) for c, w in zip(r, widths, strict=True)) + " |"
            for r in cells
        ]
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
    # where things lie on this machine says nothing to another
    command = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    content = {"command": command, "machine": facts, "peer": peer, **results}
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
