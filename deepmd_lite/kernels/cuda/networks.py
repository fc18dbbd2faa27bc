"""The networks from moments to energies on a device: torch's matrix products, there and back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from ...system import InputError
from ..fitting import Fitting, Network, Shape
from .cubic import cubic, cubic_back

Slope = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def _tanh(z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    y = torch.tanh(z)
    return y, 1.0 - y * y


def _sigmoid(z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    y = torch.sigmoid(z)
    return y, y * (1.0 - y)


def _silu(z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    s = torch.sigmoid(z)
    return z * s, s * (1.0 + z * (1.0 - s))


def _gelu(z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    c, k = math.sqrt(2.0 / math.pi), 0.044715
    t = torch.tanh(c * (z + k * z**3))
    slope = 0.5 * (1.0 + t) + 0.5 * z * (1.0 - t * t) * c * (1.0 + 3.0 * k * z * z)
    return 0.5 * z * (1.0 + t), slope


VALUE_AND_SLOPE: dict[str, Slope] = {
    "linear": lambda z: (z, torch.ones_like(z)),
    "none": lambda z: (z, torch.ones_like(z)),
    "tanh": _tanh,
    "sigmoid": _sigmoid,
    "softplus": lambda z: (torch.nn.functional.softplus(z), torch.sigmoid(z)),
    "silu": _silu,
    "gelu": _gelu,
    "gelu_tf": _gelu,
    "relu": lambda z: (torch.relu(z), (z > 0).to(z.dtype)),
    "relu6": lambda z: (z.clamp(0.0, 6.0), ((z > 0) & (z < 6)).to(z.dtype)),
}
"""Activation functions, the same as `fitting.ACTIVATIONS` has."""


class DeviceFitting:
    """A `Fitting` in one precision on one device."""

    def __init__(
        self, fitting: Fitting, dtype: torch.dtype, device: torch.device, trained: bool = False
    ) -> None:
        """`trained`: autograd is to see the weights.

        Raises InputError for a first layer that is not of the descriptors' size.
        """
        self.shapes = list(fitting.shapes)
        n_in = sum(shape.n_inputs for shape in self.shapes)
        for network in fitting.networks:
            if network.weights[0].shape[0] != n_in:
                raise InputError(
                    f"network: expected {n_in} inputs, found {network.weights[0].shape[0]}"
                )

        def moved(x: torch.Tensor) -> torch.Tensor:
            return (x if trained else x.detach()).to(device, dtype).contiguous()

        self.activation = VALUE_AND_SLOPE[fitting.activation]
        self.networks = [
            Network(
                [moved(w) for w in n.weights],
                [moved(b) for b in n.biases],
                [None if s is None else moved(s) for s in n.steps],
                moved(n.weight_out),
                (n.bias_out if trained else n.bias_out.detach()).to(device, torch.float64),
            )
            for n in fitting.networks
        ]

    def bytes_per_atom(self) -> int:
        """Working memory of an atom: descriptor and layers, and their gradients."""
        widths = max(sum(w.shape[1] for w in n.weights) for n in self.networks)
        numbers = 2 * self.networks[0].weights[0].shape[0] + 5 * widths
        return numbers * self.networks[0].weight_out.element_size()

    def energies(
        self, descriptors: torch.Tensor, element: int, gradient: torch.Tensor
    ) -> torch.Tensor:
        """(n,) float64 eV of atoms of one element; their gradient with respect to the descriptors
        (n, n_inputs) is written to `gradient`."""
        return self._network(self.networks[element], descriptors, gradient)[0]

    def __call__(
        self, moments: Sequence[torch.Tensor], element: int
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Energies (n,) float64 eV of atoms of one element and ∂E/∂T from each descriptor's moments
        T (n, columns, m)."""
        parts = list(zip(moments, self.shapes, strict=True))
        numbers = torch.cat([_numbers(t, shape) for t, shape in parts], dim=1)
        energies, slope = self._network(self.networks[element], numbers)
        slopes = slope.split([shape.n_inputs for shape in self.shapes], dim=1)
        gradients = [_back(t, shape, g) for (t, shape), g in zip(parts, slopes, strict=True)]
        return energies, gradients

    def _network(
        self, n: Network, x: torch.Tensor, out: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Energies of descriptors x (n, n_in), and their gradients with respect to x, in `out`."""
        slopes = []
        for weight, bias, step in zip(n.weights, n.biases, n.steps, strict=True):
            y, slope = self.activation(torch.addmm(bias, x, weight))
            if step is not None:
                y, slope = y * step, slope * step
            n_in, n_out = weight.shape
            if n_out == n_in:
                y = y + x
            elif n_out == 2 * n_in:
                y = y + torch.cat([x, x], dim=1)
            slopes.append(slope)
            x = y
        energies = (x @ n.weight_out).double() + n.bias_out
        g = n.weight_out.expand(len(x), -1)
        for weight, slope in zip(reversed(n.weights), reversed(slopes), strict=True):
            n_in, n_out = weight.shape
            plain = n_out not in (n_in, 2 * n_in)
            if out is not None and weight is n.weights[0] and plain:
                return energies, torch.mm(g * slope, weight.T, out=out)
            back = (g * slope) @ weight.T
            if n_out == n_in:
                back = back + g
            elif n_out == 2 * n_in:
                back = back + g[:, :n_in] + g[:, n_in:]
            g = back
        return energies, g if out is None else out.copy_(g)


def _numbers(t: torch.Tensor, shape: Shape) -> torch.Tensor:
    """D (n, n_inputs) of moments T (n, columns, m)."""
    numbers = [_invariants(t[:, own], n_axis) for own, n_axis in shape.degrees]
    if shape.n_cubic:
        numbers.append(cubic(t, shape.n_cubic))
    return torch.cat(numbers, dim=1)


def _invariants(t: torch.Tensor, n_axis: int) -> torch.Tensor:
    if n_axis == 0:
        return t[:, 0]
    return torch.bmm(t.transpose(1, 2), t[:, :, :n_axis]).flatten(1)


def _back(t: torch.Tensor, shape: Shape, slope: torch.Tensor) -> torch.Tensor:
    """∂E/∂T from ∂E/∂D (n, n_inputs)."""
    sizes = [shape.n_embedding * max(n, 1) for _, n in shape.degrees]
    last = shape.n_inputs - sum(sizes)
    slopes = slope.split([*sizes, last] if last else sizes, dim=1)
    parts = zip(shape.degrees, slopes, strict=False)
    back = torch.cat([_back_of_degree(t[:, own], n, g) for (own, n), g in parts], dim=1)
    return back + cubic_back(t, shape.n_cubic, slopes[-1]) if last else back


def _back_of_degree(t: torch.Tensor, n_axis: int, slope: torch.Tensor) -> torch.Tensor:
    if n_axis == 0:
        return torch.nn.functional.pad(slope[:, None, :], (0, 0, 0, t.shape[1] - 1))
    first, slope = t[:, :, :n_axis], slope.unflatten(1, (-1, n_axis))
    gradient = torch.bmm(first, slope.transpose(1, 2))
    axis = gradient[:, :, :n_axis] + torch.bmm(t, slope)
    return torch.cat([axis, gradient[:, :, n_axis:]], dim=2)


@contextmanager
def full_precision() -> Iterator[None]:
    """Matrix products of float32 without TF32, whatever the program has chosen."""
    products = torch.backends.cuda.matmul
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:  # the program has chosen by torch's newer names, which do not mix with it
        choice, products.fp32_precision = products.fp32_precision, "ieee"
        try:
            yield
        finally:
            products.fp32_precision = choice
        return
    if before == "highest":
        yield
        return
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
