"""Would three products of TF32 pay for one of float32? Part of the benchmark of a GPU.

Tensor cores multiply numbers of ten bits (TF32) many times as fast as a GPU does numbers of
float32. A number of float32 is the sum of two of those but for its last two bits, so that three
such products (that of the two small parts is left out) stand for one of float32: Ootomo & Yokota,
Int. J. High Perform. Comput. Appl. 36, 475 (2022).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise

import torch

Parts = tuple[torch.Tensor, torch.Tensor]


def two_parts(x: torch.Tensor) -> Parts:
    """Numbers that TF32 holds, rounded from x (float32), and what is left of it."""
    high = ((x.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)
    return high, x - high


def in_three(x: torch.Tensor, weight: Parts) -> torch.Tensor:
    """x times a weight that is in two parts, small terms first."""
    high, low = two_parts(x)
    small = torch.addmm(high @ weight[1], low, weight[0])
    return torch.addmm(small, high, weight[0])


@contextmanager
def precision(name: str) -> Iterator[None]:
    """'highest': float32; 'high': TF32 where the GPU has it."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def rows(
    widths: Sequence[int],
    n_atoms: int,
    torch_device: torch.device,
    seconds: Callable[[Callable[[], torch.Tensor]], float],
) -> list[list[str | float]]:
    """Forward and backward through layers of `widths`: ns/atom and the largest error, over the
    largest entry, of a product of float32, of TF32, and of three of TF32. `seconds` of a call."""
    layers = list(pairwise(widths))
    found = []
    for n_in, n_out in dict.fromkeys([*layers, *((b, a) for a, b in reversed(layers))]):
        x = torch.rand(n_atoms, n_in, dtype=torch.float32, device=torch_device) - 0.5
        weight = torch.rand(n_in, n_out, dtype=torch.float32, device=torch_device) - 0.5
        exact = x.double() @ weight.double()
        row: list[str | float] = [f"{n_in} × {n_out}"]
        for name, product in (
            ("highest", partial(torch.mm, x, weight)),
            ("high", partial(torch.mm, x, weight)),
            ("high", partial(in_three, x, two_parts(weight))),
        ):
            with precision(name):
                error = (product().double() - exact).abs().max() / exact.abs().max()
                row += [1e9 * seconds(product) / n_atoms, float(error)]
        found.append(row)
    return found
