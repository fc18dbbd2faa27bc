"""The tables of embedding networks as one torch operation: (weights) → coefficients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from ..system import InputError
from . import _kernels
from .checks import checked
from .fitting import ACTIVATIONS

POWERS = _kernels.POWERS


@dataclass(frozen=True)
class EmbeddingLayers:
    """Networks of one scalar, one for each table, all of the same widths."""

    weights: Sequence[torch.Tensor]
    """(n_tables, n_in, n_out) of each layer."""
    biases: Sequence[torch.Tensor]
    """(n_tables, 1, n_out)."""
    steps: Sequence[torch.Tensor | None]
    """(n_tables, 1, n_out), or None for 1."""
    activation: str

    def arrays(self) -> list[torch.Tensor | None]:
        """All of them, in the order of the fields."""
        return [*self.weights, *self.biases, *self.steps]


def tabulated(
    layers: EmbeddingLayers, start: float, spacing: float, n_nodes: int, dtype: torch.dtype
) -> torch.Tensor:
    """Coefficients (n_tables, n_nodes, 6, n_features) in `dtype` of the networks' tables.

    Quintics between the nodes start + k · spacing, with the networks' values and two derivatives
    there; the last entry is the parabola of the last node, which goes on without end. Features are
    padded with zeros. Computed in float64 on torch.get_num_threads() threads, the same bits for any
    number of them. Differentiable once in the arrays. Raises InputError for arrays that do not fit
    together, an unknown activation, or a grid that is none.
    """
    if layers.activation not in ACTIVATIONS:
        raise InputError(f"activation {layers.activation!r}: expected one of {sorted(ACTIVATIONS)}")
    n_tables = layers.weights[0].shape[0] if len(layers.weights) else 0
    n_in = 1
    for number, weight in enumerate(layers.weights):
        checked(f"weight of layer {number}", weight, weight.dtype, (n_tables, n_in, -1))
        n_in = weight.shape[2]
        for name, x in (("bias", layers.biases[number]), ("step", layers.steps[number])):
            if x is not None:
                checked(f"{name} of layer {number}", x, x.dtype, (n_tables, 1, n_in))
    if not n_tables or n_nodes < 1:
        raise InputError(f"expected networks and nodes, found {n_tables} and {n_nodes}")
    padding = _kernels.FEATURE_PADDING
    shape = (n_tables, n_nodes, POWERS, -(-n_in // padding) * padding)
    grid = (start, spacing, n_nodes, shape[3])
    result: torch.Tensor = _Tabulated.apply(layers, grid, shape, dtype, *layers.arrays())
    return result


class _Tabulated(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        layers: EmbeddingLayers,
        grid: tuple[float, float, int, int],
        shape: tuple[int, int, int, int],
        dtype: torch.dtype,
        *arrays: torch.Tensor | None,
    ) -> torch.Tensor:
        """`arrays` are those of `layers`, given once more for autograd."""
        own = [None if x is None else x.detach().double().contiguous() for x in arrays]
        networks = [_network(own, p) for p in range(shape[0])]
        out = torch.empty(shape, dtype=dtype)
        ctx.kept = _kernels.Tabulation(
            networks,
            ACTIVATIONS[layers.activation],
            *grid,
            torch.get_num_threads(),
            out,
            any(ctx.needs_input_grad),
        )
        ctx.kinds = [None if x is None else (x.shape, x.dtype) for x in arrays]
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of the arrays."""
        out = [
            None if kind is None else torch.empty(kind[0], dtype=torch.float64)
            for kind in ctx.kinds
        ]
        gradients = [_network(out, p) for p in range(grad.shape[0])]
        ctx.kept.backward(torch.get_num_threads(), grad.contiguous(), gradients)
        found = [
            None if x is None else x.to(kind[1]) for x, kind in zip(out, ctx.kinds, strict=True)
        ]
        return None, None, None, None, *found


def _network(arrays: Sequence[Any], p: int) -> _kernels.EmbeddingNetwork:
    """Network p of `EmbeddingLayers.arrays`, whose memory it shares."""
    n = len(arrays) // 3
    own: list[Any] = [None if x is None else x[p] for x in arrays]
    return _kernels.EmbeddingNetwork(own[:n], own[n : 2 * n], own[2 * n :])
