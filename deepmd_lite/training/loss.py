"""Predictions on a batch, and the loss: DeePMD-kit's `ener` loss with missing labels left out.

For a batch of frames f with N_f atoms, prefactors p and frame weights w (normally 1),

    L = p_e · mean_f w_f ΔE_f² / N_f + p_f · mean_{i,α} w_f ΔF_iα² + p_v · mean_{f,αβ} w_f ΔΞ² / N_f

each mean being over the frames (or the 3 components of all atoms of the frames) that carry the
label. For frames of one size this is DeePMD-kit's `EnergyStdLoss`, where energies and virials are
squared as totals and divided by N once: p_e · MSE(E)/N + p_f · MSE(F) + p_v · MSE(Ξ)/N. A term is
active where its prefactor is not zero at the step (DeePMD-kit drops it for good where either its
first or its last prefactor is 0). An input may want something else than squares: `penalties`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..data import Batch
from ..model import Potential
from .penalties import SQUARES, Penalties


@dataclass
class Prediction:
    """Energies, forces and virials of a batch; differentiable in the model's parameters."""

    energies: torch.Tensor
    """(n_frames,) float64, eV."""
    forces: torch.Tensor | None
    """(n_local, 3) float64, eV/Å."""
    virials: torch.Tensor | None
    """(n_frames, 3, 3) float64, eV, +Σ r ⊗ f: positive under compression."""


@dataclass(frozen=True)
class Errors:
    """Mean squared errors of one or more batches, in the order energy, force, virial."""

    terms: tuple[float, ...]
    """Means of the loss without prefactors, of squares eV², (eV/Å)², eV²; nan without a label."""
    squares: tuple[float, ...]
    """Mean squares of errors per atom (energy, virial: eV/atom) and of force components (eV/Å)."""
    counts: tuple[int, ...]
    """Frames, atoms and frames that the means are over."""
    prefactors: tuple[float, float, float]

    def loss(self, prefactors: tuple[float, float, float] | None = None) -> float:
        """L with other prefactors than those it was made with; nan where no term is left, or one
        is no number though frames have its label."""
        parts = zip(prefactors or self.prefactors, self.terms, self.counts, strict=True)
        present = [p * term for p, term, n in parts if p > 0 and n]
        return sum(present) if present else math.nan

    @property
    def energy(self) -> float:
        """RMSE, eV/atom."""
        return math.sqrt(self.squares[0])

    @property
    def force(self) -> float:
        """RMSE over components, eV/Å."""
        return math.sqrt(self.squares[1])

    @property
    def virial(self) -> float:
        """RMSE over components, eV/atom."""
        return math.sqrt(self.squares[2])

    def as_dict(self) -> dict[str, float]:
        """√L and the three root-mean-square errors under DeePMD-kit's names."""
        return {
            "rmse": math.sqrt(self.loss()),
            "rmse_e": self.energy,
            "rmse_f": self.force,
            "rmse_v": self.virial,
        }

    def sums(self) -> list[float]:
        """Sums that the means are made of, to be added up over parts of a batch or data set.

        Nine numbers: of `terms`, of `squares`, and `counts`; 0 where a label is missing.
        """
        means = (zip(values, self.counts, strict=True) for values in (self.terms, self.squares))
        return [m * n if n else 0.0 for pairs in means for m, n in pairs] + [
            *map(float, self.counts)
        ]

    @classmethod
    def from_sums(cls, sums: Sequence[float], prefactors: tuple[float, float, float]) -> Errors:
        """Errors of all the parts whose `sums` were added up."""
        counts = tuple(round(n) for n in sums[6:9])
        terms, squares = (
            tuple(s / n if n else math.nan for s, n in zip(part, counts, strict=True))
            for part in (sums[0:3], sums[3:6])
        )
        return cls(terms, squares, counts, prefactors)

    @classmethod
    def merged(cls, parts: Sequence[Errors]) -> Errors:
        """Errors of all batches together."""
        sums = [sum(values) for values in zip(*(p.sums() for p in parts), strict=True)]
        return cls.from_sums(sums, parts[0].prefactors)

    @classmethod
    def of_nothing(cls, prefactors: tuple[float, float, float]) -> Errors:
        """Errors of an empty part of a batch."""
        return cls.from_sums([0.0] * 9, prefactors)


def predict(
    potential: Potential, batch: Batch, *, forces: bool, virials: bool, training: bool
) -> Prediction:
    """Evaluate `batch`; with `training`, differentiable in the parameters."""
    with torch.set_grad_enabled(training):
        parameters = batch.fparam, batch.frame_of_atom
        atomic, all_forces = potential.energies_and_forces(batch.env, *parameters)
        return Prediction(
            _frame_sums(atomic, batch),
            batch.fold(all_forces) if forces else None,
            batch.frame_virials(batch.env.positions, all_forces) if virials else None,
        )


def _frame_sums(atomic: torch.Tensor, batch: Batch) -> torch.Tensor:
    """(n_frames,) from (n_local,)."""
    sums = torch.zeros(len(batch.n_atoms), dtype=atomic.dtype)
    return sums.index_add(0, batch.frame_of_atom, atomic)


def loss_of(
    prediction: Prediction,
    batch: Batch,
    prefactors: tuple[float, float, float],
    totals: tuple[int, int, int] | None = None,
    penalties: Penalties = SQUARES,
) -> tuple[torch.Tensor, Errors]:
    """The loss (a scalar) of a prediction, and its errors.

    `prefactors` of energy, force and virial. A term whose label no frame of the batch carries, or
    whose prediction is None, is left out. `totals`: where `batch` is a part of a larger one, the
    frames with energies, atoms with forces and frames with virials of the whole (`label_counts`),
    so that the losses of the parts add up to that of the whole.
    """
    n_atoms, weights = batch.n_atoms.to(torch.float64), batch.weights
    weighted: list[torch.Tensor | None] = [None, None, None]
    squares: list[torch.Tensor | None] = [None, None, None]
    own = _present(batch.has_energy)
    if own is not None:
        error, size = (prediction.energies - batch.energy)[own], n_atoms[own]
        weighted[0] = weights[own] * penalties.of_frames(error, size, 0)
        squares[0] = error.detach() ** 2 / size**2
    own = _present(batch.has_forces, batch.frame_of_atom)
    if prediction.forces is not None and own is not None:
        error = (prediction.forces - batch.forces)[own]
        penalty = penalties.of_forces(error, batch.forces[own])
        weighted[1] = weights[batch.frame_of_atom[own]][:, None] * penalty
        squares[1] = error.detach() ** 2
    own = _present(batch.has_virial)
    if prediction.virials is not None and own is not None:
        error, size = (prediction.virials - batch.virial)[own], n_atoms[own][:, None, None]
        weighted[2] = weights[own][:, None, None] * penalties.of_frames(error, size, 2)
        squares[2] = error.detach() ** 2 / size**2

    loss = prediction.energies.sum() * 0.0  # a graph to every parameter whatever is masked
    terms = [None if w is None else w.mean() for w in weighted]
    counts = tuple(0 if s is None else len(s) for s in squares)
    for prefactor, term, own_n, n in zip(prefactors, terms, counts, totals or counts, strict=True):
        if term is not None:
            loss = loss + prefactor * (term if own_n == n else term * (own_n / n))
    return loss, Errors(
        tuple(math.nan if t is None else t.item() for t in terms),
        tuple(math.nan if s is None else s.mean().item() for s in squares),
        counts,
        prefactors,
    )


def _present(
    mask: torch.Tensor, frame_of_atom: torch.Tensor | None = None
) -> torch.Tensor | slice | None:
    """Index of the labelled frames (or of their atoms): everything, a mask, or None of them."""
    if bool(mask.all()):
        return slice(None)
    if not bool(mask.any()):
        return None
    return mask if frame_of_atom is None else mask[frame_of_atom]
