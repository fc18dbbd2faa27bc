"""What every compiled operation asks of the tensors that it is given."""

from __future__ import annotations

import torch

from ..system import InputError

CPU = torch.device("cpu")


def checked(
    name: str,
    tensor: torch.Tensor,
    dtype: torch.dtype,
    shape: tuple[int, ...],
    device: torch.device = CPU,
) -> torch.Tensor:
    """The tensor, contiguous, after a check of device, dtype and shape (-1: any length)."""
    if tensor.dtype == dtype and tensor.shape == shape and tensor.device == device:
        return tensor.contiguous()  # most calls: what follows takes longer
    if tensor.device != device:
        if device == CPU:
            raise InputError(f"{name}: the compiled kernels run on the CPU, found {tensor.device}")
        raise InputError(f"{name}: expected a tensor on {device}, found {tensor.device}")
    if tensor.dtype != dtype:
        raise InputError(f"{name}: expected {dtype}, found {tensor.dtype}")
    found = tuple(tensor.shape)
    if len(found) != len(shape) or any(e not in (-1, f) for e, f in zip(shape, found, strict=True)):
        expected = ", ".join("any" if e == -1 else str(e) for e in shape)
        raise InputError(f"{name}: expected shape ({expected}), found {found}")
    return tensor.contiguous()
