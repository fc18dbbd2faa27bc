"""A short-range table of random cubics, a dense gas for it, and what stands in for networks."""

import torch

from deepmd_lite import kernels
from deepmd_lite.system import Evaluation, LocalEnv

RCUT = 4.0
GENERATOR = torch.Generator().manual_seed(7)
CUBICS = torch.rand(3, 3, 12, 4, generator=GENERATOR, dtype=torch.float64) - 0.3
TABLE = kernels.ShortRange(
    rcut=RCUT,
    smin_alpha=0.2,
    sw_rmin=0.9,
    sw_rmax=1.8,
    start=0.01,
    spacing=0.25,
    coefficients=CUBICS + CUBICS.transpose(0, 1),
    bias=torch.tensor([-1.0, 2.0, 0.5]).double(),
)


def environment(n_all=900, n_local=600, seed=4) -> LocalEnv:
    """A gas so dense that many pairs are close; the last rows are ghosts, lists have a skin."""
    generator = torch.Generator().manual_seed(seed)
    edge = (n_all * 4.0) ** (1 / 3)
    positions = edge * torch.rand(n_all, 3, generator=generator, dtype=torch.float64)
    types = torch.randint(3, (n_all,), generator=generator, dtype=torch.int32)
    offsets, indices = kernels.neighbor_list(positions, types, n_local, RCUT + 0.5)
    return LocalEnv(positions, types, n_local, offsets, indices)


def networks(env: LocalEnv) -> Evaluation:
    """What stands in for them: constant energies, which have no forces."""
    energies = torch.linspace(-3.0, 4.0, env.n_local, dtype=torch.float64)
    return Evaluation(
        energies, torch.zeros_like(env.positions), torch.zeros(3, 3, dtype=torch.float64)
    )
