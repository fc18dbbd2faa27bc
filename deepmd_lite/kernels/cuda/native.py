"""libdpl_cuda through ctypes: which library, which GPU, and its functions on torch tensors.

The library is opened when a GPU is first asked for, so that neither it nor a driver need be there
otherwise. Tests put a build of the same source in its place that runs on the host (`emulated`).
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...system import InputError
from .. import _kernels

NAME = "libdpl_cuda.so"
USE_CPU = "or use device 'cpu'"
_OUT_OF_MEMORY = 5
_REPORT_WORDS = 10

_i32, _i64, _pointer = ctypes.c_int32, ctypes.c_int64, ctypes.c_void_p
_u32 = ctypes.c_uint32


class Queue(ctypes.Structure):
    """dpl_cuda_queue."""

    _fields_ = [("device", _i32), ("stream", _pointer)]


class Atoms(ctypes.Structure):
    """dpl_cuda_atoms."""

    _fields_ = [
        ("n_all", _i64),
        ("n_local", _i64),
        ("positions", _pointer),
        ("types", _pointer),
        ("offsets", _pointer),
        ("indices", _pointer),
        ("n_edges", _i64),
        ("weights", _pointer),
    ]


class Environment(ctypes.Structure):
    """dpl_environment."""

    _fields_ = [
        ("rcut", ctypes.c_double),
        ("rcut_smth", ctypes.c_double),
        ("n_types", _i32),
        ("type_one_side", _i32),
        ("n_columns", _i32),
        ("davg", _pointer),
        ("dstd", _pointer),
        ("table_start", ctypes.c_double),
        ("table_spacing", ctypes.c_double),
        ("protection", ctypes.c_double),
        ("table_of_distance", ctypes.c_int32),
    ]


class Table(ctypes.Structure):
    """dpl_table."""

    _fields_ = [
        ("precision", ctypes.c_int),
        ("n_tables", _i32),
        ("n_intervals", _i32),
        ("n_features", _i32),
        ("coefficients", _pointer),
    ]


class Descriptor(ctypes.Structure):
    """dpl_cuda_descriptor."""

    _fields_ = [
        ("precision", ctypes.c_int),
        ("n_types", _i32),
        ("n_features", _i32),
        ("n_embedding", _i32),
        ("n_axis", _i32),
        ("n_columns", _i32),
        ("n_cubic", _i32),
        ("width", _i32),
        ("first", _i32),
        ("sel", _pointer),
        ("empty", _pointer),
        ("scale", ctypes.c_double),
    ]


class Repulsion(ctypes.Structure):
    """dpl_repulsion."""

    _fields_ = [
        ("n_types", _i32),
        ("atomic_numbers", _pointer),
        ("r_in", _pointer),
        ("r_out", _pointer),
    ]


class ShortRange(ctypes.Structure):
    """dpl_short_range."""

    _fields_ = [
        ("n_types", _i32),
        ("n_intervals", _i32),
        ("rcut", ctypes.c_double),
        ("smin_alpha", ctypes.c_double),
        ("sw_rmin", ctypes.c_double),
        ("sw_rmax", ctypes.c_double),
        ("start", ctypes.c_double),
        ("spacing", ctypes.c_double),
        ("coefficients", _pointer),
        ("bias", _pointer),
    ]


ARGUMENTS: dict[str, list[Any]] = {
    "device_count": [_pointer],
    "report_clear": [_pointer, _i32, _pointer],
    "report_read": [_pointer, _i32, _pointer, _i64, _i32, _pointer],
    "neighbors_count": [
        *(_pointer, _i64, _i64, _pointer, _pointer, ctypes.c_double, _pointer, _pointer, _pointer)
    ],
    "neighbors_fill": [
        *(_pointer, _i64, _i64, _pointer, _pointer, ctypes.c_double, _pointer, _pointer, _pointer)
    ],
    "moments": [_pointer] * 4 + [_i64, _i64] + [_pointer] * 3,
    "moments_backward": [_pointer] * 4 + [_i64, _i64] + [_pointer] * 3,
    "describe": [_pointer, _pointer, _i64] + [_pointer] * 5,
    "describe_backward": [_pointer, _pointer, _i64] + [_pointer] * 3,
    "moments_tangent": [_pointer] * 7,
    "runs": [_pointer] * 9,
    "accumulate": [_pointer] * 9,
    "repulsion_add": [_pointer] * 6,
    "short_range_weights": [_pointer] * 6,
    "short_range_add": [_pointer] * 7,
    "from_fixed": [_pointer, _i64, _pointer, _pointer, _pointer, _pointer],
    "normals": [_pointer, _i64, _pointer, _u32, _u32, _i64, _pointer],
}
"""Of the functions dpl_cuda_… that return a status, as dpl_cuda.h has them."""


@dataclass(frozen=True)
class Device:
    """A GPU, as torch sees it, with the library that has kernels for it."""

    native: ctypes.CDLL
    torch_device: torch.device
    """Where tensors live that the kernels take."""

    def call(self, name: str, *arguments: Any) -> None:
        """dpl_cuda_`name` on the current stream; tensors are passed as their addresses.

        Raises InputError with the library's message, MemoryError where memory does not suffice.
        """
        stream = torch.cuda.current_stream(self.torch_device).cuda_stream
        queue = Queue(self.torch_device.index or 0, stream)
        given = [x.data_ptr() if isinstance(x, torch.Tensor) else x for x in arguments]
        function = getattr(self.native, f"dpl_cuda_{name}")
        # the library has a CUDA runtime of its own: both must agree which GPU is current
        with torch.cuda.device(self.torch_device):
            _check(self.native, function(ctypes.byref(queue), *given))

    def reports(self, n: int = 1) -> torch.Tensor:
        """n cleared dpl_cuda_report."""
        reports = torch.empty(n, _REPORT_WORDS, dtype=torch.int64, device=self.torch_device)
        self.call("report_clear", n, reports)
        return reports

    def read(self, reports: torch.Tensor, n_all: int, n_types: int) -> int:
        """Edges beyond the table, the most that one report counts. Waits; raises InputError for the
        first fault in the reports."""
        beyond = _i64()
        self.call("report_read", len(reports), reports, n_all, n_types, ctypes.byref(beyond))
        return beyond.value

    def free_bytes(self) -> float:
        """Memory that torch can still have on this GPU."""
        free, _ = torch.cuda.mem_get_info(self.torch_device)
        cached = torch.cuda.memory_reserved(self.torch_device) - torch.cuda.memory_allocated(
            self.torch_device
        )
        return float(free + cached)


_opened: dict[Path, ctypes.CDLL] = {}
_emulation: ctypes.CDLL | None = None


def built() -> Path | None:
    """The library of this build, or None where it was built without CUDA."""
    path = Path(_kernels.__file__).parent / NAME
    return path if path.exists() else None


def gpus() -> int:
    """GPUs that the library of this build finds.

    Raises InputError, saying why, for a build without CUDA and where there is no driver.
    """
    path = built()
    if path is None:
        raise InputError("this build has no CUDA kernels; build it where nvcc is (docs/gpu.md)")
    library, count = opened(path), _i32()
    _check(library, library.dpl_cuda_device_count(ctypes.byref(count)))
    return count.value


def device(name: str) -> Device:
    """The GPU of 'cuda' (torch's current one) or 'cuda:N'.

    Raises InputError, saying what is missing and what to do, where there is no such GPU, torch
    cannot use it, or this build has no kernels for it.
    """
    kind, _, number = name.partition(":")
    if kind != "cuda" or (number and not number.isdecimal()) or name.endswith(":"):
        raise InputError(f"device '{name}': expected 'cpu', 'cuda' or 'cuda:N'")
    if _emulation is not None:
        return Device(_emulation, torch.device("cuda", 0))
    path = built()
    if path is None:
        raise InputError(
            f"device '{name}': this build has no CUDA kernels; build it where nvcc is "
            f"(docs/gpu.md), {USE_CPU}"
        )
    if torch.version.cuda is None:
        raise InputError(
            f"device '{name}': torch {torch.__version__} was built without CUDA; install one that "
            f"was (pytorch.org), {USE_CPU}"
        )
    try:
        count = gpus()
    except InputError as e:
        raise InputError(f"device '{name}': no GPU can be used ({e}); {USE_CPU[3:]}") from None
    try:
        index = int(number) if number else torch.cuda.current_device() if count else 0
    except RuntimeError as e:  # torch finds the driver too old, which is newer than this library
        reason = str(e).splitlines()[0]
        raise InputError(f"device '{name}': torch cannot use the GPU ({reason})") from None
    if index >= count:
        raise InputError(
            f"device '{name}': {count} GPU(s) can be used here; choose one of them, {USE_CPU}"
        )
    return Device(opened(path), torch.device("cuda", index))


def in_turn(name: str, k: int) -> str:
    """For 'cuda' the GPU of the k-th process of a machine; 'cuda' as well where there is none,
    which `device` then says."""
    if name != "cuda" or _emulation is not None:
        return name
    try:
        return f"cuda:{k % gpus()}"
    except (InputError, ZeroDivisionError):
        return name


@contextmanager
def emulated(library: ctypes.CDLL) -> Iterator[None]:
    """For tests: every 'cuda' is this library, and torch's cuda:0, which the caller emulates."""
    global _emulation
    before, _emulation = _emulation, library
    try:
        yield
    finally:
        _emulation = before


def _check(library: ctypes.CDLL, status: int) -> None:
    """Raises what a status means."""
    if status:
        message = library.dpl_cuda_last_error().decode()
        raise MemoryError(message) if status == _OUT_OF_MEMORY else InputError(message)


def opened(path: Path) -> ctypes.CDLL:
    """The library at `path`. Raises InputError where it cannot be loaded."""
    if path not in _opened:
        try:
            library = ctypes.CDLL(str(path))
        except OSError as e:
            raise InputError(f"{path}: cannot be loaded ({e}); build the package anew") from None
        for name, arguments in ARGUMENTS.items():
            function = getattr(library, f"dpl_cuda_{name}")
            function.argtypes, function.restype = arguments, ctypes.c_int
        library.dpl_cuda_neighbors_scratch.argtypes = [_i64, _i64]
        library.dpl_cuda_neighbors_scratch.restype = _i64
        library.dpl_cuda_last_error.restype = ctypes.c_char_p
        _opened[path] = library
    return _opened[path]
