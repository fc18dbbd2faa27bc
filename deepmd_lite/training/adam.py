"""Adam (Kingma & Ba, ICLR 2015, arXiv:1412.6980), and what SOAP shares with it.

torch's own optimisers load its compiler at their first call, which takes longer than our start.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.optim.adam import adam

State = dict[str, torch.Tensor]
HOST = torch.device("cpu")


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

    def device_of(self, parameter: torch.nn.Parameter) -> torch.device:
        """Where the parameter's state is kept, but for the count of its updates."""
        return parameter.device

    def restore(self, parameter: torch.nn.Parameter, state: State) -> None:
        """Take a copy of the parameter's state, wherever that was kept before."""
        torch_device = self.device_of(parameter)
        self.state[parameter] = {
            key: x.to(HOST if key == "step" else torch_device, copy=True)
            for key, x in state.items()
        }


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
        "step": torch.zeros((), dtype=torch.float32),
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

    One pass over all of them, which are on one device: by itself each of Adam's operations waits
    for memory. The host keeps the counts; a device reads them in its own memory, where they are
    made anew, as a copy would wait for all that it has to do.
    """
    counts = [state["step"] for state in states]
    read = [
        torch.full((), count.item(), dtype=torch.float32, device=x.device) if x.is_cuda else count
        for x, count in zip(values, counts, strict=True)
    ]
    adam(
        values,
        grads=gradients,
        exp_avgs=[state["exp_avg"] for state in states],
        exp_avg_sqs=[state["exp_avg_sq"] for state in states],
        max_exp_avg_sqs=[],
        state_steps=read,
        fused=True,
        amsgrad=False,
        maximize=False,
        beta1=betas[0],
        beta2=betas[1],
        lr=rate,
        weight_decay=0.0,
        eps=eps,
    )
    for count, copy in zip(counts, read, strict=True):
        if copy is not count:
            count.add_(1)
