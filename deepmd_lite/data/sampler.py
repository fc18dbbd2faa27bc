"""Which frames form the next batch: shuffled anew every epoch, resumable to the bit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..system import InputError

AUTO_ATOMS = 32
"""Atoms that a batch of size 'auto' has at least (DeePMD-kit's rule)."""


@dataclass(frozen=True)
class BatchSize:
    """A batch ends with so many frames and atoms, or before it has more than the most."""

    frames: float
    atoms: int
    most_atoms: float = math.inf
    largest_frame: int | None = None
    """Frames of more atoms are to be left out of the data; None: none are."""

    @classmethod
    def of(cls, batch_size: int | str) -> BatchSize:
        """What `batch_size` of `BatchSampler` says. Raises InputError where it says nothing."""
        if isinstance(batch_size, int) and not isinstance(batch_size, bool) and batch_size > 0:
            return cls(batch_size, 0)
        rule, _, number = str(batch_size).partition(":")
        positive = number.isdecimal() and int(number) > 0
        if batch_size == "auto" or (rule == "auto" and positive):
            return cls(1, int(number or AUTO_ATOMS))
        if rule in ("max", "filter") and positive:
            return cls(math.inf, 0, int(number), int(number) if rule == "filter" else None)
        raise InputError(
            "expected a number of frames, at least 1, 'auto', 'auto:ATOMS', 'max:ATOMS' or "
            "'filter:ATOMS'"
        )

    def typical(self, mean_atoms: float) -> int:
        """Frames in a batch where they have `mean_atoms` atoms on average."""
        if not self.atoms and math.isinf(self.most_atoms):
            return int(self.frames)
        return max(1, math.ceil((self.atoms or self.most_atoms) / mean_atoms))


class BatchSampler:
    """An endless iterator over lists of frame numbers, one list for each batch.

    Every epoch visits each frame exactly once, in an order that depends on the seed and the number
    of the epoch alone; the last batch of an epoch may be smaller. Frames of all systems are mixed
    in a batch. (DeePMD-kit fills a batch from one system, which it draws with a probability that
    by default is proportional to the system's number of frames: on average the same weights.)

    `n_atoms`: atoms of each frame. `batch_size`: frames in a batch; 'auto': as few as reach 32
    atoms; 'auto:N': as few as reach N atoms; 'max:N' or 'filter:N': as many as follow one another
    with at most N atoms in all, at least one. `shares`: probability of each frame; an epoch then
    is as many independent draws as there are frames.
    """

    def __init__(
        self,
        n_atoms: Sequence[int],
        batch_size: int | str = "auto",
        seed: int = 1,
        shares: np.ndarray | None = None,
    ):
        if len(n_atoms) == 0:
            raise InputError("no frames to make batches of")
        if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
            raise InputError(f"seed: expected an integer ≥ 0, found {seed!r}")
        self._n_atoms = np.asarray(n_atoms, dtype=np.int64)
        try:
            self._size = BatchSize.of(batch_size)
        except InputError as e:
            raise InputError(f"batch_size: {e}, found {batch_size!r}") from None
        self._batch_size = batch_size
        self._shares = shares
        self.seed = seed
        self.epoch = 0
        """Epochs completed."""
        self.position = 0
        """Frames drawn in this epoch."""
        self._order = self._shuffled()

    def __iter__(self) -> BatchSampler:
        return self

    def __next__(self) -> list[int]:
        """Numbers of the frames of the next batch."""
        if self.position == len(self._order):
            self.epoch, self.position = self.epoch + 1, 0
            self._order = self._shuffled()
        start, atoms, size = self.position, 0, self._size
        while self.position < len(self._order):
            more = int(self._n_atoms[self._order[self.position]])
            n_frames = self.position - start
            full = n_frames >= size.frames and atoms >= size.atoms
            if n_frames and (full or atoms + more > size.most_atoms):
                break
            self.position, atoms = self.position + 1, atoms + more
        return [int(i) for i in self._order[start : self.position]]

    def batches_in_epoch(self) -> int:
        """Batches of this epoch."""
        state, n = (self.epoch, self.position), 0
        self.position = 0
        while self.position < len(self._order):
            next(self)
            n += 1
        self.epoch, self.position = state
        return n

    def state_dict(self) -> dict[str, Any]:
        """All that decides the batches to come, in numbers and strings that JSON can hold."""
        return {
            "seed": self.seed,
            "epoch": self.epoch,
            "position": self.position,
            "batch_size": self._batch_size,
            "n_frames": len(self._n_atoms),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where the sampler that gave `state` stood.

        Raises InputError where the number of frames or the batch size is not what it was.
        """
        own = self.state_dict()
        if set(state) != set(own):
            raise InputError(f"sampler state: expected keys {sorted(own)}, found {sorted(state)}")
        for key in ("n_frames", "batch_size"):
            if state[key] != own[key]:
                raise InputError(
                    f"sampler state: {key} was {state[key]} and is now {own[key]}; go on with the "
                    "data and batch size that the run was started with"
                )
        epoch, position = int(state["epoch"]), int(state["position"])
        if epoch < 0 or not 0 <= position <= len(self._n_atoms):
            raise InputError(f"sampler state: epoch {epoch}, frame {position} cannot be")
        self.seed, self.epoch, self.position = int(state["seed"]), epoch, position
        self._order = self._shuffled()

    def _shuffled(self) -> np.ndarray:
        """The order of this epoch's frames."""
        generator, n = np.random.default_rng([self.seed, self.epoch]), len(self._n_atoms)
        if self._shares is None:
            return generator.permutation(n)
        return generator.choice(n, n, p=self._shares)
