"""SOAP: Adam in the slowly turning eigenbasis of Shampoo's preconditioner.

Vyas et al., "SOAP: Improving and Stabilizing Shampoo using Adam", ICLR 2025 (arXiv:2409.11321).
The gradient G of a weight matrix is seen in the eigenvectors of the running means of G Gᵀ and
GᵀG, where its entries are nearly uncorrelated, so that Adam's division by each entry's own size
is close to a second-order step. The small, ill-conditioned networks of a potential gain much.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from ..kernels.cuda import full_precision
from .adam import HOST, LeanOptimizer, State, begun, move

Seen = tuple[torch.nn.Parameter, State, torch.Tensor]
"""A parameter, its state, and its gradient in the basis."""
SIDES = "left", "right"
SMALLEST_SIDE = 64
"""Shorter side of a matrix that is worth the way to a device. A step of 64 × 64 numbers takes one
thread half a millisecond; copies, some ten launches and every tenth time a factorisation are
estimated to take a GPU as long, and are not measured."""
LARGEST_SIDE = 1024
"""Of a matrix that has a basis on that side. Ethanol, `se_e2_q` with 604 numbers in its descriptor,
3,000 steps: force RMSE 36 meV/Å without a basis for them, 17 with it. Of the 1,600 numbers of the
stock model it makes a step take three times as long: more is lost than won in a given time."""


class Soap(LeanOptimizer):
    """SOAP for parameters whose last two dimensions are a matrix (leading ones are a batch).

    A side longer than `largest_side` keeps its own basis. Vectors (a side of length 1) and what has
    no other side are stepped as by Adam. The first gradient only fills the means.

    Parameters and gradients are of the host; the means and bases of large matrices are on `place`,
    where their steps are made. All products are full ones, without TF32.
    """

    def __init__(
        self,
        params: Iterable[torch.nn.Parameter],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.95),
        interval: int = 10,
        sampling: int = 2,
        largest_side: int = LARGEST_SIDE,
        place: torch.device = HOST,
    ) -> None:
        """`betas`: decay of the mean gradient and of the means of squares; `interval`: steps
        between updates of the bases; `sampling`: steps between gradients that the means of
        G Gᵀ and GᵀG see.

        Liquid water, preset `balanced`, 800 steps, one seed: force RMSE 35, 37 and 44 meV/Å with
        an interval of 5, 10 and 20 for the descriptor's side, the first in 1.4 times the time;
        46 where means of squares are mixed as the bases turn, instead of being kept in order.
        """
        super().__init__(params, {"lr": lr})
        self.betas = betas
        self.interval = interval
        self.sampling = sampling
        self.largest_side = largest_side
        self.place = place

    def place_of(self, parameter: torch.nn.Parameter) -> torch.device:
        """`place` for a matrix that is large enough, and that has a basis."""
        shorter = min(torch.atleast_2d(parameter).shape[-2:])
        return self.place if SMALLEST_SIDE <= shorter <= self.largest_side else HOST

    @torch.no_grad()
    @full_precision()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            moving = [p for p in group["params"] if p.grad is not None]
            # all of them first: a later copy would wait for the work on an earlier one
            gradients = [torch.atleast_2d(p.grad).to(self.place_of(p)) for p in moving]
            seen: dict[torch.device, list[Seen]] = {}
            for parameter, gradient in zip(moving, gradients, strict=True):
                state = self.state[parameter]
                if state:
                    found = self._observed(state, gradient)
                    seen.setdefault(found.device, []).append((parameter, state, found))
                else:
                    self._begin(state, gradient)
            for those in seen.values():
                self._move(those, group["lr"])

    def _observed(self, state: State, gradient: torch.Tensor) -> torch.Tensor:
        """The gradient in the basis, once the means have seen it and the bases have followed."""
        update = int(state["step"]) + 1
        if update % self.sampling == 0:
            self._sample(state, gradient, 1.0 - self.betas[1] ** self.sampling)
        if update % self.interval == 0:
            self._turn(state)
        return _to_basis(state, gradient)

    def _move(self, seen: list[Seen], rate: float) -> None:
        """Adam's step of each parameter's gradient in its basis, all in one place, and back."""
        steps = [torch.zeros_like(gradient) for _, _, gradient in seen]
        gradients, states = [g for _, _, g in seen], [state for _, state, _ in seen]
        move(steps, gradients, states, rate, self.betas, 1e-12)
        steps = [_from_basis(state, step) for state, step in zip(states, steps, strict=True)]
        for (parameter, _, _), step in zip(seen, steps, strict=True):
            parameter.add_(step.to(parameter.device).view_as(parameter))

    def _begin(self, state: State, gradient: torch.Tensor) -> None:
        """The state after the first gradient, which moves nothing: the bases come from it."""
        state.update(begun(gradient))
        lengths = gradient.shape[-2:]
        for side, length in zip(SIDES, lengths, strict=True):
            if min(lengths) > 1 and length <= self.largest_side:
                state[side] = gradient.new_zeros(*gradient.shape[:-2], length, length)
        self._sample(state, gradient, 1.0 - self.betas[1] ** self.sampling)
        for side in SIDES:
            if side in state:
                # of perfect crystals most entries are 0 or next to it, on which LAPACK's float32
                # routine fails
                vectors = torch.linalg.eigh(state[side].double()).eigenvectors
                state[f"{side}_basis"] = vectors.flip(-1).to(gradient.dtype).contiguous()

    @staticmethod
    def _sample(state: State, gradient: torch.Tensor, share: float) -> None:
        """Let the means of G Gᵀ and GᵀG see a gradient."""
        for side, g in zip(SIDES, (gradient, gradient.mT), strict=True):
            if side in state:
                state[side].lerp_(g @ g.mT, share)

    @staticmethod
    def _turn(state: State) -> None:
        """New bases by one step of orthogonal iteration from the old ones.

        Always contiguous: a restart that reads them back must feed the same bits to the BLAS.
        """
        for side in SIDES:
            if side not in state:
                continue
            mean = state[side]
            basis = state[f"{side}_basis"]
            image = mean @ basis
            order = (basis * image).sum(dim=-2).argsort(dim=-1, descending=True)
            columns = order[..., None, :].expand_as(image)
            turned = torch.linalg.qr(image.gather(-1, columns)).Q.contiguous()
            state[f"{side}_basis"] = turned
            gradient, squares = state["exp_avg"], state["exp_avg_sq"]
            # out of the old basis and into the new one: to multiply these first costs more
            if side == "left":
                gradient = turned.mT @ (basis @ gradient)
                squares = squares.gather(-2, order[..., :, None].expand_as(squares))
            else:
                gradient = (gradient @ basis.mT) @ turned
                squares = squares.gather(-1, order[..., None, :].expand_as(squares))
            state["exp_avg"], state["exp_avg_sq"] = gradient.contiguous(), squares


def _to_basis(state: State, x: torch.Tensor) -> torch.Tensor:
    if "left_basis" in state:
        x = state["left_basis"].mT @ x
    return x @ state["right_basis"] if "right_basis" in state else x


def _from_basis(state: State, x: torch.Tensor) -> torch.Tensor:
    if "left_basis" in state:
        x = state["left_basis"] @ x
    return x @ state["right_basis"].mT if "right_basis" in state else x
