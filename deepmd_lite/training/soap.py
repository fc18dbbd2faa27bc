"""SOAP: Adam in the slowly turning eigenbasis of Shampoo's preconditioner.

Vyas et al., "SOAP: Improving and Stabilizing Shampoo using Adam", ICLR 2025 (arXiv:2409.11321).
The gradient G of a weight matrix is seen in the eigenvectors of the running means of G Gᵀ and
GᵀG, where its entries are nearly uncorrelated, so that Adam's division by each entry's own size
is close to a second-order step. The small, ill-conditioned networks of a potential gain much.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch

from ..kernels import SoapRule, SoapState, soap_step
from ..kernels.cuda import full_precision
from .adam import HOST, LeanOptimizer, State, begun, move

Seen = tuple[torch.nn.Parameter, State, torch.Tensor]
"""A parameter, its state, and its gradient in the basis."""
SIDES = {"left": -2, "right": -1}
"""Sides of a matrix, and the dimension that is theirs."""
SMALLEST_SIDE = 64
"""Shorter side of a matrix that is worth the way to a device. A step of 64 × 64 numbers takes one
thread a tenth of a millisecond, of 552 × 64 half a one; copies, some ten launches and every third
time a factorisation are estimated to take a GPU half a one, and are not measured."""
EPSILON = 1e-12
"""Added to the root of the mean square, which only gradients of 0 alone make matter."""
DTYPE = torch.float32
"""Of the state and of steps, whatever the parameters have: a step only says which way to go, and in
float64 its products of few columns take three times as long. Stock water model in float64: a step
takes 116 ms, with a state in float64 195. Silicon, `examples/01_train_silicon`, three seeds: 67, 64
and 68 meV/Å, with a state in float64 64, 64 and 66."""
LARGEST_WHOLE = 128
"""Of a longer side only `RANK` directions are turned."""
RANK = 32
"""Liquid water, `balanced` when its descriptor had 1,014 numbers, 800 steps, one seed: force
RMSE 37 meV/Å in all directions, 36, 38, 39 in 64, 128, 256 of them, with bases turned every tenth
step; with every third 29 in 64 and in 32. There a step of SOAP takes a third of the time that all
directions took, turned every tenth step."""


def most_of_a_step(betas: tuple[float, float]) -> float:
    """Largest step of a number over the rate, whatever gradients g_k it has had.

    |Σ β₁ᵏ (1 − β₁) g_k| / sqrt(Σ β₂ᵏ (1 − β₂) g_k²) is at most this (Cauchy and Schwarz), where
    β₁² < β₂; else there is no limit.
    """
    first, second = betas
    if first**2 >= second:
        return math.inf
    return (1.0 - first) / math.sqrt((1.0 - second) * (1.0 - first**2 / second))


class Soap(LeanOptimizer):
    """SOAP for parameters whose last two dimensions are a matrix (leading ones are a batch).

    Vectors (a side of length 1) are stepped as by Adam. The first gradient only fills the means.

    A side that is longer than `LARGEST_WHOLE` is seen in its `RANK` leading eigenvectors; what is
    left of a gradient is seen as it is. So a step costs in proportion to the length, and of the
    mean of G Gᵀ only its product with these vectors is kept, from which the next ones come
    (orthogonal iteration, with the gradients one by one).

    Parameters and gradients are of the host; the means and bases of large matrices are on
    `torch_device`, where torch makes their steps, as it is written here. Those of the host are
    compiled (`kernels.soap_step`): the same to rounding, and the same bits for any number of
    threads. All products are full ones, without TF32.
    """

    def __init__(
        self,
        params: Iterable[torch.nn.Parameter],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.95),
        interval: int = 3,
        torch_device: torch.device = HOST,
    ) -> None:
        """`betas`: decay of the mean gradient, and of the means of squares, G Gᵀ and GᵀG;
        `interval`: steps between updates of the bases.

        Liquid water, preset `balanced`, 800 steps, one seed, 64 directions: force RMSE 45, 30,
        29, 34 meV/Å with an interval of 1, 2, 3, 5.
        """
        super().__init__(params, {"lr": lr})
        self.betas = betas
        self.interval = interval
        self.torch_device = torch_device
        self._compiled: dict[torch.nn.Parameter, tuple[State, SoapState]] = {}

    def device_of(self, parameter: torch.nn.Parameter) -> torch.device:
        """`torch_device` for a matrix that is large enough."""
        shorter = min(torch.atleast_2d(parameter).shape[-2:])
        return self.torch_device if shorter >= SMALLEST_SIDE else HOST

    def restore(self, parameter: torch.nn.Parameter, state: State) -> None:
        """As that of any optimiser, also of Adam, whose means of vectors are no matrices; earlier
        versions kept the state in the parameter's own type."""
        matrices = {key: x.to(DTYPE) for key, x in state.items()}
        for key in ("exp_avg", "exp_avg_sq"):
            matrices[key] = torch.atleast_2d(matrices[key])
        super().restore(parameter, matrices)

    @torch.no_grad()
    @full_precision()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        here: list[tuple[torch.nn.Parameter, float]] = []
        seen: list[tuple[float, dict[torch.device, list[Seen]]]] = []
        for group in self.param_groups:
            moving = [p for p in group["params"] if p.grad is not None]
            compiled = [p for p in moving if self.state[p] and self._is_compiled(p)]
            others = [p for p in moving if not (self.state[p] and self._is_compiled(p))]
            here += [(p, group["lr"]) for p in compiled]
            seen.append((group["lr"], self._all_observed(others)))
        # while a device is at work; all groups together, as each matrix is a task
        most = most_of_a_step(self.betas)
        parameters, rates = [p for p, _ in here], [rate for _, rate in here]
        rule = SoapRule(self.betas, EPSILON, most, self.interval)
        soap_step(parameters, [self._state_of(p) for p in parameters], rates, rule)
        for rate, devices in seen:
            for those in devices.values():
                self._move(those, rate, rate * most)

    def _all_observed(self, parameters: list[torch.nn.Parameter]) -> dict[torch.device, list[Seen]]:
        """What steps in torch need, for each device; a first gradient only begins the state."""
        # all of them first: a later copy would wait for the work on an earlier one
        gradients = [torch.atleast_2d(p.grad).to(self.device_of(p), DTYPE) for p in parameters]
        seen: dict[torch.device, list[Seen]] = {}
        for parameter, gradient in zip(parameters, gradients, strict=True):
            state = self.state[parameter]
            self._compiled.pop(parameter, None)  # its tensors are other ones after a step
            if state:
                found = self._observed(state, gradient)
                seen.setdefault(found.device, []).append((parameter, state, found))
            else:
                self._begin(state, gradient)
        return seen

    def _is_compiled(self, parameter: torch.nn.Parameter) -> bool:
        """Whether its steps after the first are those of the kernels."""
        return self.device_of(parameter) == HOST and parameter.is_contiguous()

    def _state_of(self, parameter: torch.nn.Parameter) -> SoapState:
        """The parameter's state for the kernels, which takes longer to make than a small step."""
        state = self.state[parameter]
        of, compiled = self._compiled.get(parameter, (None, None))
        if of is not state or compiled is None:
            compiled = SoapState(parameter.shape, state)
            self._compiled[parameter] = state, compiled
        return compiled

    def _observed(self, state: State, gradient: torch.Tensor) -> torch.Tensor:
        """The gradient in the basis, once the means have seen it and the bases have followed."""
        update = int(state["step"]) + 1
        self._sample(state, gradient)
        if update % self.interval == 0:
            self._turn(state)
        return _to_basis(state, gradient)

    def _move(self, seen: list[Seen], rate: float, most: float) -> None:
        """Adam's step of each parameter's gradient in its basis, all on one device, and back."""
        steps = [torch.zeros_like(gradient) for _, _, gradient in seen]
        gradients, states = [g for _, _, g in seen], [state for _, state, _ in seen]
        move(steps, gradients, states, rate, self.betas, EPSILON)
        # A mean gradient that has been turned meets squares that were not. Where an element is in
        # few of the batches, these may be next to nothing, and the quotient millions.
        for step in steps:
            step.clamp_(-most, most)
        steps = [_from_basis(state, step) for state, step in zip(states, steps, strict=True)]
        for (parameter, _, _), step in zip(seen, steps, strict=True):
            parameter.add_(step.to(parameter.device).view_as(parameter))

    def _begin(self, state: State, gradient: torch.Tensor) -> None:
        """The state after the first gradient, which moves nothing: the bases come from it."""
        if min(gradient.shape[-2:]) > 1:
            for side, g in zip(SIDES, (gradient, gradient.mT), strict=True):
                basis = _first_basis(g)
                state[side] = torch.zeros_like(basis)
                state[f"{side}_basis"] = basis
        state.update(begun(_to_basis(state, gradient)))
        self._sample(state, gradient)

    def _sample(self, state: State, gradient: torch.Tensor) -> None:
        """Let the means of G Gᵀ and GᵀG see a gradient."""
        for side, g in zip(SIDES, (gradient, gradient.mT), strict=True):
            if side in state:
                basis = state[f"{side}_basis"]
                state[side].lerp_(
                    g @ (g.mT if _whole(basis) else g.mT @ basis), 1.0 - self.betas[1]
                )

    @staticmethod
    def _turn(state: State) -> None:
        """New bases by one step of orthogonal iteration from the old ones.

        Always contiguous: a restart that reads them back must feed the same bits to the BLAS.
        """
        for side in SIDES:
            if side not in state:
                continue
            basis = state[f"{side}_basis"]
            image = state[side] @ basis if _whole(basis) else state[side]
            order = (basis * image).sum(dim=-2).argsort(dim=-1, descending=True)
            columns = order[..., None, :].expand_as(image)
            turned = torch.linalg.qr(image.gather(-1, columns)).Q.contiguous()
            state[f"{side}_basis"] = turned
            if not _whole(basis):
                state[side] = image @ (basis.mT @ turned)
            # out of the old basis and into the new one: to multiply these first costs more
            average = _into(side, turned, _out_of(side, basis, state["exp_avg"]))
            # squares only follow the order of their directions
            inside, rest = _parts(side, basis, state["exp_avg_sq"])
            places = order.unsqueeze(-3 - SIDES[side]).expand_as(inside)
            squares = torch.cat([inside.gather(SIDES[side], places), rest], dim=SIDES[side])
            state["exp_avg"], state["exp_avg_sq"] = average.contiguous(), squares


def _first_basis(gradient: torch.Tensor) -> torch.Tensor:
    """The eigenvectors of G Gᵀ, or the leading ones of a long side, as columns."""
    # of perfect crystals most entries are 0 or next to it, on which LAPACK's float32 routine fails
    g = gradient.double()
    if g.shape[-2] <= LARGEST_WHOLE:
        vectors = torch.linalg.eigh(g @ g.mT).eigenvectors.flip(-1)
    else:
        vectors = torch.linalg.svd(g, full_matrices=False).U[..., :RANK]
    return vectors.to(gradient.dtype).contiguous()


def _whole(basis: torch.Tensor) -> bool:
    """Whether nothing is left of a gradient that is seen in these directions."""
    return basis.shape[-1] == basis.shape[-2]


def _along(side: str, basis: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The numbers of `x` along the columns of `basis`."""
    return basis.mT @ x if side == "left" else x @ basis


def _back(side: str, basis: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """What has these numbers."""
    return basis @ inside if side == "left" else inside @ basis.mT


def _parts(side: str, basis: torch.Tensor, seen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What is seen along the columns of `basis`, and the rest, which comes after it."""
    n_columns, n = basis.shape[-1], seen.shape[SIDES[side]]
    inside, rest = seen.split([n_columns, n - n_columns], dim=SIDES[side])
    return inside, rest


def _into(side: str, basis: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """`x` along the columns of `basis`, and after it what is left of `x` where they are few."""
    if _whole(basis):
        return _along(side, basis, x)
    shape = list(x.shape)
    shape[SIDES[side]] += basis.shape[-1]
    seen = x.new_empty(shape)
    inside, rest = _parts(side, basis, seen)
    inside.copy_(_along(side, basis, x))
    torch.sub(x, _back(side, basis, inside), out=rest)
    return seen


def _out_of(side: str, basis: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """The reverse; of the rest only what is not along the columns."""
    if _whole(basis):
        return _back(side, basis, seen)
    inside, rest = _parts(side, basis, seen)
    return _back(side, basis, inside - _along(side, basis, rest)) + rest


def _to_basis(state: State, x: torch.Tensor) -> torch.Tensor:
    for side in SIDES:
        if side in state:
            x = _into(side, state[f"{side}_basis"], x)
    return x.contiguous()  # as the means are, which Adam's kernel takes for granted


def _from_basis(state: State, x: torch.Tensor) -> torch.Tensor:
    for side in SIDES:
        if side in state:
            x = _out_of(side, state[f"{side}_basis"], x)
    return x
