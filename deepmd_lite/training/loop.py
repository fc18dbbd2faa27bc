"""The training: data and input in, a model file out; every step can be continued bit for bit.

Files in the output folder: `model.dpl` (the last weights), `model-best.dpl` (the weights with the
lowest validation loss, with the loss's limit prefactors as fixed weights, judged on the same
frames each time), `checkpoint.safetensors`, `lcurve.out`, `train.jsonl`, `learning_curve.png`.
"""

from __future__ import annotations

import copy
import logging
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tqdm.contrib.logging import logging_redirect_tqdm

from .. import __version__
from ..data import Batch, BatchSampler, PreparedFrame, collate
from ..kernels import positions_fixed
from ..model import Potential, refine_table, save_model
from ..system import DeepmdLiteError, InputError
from .checkpoint import Checkpoint, changed_keys, grid_fields, pack_arrays, unpack_arrays
from .config import TrainInput, read_input
from .interrupt import Interrupt
from .loss import Errors, loss_of, predict
from .report import LearningCurve, Progress, plot_learning_curve
from .schedule import Schedule
from .setup import TrainingData, initial_potential, load_data, restored_potential
from .soap import Soap

log = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.safetensors"
MODEL = "model.dpl"
BEST_MODEL = "model-best.dpl"
JSONL = "train.jsonl"
PICTURE = "learning_curve.png"


class TrainingError(DeepmdLiteError):
    """A training that cannot go on."""


class Trainer:
    """A training between two steps: what `step` changes, and what a checkpoint holds."""

    def __init__(self, config: TrainInput, data: TrainingData, potential: Potential) -> None:
        self.config = config
        self.data = data
        self.potential = potential
        self.schedule = Schedule.from_config(config.learning_rate, config.training.numb_steps)
        self.optimizer = _optimizer(config, potential)
        self.sampler = BatchSampler(
            [f.n_atoms for f in data.frames],
            config.training.training_data.batch_size,
            seed=config.training.seed,
        )
        self.steps_done = 0
        self.best: dict[str, Any] | None = None
        self._best_state: dict[str, torch.Tensor] | None = None

    # --- one step ---------------------------------------------------------------------------

    def step(self) -> Errors:
        """One update; returns the errors of its batch before the update.

        Raises TrainingError, naming step and frames, where the loss is not finite.
        """
        frames = [self.data.frames[i] for i in next(self.sampler)]
        batch = collate(frames)
        prefactors = self.schedule.prefactors(self.config.loss, self.steps_done)
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.learning_rate(self.steps_done)
        loss, errors = self._loss(batch, prefactors, training=True)
        if not math.isfinite(loss.item()):
            raise TrainingError(self._not_finite("loss", frames, errors))
        self.optimizer.zero_grad(set_to_none=True)
        with positions_fixed():  # only the weights move
            loss.backward()
        limit = self.config.training.gradient_max_norm
        if limit > 0:
            torch.nn.utils.clip_grad_norm_(self.potential.parameters(), limit)
        self.optimizer.step()
        self.steps_done += 1
        return errors

    def _loss(
        self, batch: Batch, prefactors: tuple[float, float, float], training: bool
    ) -> tuple[torch.Tensor, Errors]:
        _, p_force, p_virial = prefactors
        prediction = predict(
            self.potential,
            batch,
            forces=p_force > 0 and bool(batch.has_forces.any()),
            virials=p_virial > 0 and bool(batch.has_virial.any()),
            training=training,
        )
        return loss_of(prediction, batch, prefactors)

    def _not_finite(self, what: str, frames: list[PreparedFrame], errors: Errors) -> str:
        sources = ", ".join(f.frame.source for f in frames[:4])
        more = f" and {len(frames) - 4} more" if len(frames) > 4 else ""
        return (
            f"step {self.steps_done + 1}: the {what} is not finite (energy RMSE {errors.energy:g} "
            f"eV/atom, force RMSE {errors.force:g} eV/Å) in the batch of {sources}{more}; "
            "the last checkpoint is kept: check these frames, or restart with a lower "
            "learning_rate/start_lr"
        )

    # --- validation -------------------------------------------------------------------------

    def validate(self) -> Errors | None:
        """Errors on the validation sample, None without one; remembers the best weights."""
        if not self.data.validation:
            return None
        # the batch of the last step was weighted by the prefactors of that step
        prefactors = self.schedule.prefactors(self.config.loss, max(0, self.steps_done - 1))
        e, f, v = map(max, prefactors, self._fixed_weights())  # measured if either wants it
        parts = [self._loss(b, (e, f, v), training=False)[1] for b in self.data.validation]
        errors = Errors.merged(parts)
        errors = Errors(errors.terms, errors.squares, errors.counts, prefactors)
        loss = errors.loss(self._fixed_weights())
        if math.isfinite(loss) and (self.best is None or loss < self.best["loss"]):
            self.best = {"step": self.steps_done, "loss": loss}
            state = self.potential.state_dict()
            self._best_state = {name: value.clone() for name, value in state.items()}
        return errors

    def _fixed_weights(self) -> tuple[float, float, float]:
        """Weights of the three terms by which models of different steps are compared."""
        loss = self.config.loss
        return loss.limits if any(loss.limits) else loss.starts

    # --- files ------------------------------------------------------------------------------

    def checkpoint(self) -> Checkpoint:
        """The state now."""
        return Checkpoint(
            step=self.steps_done,
            config=self.config.model_dump(mode="json"),
            data_hash=self.data.hash,
            sel=self.potential.sel,
            min_distance=self.potential.min_distance,
            grid=grid_fields(self.potential.grid),
            sampler=self.sampler.state_dict(),
            best=self.best,
            arrays=pack_arrays(self.potential, self.optimizer),
        )

    def restore(self, checkpoint: Checkpoint, where: str) -> None:
        """Take the state of a checkpoint whose model is `self.potential`'s."""
        unpack_arrays(checkpoint, self.potential, self.optimizer, where)
        self.sampler.load_state_dict(checkpoint.sampler)
        self.steps_done = checkpoint.step
        self.best = checkpoint.best

    def save(self, output: Path) -> None:
        """Write the checkpoint, and the best model if it is a new one."""
        for name, value in self.potential.named_parameters():
            if not torch.isfinite(value).all():
                raise TrainingError(
                    f"step {self.steps_done}: parameter {name} is no longer finite; the last "
                    "checkpoint is kept: restart with a lower learning_rate/start_lr"
                )
        if self._best_state is not None and self.best is not None:
            self.save_model(output / BEST_MODEL, self._best_state, self.best)
            self._best_state = None
        self.checkpoint().write(output / CHECKPOINT)

    def save_model(
        self, path: Path, state: dict[str, torch.Tensor] | None, facts: dict[str, Any]
    ) -> None:
        """Write a model file with the weights of `state` (None: the current ones).

        The table is refined on training frames in a copy: training goes on with its own.
        """
        potential = copy.deepcopy(self.potential)
        if state is not None:
            potential.load_state_dict(state)
        refine_table(potential, self.data.table_sample)
        training = self.config.training
        save_model(
            potential,
            path,
            {
                "trained with": f"deepmd_lite {__version__}, torch {torch.__version__}",
                "date": time.strftime("%Y-%m-%d %H:%M:%S%z"),
                "steps": f"{facts['step']} of {training.numb_steps}",
                "training data": self.data.summary,
                "training data sha256": self.data.hash,
                "seed": training.seed,
                "virials trained": self.data.virials_trained,
                **({"validation loss": facts["loss"]} if "loss" in facts else {}),
            },
        )


def train(
    config: Mapping[str, Any] | str | Path,
    *,
    output: str | Path = ".",
    restart: bool = False,
    init_model: str | Path | None = None,
    quiet: bool = False,
) -> Path:
    """Train a potential; returns the path of the model file `model.dpl`.

    `config`: an input file (JSON or YAML, DeePMD-kit's keys) or its content; `output`: folder of
    the results, made if needed; files that an earlier training left there are renamed to
    `*.old`. `restart` goes on from the checkpoint in `output`: the result is that of an
    uninterrupted training, bit for bit on the same machine with as many threads. `init_model`: a
    model file whose weights and statistics are the start. Ctrl-C and SIGTERM end the training
    after the current step with checkpoint and model written; Ctrl-C then raises
    KeyboardInterrupt, SIGTERM returns as usual.

    Raises InputError for bad input or data, TrainingError where the loss is not finite.
    """
    if restart and init_model is not None:
        raise InputError("init_model: a restart already has its weights; give one of the two")
    settings, notes = read_input(config)
    for note in notes:
        log.info("note: %s", note)
    output = Path(output)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise InputError(f"{output}: cannot be made a folder: {e.strerror or e}") from None
    if restart:
        trainer = _restarted(settings, output / CHECKPOINT, quiet)
    else:
        data = load_data(settings, quiet)
        trainer = Trainer(settings, data, initial_potential(settings, data, init_model))
        _set_aside(output, settings)
    with logging_redirect_tqdm(), Interrupt() as interrupt:
        _run(trainer, output, interrupt, restart, quiet)
    _finish(trainer, output, settings)
    if interrupt.received is not None:
        log.warning(
            "stopped by %s after step %d of %d; checkpoint and model are in %s: go on with restart "
            "(dpl train INPUT --restart --output %s)",
            "Ctrl-C" if interrupt.received.name == "SIGINT" else interrupt.received.name,
            trainer.steps_done,
            settings.training.numb_steps,
            output,
            output,
        )
        if interrupt.received.name == "SIGINT":
            raise KeyboardInterrupt
    return output / MODEL


def _optimizer(config: TrainInput, potential: Potential) -> torch.optim.Optimizer:
    rate, betas = config.learning_rate.start_lr, config.optimizer.betas
    if config.optimizer.type == "SOAP":
        return Soap(potential.parameters(), rate, betas)
    # fused: one pass over the parameters instead of ten
    return torch.optim.Adam(potential.parameters(), rate, betas, fused=True)


def _run(trainer: Trainer, output: Path, interrupt: Interrupt, restart: bool, quiet: bool) -> None:
    """Steps until the last one or an interrupt; displays and saves on the way."""
    settings = trainer.config.training
    n_steps, begun = settings.numb_steps, trainer.steps_done
    curve = LearningCurve(
        output / settings.disp_file,
        output / JSONL,
        with_validation=bool(trainer.data.validation),
        with_virial=trainer.config.loss.trains_virials,
        after_step=begun if restart else None,
    )
    progress = Progress(n_steps, begun, quiet)
    shown_at, shown_step = time.perf_counter(), begun
    try:
        while trainer.steps_done < n_steps and interrupt.received is None:
            errors = trainer.step()
            done = trainer.steps_done
            progress.advance()
            if done in (1, n_steps) or done % settings.disp_freq == 0:
                validation = trainer.validate()
                now = time.perf_counter()
                seconds, shown_at = now - shown_at, now
                learning_rate = trainer.schedule.learning_rate(done - 1)
                curve.add(done, errors, validation, learning_rate, seconds)
                progress.show(done, errors, validation, seconds / (done - shown_step))
                shown_step = done
            if done % settings.save_freq == 0 and done < n_steps:
                trainer.save(output)
        trainer.save(output)
    finally:
        progress.close()
        curve.close()


def _finish(trainer: Trainer, output: Path, settings: TrainInput) -> None:
    """Write the model and the picture."""
    trainer.save_model(output / MODEL, None, {"step": trainer.steps_done})
    best = trainer.best
    if best is not None:
        log.info(
            "best validation loss %.4g at step %d: %s",
            best["loss"],
            best["step"],
            output / BEST_MODEL,
        )
    log.info("model after step %d: %s", trainer.steps_done, output / MODEL)
    try:
        plot_learning_curve(output / settings.training.disp_file, output / PICTURE)
    except InputError:
        log.info("no learning curve yet: no step was displayed")


def _restarted(settings: TrainInput, path: Path, quiet: bool) -> Trainer:
    """The training that a checkpoint was written by, with `settings` checked against its input."""
    checkpoint = Checkpoint.read(path)
    ignored = ("/systems", "/disp_file", "/disp_freq", "/save_freq")
    changed = [
        key
        for key in changed_keys(checkpoint.config, settings.model_dump(mode="json"))
        if not key.endswith(ignored) and not key.startswith("training/validation_data")
    ]
    for key in changed:
        if key.startswith("model/"):
            raise InputError(
                f"{path}: was written with another {key}; restore the input, or start anew"
            )
        log.warning("note: %s differs from the input that the training began with", key)
    data = load_data(settings, quiet)
    if data.hash != checkpoint.data_hash:
        raise InputError(
            f"{path}: was written with other training data (sha256 {checkpoint.data_hash[:12]}, "
            f"found {data.hash[:12]}); restore the data, or start anew with init_model"
        )
    trainer = Trainer(settings, data, restored_potential(settings, checkpoint))
    trainer.restore(checkpoint, str(path))
    log.info("restart after step %d of %d", trainer.steps_done, settings.training.numb_steps)
    return trainer


def _set_aside(output: Path, settings: TrainInput) -> None:
    """Rename what an earlier training left, so that a fresh one overwrites nothing."""
    names = (settings.training.disp_file, JSONL, CHECKPOINT, MODEL, BEST_MODEL, PICTURE)
    moved = [name for name in names if (output / name).exists()]
    for name in moved:
        os.replace(output / name, output / f"{name}.old")
    if moved:
        log.info("%s: results of an earlier training are now *.old: %s", output, ", ".join(moved))
