"""Members of a committee that share all of a potential but the last layer of its networks.

The energy of an atom is linear in that layer, E = w · h + b with the last hidden layer h, and the
members' weights lie around the potential's own: their mean is the potential, in energies and forces
alike, and how far they are apart says how far to trust it. See `uncertainty` for where they come
from.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..system import ModelFileError

if TYPE_CHECKING:
    from .potential import Potential

_PREFIX = "members."


@dataclass(frozen=True)
class Members:
    """What is added to the last layer of a potential, for each member; sums to zero over them."""

    weights: torch.Tensor
    """(n_members, n_types, width) float64, to `weight_out` of each element's network, eV."""
    biases: torch.Tensor
    """(n_members, n_types) float64 eV, to its `bias_out`."""
    facts: dict[str, Any] = field(default_factory=dict)
    """JSON-able: what they were fitted to, and how well their spread foretells errors."""

    def __len__(self) -> int:
        return len(self.weights)

    def scaled(self, factor: float, facts: dict[str, Any]) -> Members:
        """The same with `factor` times the spread."""
        return Members(factor * self.weights, factor * self.biases, facts)


def member(potential: Potential, k: int) -> Potential:
    """Member k of a frozen potential that has members: a potential without any of its own.

    Tables and hidden layers are shared, not copied: choose precision and device before.
    """
    assert potential.members is not None
    one = shallow(potential)
    one.members, one.reference_frames, one._compiled = None, (), None
    changes = zip(potential.members.weights[k], potential.members.biases[k], strict=True)
    one.fitting = nn.ModuleList(
        _with_last_layer(fitting, *change)
        for fitting, change in zip(potential.fitting, changes, strict=True)
    )
    return one


def _with_last_layer(fitting: nn.Module, weights: torch.Tensor, bias: torch.Tensor) -> nn.Module:
    one = shallow(fitting)
    for name, change in (("weight_out", weights), ("bias_out", bias.view(1))):
        own = fitting.get_parameter(name)
        value = (own.detach().double() + change).to(own.dtype)
        setattr(one, name, nn.Parameter(value, requires_grad=False))
    return one


def shallow(module: Any) -> Any:
    """A copy whose parameters and parts can be replaced without a trace in `module`."""
    one = copy.copy(module)
    for parts in ("_parameters", "_buffers", "_modules"):
        setattr(one, parts, dict(getattr(module, parts)))
    return one


# --- in the model file --------------------------------------------------------------------------


def to_file(members: Members) -> dict[str, torch.Tensor]:
    """The arrays."""
    return {f"{_PREFIX}weights": members.weights, f"{_PREFIX}biases": members.biases}


def from_file(
    facts: Any, arrays: dict[str, torch.Tensor], n_types: int, width: int, where: str
) -> Members | None:
    """The members of a file, if it has any; takes their arrays out of `arrays`.

    Raises ModelFileError, naming `where`, for arrays of other shapes or not finite.
    """
    own = {name: arrays.pop(f"{_PREFIX}{name}", None) for name in ("weights", "biases")}
    weights, biases = own["weights"], own["biases"]
    if weights is None and biases is None:
        return None
    n = 0 if weights is None or not weights.ndim else len(weights)
    for name, shape in (("weights", (n, n_types, width)), ("biases", (n, n_types))):
        x = own[name]
        if n < 1 or x is None or x.dtype != torch.float64 or x.shape != shape:
            found = "nothing" if x is None else f"{tuple(x.shape)} of {x.dtype}"
            raise ModelFileError(
                f"{where}: array '{_PREFIX}{name}': expected {shape} of float64, found {found}"
            )
        if not torch.isfinite(x).all():
            raise ModelFileError(f"{where}: array '{_PREFIX}{name}' holds values not finite")
    assert weights is not None
    assert biases is not None
    if not isinstance(facts, dict):
        raise ModelFileError(f"{where}: the header is not valid: members {facts!r}")
    return Members(weights, biases, facts)
