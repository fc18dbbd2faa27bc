"""How well a committee's spread foretells errors, and the factor that makes them equal in the mean.

ε_i, the deviation of the force on atom i over the committee (`deviation`), is compared with the
error |F_i − F_i^ref| of the potential's own force. Forces are linear in the last layer: a factor on
all members' weights is one on every ε_i.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from ..committee import Committee
from ..data import PreparedFrame
from ..deviation import force_deviation
from ..page import panels
from ..system import InputError

BINS = 8
"""Of atoms, by deviation, each with as many."""
TRUSTED = 0.95
"""Of the frames that the calibration saw have no atom beyond the lower trust level."""
ODD, LEAST_WIDTH = 6.0, 0.25
"""Robust standard deviations of the logarithm of error over deviation of a frame, and the least
value of one: what is off the median by more, no committee foretells."""
LEAST_FRAMES = 8
"""In fewer nobody knows what is usual."""
FEW, OFF = 0.05, 4.0
"""Share of the frames that must not decide for the others, where they err so many times more, or
less, than those do at the same deviation."""
UPPER = 3.0
"""The upper trust level over the lower one."""


@dataclass(frozen=True)
class Calibration:
    """Deviations beside errors, of the atoms of some frames."""

    deviations: np.ndarray
    """(n_atoms,) eV/Å, of the forces."""
    errors: np.ndarray
    """(n_atoms,) eV/Å, lengths of vectors."""
    frames: np.ndarray
    """(n_atoms,): number of each atom's frame."""

    @property
    def factor(self) -> float:
        """What deviations are to be multiplied with, so that their mean square is that of errors.

        Raises InputError where nothing deviates.
        """
        square = float(np.mean(self.deviations**2))
        if not square > 0:
            raise InputError("uncertainty: no force depends on the last layer of the networks")
        return float(np.sqrt(np.mean(self.errors**2) / square))

    def deciding(self) -> np.ndarray:
        """Numbers of the frames that would decide the factor for all others: with errors far from
        what deviations foretell elsewhere, or few that carry more than half of all other squares,
        of errors or deviations, and are off."""
        deviation, error = (np.bincount(self.frames, x**2) for x in (self.deviations, self.errors))
        known = (deviation > 0) & (error > 0)
        if known.sum() < LEAST_FRAMES:
            return np.zeros(0, dtype=int)
        ratio = 0.5 * np.log(np.divide(error, deviation, where=known, out=np.ones(len(known))))
        off = np.abs(ratio - np.median(ratio[known]))
        odd = known & (off > ODD * max(1.4826 * float(np.median(off[known])), LEAST_WIDTH))
        # of a perfect crystal both are nothing, and so is what their ratio counts for
        odd &= (error > np.median(error[known])) | (deviation > np.median(deviation[known]))
        for square in (error, deviation):
            left = np.where(odd, 0.0, square)
            order = np.argsort(-left)
            n = int(np.searchsorted(np.cumsum(left[order]), 0.5 * left.sum())) + 1
            if n <= max(1, FEW * len(left)):
                odd[order[:n]] |= off[order[:n]] > np.log(OFF)
        return np.flatnonzero(odd)

    def without(self, frames: np.ndarray) -> Calibration:
        """Of the other frames, numbered anew."""
        kept = ~np.isin(self.frames, frames)
        numbers = np.unique(self.frames[kept], return_inverse=True)[1]
        return Calibration(self.deviations[kept], self.errors[kept], numbers)

    def scaled(self, factor: float) -> Calibration:
        """With `factor` times the deviations."""
        return Calibration(factor * self.deviations, self.errors, self.frames)

    def largest(self) -> tuple[np.ndarray, np.ndarray]:
        """Largest deviation and largest error of each frame, (n_frames,)."""
        n = int(self.frames.max()) + 1
        found = np.zeros((2, n))
        for row, values in zip(found, (self.deviations, self.errors), strict=True):
            np.maximum.at(row, self.frames, values)
        return found[0], found[1]

    def bins(self) -> list[tuple[float, float]]:
        """Root mean squares of deviations and of errors, in order of deviation."""
        parts = np.array_split(np.argsort(self.deviations), BINS)
        return [(rms(self.deviations[part]), rms(self.errors[part])) for part in parts if len(part)]

    def trust(self) -> tuple[float, float]:
        """Levels of a frame's largest deviation, eV/Å: below the first the model knows what it
        sees; beyond the second a structure is seldom worth a calculation."""
        lower = float(np.quantile(self.largest()[0], TRUSTED))
        return lower, UPPER * lower

    def facts(self) -> dict[str, Any]:
        """JSON-able, for the model file."""
        lower, upper = self.trust()
        found = {
            "force_error": rms(self.errors),
            "rank_correlation_atoms": _ranks(self.deviations, self.errors),
            "rank_correlation_frames": _ranks(*self.largest()),
            "bins": [list(pair) for pair in self.bins()],
            "trust_lower": lower,
            "trust_upper": upper,
        }
        return {k: v for k, v in found.items() if v is not None}


def rms(x: np.ndarray) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(x**2)))


def _ranks(a: np.ndarray, b: np.ndarray) -> float | None:
    """Spearman's correlation; None where there is nothing to order."""
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(spearmanr(a, b).statistic)


def compared(committee: Committee, frames: Iterable[PreparedFrame]) -> Calibration:
    """On frames with forces. Raises InputError where there are none."""
    deviations: list[np.ndarray] = []
    errors: list[np.ndarray] = []
    numbers: list[np.ndarray] = []
    for prepared in frames:
        label, fold = prepared.frame.forces, prepared.periodic.fold
        if label is None or not len(label):
            continue
        own = fold(committee.evaluate(prepared.env).forces).numpy()
        others = [fold(e.forces).numpy() for e in committee.others(prepared.env)]
        deviations.append(force_deviation(np.stack([own, *others])))
        errors.append(np.linalg.norm(own - label, axis=1))
        numbers.append(np.full(len(label), len(numbers)))
    if not numbers:
        raise InputError("uncertainty: expected frames with forces, found none")
    return Calibration(*(np.concatenate(x) for x in (deviations, errors, numbers)))


def picture(calibration: Calibration) -> Any:
    """Errors against deviations, of atoms and of frames: a figure of two panels."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    figure, (atoms, frames) = panels(2)
    sides = (
        (atoms, calibration.deviations, calibration.errors, "force on an atom"),
        (frames, *calibration.largest(), "largest in a frame"),
    )
    for axis, deviation, error, title in sides:
        shown = (deviation > 0) & (error > 0)
        size = 3 if len(deviation) > 300 else 6
        axis.loglog(deviation[shown], error[shown], ".", ms=size, mew=0, alpha=0.4, rasterized=True)
        limits = [deviation[shown].min(initial=np.inf), deviation[shown].max(initial=0.0)]
        axis.plot(limits, limits, color="0.4", lw=0.8)
        axis.set(xlabel="deviation (eV/Å)", ylabel="error (eV/Å)", title=title)
        for direction in (axis.xaxis, axis.yaxis):
            direction.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            direction.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            direction.set_minor_formatter(NullFormatter())
    atoms.plot(*zip(*calibration.bins(), strict=True), "o-", ms=4, color="C1")
    return figure
