"""Forces: outliers, few that are far beyond all others, and sums that should vanish."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np

from ..data.frames import counted
from .finding import Finding, named
from .survey import Survey, spread

SIGMAS = 6.0
"""Robust standard deviations of the logarithm of a frame's largest force."""
LEAST_WIDTH = 0.25
"""The logarithm varies at least so much in any set."""
EXTREME, EXTREME_SIGMAS = 5.0, 3.0
"""Times the largest force that a tenth of the frames exceed, and robust standard deviations of the
logarithm, from which on a force outweighs all others in a loss of squares. Clean sets of wide
ranges stay below 3.5 times."""
SHOWN = 6
"""Frames that are named in words."""
FEW, LEAST_FRAMES = 0.05, 20
"""Share of the frames up to which they are no kind of structure by themselves; in fewer frames
nobody knows what is usual."""
UNBALANCED = 0.15
"""Net force (or torque) over that of forces of the same size at random."""


def findings(survey: Survey, which: np.ndarray) -> Iterator[Finding]:
    """Of the frame numbers `which`."""
    which = which[np.isfinite(survey.max_force[which]) & (survey.n_atoms[which] > 1)]
    if len(which) == 0:
        return
    zero = which[survey.max_force[which] == 0]
    if len(zero) == len(which) and len(which) > 1:
        yield Finding(
            "warning",  # perfect crystals have no others
            "force-zero",
            f"{survey.names[survey.system[which[0]]]}: all forces of {counted(len(which), 'frame')}"
            " are exactly 0",
            "right for perfect crystals alone; otherwise write the forces of the calculation",
        )
        return
    outliers = list(_outliers(survey, which))
    yield from outliers
    yield from _extreme(survey, which, {source for f in outliers for source in f.frames})
    yield from _unbalanced(survey, which)
    yield from _torque(survey, which)


def _outliers(survey: Survey, which: np.ndarray) -> Iterator[Finding]:
    """Frames with a force far beyond all others that no close pair of atoms explains."""
    moving = which[survey.max_force[which] > 0.05]
    if len(moving) < 8:
        return
    size = np.log(survey.max_force[moving])
    middle = np.median(size)
    width = max(spread(size), LEAST_WIDTH)
    largest = survey.max_force[moving]
    closest = np.minimum(survey.geometry.ratio[moving], 99.0)  # quantiles need finite numbers
    limit = max(float(np.exp(middle + SIGMAS * width)), 3 * float(np.quantile(largest, 0.9)))
    lonely = largest / np.maximum(survey.rms_force[moving], 1e-9)
    single = lonely > 3 * np.median(lonely)  # one atom's force stands out within its frame
    dense = closest < min(0.93 * np.median(closest), np.quantile(closest, 0.05))
    high = largest > np.where(single, 0.5 * limit, limit)
    bad = moving[high & (single | ~dense)]
    if len(bad):
        bad = bad[np.argsort(-survey.max_force[bad])]
        frames = survey.sources(bad)
        forces = np.asarray(survey.frames[bad[0]].forces)
        atom = int(np.argmax((forces**2).sum(axis=1)))
        yield Finding(
            "warning",
            "force-outlier",
            f"{named(frames)}: a force of {survey.max_force[bad[0]]:.3g} eV/Å on atom {atom}, "
            f"where {np.exp(middle):.2g} is the usual largest one and no atoms are unusually close",
            "check that the calculation converged, or leave the frame out",
            frames,
        )


def _extreme(survey: Survey, which: np.ndarray, told: Collection[str]) -> Iterator[Finding]:
    """Few frames with forces far beyond the bulk of the set, whatever explains them.

    `told`: frames that were named before.
    """
    moving = which[survey.max_force[which] > 0.05]
    if len(moving) < LEAST_FRAMES:
        return
    size = np.log(survey.max_force[moving])
    high = float(np.quantile(size, 0.9))
    limit = max(high + np.log(EXTREME), np.median(size) + EXTREME_SIGMAS * spread(size))
    bad = moving[size > limit]
    if len(bad) > FEW * len(moving):
        return
    bad = bad[np.argsort(-survey.max_force[bad])]
    bad = bad[[source not in told for source in survey.sources(bad)]]
    if len(bad):
        frames = survey.sources(bad)
        sizes = ", ".join(f"{survey.max_force[k]:.4g}" for k in bad[:SHOWN])
        yield Finding(
            "warning",
            "force-extreme",
            f"{', '.join(frames[:SHOWN])}{' …' if len(bad) > SHOWN else ''}: forces of up to "
            f"{sizes} eV/Å, where nine frames in ten stay below {np.exp(high):.2g}: these "
            f"{counted(len(bad), 'frame')} outweigh the others in a loss of squares",
            "leave them out, or give them a small weight (config_weight)",
            frames,
        )


def _unbalanced(survey: Survey, which: np.ndarray) -> Iterator[Finding]:
    """Forces of a frame that do not add up to zero."""
    size = np.sqrt(survey.n_atoms[which]) * np.maximum(survey.rms_force[which], 0.05)
    ratio = survey.net_force[which] / size
    bad = which[ratio > UNBALANCED]
    if len(bad):
        bad = bad[np.argsort(-survey.net_force[bad])]
        frames = survey.sources(bad)
        yield Finding(
            "warning",
            "force-net",
            f"{named(frames)}: the forces add up to {survey.net_force[bad[0]]:.3g} eV/Å, not to 0",
            "forces of fixed atoms set to 0, an external field, or an unconverged calculation: "
            "a potential cannot learn a net force",
            frames,
        )


def _torque(survey: Survey, which: np.ndarray) -> Iterator[Finding]:
    """Forces on molecules in open space that would turn them."""
    bad, worst = [], 0.0
    for k in which:
        frame = survey.frames[k]
        if frame.pbc.any() or frame.forces is None:
            continue
        arm = frame.positions - frame.positions.mean(axis=0)
        torque = float(np.linalg.norm(np.cross(arm, frame.forces).sum(axis=0)))
        size = np.sqrt((arm**2).sum()) * max(float(survey.rms_force[k]), 0.05)
        if torque > UNBALANCED * size and torque > 0.01:
            bad.append(k)
            worst = max(worst, torque)
    if bad:
        frames = survey.sources(bad)
        yield Finding(
            "warning",
            "force-torque",
            f"{named(frames)}: the forces on a molecule in open space have a torque of up to "
            f"{worst:.3g} eV, expected 0",
            "check that positions and forces belong to one frame and orientation",
            frames,
        )
