"""Activation functions with their first two derivatives in closed form.

The embedding is tabulated with two derivatives at each node, so every function of `ACTIVATIONS` is
smooth. Each entry maps z to (f, f', f''), elementwise and differentiable.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

Jet = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def _tanh(z: torch.Tensor) -> Jet:
    f = torch.tanh(z)
    d1 = 1.0 - f * f
    return f, d1, -2.0 * f * d1


def _sigmoid(z: torch.Tensor) -> Jet:
    f = torch.sigmoid(z)
    d1 = f * (1.0 - f)
    return f, d1, d1 * (1.0 - 2.0 * f)


def _softplus(z: torch.Tensor) -> Jet:
    s, d1, _ = _sigmoid(z)
    return torch.nn.functional.softplus(z), s, d1


def _silu(z: torch.Tensor) -> Jet:
    s, s1, s2 = _sigmoid(z)
    return z * s, s + z * s1, 2.0 * s1 + z * s2


def _gelu(z: torch.Tensor) -> Jet:
    """The tanh form, as in DeePMD-kit: z/2 · (1 + tanh(√(2/π)(z + 0.044715 z³)))."""
    c, k = math.sqrt(2.0 / math.pi), 0.044715
    u1, u2 = c * (1.0 + 3.0 * k * z * z), 6.0 * c * k * z
    t, t1, t2 = _tanh(c * (z + k * z**3))
    d1, d2 = t1 * u1, t2 * u1 * u1 + t1 * u2
    return 0.5 * z * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * z * d1, d1 + 0.5 * z * d2


def _linear(z: torch.Tensor) -> Jet:
    return z, torch.ones_like(z), torch.zeros_like(z)


ACTIVATIONS: dict[str, Callable[[torch.Tensor], Jet]] = {
    "tanh": _tanh,
    "sigmoid": _sigmoid,
    "softplus": _softplus,
    "silu": _silu,
    "gelu": _gelu,
    "gelu_tf": _gelu,
    "linear": _linear,
    "none": _linear,
}

VALUES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": torch.nn.functional.softplus,
    "silu": torch.nn.functional.silu,
    "gelu": lambda z: torch.nn.functional.gelu(z, approximate="tanh"),
    "gelu_tf": lambda z: torch.nn.functional.gelu(z, approximate="tanh"),
    "linear": lambda z: z,
    "none": lambda z: z,
    "relu": torch.nn.functional.relu,
    "relu6": torch.nn.functional.relu6,
}
"""The same functions where no derivative is needed explicitly, and some with kinks: a fitting
network may have those, though forces jump at them."""
