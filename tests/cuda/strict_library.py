"""The kernels of the emulated device: they take no addresses but its own."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import strict_graph
from traffic import traffic, wait

from deepmd_lite import kernels

WAITING_CALLS = {"report_read", "neighbors_count", "neighbors_fill"}
"""What dpl_cuda.h says "waits" of."""


class Library:
    """The emulated kernels; every address that they are given must be one of the device."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._library, name)
        action = name.removeprefix("dpl_cuda_")
        if action not in kernels.cuda.native.ARGUMENTS:
            return function

        def checked(*arguments: Any) -> int:
            ranges, used = _allocated(), set()
            for k, argument in enumerate(arguments):
                for address in _addresses(argument, function.argtypes[k]):
                    used.add(address)
                    if not any(first <= address < last for first, last in ranges):
                        raise AssertionError(
                            f"{name}: argument {k} holds an address that is not of the device, or "
                            "of memory that has been freed"
                        )
            traffic.operations += 1
            if action in WAITING_CALLS:
                wait(name)
            if strict_graph.recording is not None:
                strict_graph.recording.call(function, arguments, used)
            status: int = function(*arguments)
            return status

        return checked


def _allocated() -> list[tuple[int, int]]:
    """First and last address + 1 of all storage of the device."""
    storages = [x.untyped_storage() for x in strict_graph.living()]
    return sorted({(s.data_ptr(), s.data_ptr() + s.nbytes()) for s in storages if s.nbytes()})


def _addresses(argument: Any, kind: Any) -> Iterator[int]:
    """Those of the device that an argument holds: what it points to itself belongs to the host
    where it is a struct or a number to be filled in."""
    target = getattr(argument, "_obj", None)
    if target is None:
        if kind is ctypes.c_void_p and argument:
            yield argument
    elif isinstance(target, ctypes.Structure) and not isinstance(target, kernels.cuda.native.Queue):
        for field, of in target._fields_:
            if of is ctypes.c_void_p and getattr(target, field):
                yield getattr(target, field)
