"""What a term of the loss makes of an error: its square, its size, or Huber's function of it.

The formulas are those of DeePMD-kit 3.2 (`EnergyStdLoss`), N being the atoms of a frame:

    mse    ΔE² / N, ΔF², ΔΞ² / N; with intensive_ener_virial ΔE² / N², ΔΞ² / N²
    mae    |ΔE| / N, |ΔF|, |ΔΞ| / N
    huber  h(ΔE / N), h(ΔF), h(ΔΞ / N), h(x) = x² / 2 up to |x| = δ, δ (|x| − δ / 2) beyond

of each component, of forces with f_use_norm of the length of ΔF. relative_f: ΔF is divided by the
length of the label and relative_f (Å, eV) together first.
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
            config.relative_f,
            config.f_use_norm,
            config.intensive_ener_virial,
        )

    def of_frames(self, error: torch.Tensor, n_atoms: torch.Tensor, term: int) -> torch.Tensor:
        """Of energies (`term` 0) or virials (2); `n_atoms` has the dimensions of `error`."""
        if self.kind == "mse":
            return error**2 / (n_atoms**2 if self.intensive else n_atoms)
        return self._of(error / n_atoms, term)

    def of_forces(self, error: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """(n, 3), or (n, 1) of lengths, of (n, 3) errors and labels."""
        if self.relative_f is not None:
            size = torch.linalg.vector_norm(label, dim=1, keepdim=True)
            error = error / (size + self.relative_f)
        if self.kind == "mse":
            return error**2
        if self.of_length:
            error = torch.linalg.vector_norm(error, dim=1, keepdim=True)
        return self._of(error, 1)

    def _of(self, error: torch.Tensor, term: int) -> torch.Tensor:
        size, delta = error.abs(), self.deltas[term]
        if self.kind == "mae":
            return size
        return torch.where(size <= delta, 0.5 * error**2, delta * (size - 0.5 * delta))


SQUARES = Penalties()
"""What an input has that says nothing of it."""
