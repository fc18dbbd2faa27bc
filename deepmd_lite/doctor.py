"""What the package finds on this machine, and what is missing: the command `dpl doctor`.

Each examination is a verdict of one line. What cannot be imported or does not answer is a verdict
too, never an exception, because a broken installation is what this is for.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from . import __version__
from .free_memory import available_bytes
from .launchers import mpiexec

PING = """
import time
from mpi4py import MPI
world, block = MPI.COMM_WORLD, bytearray(8)
if world.size != 2:
    raise SystemExit(f"{world.size} rank(s) in the world of each process, expected 2")
for turns in (50, 500):  # the first turns connect the ranks
    world.Barrier()
    began = time.perf_counter()
    for _ in range(turns):
        if world.rank == 0:
            world.Send(block, 1); world.Recv(block, 1)
        else:
            world.Recv(block, 0); world.Send(block, 0)
if world.rank == 0:
    print(MPI.Get_library_version().replace(chr(0), ""))
    print("microseconds", 1e6 * (time.perf_counter() - began) / turns / 2)
"""
"""A message to the other rank and back; prints the MPI library and the time of one way."""
PING_SECONDS = 20.0
SMALL_MEMORY = 1.0
"""GiB."""


@dataclass(frozen=True)
class Verdict:
    """One thing that was looked at."""

    name: str
    found: str
    missing: str = ""
    """What is not there or not as it should be; '' where all is well."""
    fix: str = ""
    broken: bool = False
    """Something that is installed cannot work."""

    @property
    def state(self) -> str:
        """ok, missing or broken."""
        return "broken" if self.broken else "missing" if self.missing else "ok"

    def line(self) -> str:
        """The verdict as a person reads it."""
        if not self.missing:
            return f"{self.name:<12} ok: {self.found}"
        found = f" ({self.found})" if self.found else ""
        return f"{self.name:<12} {self.state}: {self.missing}{found}, fix: {self.fix}"

    def row(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "state": self.state}


def examine() -> list[Verdict]:
    """Every verdict, in the order in which one thing needs the other."""
    steps: tuple[Callable[[], Verdict | Iterator[Verdict]], ...] = (
        _versions,
        _kernels,
        _threads,
        _memory,
        _mpi,
        _cuda,
    )
    verdicts = []
    for step in steps:
        result = step()
        verdicts += [result] if isinstance(result, Verdict) else list(result)
    return verdicts


def _versions() -> Iterator[Verdict]:
    yield Verdict("package", f"deepmd_lite {__version__} in {Path(__file__).parent}")
    yield Verdict("python", f"{platform.python_version()} in {sys.prefix}, {platform.platform()}")
    needed = _needed()
    if not needed:
        fix = "pip install . in the source tree"
        yield Verdict("libraries", "", "deepmd_lite itself is not installed", fix, broken=True)
        return
    versions, absent = [], []
    for name in needed:
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            absent.append(name)
    missing = f"{', '.join(absent)} not installed" if absent else ""
    fix = f"pip install {' '.join(absent)}" if absent else ""
    yield Verdict("libraries", ", ".join(versions), missing, fix, broken=bool(absent))


def _needed() -> list[str]:
    """The libraries without which the package does not work, as it was installed; none if not."""
    try:
        given = metadata.requires("deepmd_lite") or []
    except metadata.PackageNotFoundError:
        return []
    found = (
        re.match(r"[\w.-]+", requirement) for requirement in given if "extra" not in requirement
    )
    return [name[0] for name in found if name]


def _kernels() -> Verdict:
    try:
        from . import kernels

        sets, used = kernels.instruction_sets(), kernels.instruction_set()
    except Exception as e:  # whatever a broken build raises
        reason = " ".join(str(e).split())
        return Verdict(
            "kernels", "", reason, "pip install . in the source tree (g++ with OpenMP)", broken=True
        )
    found = f"{used} in use, of {', '.join(sets)}; compiled with {kernels.COMPILER}"
    able = _processor_sets()
    lacking = [name for name in able if name not in sets]
    if lacking:
        return Verdict(
            "kernels", found, f"this build lacks {', '.join(lacking)}", "build it on this machine"
        )
    return Verdict("kernels", found)


def _processor_sets() -> list[str]:
    """Instruction sets that the processor says it has, of those that kernels are built for."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return []
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    flags = set(text.partition("flags")[2].partition("\n")[0].split())
    wanted = {
        "avx2": {"avx2", "fma"},
        "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx2", "fma"},
    }
    return [name for name, needed in wanted.items() if needed <= flags]


def _threads() -> Verdict:
    cpus = _cpus()
    bound = os.environ.get("OMP_NUM_THREADS")
    try:
        import torch

        threads = torch.get_num_threads()
    except Exception as e:
        return Verdict("threads", "", f"torch cannot be imported: {e}", "reinstall torch", True)
    binding = os.environ.get("OMP_PROC_BIND") or os.environ.get("KMP_AFFINITY") or "none"
    chosen = f" (OMP_NUM_THREADS={bound})" if bound else ""
    found = (
        f"{threads} in use{chosen}, {cpus:g} of {os.cpu_count()} processors allowed, "
        f"binding {binding}"
    )
    if threads > cpus + 0.5:
        return Verdict(
            "threads",
            found,
            "more threads than processors, which wait for each other",
            f"export OMP_NUM_THREADS={max(1, int(cpus))}",
        )
    return Verdict("threads", found)


def _cpus() -> float:
    """Processors that this process may use: affinity and, in a container, its share."""
    try:
        allowed = float(len(os.sched_getaffinity(0)))
    except AttributeError:
        allowed = float(os.cpu_count() or 1)
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return min(allowed, float(quota) / float(period))
    except (OSError, ValueError):
        return allowed


def _memory() -> Verdict:
    n_bytes = available_bytes()
    if n_bytes is None:
        return Verdict("memory", "unknown on this system")
    free = n_bytes / 2**30
    found = f"{free:.1f} GiB free"
    if free < SMALL_MEMORY:
        return Verdict("memory", found, "little memory", "end other programs")
    return Verdict("memory", found)


def _mpi() -> Verdict:
    """The launcher and the library that mpi4py has, and whether they belong together."""
    try:
        library = f"mpi4py {metadata.version('mpi4py')}"
    except metadata.PackageNotFoundError:
        return Verdict(
            "MPI", "", "mpi4py is not installed: dpl md runs on one rank", "pip install '.[mpi]'"
        )
    launcher = mpiexec()
    if launcher is None:
        return Verdict("MPI", library, "no mpiexec", "pip install mpich", broken=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [launcher, "-n", "2", sys.executable, "-c", PING]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PING_SECONDS, env=environment
        )
    except subprocess.TimeoutExpired:
        problem = f"two ranks do not answer each other within {PING_SECONDS:g} s"
    except OSError as e:
        problem = f"{launcher} cannot be started: {e.strerror}"
    else:
        words = done.stdout.split()
        if done.returncode == 0 and "microseconds" in words:
            latency = float(words[-1])
            mpi = " ".join(done.stdout.splitlines()[0].split())[:60]
            return Verdict(
                "MPI",
                f"{library}, {launcher}, {mpi}: two ranks, {latency:.1f} µs from one to the other",
            )
        last = ([x for x in done.stderr.splitlines() if x.strip()] or ["no message"])[-1]
        problem = f"two ranks failed: {last.strip()[:200]}"
    return Verdict(
        "MPI",
        f"{library}, {launcher}",
        problem,
        "use the mpiexec of the library that mpi4py was built with, or pip install mpi4py mpich "
        "into a fresh environment",
        broken=True,
    )


def _cuda() -> Verdict:
    """What this build has for GPUs, and whether there is one: nothing is missing without."""
    driver = _nvidia_smi()
    try:
        import torch

        from .kernels import cuda

        with_cuda, torch_cuda = cuda.built() is not None, torch.version.cuda
    except Exception as e:
        return Verdict("CUDA", "", f"torch cannot be imported: {e}", "reinstall torch", True)
    parts = [
        f"kernels built {'with' if with_cuda else 'without'} it",
        f"torch with CUDA {torch_cuda}" if torch_cuda else "torch without CUDA",
        driver or "no GPU found",
    ]
    if not driver:
        return Verdict("CUDA", "not needed: " + "; ".join(parts))
    try:
        cuda.device("cuda")
    except Exception as e:
        return Verdict("CUDA", "; ".join(parts), f"the GPU cannot be used: {e}", "docs/gpu.md")
    return Verdict("CUDA", "; ".join(parts))


def _nvidia_smi() -> str:
    """GPUs, driver and memory, or ''."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    query = [program, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return "nvidia-smi does not answer"
    return "; ".join(done.stdout.strip().splitlines()) if done.returncode == 0 else ""
