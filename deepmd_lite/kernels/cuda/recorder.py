"""Launches of a small system, recorded once and then given to the GPU in one piece (a CUDA graph).

With few atoms a GPU is done with each launch before the host has made the next. A recording holds
addresses, shapes and numbers as they were: its work must read and write tensors that stay.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Generic, TypeVar

import torch

from ...system import InputError

log = logging.getLogger(__name__)
T = TypeVar("T")

SMALL = 4096
"""Atoms up to which launches are recorded; more keep a GPU busy for longer than launches take."""


class Recorder:
    """Records on a stream of its own, in memory that its recordings share: of those that allocate,
    only the last one may be replayed."""

    def __init__(self, torch_device: torch.device) -> None:
        self.torch_device = torch_device
        self.works = True
        """Whether this GPU has recorded whatever it was asked to."""
        self._stream: Any = None
        self._last: Any = None  # keeps the memory for the next one

    def record(self, work: Callable[[], T]) -> tuple[Any, T]:
        """The graph of what `work` launches, and what it returns, which is filled at each replay.

        To do the work twice must be as good as once. Raises RuntimeError where something cannot be
        recorded, such as to wait.
        """
        here = torch.cuda.current_stream(self.torch_device)
        if self._stream is None:
            self._stream = torch.cuda.Stream(self.torch_device)
            torch.cuda.empty_cache()  # recording cannot, when it needs memory
            self._beside(here, work)  # what the libraries set up for a stream is no part of it
        graph = torch.cuda.CUDAGraph()
        pool = None if self._last is None else self._last.pool()
        result = self._beside(here, lambda: _captured(graph, pool, work))
        self._last = graph
        return graph, result

    def _beside(self, here: Any, work: Callable[[], T]) -> T:
        """`work` on the stream of recordings, in order with what the stream `here` has before and
        after."""
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            result = work()
        here.wait_stream(self._stream)
        return result


def _captured(graph: Any, pool: Any, work: Callable[[], T]) -> T:
    # Without torch.cuda.graph, which empties torch's store of memory each time.
    graph.capture_begin(pool=pool, capture_error_mode="thread_local")
    try:
        result = work()
    except BaseException:
        with suppress(RuntimeError):  # that something was wrong is known, and this says what
            graph.capture_end()
        raise
    graph.capture_end()
    return result


class Repeated(Generic[T]):
    """Work that is the same at each call: done as it is at the first, recorded at the second.

    That is then a question of many calls, such as the steps of molecular dynamics between two
    neighbour lists; a single one records nothing.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._called = False
        self._recording: tuple[Any, T] | None = None

    def __call__(self, work: Callable[[], T]) -> T:
        """What `work` returns; from the second call on in the same tensors each time."""
        if not (self._called and self._recorder.works):
            self._called = True
            return work()
        if self._recording is None:
            try:
                self._recording = self._recorder.record(work)
            except (RuntimeError, InputError) as e:
                self._recorder.works = False
                log.warning(
                    "the GPU's launches cannot be recorded (%s); each is made by itself, which "
                    "makes small systems slower: please report it, and do other work on this GPU "
                    "in another process",
                    " ".join(str(e).split()),
                )
                return work()
        graph, result = self._recording
        graph.replay()
        return result
