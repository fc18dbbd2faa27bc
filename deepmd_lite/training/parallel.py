"""Data-parallel training: several processes, started by torchrun, share the frames of each batch.

Every process reads all data and makes every update itself, from the same sum of gradients, so all
hold the same weights. One process is the same code with sums over one rank. This is the only
module that knows torch.distributed.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from ..kernels import cuda
from ..system import DeepmdLiteError, InputError

log = logging.getLogger(__name__)
T = TypeVar("T")
_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Environment variables by which torchrun tells a process where it stands."""


def ranks_of_machine() -> int:
    """How many processes of this training share the memory of this machine, this one included."""
    if any(name not in os.environ for name in _NEEDED):
        return 1
    return max(1, int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


class OtherRankError(DeepmdLiteError):
    """This process ended because another one did."""


class _LostError(Exception):
    """A sum over ranks did not come about."""


@contextmanager
def _may_be_lost() -> Iterator[None]:
    """Inside, what torch.distributed raises where another rank has ended becomes a _LostError."""
    try:
        yield
    except RuntimeError as e:
        raise _LostError(str(e)) from None


class Ranks:
    """The processes of a training and the sums over them."""

    def __init__(self, rank: int = 0, size: int = 1, store: Any = None) -> None:
        self.rank = rank
        self.size = size
        self._store = store

    @property
    def is_first(self) -> bool:
        """The first rank writes the files and tells how the training goes."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """This rank's part of `items`: every size-th one; empty where there are fewer items."""
        return list(items[self.rank :: self.size])

    def device(self, name: str) -> str:
        """'cuda' for the processes of one machine: its GPUs in turn."""
        return cuda.in_turn(name, int(os.environ.get("LOCAL_RANK", 0))) if self.size > 1 else name

    def add_gradients(
        self, parameters: Sequence[torch.nn.Parameter], numbers: Sequence[float]
    ) -> list[float]:
        """Sum the gradients over ranks, in place, and with the same message also `numbers`.

        A parameter without a gradient counts as zero. Sums are made in float64 and are the same
        bits on every rank.
        """
        if self.size == 1:
            return list(numbers)
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat(
            [
                torch.tensor(numbers, dtype=torch.float64),
                *(g.reshape(-1).to(torch.float64) for g in gradients),
            ]
        )
        self._all_reduce(flat)
        start = len(numbers)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            part = flat[start : start + gradient.numel()]
            parameter.grad = part.view_as(gradient).to(gradient.dtype)
            start += gradient.numel()
        return flat[: len(numbers)].tolist()

    def add(self, numbers: Sequence[float]) -> list[float]:
        """`numbers` summed over ranks."""
        return self.add_gradients([], numbers)

    def gather(self, value: Any) -> list[Any]:
        """`value` of every rank, in the order of ranks."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        found: list[Any] = [None] * self.size
        with _may_be_lost():
            dist.all_gather_object(found, value)
        return found

    def equalise(self, tensors: Iterable[torch.Tensor]) -> None:
        """Give every rank the first one's values: other processors may round otherwise."""
        if self.size == 1:
            return
        import torch.distributed as dist

        with _may_be_lost():
            for tensor in tensors:
                dist.broadcast(tensor.detach(), src=0)

    def _all_reduce(self, values: torch.Tensor) -> None:
        import torch.distributed as dist

        with _may_be_lost():
            dist.all_reduce(values)

    def error_of_all(self, error: Exception) -> Exception:
        """What this rank raises for `error`: its own if it is the first to fail, else that one's.

        The store outlives the ranks: torchrun itself holds it.
        """
        lost = isinstance(error, _LostError)
        message = f"rank {self.rank}: {error}"
        if lost:
            message = f"rank {self.rank}: another rank ended without saying why ({error})"
        try:
            if self._store.add("failed ranks", 1) > 1:
                return OtherRankError(f"ended by {self._store.get('first failure').decode()}")
            self._store.set("first failure", message)
        except RuntimeError:  # without torchrun the store ends with the first rank
            pass
        return OtherRankError(message) if lost else error


@contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """The ranks that torchrun started this process with; alone without torchrun.

    Ranks but the first log errors only. An exception in one rank ends all: the others raise
    OtherRankError with its message. torchrun sets OMP_NUM_THREADS to 1 unless it is set already,
    which is respected; where it is not set the ranks of a machine divide its threads.
    """
    if any(name not in os.environ for name in _NEEDED):
        yield Ranks()
        return
    if not os.environ["WORLD_SIZE"].isdecimal():
        raise InputError(f"WORLD_SIZE: expected a number, found {os.environ['WORLD_SIZE']!r}")
    if int(os.environ["WORLD_SIZE"]) == 1:
        yield Ranks()
        return
    import torch.distributed as dist

    try:
        store, rank, size = next(dist.rendezvous("env://"))
        dist.init_process_group(
            "gloo", store=dist.PrefixStore("deepmd_lite", store), rank=rank, world_size=size
        )
    except (RuntimeError, ValueError) as e:
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise InputError(
            f"the ranks cannot meet at {place} (MASTER_ADDR, MASTER_PORT): "
            f"{str(e).splitlines()[0]}; start them with torchrun --standalone"
        ) from None
    package = logging.getLogger(__name__.partition(".")[0])
    level = package.level
    if rank > 0:
        package.setLevel(logging.ERROR)
    beside = ranks_of_machine()
    if "OMP_NUM_THREADS" not in os.environ and beside > 1:
        torch.set_num_threads(max(1, torch.get_num_threads() // beside))
    log.info("%d ranks share each batch, %d threads each", size, torch.get_num_threads())
    ranks = Ranks(rank, size, store)
    try:
        yield ranks
    except Exception as e:
        raise ranks.error_of_all(e) from (None if isinstance(e, _LostError) else e)
    finally:
        package.setLevel(level)
        dist.destroy_process_group()
