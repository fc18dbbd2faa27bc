"""The compiled moments as torch operations, differentiable twice.

Φ = Σ grad_moments · moments has gradients with respect to positions and coefficients (first
order); a loss on forces needs the derivative of those (second order). Both are kernels.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch.autograd.function import once_differentiable


class Call(Protocol):
    """One list of atoms with a table, on the processor (`_kernels.Call`) or a GPU."""

    @property
    def n_local(self) -> int:
        """Atoms whose moments are wanted."""

    @property
    def n_types(self) -> int:
        """Elements."""

    @property
    def n_columns(self) -> int:
        """Columns of the environment row."""

    def with_coefficients(self, coefficients: torch.Tensor) -> Call:
        """The same with another table."""

    def moments(self, moments: torch.Tensor, counts: torch.Tensor) -> int:
        """dpl_moments; returns the edges beyond the table."""

    def backward(
        self,
        grad_moments: torch.Tensor,
        grad_positions: torch.Tensor | None,
        grad_coefficients: torch.Tensor | None,
    ) -> None:
        """dpl_moments_backward."""

    def double_backward(
        self,
        grad_moments: torch.Tensor,
        tangent: torch.Tensor,
        grad_grad_moments: torch.Tensor | None,
        grad_positions: torch.Tensor | None,
        grad_coefficients: torch.Tensor | None,
    ) -> None:
        """dpl_moments_double_backward."""


class Moments(torch.autograd.Function):
    """(positions, coefficients, call) -> (moments, counts, beyond); see `reference.moments`."""

    @staticmethod
    def forward(
        ctx: Any, positions: torch.Tensor, coefficients: torch.Tensor, call: Call
    ) -> tuple[torch.Tensor, torch.Tensor, int]:
        """`call` holds the same positions and coefficients, and the list and the environment."""
        shape = (call.n_local, call.n_columns, coefficients.shape[3])
        moments = coefficients.new_empty(shape)
        counts = positions.new_empty((call.n_local, call.n_types), dtype=torch.int32)
        beyond = call.moments(moments, counts)
        ctx.save_for_backward(positions, coefficients)
        ctx.call = call
        ctx.mark_non_differentiable(counts)
        ctx.set_materialize_grads(False)
        return moments, counts, beyond

    @staticmethod
    def backward(
        ctx: Any, grad_moments: torch.Tensor | None, *_: Any
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        """Gradients of Φ with respect to positions and coefficients."""
        if grad_moments is None:
            return None, None, None
        wanted = (ctx.needs_input_grad[0], ctx.needs_input_grad[1])
        positions, coefficients = ctx.saved_tensors
        gradients = MomentsBackward.apply(
            grad_moments.contiguous(), positions, coefficients, ctx.call, wanted
        )
        return *gradients, None


class MomentsBackward(torch.autograd.Function):
    """The gradients of Φ as functions of grad_moments, positions and coefficients."""

    @staticmethod
    def forward(
        ctx: Any,
        grad_moments: torch.Tensor,
        positions: torch.Tensor,
        coefficients: torch.Tensor,
        call: Call,
        wanted: tuple[bool, bool],
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """`wanted`: which of the gradients, positions and coefficients, to compute."""
        grad_positions = torch.empty_like(positions) if wanted[0] else None
        grad_coefficients = torch.empty_like(coefficients) if wanted[1] else None
        if any(wanted):
            grad = grad_moments.detach()
            call.backward(grad, grad_positions, grad_coefficients)
        ctx.save_for_backward(grad_moments, positions, coefficients)
        ctx.call = call
        ctx.set_materialize_grads(False)
        return grad_positions, grad_coefficients

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, tangent: torch.Tensor | None, table: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None, None, None]:
        """`tangent`, `table`: cotangents of the gradients for positions and coefficients.

        Φ is linear in the coefficients: the part of `table` is Φ with `table` in their place.
        """
        grad_moments, positions, coefficients = (t.detach() for t in ctx.saved_tensors)
        to_moments, to_positions, to_coefficients = ctx.needs_input_grad[:3]
        result: list[torch.Tensor | None] = [None, None, None]
        if tangent is not None:
            result = [
                torch.empty_like(like) if wanted else None
                for like, wanted in (
                    (grad_moments, to_moments),
                    (positions, to_positions),
                    (coefficients, to_coefficients),
                )
            ]
            ctx.call.double_backward(grad_moments, tangent.contiguous(), *result)
        if table is not None:
            call = ctx.call.with_coefficients(table.contiguous())
            if to_moments:
                part = torch.empty_like(grad_moments)
                counts = part.new_empty((call.n_local, call.n_types), dtype=torch.int32)
                call.moments(part, counts)
                result[0] = part if result[0] is None else result[0].add_(part)
            if to_positions:
                force = torch.empty_like(positions)
                call.backward(grad_moments, force, None)
                result[1] = force if result[1] is None else result[1].add_(force)
        return result[0], result[1], result[2], None, None
