"""Adam (Kingma & Ba, ICLR 2015, arXiv:1412.6980), and what SOAP shares with it.

torch's own optimisers load its compiler at their first call, which takes longer than our start.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.optim.adam import adam

State = dict[str, torch.Tensor]


class LeanOptimizer(torch.optim.Optimizer):
    """torch's base class without its loading of the compiler."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's."""
        parameters = list(param_group["params"])
        self.param_groups.append({**self.defaults, **param_group, "params": parameters})

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients (always to None)."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None


class Adam(LeanOptimizer):
    """The same numbers as torch.optim.Adam's."""

    def __init__(
        self,
        params: Iterable[torch.nn.Parameter],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        """`betas`: decay of the mean gradient and of the mean of squares."""
        super().__init__(params, {"lr": lr})
        self.betas, self.eps = betas, eps

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            moving = [p for p in group["params"] if p.grad is not None]
            for p in moving:
                if not self.state[p]:
                    self.state[p].update(begun(p))
            states = [self.state[p] for p in moving]
            move(moving, [p.grad for p in moving], states, group["lr"], self.betas, self.eps)


def begun(like: torch.Tensor) -> State:
    """The means before the first update of what is shaped as `like`."""
    return {
        "step": torch.zeros(()),
        "exp_avg": torch.zeros_like(like),
        "exp_avg_sq": torch.zeros_like(like),
    }


def move(
    values: list[torch.Tensor],
    gradients: list[torch.Tensor],
    states: list[State],
    rate: float,
    betas: tuple[float, float],
    eps: float,
) -> None:
    """Adam's update of `values` and `states`, in place.

    One pass over all of them: by itself each of Adam's operations waits for memory.
    """
    adam(
        values,
        grads=gradients,
        exp_avgs=[state["exp_avg"] for state in states],
        exp_avg_sqs=[state["exp_avg_sq"] for state in states],
        max_exp_avg_sqs=[],
        state_steps=[state["step"] for state in states],
        fused=True,
        amsgrad=False,
        maximize=False,
        beta1=betas[0],
        beta2=betas[1],
        lr=rate,
        weight_decay=0.0,
        eps=eps,
    )
