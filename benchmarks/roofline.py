"""How much arithmetic and memory traffic one energy + forces + virial needs, counted by hand.

Every count is for one atom with `neighbors` neighbours within the cutoff in `runs` runs, M
features, A axis features; a multiplication and an addition are one flop each. Neighbours whose s̃
lies in the same interval of the same table are a run: what is of the size of the features is done
once for each run (deepmd_lite/kernels/moments_block.h). What is counted is this algorithm,

    forward   powers of each pair → sums of each run → moments T (M × 4), D = T T[:A]ᵀ, fitting net
    backward  fitting net → gD → gT → products of each run → polynomials of each pair → forces

Left out, because small or of another kind: the neighbour list, the environment row (about 40 flops,
a square root and a division per pair), tanh, the empty slots, folding ghosts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

COLUMNS, POWERS = 4, 6  # of an environment row and of a quintic
QUINTIC = 2 * (5 + 4)  # value and slope by Horner's rule: 5 and 4 multiply-adds


@dataclass(frozen=True)
class Shape:
    """Sizes of a model and of its surroundings."""

    neighbors: float
    """Mean number within the cutoff."""
    runs: float
    """Mean number of runs that they form."""
    features: int
    """M, last width of the embedding."""
    axis: int
    """A."""
    fitting: Sequence[int]
    """Hidden widths."""

    @property
    def inputs(self) -> int:
        """Different entries of D: its first A × A block is symmetric, so half of it counts."""
        return self.features * self.axis - self.axis * (self.axis - 1) // 2


def run_flops(shape: Shape) -> float:
    """Of the size of the features: a multiply-add per run, power, column and feature, each way."""
    return 2 * 2.0 * shape.runs * POWERS * COLUMNS * shape.features


def pair_flops(shape: Shape) -> float:
    """Of each pair: S[k, c] += R̃[c] t^k forward (a multiplication and an addition each); backward
    4 polynomials with their slopes and the sum Σ_c R̃[c] slope[c]."""
    return shape.neighbors * (2.0 * POWERS * COLUMNS + COLUMNS * QUINTIC + 2.0 * COLUMNS)


def descriptor_flops(shape: Shape) -> float:
    """D[m, a] = Σ_c T[m, c] T[a, c] over its different entries; backward twice that."""
    return 3 * 2.0 * 4 * shape.inputs


def fitting_flops(shape: Shape) -> float:
    """Products of the fitting net, forward and backward to D (no weight gradients)."""
    widths = [shape.inputs, *shape.fitting, 1]
    return 2 * 2.0 * sum(i * o for i, o in pairwise(widths))


def flops(shape: Shape) -> dict[str, float]:
    """Flops per atom of each part, and their 'total'."""
    parts = {
        "runs": run_flops(shape),
        "pairs": pair_flops(shape),
        "descriptor": descriptor_flops(shape),
        "fitting": fitting_flops(shape),
    }
    return {**parts, "total": sum(parts.values())}


def traffic(shape: Shape, bytes_per_number: int) -> dict[str, float]:
    """Bytes per atom.

    'memory': what must cross the memory bus whatever the cache: list indices (int32) twice, the
    position read and the force written and read (float64), type and energy. 'cache': what the
    kernels read from and write to the caches: six table coefficients per run and feature, forward
    and backward; position and force of every neighbour; moments and their gradient. Weights of the
    fitting net are shared by a block of atoms and are not counted.
    """
    n, m = shape.neighbors, shape.features
    memory = 2 * 4 * n + 3 * 3 * 8 + 4 + 8
    table = 2 * POWERS * m * bytes_per_number * shape.runs
    pairs = n * (2 * 3 * 8 + 2 * 3 * 8)  # positions twice; forces read and written
    moments = 4 * 4 * m * bytes_per_number  # T and gT, each written and read
    return {"memory": memory, "cache": table + pairs + moments}


def seconds_at(needed_flops: float, gflops: float, threads: int) -> float:
    """Time of the flops at the rate of matrix products in each of `threads` threads."""
    return needed_flops / (gflops * 1e9 * threads)


def best_rate(rates: Mapping[int, float]) -> float:
    """Gflop/s of the best size."""
    return max(rates.values())
