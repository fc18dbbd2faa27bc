"""Time of the compiled kernels per edge, and of the neighbour list per atom, on this machine.

    python benchmarks/kernels.py [--threads N] [--atoms N] [--instruction-set NAME]

Systems: 'liquid' has the density of water, two types and 100 features (padded to 112); 'crystal'
that of silicon, one type and 64 features; rcut 6 Å, thermally displaced lattices with periodic
images, tables of 96 intervals. Each figure is the fastest of many single calls, through Python;
with one thread in processor time (other programs disturb it less), otherwise in wall time.
Columns: forward (moments); forces (gradient of the positions); table (gradient of the
coefficients, energy loss); second (second derivative without that of the positions, force loss).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from deepmd_lite import kernels
from deepmd_lite.neighbors import periodic_env
from deepmd_lite.system import LocalEnv

RCUT, RCUT_SMTH, INTERVALS = 6.0, 0.5, 96
SYSTEMS = {"liquid": (0.094, 2, 112), "crystal": (0.050, 1, 64)}  # atoms/Å³, types, features


def best_time(call: Callable[[], object], seconds: float = 1.0) -> float:
    """Seconds of the fastest call in about `seconds`."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    best, end = float("inf"), time.perf_counter() + seconds
    while best == float("inf") or time.perf_counter() < end:
        start = clock()
        call()
        best = min(best, clock() - start)
    return best


def make_env(n_atoms: int, density: float, n_types: int) -> LocalEnv:
    """A displaced simple cubic lattice of about `n_atoms` atoms at `density` (atoms/Å³)."""
    side = round(n_atoms ** (1 / 3))
    spacing = density ** (-1 / 3)
    rng = np.random.default_rng(0)
    places = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 3)
    positions = (places + rng.uniform(-0.2, 0.2, places.shape)) * spacing
    types = rng.integers(0, n_types, len(positions))
    return periodic_env(positions, np.eye(3) * side * spacing, np.ones(3, bool), types, RCUT).env


def make_environment(env: LocalEnv, n_types: int) -> kernels.Environment:
    """Statistics and a table that fit the system, as training would make them."""
    centre = torch.repeat_interleave(torch.arange(env.n_local), env.offsets.diff())
    vectors = env.positions[env.indices.long()] - env.positions[centre]
    rows = kernels.reference.environment_rows(vectors, RCUT_SMTH, RCUT)
    mean, width = rows[:, 0].mean(), rows[:, 0].std()
    s = (rows[:, 0] - mean) / width
    davg, dstd = torch.zeros(n_types, 4), torch.full((n_types, 4), float(rows[:, 1:].std()))
    davg[:, 0], dstd[:, 0] = mean, width
    start, spacing = float(s.min()), float(s.max() - s.min()) / INTERVALS
    return kernels.Environment(RCUT, RCUT_SMTH, davg.double(), dstd.double(), True, start, spacing)


def measure(env: LocalEnv, n_types: int, n_features: int, dtype: torch.dtype) -> list[float]:
    """ns per edge: forward, forces, table, second."""
    generator = torch.Generator().manual_seed(0)
    environment = make_environment(env, n_types)
    coefficients = torch.randn(n_types, INTERVALS + 1, 6, n_features, generator=generator)
    coefficients = coefficients.to(dtype)
    grad = torch.randn(env.n_local, 4, n_features, generator=generator).to(dtype)
    tangent = torch.randn(env.n_all, 3, generator=generator).double()

    def forward(of_positions: bool, of_table: bool) -> tuple[torch.Tensor, ...]:
        positions = env.positions.clone().requires_grad_(of_positions)
        table = coefficients.clone().requires_grad_(of_table)
        moments, _, _ = kernels.moments(
            positions, env.types, env.offsets, env.indices, table, environment
        )
        return positions, table, moments

    positions, _, of_positions = forward(True, False)
    _, table, of_table = forward(False, True)
    leaf = grad.clone().requires_grad_()
    both_table = coefficients.clone().requires_grad_()
    forces = kernels.moments_gradient(
        leaf, env.positions, env.types, env.offsets, env.indices, both_table, environment
    )

    def second() -> object:
        return torch.autograd.grad(forces, [leaf, both_table], tangent, retain_graph=True)

    calls: list[Callable[[], object]] = [
        lambda: kernels.moments(
            env.positions, env.types, env.offsets, env.indices, coefficients, environment
        ),
        lambda: torch.autograd.grad(of_positions, positions, grad, retain_graph=True),
        lambda: torch.autograd.grad(of_table, table, grad, retain_graph=True),
        second,
    ]
    return [best_time(call) / env.n_edges * 1e9 for call in calls]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--atoms", type=int, default=1000)
    parser.add_argument("--instruction-set", choices=kernels.instruction_sets())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.instruction_set:
        kernels.set_instruction_set(arguments.instruction_set)
    print(f"{kernels.instruction_set()}, {arguments.threads} thread(s)")
    print(f"{'system':8} {'atoms':>7} {'neighbours':>10} {'list':>8}   precision", end="")
    print("".join(f"{name:>9}" for name in ("forward", "forces", "table", "second")))
    print(f"{'':8} {'':7} {'per atom':>10} {'µs/atom':>8}   {'':9}" + f"{'ns/edge':>9}" * 4)
    for name, (density, n_types, n_features) in SYSTEMS.items():
        env = make_env(arguments.atoms, density, n_types)
        seconds = best_time(
            lambda env=env: kernels.neighbor_list(env.positions, env.types, env.n_local, RCUT)
        )
        for dtype in (torch.float64, torch.float32):
            times = measure(env, n_types, n_features, dtype)
            print(
                f"{name:8} {env.n_local:7d} {env.n_edges / env.n_local:10.1f} "
                f"{seconds / env.n_local * 1e6:8.2f}   {str(dtype)[6:]:9}"
                + "".join(f"{t:9.1f}" for t in times),
                flush=True,
            )


if __name__ == "__main__":
    main()
