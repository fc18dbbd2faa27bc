"""What a training starts from: prepared data and a potential."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..at_frames import AtFrames
from ..data import (
    Batch,
    BatchSampler,
    PreparedFrame,
    System,
    environments,
)
from ..data.frames import ANOTHER_ZERO
from ..model import Potential, Repulsion, Statistics, load_model, statistics_from
from ..model.known_pairs import KnownPairs
from ..model.pair_table import read_pair_table
from ..model.reference_frames import smallest
from ..model.repulsion import DATA_REACH
from ..model.short_range import ShortRange
from ..model.statistics import Scales, smallest_distances
from ..model.structures import Structure
from ..model.table import Grid
from ..model.typed import learned_by, plain_config, potential_for_training
from ..progress import Watch, progress
from ..system import InputError, LocalEnv
from .adopt import check_architecture
from .beginning import begin
from .bias import bias_shift
from .checkpoint import Checkpoint
from .config import TrainInput
from .differences import differences
from .frame_parameters import stacked
from .loading import loaded_frames
from .pace import set_paces
from .precheck import (
    refuse_nothing_to_learn,
    refuse_nothing_to_validate,
    tell_what_is_unknown,
    warn_of_leakage,
)
from .presets import PRESETS
from .samples import table_sample, validation_sample
from .systems import read_systems

log = logging.getLogger(__name__)

TELLING_FORCE = 0.01
"""eV/Å on some atom of a frame by which a model is known again."""


@dataclass
class TrainingData:
    """Everything that a training reads from its data."""

    frames: list[PreparedFrame]
    validation: list[Batch]
    """The fixed validation sample; empty without a validation set."""
    table_sample: LocalEnv
    """Training frames on which the table's error is measured."""
    hash: str
    """`data_hash` of `frames`."""
    summary: str
    virials_trained: bool
    reference_frames: tuple[Structure, ...]
    """What the model files will remember."""
    shares: np.ndarray | None = None
    """(n_frames,) probabilities that a frame is drawn; None: each once in an epoch."""


def load_data(
    settings: TrainInput,
    quiet: bool,
    new_elements: bool = False,
    watch: Watch | None = None,
    read: list[System] | None = None,
) -> TrainingData:
    """Read and check the data sets of an input, and build every neighbour list once.

    `new_elements`: networks begin here, so that `settings` lose the elements without data.
    `watch` is asked on the way; `read`: the training data, where they were read.
    """
    training, loss = settings.training, settings.loss
    systems, held = read_systems(settings, quiet, watch, read)
    telling = quiet, watch
    frames, shares = loaded_frames(
        *(systems, training.training_data, settings, "training", new_elements), *telling
    )
    refuse_nothing_to_learn(frames, settings.model.rcut)
    if training.num_epoch is not None:
        n_batches = batch_sampler(settings, frames, shares).batches_in_epoch()
        training.numb_steps = math.ceil(training.num_epoch * n_batches)
        log.info(
            "%g epochs of %d batches: %s steps", training.num_epoch, n_batches, training.numb_steps
        )
    has_virials = any(f.frame.virial is not None for f in frames)
    labels = zip("efv", ("energy", "forces", "virial"), loss.starts, loss.limits, strict=True)
    own = PRESETS[settings.preset]["loss"] if settings.preset else {}
    of_preset = own.get("start_pref_v"), own.get("limit_pref_v")
    for letter, label, start, limit in labels:
        if letter == "v" and (start, limit) == of_preset:
            continue  # nobody has asked for them
        if start + limit > 0 and all(getattr(f.frame, label) is None for f in frames):
            log.warning(
                "note: loss/start_pref_%s and limit_pref_%s have no effect: no training frame has "
                "a label '%s'",
                letter,
                letter,
                label,
            )
    if has_virials and not loss.trains_virials:
        log.warning(
            "note: the virials in the training data are not trained, because loss/start_pref_v "
            "and limit_pref_v are 0: pressures of the model will be unreliable"
        )
    validation: list[Batch] = []
    if held is not None:
        prepared, _ = loaded_frames(
            *(held, training.validation_data, settings, "validation", False), *telling
        )
        if training.check:
            warn_of_leakage([f.frame for f in frames], [f.frame for f in prepared])
        validation = validation_sample(prepared, frames, settings)
        refuse_nothing_to_validate(validation, settings)
    return TrainingData(
        frames,
        validation,
        table_sample(frames),
        data_hash(frames),
        _summary(frames),
        loss.trains_virials and has_virials,
        _reference_frames(frames),
        shares,
    )


def batch_sampler(
    settings: TrainInput, frames: Sequence[PreparedFrame], shares: np.ndarray | None
) -> BatchSampler:
    """The batches of a training from its first step on."""
    training = settings.training
    sizes = [f.n_atoms for f in frames]
    return BatchSampler(sizes, training.training_data.batch_size, training.seed, shares)


def _reference_frames(frames: Sequence[PreparedFrame]) -> tuple[Structure, ...]:
    # forces that a symmetry makes zero are so in any model
    forces = [(p, p.frame.forces) for p in frames]
    telling = [p for p, f in forces if f is None or np.abs(f).max() > TELLING_FORCE]
    return smallest(
        [
            Structure(
                *(Path(f.source).name, f.positions, f.cell, f.pbc),
                types=p.types,
            )
            for p in telling or frames
            for f in (p.frame,)
        ]
    )


def data_hash(frames: Iterable[PreparedFrame]) -> str:
    """SHA-256 of structures, frame parameters, labels and weights, in order."""
    digest = hashlib.sha256()
    for frame in (f.frame for f in frames):
        digest.update(" ".join(frame.symbols).encode())
        for value in (
            frame.positions,
            frame.cell,
            frame.pbc,
            frame.energy,
            frame.forces,
            frame.virial,
            frame.weight,
        ):
            absent = value is None
            digest.update(b"none" if absent else np.ascontiguousarray(value, dtype="<f8").tobytes())
        if frame.fparam is not None:
            digest.update(b"fparam" + np.ascontiguousarray(frame.fparam, dtype="<f8").tobytes())
    return digest.hexdigest()


def _summary(frames: list[PreparedFrame]) -> str:
    labels = {
        name: sum(getattr(f.frame, name) is not None for f in frames)
        for name in ("energy", "forces", "virial")
    }
    counts = ", ".join(f"{name} {n}" for name, n in labels.items())
    return f"{len(frames)} frames, {sum(f.n_atoms for f in frames)} atoms; {counts}"


# --- potentials -------------------------------------------------------------------------------


def initial_potential(
    settings: TrainInput,
    data: TrainingData,
    init_model: str | Path | None,
    finetune: bool = False,
    quiet: bool = True,
    watch: Watch | None = None,
) -> Potential:
    """Random weights on the statistics of the data, or those of a model file.

    `finetune`: the model's energy bias is fitted to the data first; `watch` is asked on the way.
    Raises InputError where the model file has another architecture than the input.
    """
    if (told := differences(settings, init_model is not None)) is not None:
        log.info("note: %s", told)
    each = progress(data.frames, "statistics", quiet=quiet, watch=watch)
    if init_model is None:
        tell_what_is_unknown(data.frames, settings)
        weights = [f.frame.weight for f in data.frames]
        plain = plain_config(settings.model)
        parameters = stacked(data.frames)
        statistics = statistics_from(environments(each), plain, weights, parameters)
        potential = potential_for_training(settings.model, statistics, settings.training.seed)
        begin(potential, settings.training, data.table_sample)
        _report_close_atoms(potential)
        return potential
    model = load_model(init_model, settings.model.precision)
    check_architecture(model, settings.model, f"{init_model}")
    n_types, rcut = len(model.type_map), model.rcut
    distances = smallest_distances((f.env for f in each), n_types, rcut)
    nearest = min(model.min_distance, float(distances.min()))
    repulsion = None
    if settings.model.repulsion is not None:
        repulsion = _repulsion_after(model, distances)
    short_range = model.short_range
    if not settings._keeps_table:
        short_range = ShortRange.from_input(settings.model, model.energy_bias)
    scales = [Scales(d.davg, d.dstd, d.sel) for d in model.descriptors]
    close = repulsion, short_range
    known = model.known_pairs and model.known_pairs.with_those_of(KnownPairs(distances))
    statistics = Statistics(
        *(scales, model.energy_bias, nearest, *close, model.frame_parameters, known)
    )
    potential = potential_for_training(settings.model, statistics, seed=None)
    own = ("repulsion.", "short_range.")
    arrays = learned_by(model, settings.model).items()
    learned = {k: v for k, v in arrays if not k.startswith(own)}
    potential.load_state_dict({**potential.state_dict(), **learned})
    if finetune:
        shift = bias_shift(model, data.frames)
        potential.set_energy_bias(potential.energy_bias + torch.from_numpy(shift.values))
        shifts = zip(model.type_map, shift.values, strict=True)
        log.info("energy bias shifted by %s", ", ".join(f"{e} {x:+.4f} eV" for e, x in shifts))
        if shift.alike:
            log.warning(shift.note)
    else:
        _warn_of_another_zero(model, data.frames, init_model)
    _report_close_atoms(potential)
    return potential


def _warn_of_another_zero(
    model: Potential, frames: Sequence[PreparedFrame], path: str | Path
) -> None:
    """Energies that differ by constants would be learned at the cost of the forces."""
    labelled = [(f, f.frame.energy) for f in frames if f.frame.energy is not None]
    at = AtFrames(model)
    per_atom = [
        abs(energy - float(at(f.frame.fparam).evaluate(f.env).energies.sum())) / f.n_atoms
        for f, energy in labelled[:: max(1, len(labelled) // 8)]
    ]
    if per_atom and float(np.median(per_atom)) > ANOTHER_ZERO:
        log.warning(
            "energies of the data are %.1f eV/atom from those of %s: with --finetune its energy "
            "bias is fitted to them first",
            float(np.median(per_atom)),
            path,
        )


def _repulsion_after(model: Potential, distances: torch.Tensor) -> Repulsion:
    """Inside the smallest distances of the new data and of those that `model` learned from.

    A model without repulsion only knows the smallest distance of all its pairs: none may be
    touched inside it.
    """
    touched = torch.full_like(distances, model.min_distance)
    if model.repulsion is not None:
        touched = model.repulsion.r_out / DATA_REACH
    return Repulsion.beyond_data(model.type_map, torch.minimum(distances, touched), model.rcut)


def _report_close_atoms(potential: Potential) -> None:
    if potential.repulsion is not None:
        radii = potential.repulsion.summary(potential.type_map)
        log.info("repulsion (ZBL) of pairs closer than in the data: %s", radii)
        log.info("for DeePMD-kit, dpl convert --without-repulsion leaves it out again")
    if potential.short_range is not None:
        log.info("short range: %s", potential.short_range.summary(potential.type_map))
        for note in potential.short_range.notes():
            log.warning("note: %s", note)


def restored_potential(settings: TrainInput, checkpoint: Checkpoint) -> Potential:
    """The potential of a checkpoint, its weights still to be read."""
    statistics = Statistics.unset(
        settings.model, checkpoint.sel, checkpoint.min_distance, checkpoint.arrays, "model."
    )
    n_types = len(settings.model.type_map)
    grids = [Grid(**g) for g in checkpoint.grid]
    potential = potential_for_training(settings.model, statistics, None, grids)
    potential.known_pairs = KnownPairs.from_header(checkpoint.smallest_distances, n_types)
    set_paces(potential, checkpoint.paces)
    return potential


def check_table(settings: TrainInput, checkpoint: Checkpoint, path: str) -> None:
    """Raises InputError where the input's short-range table is not the one of the checkpoint."""
    config = settings.model
    if config.use_srtab is None or settings._keeps_table:
        return
    table = read_pair_table(config.use_srtab, config.type_map, config.rcut)
    before = checkpoint.arrays.get("model.short_range.coefficients")
    if before is None or not np.array_equal(before.numpy(), table.coefficients):
        raise InputError(
            f"{path}: was written with another table than {config.use_srtab} (model/use_srtab) "
            "holds; restore the file, or start anew"
        )
