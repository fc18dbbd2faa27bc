"""A pair potential with the interface of a model: tests of MD need physics, not a network."""

import torch

from deepmd_lite.system import Evaluation, LocalEnv


class PairPotential:
    """Morse potential with a smooth cutoff, for Cu and Ag with different well depths.

    V(r) = D_ab w(r) [(1 − exp(−a (r − r0)))² − 1] with the quintic switch w, which falls from 1
    at 0.6 rcut to 0 at rcut. Each atom of a pair has half its energy; only edges of local atoms
    are seen, and each puts forces on both its ends, as a many-body model does.
    """

    type_map = ["Cu", "Ag"]
    precision = "float64"

    def __init__(self, rcut: float = 5.0, r0: float = 2.6, alpha: float = 1.4) -> None:
        self.rcut, self.r0, self.alpha = rcut, r0, alpha
        self.depth = torch.tensor([[0.34, 0.30], [0.30, 0.27]], dtype=torch.float64)

    def evaluate(self, env: LocalEnv) -> Evaluation:
        return self._evaluated(env)[0]

    def atomic_virials(self, env: LocalEnv) -> torch.Tensor:
        """As of `deepmd_lite.model.Potential`: vector ⊗ force of each edge, to the neighbour."""
        return self._evaluated(env)[1]

    def _evaluated(self, env: LocalEnv) -> tuple[Evaluation, torch.Tensor]:
        centre = torch.repeat_interleave(torch.arange(env.n_local), env.offsets.diff())
        neighbor = env.indices.long()
        vector = env.positions[neighbor] - env.positions[centre]
        r = vector.norm(dim=1)
        inside = r < self.rcut
        centre, neighbor, vector, r = centre[inside], neighbor[inside], vector[inside], r[inside]

        start = 0.6 * self.rcut
        u = ((r - start) / (self.rcut - start)).clamp(min=0.0)
        w = 1.0 - u**3 * (10.0 - 15.0 * u + 6.0 * u**2)
        dw = -30.0 * u**2 * (1.0 - u) ** 2 / (self.rcut - start)
        decay = torch.exp(-self.alpha * (r - self.r0))
        depth = self.depth[env.types[centre].long(), env.types[neighbor].long()]
        well = (1.0 - decay) ** 2 - 1.0
        dwell = 2.0 * self.alpha * decay * (1.0 - decay)

        energies = torch.zeros(env.n_local, dtype=torch.float64)
        energies.index_add_(0, centre, 0.5 * depth * w * well)
        slope = 0.5 * depth * (dw * well + w * dwell)
        pull = (slope / r)[:, None] * vector
        forces = torch.zeros_like(env.positions)
        forces.index_add_(0, centre, pull)
        forces.index_add_(0, neighbor, -pull)
        virials = torch.zeros(env.n_all, 3, 3, dtype=torch.float64)
        virials.index_add_(0, neighbor, vector[:, :, None] * -pull[:, None, :])
        return Evaluation(energies, forces, env.positions.T @ forces), virials
