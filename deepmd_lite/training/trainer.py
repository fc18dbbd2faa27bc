"""A training between two steps: the update, the validation, the checkpoint and the model file."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..data import Batch, PreparedFrame, collate, label_counts
from ..kernels.cuda import full_precision
from ..model import Potential, refine_table, save_model
from ..model.table import Grid
from ..model.typed import make_plain
from .checkpoint import Checkpoint, pack_arrays, unpack_arrays
from .clock import Clock, format_duration
from .config import TrainInput
from .diverged import SLOWER, TIMES, Diverged, TrainingError, diverged, in_words, way_out
from .ema import MovingAverage
from .interrupt import Interrupt
from .loss import Errors, loss_of, predict
from .pace import optimizer_of, paces_of
from .parallel import Ranks
from .penalties import Penalties
from .resolution import CHECK_STEPS, excess, refine, set_grids
from .schedule import Schedule
from .setup import TrainingData, batch_sampler
from .together import Together, families_of

CHECKPOINT = "checkpoint.safetensors"
BEST_MODEL = "model-best.dpl"
SECONDS_OF_PICTURE = 2.0
"""Kept free of a time limit for drawing the learning curve."""


class Trainer:
    """A training between two steps: what `step` changes, and what a checkpoint holds.

    On several ranks every method is called by all of them, and all go through the same states.
    """

    def __init__(
        self,
        config: TrainInput,
        data: TrainingData,
        potential: Potential,
        clock: Clock | None = None,
        ranks: Ranks | None = None,
        from_model: bool = False,
        together: bool = True,
    ) -> None:
        """`from_model`: `potential` has the weights of a model; else families learn `together`."""
        self.config, self.from_model = config, from_model
        self.data = data
        self.clock = clock or Clock()
        self.clock.limit = config.training.time_limit
        self.ranks = ranks or Ranks()
        self.potential = potential.to_device(self.ranks.device(config.training.device))
        self.parameters = list(potential.parameters())
        self.schedule = (
            Schedule.from_config(config.learning_rate, config.training.numb_steps)
            if self.clock.limit is None
            else Schedule.over_share(config.learning_rate)
        )
        self.penalties = Penalties.from_config(config.loss)
        alike = together and not from_model and config.training.alike_elements
        self.together = Together(potential, families_of(potential.type_map, alike))
        self.optimizer = optimizer_of(config, self.potential, self.together)
        self.sampler = batch_sampler(config, data.frames, data.shares)
        decay = config.training.ema_decay
        self.average = MovingAverage(potential.named_parameters(), decay) if decay > 0 else None
        self.interrupt: Interrupt | None = None
        """Asks for an end after the current step once it has received a signal."""
        self.steps_done = 0
        self.time_share = 0.0
        """Share of the time limit that has passed, as the first rank's clock told all ranks."""
        self.interrupted = False
        """A rank has received a signal."""
        self.learning_rate = config.learning_rate.start_lr
        """Rate of the last step, as are the prefactors."""
        self.prefactors = self.schedule.prefactors(config.loss, 0)
        self.best: dict[str, Any] | None = None
        self.last_errors: Errors | None = None
        """Those of the last validation."""
        self.unimproved = 0
        """Displays in a row without a new lowest validation loss."""
        self._best_state: dict[str, torch.Tensor] | None = None
        self._table_excess = 0.0
        """What finer tables did not mend."""
        self.setbacks = 0
        """How often the training has gone back because its numbers were not finite."""
        self._way_back: Checkpoint | None = None
        """The last checkpoint: one that was written, or that this training goes on from."""

    # --- progress ---------------------------------------------------------------------------

    @property
    def progress(self) -> float:
        """Share of the training that is done: of the steps, of the time, or the larger of both."""
        n_steps = self.config.training.step_limit
        return max(self.time_share, 0.0 if n_steps is None else self.steps_done / n_steps)

    @property
    def complete(self) -> bool:
        """All steps are done, or the time is up."""
        return self.progress >= 1.0

    @property
    def out_of_patience(self) -> bool:
        """Too many displays without a better validation loss."""
        return 0 < self.config.training.early_stop_patience <= self.unimproved

    @property
    def finished(self) -> bool:
        """No further step is to be made."""
        return self.complete or self.out_of_patience or self.interrupted

    @property
    def _moment(self) -> float:
        """What the schedule is a function of."""
        return self.steps_done if self.clock.limit is None else self.progress

    def begin(self) -> None:
        """Before the first step: equal weights and one time for all ranks.

        With a time limit, the time to write the results is found by a rehearsal. Raises
        TrainingError where the limit then leaves no time for a single step.
        """
        if self.clock.limit is not None and self.ranks.is_first:
            started = self.clock.seconds()
            self._refined_copy(None)
            n_models = 2 if self.data.validation else 1
            # twice: trained weights may need a finer table than the first ones
            each = self.clock.seconds() - started
            self.clock.reserve = 2 * n_models * each + SECONDS_OF_PICTURE
        self.clock.steps_begin()
        averages = {} if self.average is None else self.average.values
        groups = self.optimizer.param_groups
        paces = torch.tensor([g.get("pace", 1.0) for g in groups], dtype=torch.float64)
        self.ranks.equalise([*self.potential.state_dict().values(), *averages.values(), paces])
        for group, pace in zip(groups, paces.tolist(), strict=True):
            group["pace"] = pace
        first = [self.clock.share(), self.clock.reserve] if self.ranks.is_first else [0.0, 0.0]
        self.time_share, self.clock.reserve = self.ranks.add(first)
        if self.time_share >= 1.0 and self.steps_done == 0:
            raise TrainingError(
                f"time_limit: {format_duration(self.clock.limit or 0)} are over before the first "
                f"step: {self.clock.preparation:.0f} s for reading data, "
                f"{self.clock.reserve:.0f} s to be kept for writing results; give a longer one"
            )

    # --- one step ---------------------------------------------------------------------------

    def step(self) -> Errors:
        """One update; returns the errors of its batch before the update.

        Raises Diverged, naming step and frame, where loss or gradient is not finite; the weights
        then are those of the step before.
        """
        frames = [self.data.frames[i] for i in next(self.sampler)]
        self.learning_rate = self.schedule.learning_rate(self._moment) * SLOWER**self.setbacks
        self.prefactors = self.schedule.prefactors(self.config.loss, self._moment)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * group.get("pace", 1.0)
        own_loss, own_errors = self._gradient(self.ranks.share(frames), label_counts(frames))
        signalled = self.interrupt is not None and self.interrupt.received is not None
        time_share = self.clock.share() if self.ranks.is_first else 0.0
        numbers = (own_loss, time_share, float(signalled), *own_errors.sums())
        loss, time_share, signals, *sums = self.ranks.add_gradients(self.parameters, numbers)
        errors = Errors.from_sums(sums, self.prefactors)
        norm = self._gradient_norm()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise self._not_finite(frames, math.isfinite(loss), errors)
        limit = self.config.training.gradient_max_norm
        if limit > 0:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, limit, norm)
        self.together.step(self.optimizer)
        if self.average is not None:
            self.average.update()
        self.steps_done += 1
        self.time_share, self.interrupted = time_share, signals > 0
        if self.steps_done % CHECK_STEPS == 0:
            self._resolve_table()
        return errors

    def _resolve_table(self) -> None:
        """A table that the networks have outgrown becomes finer, the same one on all ranks."""

        def measured() -> float:
            own = excess(self.potential, self.data.table_sample) if self.ranks.is_first else 0.0
            return self.ranks.add([own])[0]

        self._table_excess = refine(self.potential, measured, self._table_excess)

    def _gradient(
        self, frames: Sequence[PreparedFrame], totals: tuple[int, int, int]
    ) -> tuple[float, Errors]:
        """Loss and errors of these frames of a batch with labels `totals`; leaves the gradient."""
        self.optimizer.zero_grad(set_to_none=True)
        if not frames:
            return 0.0, Errors.of_nothing(self.prefactors)
        batch = collate(frames)
        loss, errors = self._loss(batch, self.prefactors, training=True, totals=totals)
        with full_precision():
            loss.backward()
        return loss.item(), errors

    def _gradient_norm(self) -> torch.Tensor:
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        return torch.nn.utils.get_total_norm(gradients)

    def _loss(
        self,
        batch: Batch,
        prefactors: tuple[float, float, float],
        training: bool,
        totals: tuple[int, int, int] | None = None,
    ) -> tuple[torch.Tensor, Errors]:
        _, p_force, p_virial = prefactors
        prediction = predict(
            self.potential,
            batch,
            forces=p_force > 0 and bool(batch.has_forces.any()),
            virials=p_virial > 0 and bool(batch.has_virial.any()),
            training=training,
        )
        return loss_of(prediction, batch, prefactors, totals, self.penalties)

    def _not_finite(
        self, frames: list[PreparedFrame], loss_finite: bool, errors: Errors
    ) -> Diverged:
        """The error of a batch whose loss or gradient is not finite; finds its bad frames."""
        own: list[tuple[int, str]] = []
        for k, frame in enumerate(self.ranks.share(frames)):
            loss, alone = self._gradient([frame], label_counts([frame]))
            if not (math.isfinite(loss) and math.isfinite(self._gradient_norm())):
                place = self.ranks.rank + k * self.ranks.size
                own.append((place, f"{frame.frame.source} ({in_words(alone)})"))
        bad = [found for _, found in sorted(x for part in self.ranks.gather(own) for x in part)]
        what = "gradient" if loss_finite else "loss"
        start = f"step {self.steps_done + 1}: the {what} is not finite"
        return diverged(start, frames, bad, errors, self._way_back is not None)

    def go_back(self, why: Diverged) -> None:
        """To the last checkpoint, and on at a lower learning rate, on all ranks.

        Raises `why` where there is none, or that was done often enough.
        """
        if self._way_back is None:
            raise why
        if self.setbacks == TIMES:
            rate = f"at {SLOWER**TIMES:.1%} of the learning rate"
            raise Diverged(f"{why.what}, even {rate}", why.advice)
        self._take(self._way_back, "checkpoint")
        self._best_state = None
        self.setbacks += 1

    # --- validation -------------------------------------------------------------------------

    def averaged(self) -> AbstractContextManager[None]:
        """Within it the model has the weights that count: the averaged ones where they are."""
        return nullcontext() if self.average is None else self.average.in_place()

    def validate(self) -> Errors | None:
        """Errors on the validation sample, None without one; remembers the best weights."""
        if not self.data.validation:
            return None
        # the batch of the last step was weighted by the prefactors of that step
        prefactors, fixed_weights = self.prefactors, self.config.loss.fixed_weights
        e, f, v = map(max, prefactors, fixed_weights)  # measured if either wants it
        with self.averaged():
            own = [Errors.of_nothing(prefactors)]
            own += [
                self._loss(b, (e, f, v), training=False)[1]
                for b in self.ranks.share(self.data.validation)
            ]
            sums = self.ranks.add(Errors.merged(own).sums())
            errors = self.last_errors = Errors.from_sums(sums, prefactors)
            loss = errors.loss(fixed_weights)
            if math.isfinite(loss) and (self.best is None or loss < self.best["loss"]):
                self.best = {"step": self.steps_done, "loss": loss}
                self.unimproved = 0
                state = self.potential.state_dict()
                self._best_state = {name: value.clone() for name, value in state.items()}
            else:
                self.unimproved += 1
        return errors

    # --- files ------------------------------------------------------------------------------

    def checkpoint(self) -> Checkpoint:
        """The state now."""
        average, known = self.average, self.potential.known_pairs
        return Checkpoint(
            step=self.steps_done,
            config=self.config.model_dump(mode="json"),
            data_hash=self.data.hash,
            sel=[d.sel for d in self.potential.descriptors],
            min_distance=self.potential.min_distance,
            grid=[asdict(d.grid) for d in self.potential.descriptors],
            sampler=self.sampler.state_dict(),
            best=self.best,
            arrays={
                **pack_arrays(self.potential, self.optimizer, self.together.named_parameters()),
                **({} if average is None else average.arrays()),
            },
            seconds=self.clock.seconds(),
            preparation=self.clock.preparation,
            unimproved=self.unimproved,
            ema_updates=0 if average is None else average.updates,
            paces=paces_of(self.potential),
            table_excess=self._table_excess,
            from_model=self.from_model,
            setbacks=self.setbacks,
            smallest_distances=None if known is None else known.to_header(),
            together=self.together.any,
        )

    def restore(self, checkpoint: Checkpoint, where: str) -> None:
        """Go on from a checkpoint, read from `where`, whose model is `self.potential`'s."""
        self._take(checkpoint, where)
        self._way_back, self.setbacks = checkpoint, checkpoint.setbacks
        self.clock.earlier = checkpoint.seconds
        self.clock.preparation += checkpoint.preparation

    def _take(self, checkpoint: Checkpoint, where: str) -> None:
        """The state of a checkpoint, but for the clock and the setbacks."""
        common = self.together.named_parameters()
        unpack_arrays(checkpoint, self.potential, self.optimizer, where, common)
        set_grids(self.potential, [Grid(**fields) for fields in checkpoint.grid])
        self.sampler.load_state_dict(checkpoint.sampler)
        self.steps_done = checkpoint.step
        self.best = checkpoint.best
        self.unimproved = checkpoint.unimproved
        self._table_excess = checkpoint.table_excess
        decay = self.config.training.ema_decay
        if decay > 0:
            # of the restored weights, in case the checkpoint was written without an average
            self.average = MovingAverage(self.potential.named_parameters(), decay)
            self.average.restore(checkpoint.arrays, checkpoint.ema_updates)

    def save(self, output: Path) -> None:
        """Write the checkpoint, and the best model if it is a new one, on the first rank.

        Raises Diverged where a parameter is not finite.
        """
        for name, value in self.potential.named_parameters():
            if not torch.isfinite(value).all():
                what = f"step {self.steps_done}: parameter {name} is no longer finite"
                raise Diverged(what, way_out(self._way_back is not None))
        # of its own: the optimiser changes its arrays in place
        now = self._way_back = copy.deepcopy(self.checkpoint())
        if not self.ranks.is_first:
            return
        if self._best_state is not None and self.best is not None:
            self.save_model(output / BEST_MODEL, self._best_state, self.best)
            self._best_state = None
        now.write(output / CHECKPOINT)

    def save_model(
        self, path: Path, state: dict[str, torch.Tensor] | None, facts: dict[str, Any]
    ) -> None:
        """Write a model file with the weights of `state` (None: the current ones)."""
        training = self.config.training
        limits = [] if training.step_limit is None else [f"{training.step_limit}"]
        if training.time_limit is not None:
            limits.append(f"those in {format_duration(training.time_limit)}")
        save_model(
            self._refined_copy(state),
            path,
            {
                "trained with": f"deepmd_lite {__version__}, torch {torch.__version__}",
                "date": time.strftime("%Y-%m-%d %H:%M:%S%z"),
                "steps": f"{facts['step']} of {' or '.join(limits)}",
                "training data": self.data.summary,
                "training data sha256": self.data.hash,
                "seed": training.seed,
                "virials trained": self.data.virials_trained,
                **({"validation loss": facts["loss"]} if "loss" in facts else {}),
                **({"weights averaged": training.ema_decay} if self.average is not None else {}),
            },
        )

    def _refined_copy(self, state: dict[str, torch.Tensor] | None) -> Potential:
        """The model to be written: training goes on with its own table."""
        with self.averaged():
            potential = copy.deepcopy(self.potential).to_device("cpu")
        if state is not None:
            potential.load_state_dict(state)
        make_plain(potential)
        refine_table(potential, self.data.table_sample)
        potential.reference_frames = self.data.reference_frames
        return potential
