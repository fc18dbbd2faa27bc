"""The networks from moments to atomic energies as one torch operation.

Forces need the gradient of each energy with respect to its moments, and a loss on forces the
derivative of that gradient. Both come from one compiled pass, so that autograd sees a function of
first order: (moments, weights) → (energies, gradients).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from ..system import InputError
from . import _kernels
from .checks import checked
from .reference import columns_of, cubic_places, degree_of

ACTIVATIONS = {
    "linear": 0,
    "none": 0,
    "tanh": 1,
    "sigmoid": 2,
    "softplus": 3,
    "silu": 4,
    "gelu": 5,
    "gelu_tf": 5,
    "relu": 6,
    "relu6": 7,
}
"""Activation functions that the compiled networks know: dpl_activation in dpl.h."""


@dataclass(frozen=True)
class Network:
    """The energy of an atom of one element from its descriptor.

    Layer l gives y = steps[l] · f(x @ weights[l] + biases[l]), plus x where the widths are equal,
    plus (x, x) where the width doubles; the energy is y @ weight_out + bias_out.
    """

    weights: list[torch.Tensor]
    """(n_in, n_out) of each layer; the first one's input is D_ma at m · n_axis + a, or D_m, of one
    descriptor after another."""
    biases: list[torch.Tensor]
    """(n_out,)."""
    steps: list[torch.Tensor | None]
    """(n_out,), or None for 1."""
    weight_out: torch.Tensor
    """(n_out of the last layer,)."""
    bias_out: torch.Tensor
    """(1,) eV."""

    def arrays(self) -> list[torch.Tensor | None]:
        """All of them, in the order of the fields."""
        return [*self.weights, *self.biases, *self.steps, self.weight_out, self.bias_out]

    @classmethod
    def of_arrays(cls, arrays: Sequence[Any], n_layers: int) -> Network:
        """The inverse of `arrays`."""
        n = n_layers
        return cls(
            list(arrays[:n]),
            list(arrays[n : 2 * n]),
            list(arrays[2 * n : 3 * n]),
            arrays[3 * n],
            arrays[3 * n + 1],
        )


@dataclass(frozen=True)
class Shape:
    """The numbers D_ma = Σ_c T_cm T_ca of one descriptor, or D_m = T_0m.

    Where the columns reach the second degree: T_0m, then D_ma of degree 1, of degree 2 and so on.
    """

    n_embedding: int
    """Features m; the moments are padded beyond."""
    n_axis: int
    """Features a; 0: the descriptor is the first column of the moments."""
    columns: int = _kernels.COLUMNS
    """Columns of the moments, (l + 1)² for degrees up to l."""
    n_cubic: int = 0
    """Features of the invariants of third order, which come last: see `reference.cubic`."""

    @property
    def degree(self) -> int:
        """The highest of the columns."""
        return degree_of(self.columns)

    @property
    def degrees(self) -> tuple[tuple[slice, int], ...]:
        """Columns of which there are numbers for themselves, and their axes, in the order of D."""
        if self.columns == _kernels.COLUMNS:
            return ((slice(0, 4), self.n_axis),)
        degrees = range(1, self.degree + 1)
        each = [(slice(columns_of(n - 1), columns_of(n)), self.n_axis) for n in degrees]
        return (slice(0, 1), 0), *each

    @property
    def n_inputs(self) -> int:
        """How many numbers there are."""
        of_degrees = sum(self.n_embedding * max(n_axis, 1) for _, n_axis in self.degrees)
        return of_degrees + sum(map(len, cubic_places(self.n_cubic)))


@dataclass(frozen=True)
class Fitting:
    """Descriptors, which the networks of all elements take one after another."""

    shapes: Sequence[Shape]
    activation: str
    networks: Sequence[Network]

    def compiled(self, n_features: Sequence[int], dtype: torch.dtype) -> _kernels.Fitting:
        """For kernels on moments of `n_features` of each descriptor, in `dtype`.

        Raises InputError for an unknown activation or arrays that do not fit together.
        """
        if self.activation not in ACTIVATIONS:
            raise InputError(
                f"activation {self.activation!r}: expected one of {sorted(ACTIVATIONS)}"
            )
        if not self.networks:
            raise InputError("fitting: expected a network for each element, found none")
        networks = [_compiled(network, dtype) for network in self.networks]
        activation = ACTIVATIONS[self.activation]
        shapes = [
            (n, shape.n_embedding, shape.n_axis, shape.columns, shape.n_cubic)
            for n, shape in zip(n_features, self.shapes, strict=True)
        ]
        return _kernels.Fitting(shapes, activation, networks)


def _compiled(network: Network, dtype: torch.dtype) -> _kernels.Network:
    def plain(x: torch.Tensor) -> torch.Tensor:
        return x.detach().to(dtype).contiguous()

    lengths = {len(network.weights), len(network.biases), len(network.steps)}
    if len(lengths) > 1 or lengths == {0}:
        raise InputError("network: expected a weight, bias and step (or None) of each hidden layer")
    n_in = -1
    for layer, weight in enumerate(network.weights):
        checked(f"network: weight of layer {layer}", weight, weight.dtype, (n_in, -1))
        n_in = weight.shape[1]
        for name, x in (("bias", network.biases[layer]), ("step", network.steps[layer])):
            if x is not None:
                checked(f"network: {name} of layer {layer}", x, x.dtype, (n_in,))
    out = network.weight_out
    checked("network: weights of the output", out, out.dtype, (n_in,))
    checked("network: bias of the output", network.bias_out, network.bias_out.dtype, (1,))
    return _kernels.Network(
        [plain(w) for w in network.weights],
        [plain(b) for b in network.biases],
        [None if s is None else plain(s) for s in network.steps],
        plain(network.weight_out),
        network.bias_out.item(),
    )


def energies_and_gradients(
    moments: Sequence[torch.Tensor], types: torch.Tensor, fitting: Fitting
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Energies (n,) float64 eV and their gradients with respect to the moments, of their shapes.

    `moments`: T (n, columns, n_features) of each descriptor, float64 or float32, normalised and
    padded; `types` (n,) int32. Differentiable once in the moments and in the networks' arrays; the
    same bits for any number of threads. Raises InputError for wrong shapes and dtypes.
    """
    types = checked("types", types, torch.int32, (-1,))
    if len(moments) != len(fitting.shapes):
        raise InputError(
            f"moments: expected those of {len(fitting.shapes)} descriptors, found {len(moments)}"
        )
    dtype = torch.float32 if moments[0].dtype == torch.float32 else torch.float64
    given = [
        checked("moments", t, dtype, (len(types), shape.columns, -1))
        for t, shape in zip(moments, fitting.shapes, strict=True)
    ]
    for t in given:
        if t.shape[2] % _kernels.FEATURE_PADDING:
            raise InputError(
                f"moments: {t.shape[2]} features; pad with zeros to a multiple of "
                f"{_kernels.FEATURE_PADDING}"
            )
    arrays = [array for network in fitting.networks for array in network.arrays()]
    energies, *gradients = _Energies.apply(types, fitting, *given, *arrays)
    return energies, gradients


class _Lease:
    """A compiled pass for as long as a graph needs it.

    Its memory is kept for the next one: mapping it anew in each step costs time.
    """

    _idle: dict[torch.dtype, list[_kernels.Pass]] = {torch.float64: [], torch.float32: []}

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        idle = self._idle[dtype]
        self.compiled = idle.pop() if idle else _kernels.Pass(dtype == torch.float64)

    def __del__(self) -> None:
        self._idle[self.dtype].append(self.compiled)


class _Energies(torch.autograd.Function):
    """(types, fitting, moments of each descriptor, arrays of the networks) → (energies, gradients).

    Gradients with respect to the moments, of each descriptor.
    """

    @staticmethod
    def forward(
        ctx: Any, types: torch.Tensor, fitting: Fitting, *tensors: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """The arrays among `tensors` are those of `fitting`, given once more for autograd."""
        moments = [t.detach() for t in tensors[: len(fitting.shapes)]]
        energies = torch.empty(len(types), dtype=torch.float64)
        gradients = [torch.empty_like(t) for t in moments]
        lease = _Lease(moments[0].dtype)
        compiled = fitting.compiled([t.shape[2] for t in moments], moments[0].dtype)
        threads = torch.get_num_threads()
        lease.compiled.energies(compiled, types, moments, threads, energies, gradients)
        ctx.save_for_backward(*tensors[: len(fitting.shapes)])
        ctx.lease, ctx.fitting = lease, fitting
        ctx.set_materialize_grads(False)
        return energies, *gradients

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, to_energies: torch.Tensor | None, *to_gradients: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, ...]:
        """Cotangents of moments and arrays from those of energies and gradients."""
        moments = [t.detach() for t in ctx.saved_tensors]
        if to_energies is None:
            to_energies = torch.zeros(len(moments[0]), dtype=torch.float64)
        out = [
            Network.of_arrays(
                [
                    None if x is None else torch.empty(x.shape, dtype=moments[0].dtype)
                    for x in network.arrays()
                ],
                len(network.weights),
            )
            for network in ctx.fitting.networks
        ]
        along = None
        if any(g is not None for g in to_gradients):
            along = [
                torch.zeros_like(t) if g is None else g.contiguous()
                for t, g in zip(moments, to_gradients, strict=True)
            ]
        grad = [torch.empty_like(t) for t in moments]
        biases = ctx.lease.compiled.backward(
            moments,
            to_energies.contiguous(),
            along,
            torch.get_num_threads(),
            grad,
            [_kernels.Gradient(n.weights, n.biases, n.steps, n.weight_out) for n in out],
        )
        for network, bias in zip(out, biases, strict=True):
            network.bias_out.fill_(bias)
        return None, None, *grad, *(array for network in out for array in network.arrays())
