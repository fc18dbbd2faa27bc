"""CUDA graphs of the emulated device: what is recorded does not run then; replays go by address.

While a graph is recorded, new memory holds nothing and old memory stays as it was. A replay makes
the same calls with the same numbers and addresses; memory that was there before the recording must
still be. To wait, or to copy between host and device, cannot be recorded.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

recording: Graph | None = None
living: Callable[[], Iterable[torch.Tensor]] = tuple
"""The memory that tensors of the device have at this moment, set by strict_device."""


def refuse_while_recording(what: str) -> None:
    """As the driver does."""
    if recording is not None:
        raise RuntimeError(f"operation not permitted when stream is capturing ({what})")


class Graph:
    """In the place of torch.cuda.CUDAGraph."""

    def __init__(self) -> None:
        self._steps: list[Callable[[], None]] = []
        self._needed: set[int] = set()
        self._kept: list[Any] = []  # the memory of a graph is its own
        self._before: dict[int, tuple[Any, Any]] = {}

    def pool(self) -> tuple[int, int]:
        """Of no meaning here."""
        return 0, 1

    def capture_begin(self, pool: Any = None, capture_error_mode: str = "global") -> None:
        global recording
        assert recording is None, "one recording at a time"
        storages = {s.data_ptr(): s for s in _storages(living())}
        self._before = {address: (s, s.clone()) for address, s in storages.items()}
        recording = self

    def capture_end(self) -> None:
        global recording
        assert recording is self
        recording = None
        for storage, as_it_was in self._before.values():
            storage.copy_(as_it_was)
        for storage in _storages(x.inner for x in self._kept):
            if storage.data_ptr() not in self._before:
                storage.fill_(255)

    def keep(self, made: Any) -> None:
        """Tensors that come into being while this is recorded."""
        self._kept += tree_leaves(made)

    def operation(
        self,
        func: Callable[..., Any],
        args: Any,
        kwargs: Any,
        found: Any,
        spoil: Callable[[torch.Tensor], None] | None,
    ) -> None:
        """`found` is what `func` gave for tensors of the host in the place of the device's;
        `spoil`: it has no numbers in it."""
        args, kwargs, old = tree_map(_fixed, args), tree_map(_fixed, kwargs), tree_leaves(found)
        self._need(_storages(x for x in tree_leaves((args, kwargs)) if _is_tensor(x)))
        is_view = getattr(func, "is_view", False)

        def again() -> None:
            if spoil is not None:
                spoil(found)
            elif not is_view:
                for target, value in zip(old, tree_leaves(func(*args, **kwargs)), strict=True):
                    if target is not value:
                        target.copy_(value)

        self._steps.append(again)

    def call(
        self, function: Callable[..., int], arguments: Iterable[Any], used: Iterable[int]
    ) -> None:
        """Of the library, whose structs are copied; `used`: all addresses that it gets."""
        given = [_copied(x) for x in arguments]
        addresses = sorted(used)
        self._need(
            s
            for s, _ in self._before.values()
            if any(s.data_ptr() <= x < s.data_ptr() + s.nbytes() for x in addresses)
        )

        def again() -> None:
            assert function(*given) == 0

        self._steps.append(again)

    def _need(self, storages: Iterable[Any]) -> None:
        self._needed |= {s.data_ptr() for s in storages if s.data_ptr() in self._before}

    def replay(self) -> None:
        assert recording is None
        gone = self._needed - {s.data_ptr() for s in _storages(living())}
        assert not gone, "a graph is replayed whose memory has been freed"
        for step in self._steps:
            step()


def _storages(tensors: Iterable[torch.Tensor]) -> Iterable[Any]:
    return [s for s in (x.untyped_storage() for x in tensors) if s.nbytes()]


def _is_tensor(x: Any) -> bool:
    return isinstance(x, torch.Tensor)


def _fixed(x: Any) -> Any:
    """Of the device's tensors the memory, of the host's the numbers."""
    if not isinstance(x, torch.Tensor):
        return x
    return x.inner if hasattr(x, "inner") else x.clone()


def _copied(x: Any) -> Any:
    target = getattr(x, "_obj", None)
    if not isinstance(target, ctypes.Structure):
        return x
    return ctypes.byref(type(target).from_buffer_copy(target))
