"""Frame parameters: numbers of a whole frame, as an electronic temperature or a total charge, on
which its energy depends beside the positions of its atoms (DeePMD-kit's `fparam`).

The fitting networks take them beside the descriptor, normalised over the training frames:

    z = D · W + ((p − average) / deviation) · W_p + b

At given p their share of the first layer is a bias. So a potential at fixed parameters is one
without any (`at`), to the last bit; and frames of one batch that differ in theirs have, for the
kernels, atoms of different elements, whose networks differ by that bias and share the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from ..system import InputError
from .config import FittingConfig
from .members import shallow
from .networks import Fitting

if TYPE_CHECKING:
    from .potential import Potential

SMALLEST_DEVIATION = 0.01
"""Lower bound of the deviation, as in DeePMD-kit: what hardly varies is not blown up."""


class FrameParameters(nn.Module):
    """Mean and standard deviation of each parameter over the training frames."""

    average: torch.Tensor
    """(k,) float64."""
    deviation: torch.Tensor
    """(k,) float64, positive."""

    def __init__(self, average: torch.Tensor, deviation: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("average", average)
        self.register_buffer("deviation", deviation)

    @classmethod
    def of_frames(cls, fparam: torch.Tensor) -> FrameParameters:
        """From those of all frames, (n_frames, k)."""
        deviation, average = torch.std_mean(fparam.double(), dim=0, correction=0)
        return cls(average, deviation.clamp(min=SMALLEST_DEVIATION))

    @classmethod
    def unset(cls, k: int) -> FrameParameters:
        """The right shapes; the numbers are still to be loaded."""
        return cls(torch.zeros(k, dtype=torch.float64), torch.ones(k, dtype=torch.float64))

    def check(self) -> None:
        """Raises InputError for deviations that nothing can be divided by."""
        if not (self.deviation > 0).all():
            raise InputError(
                f"frame_parameters.deviation {self.deviation.tolist()}: expected positive numbers"
            )

    def inputs(self, fparam: torch.Tensor) -> torch.Tensor:
        """(…, k): what the networks take of parameters (…, k)."""
        return (fparam - self.average) / self.deviation

    def summary(self) -> str:
        """In words."""
        each = zip(self.average.tolist(), self.deviation.tolist(), strict=True)
        return ", ".join(f"{mean:.6g} ± {spread:.3g}" for mean, spread in each)


def checked_fparam(given: Any, k: int, where: str = "fparam") -> torch.Tensor:
    """(k,) float64 from a number or numbers.

    Raises InputError, naming `where`, for other than `k` finite numbers.
    """
    try:
        values = np.asarray(given, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError):
        values = np.full(1, np.nan)
    if len(values) != k or not np.isfinite(values).all():
        shown = " ".join(str(given).split())
        raise InputError(f"{where}: expected {k} finite number{'s' * (k > 1)}, found {shown:.60}")
    return torch.from_numpy(values.copy())


def fparam_of(f: FittingConfig, given: Any | None, where: str = "fparam") -> torch.Tensor:
    """(k,) float64: those that are `given`, or `default_fparam`.

    Raises InputError, naming `where`, where there are neither, or another number of them.
    """
    if given is not None:
        return checked_fparam(given, f.numb_fparam, where)
    if f.default_fparam:
        return torch.tensor(f.default_fparam, dtype=torch.float64)
    names = " ".join(["X", "Y", "Z", "…"][: f.numb_fparam])
    raise InputError(
        f"{where}: the model takes {f.numb_fparam} frame parameter{'s' * (f.numb_fparam > 1)} and "
        f"was given none: fix them (dpl convert model.dpl fixed.dpl --fparam {names}), or give "
        "them: as fparam of data, of dpl.Calculator or of DeepPot.eval"
    )


@torch.no_grad()
def at(potential: Potential, given: float | Sequence[float] | torch.Tensor | None) -> Potential:
    """The ordinary potential that `potential` is at these parameters, or at its `default_fparam`.

    All but the biases of the first layers is shared, not copied: choose precision and device
    before. One that takes no parameters is returned as it is. Raises InputError for others than it
    takes, and where they are None and there is no default.
    """
    own, f = potential.frame_parameters, potential.config.fitting_net
    if own is None:
        if given is not None:
            raise InputError(
                f"fparam {_shown(given)}: the model takes no frame parameters (its numb_fparam is "
                "0); leave them out"
            )
        return potential
    values = fparam_of(f, given)
    inputs = own.inputs(values)
    one: Potential = shallow(potential)
    one.frame_parameters, one._compiled = None, None
    one.fitting = nn.ModuleList(_fixed(network, inputs) for network in potential.fitting)
    without = f.model_copy(update={"numb_fparam": 0, "default_fparam": None})
    one.config = potential.config.model_copy(update={"fitting_net": without})
    one.provenance = {**potential.provenance, "fparam": values.tolist()}
    return one


def at_mean(potential: Potential) -> Potential:
    """As `at` the mean of the training frames."""
    own = potential.frame_parameters
    return potential if own is None else at(potential, own.average)


def refuse_free(potential: Potential, where: str) -> None:
    """Raises InputError, naming `where`, for a potential whose parameters are not fixed."""
    k = potential.config.fitting_net.numb_fparam
    if k:
        raise InputError(
            f"{where}: takes {k} frame parameter{'s' * (k > 1)}, which have to be fixed first: "
            f"dpl convert {where} fixed.dpl --fparam {' '.join(['X', 'Y', 'Z', '…'][:k])}"
        )


def distinct(
    fparam: torch.Tensor, frame_of_atom: torch.Tensor, types: torch.Tensor, n_types: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(m, k): the parameters of frames, each once; and (n,) int32: the place of each atom among all
    elements at the first of them, all elements at the second, and so on.

    `fparam` (n_frames, k), `frame_of_atom` (n,) int64, `types` (n,) int32.
    """
    values, number = fparam.unique(dim=0, return_inverse=True)
    if len(values) > 1:
        types = types + n_types * number[frame_of_atom].to(types.dtype)
    return values, types


def _fixed(network: nn.Module, inputs: torch.Tensor) -> nn.Module:
    """A fitting network without the parameters, whose bias knows them."""
    assert isinstance(network, Fitting)
    one: Fitting = shallow(network)
    bias = network.at(inputs).parameters_of(0)[1]
    one.register_parameter("bias_0", nn.Parameter(bias, requires_grad=False))
    one.weight_fparam = None
    return one


def _shown(given: Any) -> Any:
    return given.tolist() if isinstance(given, (np.ndarray, torch.Tensor)) else given
