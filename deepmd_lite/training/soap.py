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

State = dict[str, torch.Tensor]


class Soap(torch.optim.Optimizer):
    """SOAP for parameters whose last two dimensions are a matrix (leading ones are a batch).

    A side of the matrix longer than `largest_side`, or of length 1, keeps its own basis; a
    parameter without any other side is stepped as by Adam. The first step only fills the means.
    """

    def __init__(
        self,
        params: Iterable[torch.nn.Parameter],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.95),
        interval: int = 10,
        sampling: int = 2,
        largest_side: int = 512,
    ) -> None:
        """`betas`: decay of the mean gradient and of the means of squares; `interval`: steps
        between updates of the bases; `sampling`: steps between gradients that the means of
        G Gᵀ and GᵀG see."""
        super().__init__(params, {"lr": lr})
        self.betas = betas
        self.interval = interval
        self.sampling = sampling
        self.largest_side = largest_side

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's, without its loading of the compiler, which takes longer than our start."""
        parameters = list(param_group["params"])
        self.param_groups.append({**self.defaults, **param_group, "params": parameters})

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients (always to None)."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    gradient = torch.atleast_2d(parameter.grad)
                    change, factor = self._change(self.state[parameter], gradient)
                    parameter.add_(change.view_as(parameter), alpha=-group["lr"] * factor)

    def _change(self, state: State, gradient: torch.Tensor) -> tuple[torch.Tensor, float]:
        """The step for a learning rate of 1, without a factor that is returned beside it.

        `exp_avg` and `exp_avg_sq` are means in the basis of the moment.
        """
        if not state:
            self._begin(state, gradient)
        state["step"] += 1
        t, (beta1, beta2) = int(state["step"]), self.betas
        if t == 1 or t % self.sampling == 0:
            for side in ("left", "right"):
                if side in state:
                    g = gradient if side == "left" else gradient.mT
                    state[side].lerp_(g @ g.mT, 1.0 - beta2**self.sampling)
        if t == 1:
            self._turn(state, first=True)
            state["exp_avg"].lerp_(_to_basis(state, gradient), 1.0 - beta1)
            return torch.zeros_like(gradient), 0.0
        if t % self.interval == 0:
            self._turn(state, first=False)
        turned = _to_basis(state, gradient)
        state["exp_avg"].lerp_(turned, 1.0 - beta1)
        state["exp_avg_sq"].mul_(beta2).addcmul_(turned, turned, value=1.0 - beta2)
        # Adam's two corrections for the means' start from zero are the factor
        unbiased = (1.0 - beta2 ** (t - 1)) ** 0.5
        size = state["exp_avg_sq"].sqrt().add_(1e-12 * unbiased)
        direction = torch.div(state["exp_avg"], size, out=size)
        return _from_basis(state, direction), unbiased / (1.0 - beta1**t)

    def _begin(self, state: State, gradient: torch.Tensor) -> None:
        state["step"] = torch.zeros((), dtype=torch.int64)
        state["exp_avg"] = torch.zeros_like(gradient)
        state["exp_avg_sq"] = torch.zeros_like(gradient)
        for side, length in zip(("left", "right"), gradient.shape[-2:], strict=True):
            if 1 < length <= self.largest_side:
                state[side] = gradient.new_zeros(*gradient.shape[:-2], length, length)

    @staticmethod
    def _turn(state: State, first: bool) -> None:
        """New bases: exact at first, then by one step of orthogonal iteration from the old ones.

        Always contiguous: a restart that reads them back must feed the same bits to the BLAS.
        """
        for side in ("left", "right"):
            if side not in state:
                continue
            mean = state[side]
            if first:
                state[f"{side}_basis"] = torch.linalg.eigh(mean).eigenvectors.flip(-1).contiguous()
                continue
            basis = state[f"{side}_basis"]
            image = mean @ basis
            order = (basis * image).sum(dim=-2).argsort(dim=-1, descending=True)
            columns = order[..., None, :].expand_as(image)
            turned = torch.linalg.qr(image.gather(-1, columns)).Q.contiguous()
            state[f"{side}_basis"] = turned
            change, mean = turned.mT @ basis, state["exp_avg"]
            state["exp_avg"] = (change @ mean if side == "left" else mean @ change.mT).contiguous()
            squares = state["exp_avg_sq"]
            if side == "left":
                squares = squares.gather(-2, order[..., :, None].expand_as(squares))
            else:
                squares = squares.gather(-1, order[..., None, :].expand_as(squares))
            state["exp_avg_sq"] = squares


def _to_basis(state: State, x: torch.Tensor) -> torch.Tensor:
    if "left_basis" in state:
        x = state["left_basis"].mT @ x
    return x @ state["right_basis"] if "right_basis" in state else x


def _from_basis(state: State, x: torch.Tensor) -> torch.Tensor:
    if "left_basis" in state:
        x = state["left_basis"] @ x
    return x @ state["right_basis"].mT if "right_basis" in state else x
