"""The training: data and input in, a model file out; every step can be continued bit for bit.

Files in the output folder: `model.dpl` (the last weights), `model-best.dpl` (the weights with the
lowest validation loss, with the loss's limit prefactors as fixed weights, judged on the same
frames each time), `checkpoint.safetensors`, `lcurve.out`, `train.jsonl`, `learning_curve.png`.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from tqdm.contrib.logging import logging_redirect_tqdm

from ..data import System
from ..files import InUse, check_writable, results_folder, write_atomically
from ..kernels import cuda
from ..launchers import of_several_trainings
from ..model import ModelConfig
from ..progress import telling
from ..schema import parse
from ..system import InputError
from .adopt import adopt_architecture, adopt_elements, adopt_model, drop_elements
from .checkpoint import Checkpoint, changed_keys
from .clock import Clock, format_duration
from .config import TrainInput, read_input
from .deadline import Deadline, tell_what_is_left
from .diverged import SLOWER, TIMES, Diverged, TrainingError
from .given import complete_input, content_of, starting_model
from .interrupt import Interrupt
from .judge import judge, tell_isolated_atoms
from .parallel import Ranks, joined_ranks
from .report import LearningCurve, TrainingProgress, plot_learning_curve
from .setup import (
    check_table,
    initial_potential,
    load_data,
    restored_potential,
)
from .trainer import BEST_MODEL, CHECKPOINT, Trainer

__all__ = ["CHECKPOINT", "OUT_JSON", "Trainer", "TrainingError", "train"]

log = logging.getLogger(__name__)

MODEL = "model.dpl"
JSONL = "train.jsonl"
OUT_JSON = "out.json"
PICTURE = "learning_curve.png"


@torch.inference_mode(False)
@torch.enable_grad()
def train(
    config: Mapping[str, Any] | str | Path | Sequence[str | Path],
    *,
    validation: str | Path | Sequence[str | Path] | None = None,
    output: str | Path = ".",
    preset: str | None = None,
    restart: bool = False,
    init_model: str | Path | None = None,
    finetune: str | Path | None = None,
    use_pretrain_script: bool = False,
    time_limit: str | float | None = None,
    seed: int | None = None,
    started: float | None = None,
    quiet: bool = False,
) -> Path:
    """Train a potential; returns the path of the model file `model.dpl`.

    `config`: an input file (.json, .yaml or .yml, DeePMD-kit's keys), its content, or data (one or
    several paths), a tenth of which is then held out, unless `validation` names others to validate
    on. `preset`: 'fast', 'balanced' (for data without another) or 'accurate', for keys that the
    input does not give (`training.presets`). `seed` replaces training/seed. `output`: folder of the
    results; those of an earlier training are renamed to `*.old`; `out.json` there is the input with
    all its values. `restart` goes on from the checkpoint in `output`: the result is that of an
    uninterrupted training, bit for bit on the same machine with as many threads and ranks.
    `init_model`: a model file whose weights and statistics are the start; `finetune`: likewise,
    with its energy bias first fitted to the data. It may know more elements than the input, which
    then follows its type_map. `use_pretrain_script`: the architecture is that of the model (of the
    checkpoint, with `restart`), whatever the input says in `model`; type_map, repulsion and
    short-range table are the input's (that of the model where the input says nothing of close
    atoms). Ctrl-C and SIGTERM end the training after the current step with checkpoint and model
    written; Ctrl-C then raises KeyboardInterrupt, SIGTERM returns, after the caller's handler.

    `time_limit` ('90s', '30m', '2h', '1h30m' or seconds; it replaces training/time_limit): the wall
    time from this call (or from `started`, a value of `time.monotonic()`) to the written model,
    earlier segments of a restarted training included; a restart keeps it unless given another. The
    learning rate follows the clock, so that two such trainings are never the same to the bit.

    Under torchrun the ranks share the frames of every batch and the first one writes the files.
    Gradients are those of one process to round-off, and with Adam the weights as well; SOAP also
    scales up directions whose gradient is nearly zero, where round-off decides.

    Raises InputError for bad input or data, TrainingError where loss or gradient is not finite,
    or a time limit leaves no time for a step; OtherRankError where another rank failed.
    """
    clock = Clock(started)
    start = starting_model(restart, init_model, finetune, use_pretrain_script)
    with joined_ranks() as ranks, telling(quiet or not ranks.is_first):
        quiet, output = quiet or not ranks.is_first, Path(output)
        checkpoint = Checkpoint.read(output / CHECKPOINT) if restart else None
        watch = Deadline.of_text(clock, None if restart else time_limit)
        check_writable(output)
        config, read = content_of(config, validation, quiet, watch)
        instead = time_limit, preset, seed
        settings = _settings(config, instead, checkpoint, use_pretrain_script, start)
        watch.limit = None if restart else settings.training.time_limit
        if settings.training.device != "cpu":  # one that is missing is said before data are read
            cuda.device(ranks.device(settings.training.device))
        with results_folder(output):
            if checkpoint is not None:
                trainer = _restarted(settings, checkpoint, output, clock, ranks, quiet, read)
            else:
                if start is not None:
                    adopt_model(settings, start, use_pretrain_script)
                complete = complete_input(settings)
                data = load_data(settings, quiet, start is None, watch, read)
                potential = initial_potential(settings, data, start, bool(finetune), quiet, watch)
                trainer = Trainer(settings, data, potential, clock, ranks, start is not None)
            trainer.begin()
            with _in_use(output) if ranks.is_first else nullcontext():
                if checkpoint is None and ranks.is_first:
                    _set_aside(output, settings)
                    write_atomically(output / OUT_JSON, complete)
                with logging_redirect_tqdm(), Interrupt() as interrupt:
                    trainer.interrupt = interrupt
                    _run(trainer, output, restart, quiet)
                    if ranks.is_first:
                        _finish(trainer, output)
        if interrupt.received is not None and interrupt.received.name == "SIGINT":
            raise KeyboardInterrupt
    return output / MODEL


def _in_use(output: Path) -> InUse:
    return InUse(output, of_several_trainings(os.environ))


def _settings(
    config: Mapping[str, Any] | str | Path,
    instead: tuple[str | float | None, str | None, int | None],
    checkpoint: Checkpoint | None,
    of_checkpoint: bool,
    start: str | Path | None,
) -> TrainInput:
    """The checked input, with the time limit, preset and seed `instead` of its own; a restart goes
    on with the checkpoint's time limit, seed and repulsion unless told another."""
    time_limit, preset, seed = instead
    from_model = start is not None
    if checkpoint is not None:  # the rate of what is restarted
        from_model = checkpoint.from_model
    settings, notes = read_input(config, time_limit, preset, from_model, seed)
    if checkpoint is not None:
        kept, given = checkpoint.config["training"], settings.training.model_fields_set
        limit = time_limit if "time_limit" in given else kept.get("time_limit")
        drawn = seed if "seed" in given else kept.get("seed")
        settings, notes = read_input(config, limit, preset, from_model, drawn)
    if checkpoint is not None:  # a training that began with a model has the elements of that
        began_with = parse(ModelConfig, checkpoint.config["model"], "checkpoint: model")
        silent = "repulsion" not in settings.model.model_fields_set
        if of_checkpoint:
            adopt_architecture(settings, began_with)
        if silent:
            settings.model.repulsion = began_with.repulsion
        if not adopt_elements(settings, began_with, checkpoint.sel):
            drop_elements(settings, began_with.type_map)
    for note in notes:
        log.info("note: %s", note)
    return settings


def _run(trainer: Trainer, output: Path, restart: bool, quiet: bool) -> None:
    """Steps until the last one or an interrupt; displays and saves on the way."""
    settings, begun = trainer.config.training, trainer.steps_done
    curve = None
    if trainer.ranks.is_first:
        curve = LearningCurve(
            output / settings.disp_file,
            output / JSONL,
            with_validation=bool(trainer.data.validation),
            with_virial=trainer.config.loss.trains_virials,
            after_step=begun if restart else None,
        )
    tell_what_is_left(trainer.clock)
    limits = settings.step_limit, settings.time_limit
    progress = TrainingProgress(*limits, begun, trainer.progress, quiet)
    shown_at, shown_step = trainer.clock.seconds(), begun
    try:
        while not trainer.finished:
            step_began = trainer.clock.seconds()
            try:
                errors = trainer.step()
                done = trainer.steps_done
                progress.advance(done, trainer.progress)
                if done == 1 or done % settings.disp_freq == 0 or trainer.complete:
                    validation = trainer.validate()
                    now = trainer.clock.seconds()
                    seconds, shown_at = now - shown_at, now
                    if curve is not None:
                        curve.add(done, errors, validation, trainer.learning_rate, seconds)
                    per_step = seconds / (done - shown_step)
                    progress.show(done, errors, validation, per_step, trainer.clock.left())
                    if shown_step == begun:  # one more step and display may begin as time is up
                        trainer.clock.reserve += now - step_began
                    shown_step = done
                # a first one at once: a full disk is found, and a way back there, from then on
                if done == 1 or done % settings.save_freq == 0 or trainer.finished:
                    trainer.save(output)
            except Diverged as e:
                trainer.go_back(e)
                shown_at, shown_step = trainer.clock.seconds(), trainer.steps_done
                if curve is not None:
                    curve.cut(shown_step)
                progress.advance(shown_step, trainer.progress)
                _tell_of_setback(e, trainer)
    finally:
        progress.close()
        if curve is not None:
            curve.close()


def _tell_of_setback(why: Diverged, trainer: Trainer) -> None:
    rate = f"the learning rate is now {SLOWER**trainer.setbacks:.2g} of the schedule's"
    log.warning(
        "%s; back at the checkpoint of step %d, %s (%d of at most %d times)",
        *(why.what, trainer.steps_done, rate, trainer.setbacks, TIMES),
    )


def _finish(trainer: Trainer, output: Path) -> None:
    """Write the model and the picture, and say why the training ended."""
    settings, best, done = trainer.config.training, trainer.best, trainer.steps_done
    trainer.save_model(output / MODEL, None, {"step": done})
    if trainer.interrupted:
        received = None if trainer.interrupt is None else trainer.interrupt.received
        name = "a signal to another rank" if received is None else received.name
        log.warning(
            "stopped by %s after step %d%s; checkpoint and model are in %s: go on with restart "
            "(dpl train INPUT --restart --output %s)",
            name.replace("SIGINT", "Ctrl-C"),
            done,
            "" if settings.step_limit is None else f" of {settings.step_limit}",
            output,
            output,
        )
    elif trainer.complete and settings.time_limit is not None and done != settings.step_limit:
        log.info(
            "the time limit of %s allowed %d steps", format_duration(settings.time_limit), done
        )
    elif trainer.out_of_patience:
        log.info(
            "stopped early after step %d: no lower validation loss in the last %d displays "
            "(training/early_stop_patience %d)",
            done,
            trainer.unimproved,
            settings.early_stop_patience,
        )
    if best is not None:
        log.info(
            "best validation loss %.4g at step %d: %s",
            best["loss"],
            best["step"],
            output / BEST_MODEL,
        )
        judge(trainer, output / MODEL, output / BEST_MODEL)
    if not trainer.interrupted:  # whoever sent the signal waits
        tell_isolated_atoms(trainer)
    log.info("model after step %d: %s", done, output / MODEL)
    try:
        plot_learning_curve(output / settings.disp_file, output / PICTURE)
    except InputError as e:  # no step was displayed, or the disk is full: the model is there
        log.info("no picture of the learning curve: %s", e)


def _restarted(
    settings: TrainInput,
    checkpoint: Checkpoint,
    output: Path,
    clock: Clock,
    ranks: Ranks,
    quiet: bool,
    read: list[System] | None,
) -> Trainer:
    """The training that a checkpoint was written by, with `settings` checked against its input."""
    path = output / CHECKPOINT
    # keys that are younger than the checkpoint had their defaults
    began_with = parse(TrainInput, checkpoint.config, str(path)).model_dump(mode="json")
    ignored: tuple[str, ...] = (
        "/systems",
        "/disp_file",
        "/disp_freq",
        "/save_freq",
        "/early_stop_patience",
        "/check",
        "/device",
    )
    if None not in (settings.model.use_srtab, checkpoint.config["model"].get("use_srtab")):
        ignored = (*ignored, "/use_srtab")  # the table counts, not where it lies
    if settings.training.num_epoch is not None:  # the number of steps follows from the data
        ignored = (*ignored, "/num_epoch", "/numb_steps")
    changed = [
        key
        for key in changed_keys(began_with, settings.model_dump(mode="json"))
        if not key.endswith(ignored) and not key.startswith("training/validation_data")
    ]
    for key in changed:
        if key.startswith("model/"):
            raise InputError(
                f"{path}: was written with another {key}; restore the input and its preset (dpl "
                f"train --restart -o {output} has them of itself), or start anew"
            )
        log.warning("note: %s differs from the input that the training began with", key)
    check_table(settings, checkpoint, str(path))
    data = load_data(settings, quiet, read=read)
    if data.hash != checkpoint.data_hash:
        raise InputError(
            f"{path}: was written with other training data (sha256 {checkpoint.data_hash[:12]}, "
            f"found {data.hash[:12]}); restore the data, or start anew with init_model"
        )
    potential = restored_potential(settings, checkpoint)
    how = checkpoint.from_model, checkpoint.together
    trainer = Trainer(settings, data, potential, clock, ranks, *how)
    trainer.restore(checkpoint, str(path))
    limit = settings.training.step_limit
    log.info("restart after step %d%s", trainer.steps_done, "" if limit is None else f" of {limit}")
    return trainer


def _set_aside(output: Path, settings: TrainInput) -> None:
    """Rename what an earlier training left, so that a fresh one overwrites nothing; what had been
    renamed before stays as well."""
    names = (OUT_JSON, settings.training.disp_file, JSONL, CHECKPOINT, MODEL, BEST_MODEL, PICTURE)
    moved = [name for name in names if (output / name).exists()]
    endings = itertools.chain([".old"], (f".old{n}" for n in itertools.count(2)))
    free = next(e for e in endings if not any((output / f"{n}{e}").exists() for n in names))
    for name in moved:
        os.replace(output / name, output / f"{name}{free}")
    if moved:
        of = "results of an earlier training are now"
        log.warning("%s: %s *%s: %s", output, of, free, ", ".join(moved))
