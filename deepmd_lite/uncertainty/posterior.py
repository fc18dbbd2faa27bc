"""Which other last layers would fit the data about as well: a normal distribution around the own.

With the hidden layers fixed, energies and forces are linear in the last layer, and of a linear
least-squares problem the precision of the parameters is known in closed form,

    C = Σ_frames ( e eᵀ / σ_e² + Σ f fᵀ / σ_f² + Σ w wᵀ / σ_w² ) + prior,

with rows e of the energy, f of the forces and w of the virial (means over directions, `rows`),
energy and virial per atom, and residuals σ of the model. Members of a committee are drawn from
N(0, C⁻¹) around the model's last layer. This is the last-layer approximation of Bigi, Chong,
Ceriotti & Grasselli, Mach. Learn.: Sci. Technol. 5, 045018 (2024), with forces and virials among
the data; the spread of a shared-weight committee carried on to forces is that of Kellner &
Ceriotti, Mach. Learn.: Sci. Technol. 5, 035006 (2024).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..data import PreparedFrame
from ..model import Potential
from ..model.members import Members
from .rows import COMPONENTS, FrameRows, n_parameters

PRIOR = 1e-5
"""Precision of a parameter before any data, over that from the data: for what data leave open."""
SMALLEST_SCALE = 1e-4
"""Of a parameter's scale, over the root mean square of all: features that the data hardly excite
are open, but not without bounds."""


@dataclass
class Known:
    """What one kind of label says, summed over frames."""

    squares: np.ndarray
    """(P, P) float64: Σ of row rowᵀ."""
    error: float = 0.0
    """Σ of squared residuals."""
    n: int = 0
    """Numbers in these."""

    def add(self, rows: np.ndarray, residuals: np.ndarray) -> None:
        """`rows` (any, P) and residuals of any shape."""
        self.squares += rows.T @ rows
        self.error += float((residuals**2).sum())
        self.n += residuals.size

    def precision(self) -> np.ndarray:
        """(P, P): of the parameters, from these alone."""
        return self.squares / max(self.error / max(self.n, 1), np.finfo(float).tiny)


class Information:
    """What the data say about the P parameters of `rows`."""

    def __init__(self, potential: Potential) -> None:
        """Before the first frame."""
        n = n_parameters(potential)
        self.energies, self.forces, self.virials = (Known(np.zeros((n, n))) for _ in range(3))
        self.sums = np.zeros(n)
        """Sums of the rows of all frames' energies."""

    def add(self, potential: Potential, prepared: PreparedFrame, rows: FrameRows) -> None:
        """A frame with those of its labels that it has."""
        frame, n = prepared.frame, prepared.n_atoms
        found = potential.evaluate(prepared.env)
        self.sums += rows.energy.double().numpy()
        if frame.energy is not None:
            residual = (float(found.energies.sum()) - frame.energy) / n
            self.energies.add(rows.energy.double().numpy()[None] / n, np.array(residual))
        if frame.forces is not None:
            own = prepared.periodic.fold(found.forces).numpy()
            f = rows.forces.double().numpy() / np.sqrt(len(rows.forces))
            self.forces.add(f, own - frame.forces)
        if frame.virial is not None:
            w = rows.virial.double().numpy() / (n * np.sqrt(len(rows.virial)))
            residuals = (found.virial.numpy() - frame.virial) / n
            self.virials.add(w, np.array([residuals[a, b] for a, b in COMPONENTS]))

    def precision(self) -> np.ndarray:
        """(P, P): C without the prior."""
        return self.energies.precision() + self.forces.precision() + self.virials.precision()


def draw(potential: Potential, information: Information, n_members: int, seed: int) -> Members:
    """Members around `potential`, of mean zero over them.

    Without energies among the data nothing holds the members' together: their biases are then such
    that each says the same of the mean atom of each element.
    """
    precision = information.precision()
    scales = np.sqrt(np.diag(precision))
    scales = np.maximum(scales, SMALLEST_SCALE * np.sqrt(np.mean(scales**2)))
    values, vectors = np.linalg.eigh(precision / np.outer(scales, scales))
    root = vectors / np.sqrt(np.maximum(values, 0.0) + PRIOR) / scales[:, None]
    normal = np.random.default_rng(seed).standard_normal((n_members, len(root)))
    drawn = (normal - normal.mean(axis=0)) @ root.T
    each = torch.from_numpy(drawn.reshape(n_members, len(potential.type_map), -1))
    weights, biases = each[:, :, :-1].contiguous(), each[:, :, -1].contiguous()
    if not information.energies.n:
        sums = torch.from_numpy(information.sums.reshape(len(potential.type_map), -1))
        biases = -(weights * (sums[:, :-1] / sums[:, -1:])).sum(dim=2)
    return Members(weights, biases)
