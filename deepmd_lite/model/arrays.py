"""Whether the arrays of a model file are those that its header announces."""

from __future__ import annotations

from pathlib import Path

import torch

from ..system import ModelFileError


def check_arrays(
    path: str | Path, expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor]
) -> None:
    """Raises ModelFileError, naming `path` and an array, where those `found` in a file differ from
    those `expected` in names or shapes, or are not finite."""
    for key, wanted in expected.items():
        if key not in found:
            raise ModelFileError(f"{path}: array '{key}' is missing")
        array = found[key]
        if array.shape != wanted.shape or not array.is_floating_point():
            raise ModelFileError(
                f"{path}: array '{key}' has shape {tuple(array.shape)} of {array.dtype}, "
                f"expected {tuple(wanted.shape)}"
            )
        if not torch.isfinite(array).all():
            raise ModelFileError(f"{path}: array '{key}' holds values that are not finite")
    extra = sorted(set(found) - set(expected))
    if extra:
        raise ModelFileError(f"{path}: unexpected array '{extra[0]}'")
