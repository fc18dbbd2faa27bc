"""The few operations that parallel MD needs of a communicator, over mpi4py or for one process.

The only importer of mpi4py, and that only where there are ranks to talk to: a single process
runs without MPI installed. Arrays travel as buffers, without pickling.
"""

from __future__ import annotations

import ctypes
import os
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, cached_property
from typing import Any, TypeVar

import numpy as np

from ..kernels import cuda
from ..launchers import ranks_started, tasks_of_srun
from ..system import DeepmdLiteError, InputError

Number = TypeVar("Number", int, float)
Numbers = tuple[int, int]
"""Address in memory, and how many float64 numbers are there."""


class SharedError(DeepmdLiteError):
    """An error that every rank raises at the same point with the same message."""


class Communicator:
    """One process alone: every operation is the trivial one."""

    rank = 0
    size = 1

    @property
    def reads_gpus(self) -> bool:
        """Whether `swap_addresses` takes those of a GPU; nothing is ever sent where there is one
        process. Every rank must ask."""
        return True

    def reduce(self, values: np.ndarray, operation: str) -> np.ndarray:
        """Element-wise 'sum', 'max' or 'min' over the ranks, on every rank."""
        return values

    def total(self, number: Number) -> Number:
        """Sum of one number over the ranks, on every rank; exact where it is an int."""
        return self._of_all(number, "sum")

    def largest(self, number: Number) -> Number:
        """The largest over the ranks of one number, on every rank."""
        return self._of_all(number, "max")

    def _of_all(self, number: Number, operation: str) -> Number:
        kind = np.int64 if isinstance(number, (int, np.integer)) else np.float64
        return self.reduce(np.array([number], dtype=kind), operation)[0].item()

    def share(self, value: Any) -> Any:
        """Rank 0's small object on every rank."""
        return value

    def collect(self, value: Any) -> list[Any]:
        """The small objects of all ranks on every rank, in order of rank."""
        return [value]

    def redistribute(self, rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """The first counts[0] of `rows` (n, k) to rank 0, the next to rank 1, …; returns those
        that arrive, in order of sender."""
        return rows

    def swap(
        self,
        leaving: np.ndarray,
        to: int | None,
        arriving: np.ndarray,
        source: int | None,
        tag: int,
    ) -> None:
        """Send one contiguous float64 array and receive another; None: no partner."""
        if to is not None:
            np.copyto(arriving, leaving)

    def swap_addresses(
        self, leaving: Numbers, to: int | None, arriving: Numbers, source: int | None, tag: int
    ) -> None:
        """As `swap` between two ranks, for numbers of the host, or of a GPU where `reads_gpus`: it
        must be done with those that leave."""
        if leaving[1] or arriving[1]:
            raise ValueError("swap_addresses: there is no other rank")

    def swap_rows(
        self, leaving: np.ndarray, to: int | None, source: int | None, tag: int
    ) -> np.ndarray:
        """Send rows (n, k) float64 and return those that arrive, however many."""
        return leaving.copy()

    def end(self) -> None:
        """End all ranks at once with status 1."""
        raise SystemExit(1)


class MpiCommunicator(Communicator):
    """A communicator of mpi4py. It is used as given; its owner frees it."""

    def __init__(self, comm: Any) -> None:
        from mpi4py import MPI

        self._mpi, self._comm = MPI, comm
        self.rank: int = comm.rank
        self.size: int = comm.size
        self._nobody = MPI.PROC_NULL
        self._operations = {"sum": MPI.SUM, "max": MPI.MAX, "min": MPI.MIN}

    @cached_property
    def reads_gpus(self) -> bool:
        own = np.array([float(_reads_gpus(self._mpi.__file__))])
        return bool(self.reduce(own, "min")[0])

    def reduce(self, values: np.ndarray, operation: str) -> np.ndarray:
        result = np.empty_like(values)
        self._comm.Allreduce(values, result, self._operations[operation])
        return result

    def share(self, value: Any) -> Any:
        return self._comm.bcast(value)

    def collect(self, value: Any) -> list[Any]:
        return self._comm.allgather(value)

    def redistribute(self, rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
        width = rows.shape[1]
        sent = counts.astype(np.int64) * width
        received = np.empty_like(sent)
        self._comm.Alltoall(sent, received)
        arriving = np.empty(received.sum())
        self._comm.Alltoallv((np.ascontiguousarray(rows), sent), (arriving, received))
        return arriving.reshape(-1, width)

    def swap(
        self,
        leaving: np.ndarray,
        to: int | None,
        arriving: np.ndarray,
        source: int | None,
        tag: int,
    ) -> None:
        if to == self.rank:  # then so is the source
            np.copyto(arriving, leaving)
            return
        self._comm.Sendrecv(
            leaving,
            self._nobody if to is None or not leaving.size else to,
            tag,
            arriving,
            self._nobody if source is None or not arriving.size else source,
            tag,
        )

    def swap_addresses(
        self, leaving: Numbers, to: int | None, arriving: Numbers, source: int | None, tag: int
    ) -> None:
        sent, received = (
            [self._mpi.memory.fromaddress(address, 8 * n), self._mpi.DOUBLE]
            for address, n in (leaving, arriving)
        )
        to = self._nobody if to is None or not leaving[1] else to
        source = self._nobody if source is None or not arriving[1] else source
        self._comm.Sendrecv(sent, to, tag, received, source, tag)

    def swap_rows(
        self, leaving: np.ndarray, to: int | None, source: int | None, tag: int
    ) -> np.ndarray:
        if to == self.rank:
            return leaving.copy()
        count = np.zeros(1, dtype=np.int64)
        self._comm.Sendrecv(
            np.array([len(leaving)]),
            self._nobody if to is None else to,
            tag,
            count,
            self._nobody if source is None else source,
            tag,
        )
        arriving = np.empty((int(count[0]), leaving.shape[1]))
        self.swap(np.ascontiguousarray(leaving), to, arriving, source, tag)
        return arriving

    def end(self) -> None:
        self._comm.Abort(1)


def _reads_gpus(library: str) -> bool:
    """Whether the MPI that `library`, mpi4py's module, is linked to says that it takes addresses of
    GPUs: by the extension of MPICH and its relatives, or else by that of Open MPI."""
    mpi = ctypes.CDLL(library)
    if hasattr(mpi, "MPIX_GPU_query_support"):
        found = ctypes.c_int(0)
        status = mpi.MPIX_GPU_query_support(0, ctypes.byref(found))  # 0: MPIX_GPU_SUPPORT_CUDA
        return status == 0 and bool(found.value)
    return hasattr(mpi, "MPIX_Query_cuda_support") and mpi.MPIX_Query_cuda_support() == 1


def wrap(comm: Any = None) -> Communicator:
    """`comm` as this module's kind: None for one process, or a communicator of mpi4py."""
    if comm is None:
        return Communicator()
    return comm if isinstance(comm, Communicator) else MpiCommunicator(comm)


def communicator(environment: Mapping[str, str] = os.environ) -> Communicator:
    """All ranks if an MPI launcher started this process, otherwise this process alone.

    Raises InputError under a launcher when mpi4py is missing, or belongs to another MPI than the
    launcher, or when srun connects no MPI, so that each rank would take itself for the only one.
    """
    ranks, tasks = ranks_started(environment), tasks_of_srun(environment)
    if ranks is None:  # tasks of srun without MPI may be runs of their own
        return Communicator()
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as e:  # RuntimeError: its MPI library is not there
        if ranks == 1:
            return Communicator()
        why = str(e).strip().split("\n")[0]
        raise InputError(
            f"started under an MPI launcher, but mpi4py cannot be imported ({why}); load the MPI "
            "that it was built with (module load …, LD_LIBRARY_PATH), or pip install "
            "'deepmd_lite[mpi]'; dpl doctor looks for both"
        ) from None
    if tasks > 1 and MPI.COMM_WORLD.size == 1:
        raise InputError(
            f"srun started {tasks} tasks, but MPI does not connect them: try srun --mpi=pmix or "
            "srun --mpi=pmi2 (srun --mpi=list names what there is), or the mpiexec of mpi4py's "
            "MPI; for separate runs, srun -n 1 for each"
        )
    if ranks and ranks > 1 and MPI.COMM_WORLD.size == 1:
        library = MPI.Get_library_version().split("\n")[0].strip("\0 ")
        raise InputError(
            f"the launcher started {ranks} ranks, but each finds itself alone: mpi4py uses "
            f"{library}; start it with the mpiexec of that MPI"
        )
    return _all_ranks()


@cache
def _all_ranks() -> MpiCommunicator:
    """A communicator of our own, one for all runs of a process: MPI has only so many."""
    from mpi4py import MPI

    return MpiCommunicator(MPI.COMM_WORLD.Dup())


def own_cpus() -> tuple[int, ...]:
    """CPUs that this process may use."""
    cpus = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))(0)
    return tuple(sorted(cpus))


def threads_per_rank(comm: Communicator) -> int:
    """CPUs for each of the ranks that may use the same ones, shared evenly."""
    own = (socket.gethostname(), own_cpus())
    return max(1, len(own[1]) // comm.collect(own).count(own))


def ranks_here(comm: Communicator) -> int:
    """Ranks on the machine of this one. Every rank must ask."""
    return comm.collect(socket.gethostname()).count(socket.gethostname())


def gpu_of_rank(device: str, comm: Communicator) -> str:
    """'cuda' for the ranks of one machine: its GPUs in turn. Every rank must ask."""
    if device != "cuda" or comm.size == 1:
        return device
    earlier = comm.collect(socket.gethostname())[: comm.rank].count(socket.gethostname())
    return cuda.in_turn(device, earlier)


def binding(comm: Communicator) -> list[str]:
    """A line for each machine: its ranks and the CPUs that they may use. Every rank must ask."""
    found: dict[tuple[str, tuple[int, ...]], list[int]] = {}
    for rank, where in enumerate(comm.collect((socket.gethostname(), own_cpus()))):
        found.setdefault(where, []).append(rank)
    lines = []
    for (host, own), ranks in found.items():
        crowded = f": {len(ranks) / len(own):.3g} ranks a CPU" if len(ranks) > len(own) else ""
        lines.append(f"{host}: rank {_runs(ranks)} on CPU {_runs(own)}{crowded}")
    return lines


def _runs(numbers: Sequence[int]) -> str:
    """'0-3, 8' for ascending numbers."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


@contextmanager
def agreement(comm: Communicator) -> Iterator[None]:
    """For work that every rank does on its own: if it fails on any, all raise SharedError.

    The message is that of the lowest rank that failed. No rank may communicate inside.
    """
    message: str | None = None
    cause: Exception | None = None
    try:
        yield
    except Exception as e:
        message, cause = one_line(e), e
    failed = [(rank, m) for rank, m in enumerate(comm.collect(message)) if m is not None]
    if failed:
        if comm.size == 1 and cause is not None:
            raise cause
        raise SharedError(failed[0][1]) from cause


@contextmanager
def guarded(comm: Communicator) -> Iterator[None]:
    """For work in which ranks talk to each other: what one rank alone raises ends all ranks.

    That rank's message goes to its standard error in one line and the exit status is 1. Errors
    that all ranks raise together pass, and so does everything where there is only one rank.
    """
    try:
        yield
    except (SharedError, KeyboardInterrupt):
        raise
    except BaseException as e:
        if comm.size == 1:
            raise
        line = f"dpl: error on rank {comm.rank} of {comm.size}: {one_line(e)}"
        print(line, file=sys.stderr, flush=True)
        comm.end()
        raise


def one_line(error: BaseException) -> str:
    """The message of an error without line breaks; its class where the message alone is bare."""
    text = " ".join(str(error).split())
    if isinstance(error, DeepmdLiteError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
