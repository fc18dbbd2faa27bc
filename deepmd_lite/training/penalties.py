"""What a term of the loss makes of an error: its square, its size, or Huber's function of it.

The formulas are those of DeePMD-kit 3.2 (`EnergyStdLoss`), N being the atoms of a frame:

    mse    ΔE² / N, ΔF², ΔΞ² / N; with intensive_ener_virial ΔE² / N², ΔΞ² / N²
    mae    |ΔE| / N, |ΔF|, |ΔΞ| / N
    huber  h(ΔE / N), h(ΔF), h(ΔΞ / N), h(x) = x² / 2 up to |x| = δ, δ (|x| − δ / 2) beyond

of each component, of forces with f_use_norm of the length of ΔF. relative_f: ΔF is divided by the
length of the label and relative_f (Å, eV) together first.

Ours is linear_beyond: squares x² of ΔE / N, ΔF, ΔΞ / N go on as the straight line 2 δ |x| − δ² from
|x| = δ on, and what is divided by N above is their mse times N. So a few labels that no model
meets do not outweigh all others, which are trained on as with squares.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .loss_config import LossConfig


@dataclass(frozen=True)
class Penalties:
    """Those of the three terms."""

    kind: str = "mse"
    """mse, mae or huber."""
    deltas: tuple[float, float, float] = (0.01, 0.01, 0.01)
    """δ of energy (eV/atom), force (eV/Å) and virial (eV/atom)."""
    linear_beyond: tuple[float, float, float] | None = None
    """The same, from which on squares are straight lines."""
    relative_f: float | None = None
    """eV/Å."""
    of_length: bool = False
    intensive: bool = False

    @classmethod
    def from_config(cls, config: LossConfig) -> Penalties:
        """As the input says."""
        return cls(
            "huber" if config.use_huber else config.loss_func,
            config.deltas,
            config.linear_beyond,
            config.relative_f,
            config.f_use_norm,
            config.intensive_ener_virial,
        )

    def of_frames(self, error: torch.Tensor, n_atoms: torch.Tensor, term: int) -> torch.Tensor:
        """Of energies (`term` 0) or virials (2); `n_atoms` has the dimensions of `error`."""
        if self.kind == "mse":
            if self.linear_beyond is None:
                return error**2 / (n_atoms**2 if self.intensive else n_atoms)
            square = self._square(error / n_atoms, term)
            return square if self.intensive else n_atoms * square
        return self._of(error / n_atoms, term)

    def of_forces(self, error: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """(n, 3), or (n, 1) of lengths, of (n, 3) errors and labels."""
        if self.relative_f is not None:
            size = torch.linalg.vector_norm(label, dim=1, keepdim=True)
            error = error / (size + self.relative_f)
        if self.kind == "mse":
            return self._square(error, 1)
        if self.of_length:
            error = torch.linalg.vector_norm(error, dim=1, keepdim=True)
        return self._of(error, 1)

    def _square(self, error: torch.Tensor, term: int) -> torch.Tensor:
        if self.linear_beyond is None:
            return error**2
        size, delta = error.abs(), self.linear_beyond[term]
        return torch.where(size <= delta, error**2, delta * (2.0 * size - delta))

    def _of(self, error: torch.Tensor, term: int) -> torch.Tensor:
        size, delta = error.abs(), self.deltas[term]
        if self.kind == "mae":
            return size
        return torch.where(size <= delta, 0.5 * error**2, delta * (size - 0.5 * delta))


SQUARES = Penalties()
"""What an input has that says nothing of it."""
