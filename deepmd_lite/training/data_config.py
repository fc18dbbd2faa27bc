"""The sections `training_data` and `validation_data` of a training's input."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field, field_validator

from ..data import BatchSize
from ..schema import Vocabulary
from ..system import InputError

SYSTEM_SIZE = "prob_sys_size"
_BLOCK = re.compile(r"(\d+):(\d+):(\d*\.?\d+(?:e-?\d+)?)")


class DataConfig(Vocabulary):
    """A data set and how it is divided into batches.

    `batch_size`: frames in a batch; 'auto' (as many as it takes to reach 32 atoms), 'auto:N'
    (N atoms), 'max:N' (as many as have at most N), 'filter:N' (the same, and frames of more than N
    atoms are left out). Frames of all systems are shuffled together, each once in an epoch, unless
    `auto_prob` or `sys_probs` give systems other shares: frames are then drawn at random, by the
    share of their system. Several processes (torchrun) share a batch: its size does not depend on
    their number.
    """

    aliases = {"sys_weights": "sys_probs", "sys_prob": "sys_probs", "auto_prob_style": "auto_prob"}
    ignored = {"set_prefix": "every set.* folder is read"}
    refused = {
        "patterns": "give the systems as paths or glob patterns",
        "rglob_patterns": "give the systems as paths or glob patterns",
        "min_pair_dist": "remove such frames from the data",
    }

    systems: list[str]
    batch_size: int | str = "auto"
    auto_prob: str = SYSTEM_SIZE
    """'prob_sys_size': by number of frames; 'prob_uniform': every system alike;
    'prob_sys_size;0:2:0.3;2:5:0.7': systems 0 and 1 together 0.3, and so on, by size within."""
    sys_probs: list[float] | None = None
    """The share of each system; negative: by its size, of what the others leave."""

    @field_validator("systems", mode="before")
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        value = [value] if isinstance(value, str) else value
        if value == []:
            raise ValueError("expected at least one path")
        return value

    @field_validator("batch_size", mode="before")
    @classmethod
    def _check_batch_size(cls, value: Any) -> Any:
        if isinstance(value, list):
            if len(set(map(str, value))) != 1:
                raise ValueError(
                    "sizes differ between systems, but a batch may hold frames of several; give "
                    "one number, or 'auto:ATOMS', by which large frames come in smaller batches"
                )
            value = value[0]
        if isinstance(value, str):
            rule, _, number = value.partition(":")
            if rule == "mixed" and number.isdecimal():
                value = int(number)
        if isinstance(value, int | str):  # of another type it is refused for that
            BatchSize.of(value)
        return value

    @property
    def size(self) -> BatchSize:
        """What `batch_size` says."""
        return BatchSize.of(self.batch_size)

    @field_validator("auto_prob")
    @classmethod
    def _check_auto_prob(cls, value: str) -> str:
        rule, *blocks = (part.strip() for part in value.split(";"))
        known = rule == SYSTEM_SIZE or (rule == "prob_uniform" and not blocks)
        if not known or not all(_BLOCK.fullmatch(block) for block in blocks if block):
            raise ValueError(
                "expected 'prob_sys_size', 'prob_uniform' or 'prob_sys_size;FIRST:END:SHARE;…'"
            )
        return value

    @property
    def draws(self) -> bool:
        """Whether frames are drawn by the share of their system, not each once in an epoch."""
        return self.sys_probs is not None or self.auto_prob != SYSTEM_SIZE

    def shares(self, sizes: Sequence[int], where: str) -> np.ndarray | None:
        """(n_systems,) probabilities that add up to 1; None: proportional to `sizes` (frames).

        Raises InputError, naming `where`, for shares that do not fit the systems that were found.
        """
        n = np.array(sizes, dtype=np.float64)
        if self.sys_probs is not None:
            return _with_rest(np.array(self.sys_probs), n, f"{where}/sys_probs")
        if self.auto_prob == "prob_uniform":
            return np.full(len(n), 1.0 / len(n))
        blocks = [_BLOCK.fullmatch(part.strip()) for part in self.auto_prob.split(";")[1:]]
        weights = np.zeros(len(n))
        for block in filter(None, blocks):
            first, end, share = int(block[1]), int(block[2]), float(block[3])
            if not first < end <= len(n):
                raise InputError(
                    f"{where}/auto_prob: block {block[0]} is not within the {len(n)} systems found"
                )
            weights[first:end] = share * n[first:end] / n[first:end].sum()
        if not any(blocks):
            return None
        if not weights.sum() > 0:
            raise InputError(f"{where}/auto_prob: the shares add up to 0")
        return weights / weights.sum()


def _with_rest(given: np.ndarray, sizes: np.ndarray, where: str) -> np.ndarray:
    """Shares with the negative ones filled in by size."""
    if len(given) != len(sizes):
        raise InputError(f"{where}: {len(given)} shares, but {len(sizes)} systems were found")
    free = given < 0
    left = 1.0 - given[~free].sum()
    if left < -1e-8 or (left > 1e-8 and not free.any()):
        raise InputError(f"{where}: the shares add up to {1.0 - left:g}; expected 1")
    rest = np.where(free, sizes, 0.0)
    return np.where(free, max(left, 0.0) * rest / max(rest.sum(), 1.0), given)


class ValidationConfig(DataConfig):
    """The validation set. A fixed sample of it is evaluated whenever errors are displayed."""

    aliases = {**DataConfig.aliases, "numb_batch": "numb_btch"}
    ignored = {
        **DataConfig.ignored,
        "auto_prob": "a fixed sample of all validation frames is evaluated",
    }
    refused = {
        **DataConfig.refused,
        "sys_probs": "a fixed sample of all validation frames is evaluated",
    }

    numb_btch: int | None = Field(None, ge=1)
    """Batches in the sample. Default: as many frames as keep validation a tenth of the training
    frames between two displays, but at least 8."""
