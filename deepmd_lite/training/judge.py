"""Whether a training has made what it is for, by the frames that it was not trained on."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..at_frames import AtFrames
from ..data import Batch, collate
from .loss import predict
from .trainer import Trainer

log = logging.getLogger(__name__)

NOT_LEARNT = 0.9
"""Error of the forces, in units of the forces, that is told of."""
NOTHING = 0.02
"""Of the RMS of all forces: those of an element that are smaller leave nothing to be learnt."""
MUCH_WORSE = 1.3
"""Validation loss of the last weights, in units of the lowest one, that is told of."""
BY_HEART = 0.6
"""Error of the forces on training frames, in units of that on validation frames, below which more
steps are of no use."""
MOST_FRAMES = 200
"""Of those that were trained on, to tell that."""


@dataclass(frozen=True)
class ForcesOn:
    """The forces on the atoms of one element."""

    element: str
    atoms: int
    error: float
    """eV/Å, RMS over components."""
    size: float
    """eV/Å, RMS, of the labels."""

    @property
    def learnt(self) -> bool:
        """Whether the model says more of them than that they are 0."""
        return self.error <= NOT_LEARNT * self.size


def judge(trainer: Trainer, model: Path, best_model: Path) -> None:
    """Tell the errors by element, and warn of a model that is not what a training is for.

    On the first rank, after a validation.
    """
    best, last = trainer.best, trainer.last_errors
    if best is None or last is None:
        return
    loss_config = trainer.config.loss
    loss = last.loss(loss_config.fixed_weights)
    if loss > MUCH_WORSE * best["loss"]:
        log.warning(
            "%s is worse than it was on the way: its validation loss is %.4g; %s is the better "
            "model%s",
            *(model, loss, best_model),
            "" if best["step"] > 1 else ", which the training did not improve",
        )
    if loss_config.start_pref_f + loss_config.limit_pref_f == 0:
        return
    if trainer.interrupted:  # whoever sent the signal waits
        return
    each = list(forces_by_element(trainer, trainer.data.validation))
    if len(each) > 1:
        told = ", ".join(f"{f.element} {1e3 * f.error:.0f}" for f in each)
        log.info("force RMSE by element (validation, meV/Å): %s", told)
    if not trainer.complete or not each:
        return
    error, size = _overall(each)
    if error > NOT_LEARNT * size > 0:
        log.warning(
            "the model has not learnt the forces: they are off by %.0f meV/Å, and they are %.0f "
            "meV/Å themselves (RMS, validation); the usual reasons are too few steps, a "
            "learning_rate/start_lr that is too high (here %g; 0.01 is usual with SOAP, 0.001 with "
            "Adam), or labels that belong to other structures (dpl check)",
            *(1e3 * error, 1e3 * size, trainer.config.learning_rate.start_lr),
        )
        return
    by_heart = _tell_by_heart(trainer, error)
    for f in each:
        if not f.learnt and f.size > NOTHING * size:
            log.warning(
                "the model has not learnt the forces on %s: they are off by %.0f meV/Å, and they "
                "are %.0f meV/Å themselves (RMS, %d atoms of the validation frames): %smore data "
                "with %s",
                *(f.element, 1e3 * f.error, 1e3 * f.size, f.atoms),
                *("" if by_heart else "more steps, or ", f.element),
            )


def _tell_by_heart(trainer: Trainer, validation: float) -> bool:
    """Whether forces of training frames are so much better that the frames, not the steps, are too
    few; `validation` eV/Å. Of as many frames as are validated on, at most, evenly spread."""
    frames = trainer.data.frames
    n = min(sum(batch.n_frames for batch in trainer.data.validation), MOST_FRAMES, len(frames))
    places = np.linspace(0, len(frames) - 1, n).round().astype(int)
    each = list(forces_by_element(trainer, (collate([frames[k]]) for k in places)))
    error = _overall(each)[0] if each else math.inf
    if error < BY_HEART * validation:
        log.info(
            "forces of frames that were trained on are off by %.0f meV/Å, those of validation "
            "frames by %.0f: more frames, of all kinds that matter, will lower that, more steps "
            "may raise it",
            *(1e3 * error, 1e3 * validation),
        )
    return error < BY_HEART * validation


@torch.no_grad()
def tell_isolated_atoms(trainer: Trainer) -> None:
    """How far the energies of isolated atoms among the training frames are from their labels.

    They are fitted as any other frame; atomization energies are off by their errors.
    """
    alone: dict[str, list[float]] = {}
    with trainer.averaged():
        at = AtFrames(trainer.potential)
        for prepared in trainer.data.frames:
            frame = prepared.frame
            if frame.n_atoms == 1 and frame.energy is not None and not prepared.n_edges:
                there = at(frame.fparam, f"{frame.source}: fparam")
                energy = float(there.evaluate(prepared.env).energies.sum())
                alone.setdefault(frame.symbols[0], []).append(energy - frame.energy)
    if alone:
        told = ", ".join(f"{e} {1e3 * max(off, key=abs):+.1f}" for e, off in sorted(alone.items()))
        log.info("energies of isolated atoms, model − label (training, meV): %s", told)


def _overall(each: Sequence[ForcesOn]) -> tuple[float, float]:
    """Error and size of the forces on all atoms, eV/Å, RMS."""
    atoms = sum(f.atoms for f in each)
    return (
        math.sqrt(sum(f.atoms * f.error**2 for f in each) / atoms),
        math.sqrt(sum(f.atoms * f.size**2 for f in each) / atoms),
    )


def forces_by_element(trainer: Trainer, batches: Iterable[Batch]) -> Iterator[ForcesOn]:
    """Of each element with labelled forces in `batches`, in the type map's order."""
    type_map = trainer.potential.type_map
    sums = torch.zeros(len(type_map), 3, dtype=torch.float64)
    with trainer.averaged():
        for batch in batches:
            found = predict(trainer.potential, batch, forces=True, virials=False, training=False)
            assert found.forces is not None
            labelled = batch.has_forces[batch.frame_of_atom]
            off, labels = (found.forces - batch.forces)[labelled], batch.forces[labelled]
            each = torch.stack([off.new_ones(len(off)), *_mean_squares(off, labels)], dim=1)
            types = batch.env.types[: batch.env.n_local].long()[labelled]
            sums.index_add_(0, types, each.double())
    for element, (atoms, errors, squares) in zip(type_map, sums.tolist(), strict=True):
        if atoms:
            yield ForcesOn(
                element, round(atoms), math.sqrt(errors / atoms), math.sqrt(squares / atoms)
            )


def _mean_squares(*vectors: torch.Tensor) -> list[torch.Tensor]:
    """(n,) over the components of (n, 3)."""
    return [v.square().mean(dim=1) for v in vectors]
