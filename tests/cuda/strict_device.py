"""An emulated GPU for torch, as strict as one: what would fail on a device fails on it.

`emulated(library)` makes 'cuda:0' of it. Its tensors live in memory of the host, but torch does not
reach it: an operation that mixes them with others raises as on a GPU, `numpy` refuses them, kernels
refuse addresses of anything else and of what has been freed, and sums in any order are refused. New
memory holds NaN. What the host waits for and what it copies is counted in a `Traffic`.

To torch itself the tensors are of the CPU, so that autograd needs no device; Python sees 'cuda:0'.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any
from unittest import mock

import strict_graph
import torch
from strict_library import Library
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map
from traffic import Traffic, traffic, wait

from deepmd_lite import kernels

CUDA = torch.device("cuda", 0)
CPU = torch.device("cpu")
aten = torch.ops.aten

WAITING = {
    *(aten._local_scalar_dense.default, aten.equal.default, aten.nonzero.default),
    *(aten.masked_select.default, aten.bincount.default, aten.repeat_interleave.Tensor),
    *(aten._unique2.default, aten.unique_dim.default, aten._linalg_eigh.default),
}
"""Operations whose result, its size, or its success a host waits for."""
ALL_THERE = {aten._fused_adam_.default}
"""Operations that read even numbers without dimensions in the memory of the device."""
UNINITIALISED = {
    *(aten.empty.memory_format, aten.empty_like.default, aten.new_empty.default),
    *(aten.empty_strided.default, aten.new_empty_strided.default),
}
ADDING = {
    *(aten.index_add_.default, aten.index_add.default, aten.scatter_add_.default),
    *(aten.scatter_add.default,),
}
"""Operations that add atomically, in any order."""


_living: weakref.WeakValueDictionary[int, DeviceTensor] = weakref.WeakValueDictionary()


class DeviceTensor(torch.Tensor):
    """A tensor on the device."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> DeviceTensor:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=CPU,
        )
        made.inner = inner
        _living[id(made)] = made
        if strict_graph.recording is not None:
            strict_graph.recording.keep(made)
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        return _compute(func, args, kwargs or {})

    @property
    def device(self) -> torch.device:
        return CUDA

    @property
    def is_cuda(self) -> bool:
        return True

    @property
    def is_cpu(self) -> bool:
        return False

    def data_ptr(self) -> int:
        """Kernels ask for it, and take what is contiguous."""
        if not self.is_contiguous():
            raise RuntimeError(f"a kernel gets a tensor with strides {self.stride()}")
        return self.inner.data_ptr()

    def to(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return _moved(self, *args, **kwargs)

    def cpu(self) -> torch.Tensor:
        return _moved(self, CPU)

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu()")

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        return self.numpy()

    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("no tensor of an emulated device can be exported")

    def __repr__(self) -> str:
        return f"DeviceTensor({self.inner})"


# --- operations ---------------------------------------------------------------------------------


def _compute(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """An operation with at least one tensor of the device among its arguments."""
    given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    if func is aten.copy_.default:
        _count_copy(*args[:2], non_blocking=bool((args[2:3] or [kwargs.get("non_blocking")])[0]))
    else:
        _check_devices(func, args, given)
        _check_order(func, args)
        _count(func, args)
    own = {id(x.inner): x for x in given if isinstance(x, DeviceTensor)}
    own |= {id(x): x for x in given if not isinstance(x, DeviceTensor)}
    found = func(*tree_map(_inner, args), **tree_map(_inner, kwargs))
    empty = func in UNINITIALISED
    if empty:
        _spoil(found)
    returned = lambda x: own.get(id(x)) if id(x) in own else _wrapped(x)  # noqa: E731
    made = tree_map(returned, found)
    if strict_graph.recording is not None:
        strict_graph.recording.operation(func, args, kwargs, found, _spoil if empty else None)
    return made


def _inner(x: Any) -> Any:
    return x.inner if isinstance(x, DeviceTensor) else x


def _wrapped(x: Any) -> Any:
    return DeviceTensor(x) if isinstance(x, torch.Tensor) else x


def _spoil(x: torch.Tensor) -> None:
    """All bits set: NaN, or −1."""
    if x.numel():
        x.untyped_storage().fill_(255)


def _check_devices(func: Any, args: Sequence[Any], given: Sequence[torch.Tensor]) -> None:
    """A tensor of the host without dimensions may take part, and so may indices of the host."""
    if func in (aten.index.Tensor, aten.index_put_.default, aten.index_put.default):
        indices = [x for x in args[1] if x is not None]
        if isinstance(args[0], DeviceTensor):
            given = [x for x in given if not any(x is i for i in indices)]
    host = [x for x in given if not isinstance(x, DeviceTensor) and (x.dim() or func in ALL_THERE)]
    if host and len(host) < len(given):
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, cuda:0 "
            f"and cpu! (in {func}, shapes {[tuple(x.shape) for x in given]})"
        )


def _check_order(func: Any, args: Sequence[Any]) -> None:
    """Sums whose last bits would change from call to call are refused."""
    if func in ADDING and args[0].is_floating_point():
        rows = _inner(args[2])
        if len(rows.unique()) < rows.numel():
            raise RuntimeError(f"{func} adds to a place more than once, in any order")


def _count(func: Any, args: Sequence[Any]) -> None:
    traffic.operations += not func.is_view
    masks = func in (aten.index.Tensor, aten.index_put_.default) and any(
        x is not None and x.dtype == torch.bool for x in args[1]
    )
    if masks or func in WAITING:
        wait(func)
    if func is aten.index.Tensor:
        for x in args[1]:
            if x is not None and not isinstance(x, DeviceTensor):
                _count_copy(args[0], x)


def _count_copy(target: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> None:
    there = isinstance(target, DeviceTensor), isinstance(source, DeviceTensor)
    if not source.numel():
        return
    if len(set(there)) == 2:
        strict_graph.refuse_while_recording("copy between host and device")
    traffic.numbers += source.numel() if len(set(there)) == 2 else 0
    traffic.operations += there == (True, True)
    traffic.to_device += there == (True, False)
    traffic.to_host += there == (False, True)
    traffic.waits += len(set(there)) == 2 and not non_blocking


# --- to the device and back ---------------------------------------------------------------------


class _ToDevice(torch.autograd.Function):
    """A copy, whose gradient comes back."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, non_blocking: bool) -> torch.Tensor:
        made = DeviceTensor(x.detach().clone())
        _count_copy(made, x, non_blocking)
        return made

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return _ToHost.apply(gradient, False), None


class _ToHost(torch.autograd.Function):
    """A copy, whose gradient goes there."""

    @staticmethod
    def forward(ctx: Any, x: DeviceTensor, non_blocking: bool) -> torch.Tensor:
        made = x.inner.detach().clone()
        _count_copy(made, x, non_blocking)
        return made

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return _ToDevice.apply(gradient, False), None


def _moved(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """`Tensor.to`; what has to be converted is converted before the copy."""
    copy = kwargs.pop("copy", False)
    if args and isinstance(args[0], torch.Tensor):
        args = (args[0].device, args[0].dtype, *args[1:])
    device, dtype, non_blocking, _ = torch._C._nn._parse_to(*args, **kwargs)
    device = x.device if device is None else torch.device(device)
    if dtype is not None and dtype != x.dtype:
        x = torch.Tensor.type(x, dtype)
        copy = False
    if device.type != x.device.type:
        made = (_ToDevice if device.type == "cuda" else _ToHost).apply(x, non_blocking)
        assert isinstance(made, torch.Tensor)
        return made
    return x.clone() if copy else x


class _Mode(TorchFunctionMode):
    """Tensors of the host that go there, and new ones that are made there."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.to:
            return _moved(*args, **kwargs)
        if func is torch.Tensor.pin_memory:
            return args[0]
        if func is torch.nn.functional.one_hot and isinstance(args[0], DeviceTensor):
            # it makes a tensor where torch thinks that this one is
            return _wrapped(func(*tree_map(_inner, args), **kwargs))
        pinned = kwargs.pop("pin_memory", False)
        device = kwargs.get("device")
        if device is None or torch.device(device).type != "cuda":
            return func(*args, **kwargs)
        assert not pinned, "only memory of the host can be pinned"
        kwargs["device"] = CPU
        made = func(*args, **kwargs)
        empty = func in (torch.empty, torch.empty_like, torch.empty_strided)
        if empty:
            _spoil(made)
        if func in (torch.tensor, torch.as_tensor):  # made on the host
            return _ToDevice.apply(made, False)
        traffic.operations += 1
        if strict_graph.recording is not None:
            strict_graph.recording.operation(func, args, kwargs, made, _spoil if empty else None)
        return DeviceTensor(made)


# --- all of it together -------------------------------------------------------------------------


strict_graph.living = lambda: [x.inner for x in list(_living.values())]


@contextmanager
def emulated(library: ctypes.CDLL) -> Iterator[Traffic]:
    """'cuda:0' is an emulated device with the kernels of `library`; what passes is counted."""
    mode = _Mode()
    run_backward = torch.autograd._engine_run_backward

    def with_mode(*args: Any, **kwargs: Any) -> Any:
        with mode:  # torch leaves it when it calls what a mode may replace
            return run_backward(*args, **kwargs)

    with ExitStack() as stack:
        for name, instead in _torch_cuda().items():
            stack.enter_context(mock.patch.object(torch.cuda, name, instead))
        stack.enter_context(mock.patch.object(torch.autograd, "_engine_run_backward", with_mode))
        stack.enter_context(kernels.cuda.emulated(Library(library)))
        stack.enter_context(mode)
        yield traffic


def _torch_cuda() -> dict[str, Callable[..., Any]]:
    """What the package asks of torch.cuda."""

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None: ...

        def elapsed_time(self, end: Event) -> float:
            return 1.0

    def on(place: Any, value: Any) -> Any:
        assert torch.device(place) == CUDA
        return value

    class Graph(strict_graph.Graph):
        def replay(self) -> None:
            traffic.operations += 1
            super().replay()

    stream = SimpleNamespace(
        cuda_stream=0, wait_stream=lambda other: None, synchronize=lambda: wait("a stream")
    )
    return {
        "CUDAGraph": Graph,
        "Stream": lambda place: on(place, stream),
        "stream": lambda stream: nullcontext(),
        "current_stream": lambda place: on(place, stream),
        "device": lambda place: on(place, nullcontext()),
        "mem_get_info": lambda place: on(place, (2**40, 2**40)),
        "memory_reserved": lambda place: on(place, 0),
        "memory_allocated": lambda place: on(place, 0),
        "max_memory_allocated": lambda place: on(place, 1),
        "reset_peak_memory_stats": lambda place: on(place, None),
        "get_device_name": lambda place: on(place, "emulated"),
        "synchronize": lambda place: on(place, None),
        "empty_cache": lambda: None,
        "Event": Event,
    }
