"""Frames that occur more than once, within a set and between sets, and frames unlike any other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..data import Frame
from ..data.frames import counted
from .finding import Finding, named
from .pairs import displacement
from .survey import Survey, spread

WINDOW = 40
"""Frames next in order of a fingerprint that each frame is compared with."""
SAME_SHAPE = 2e-4
"""Largest difference of fingerprints of one structure written with few decimals."""
SAME_PLACE = 2e-3
"""Å."""
EXPLAINED = 3.0
"""Times the largest force along the largest displacement, by which energies of one structure do not
differ where it was only moved a little."""
SAME_ENERGY = 2e-6
"""eV/atom."""
CONTRADICTION = 2e-3
"""eV/atom between the energies of two copies of one structure."""
LEAKED = 0.5
"""Share of an evaluation set that is also trained on, from which on it is an error."""


KINDS = (
    (
        "warning",
        "copies",
        "is a copy of another",
        "are copies of others",
        "they count double in training",
    ),
    (
        "note",
        "copies-near",
        f"is within {SAME_PLACE:g} Å of another",
        f"are within {SAME_PLACE:g} Å of others",
        "as steps of a dynamics that follow one another they teach little: take every tenth, say",
    ),
    (
        "note",
        "copies-symmetric",
        "is another turned, mirrored or listed in another order",
        "are others turned, mirrored or listed in another order",
        "they teach nothing new",
    ),
)
"""Severity, code, words for one frame and for more, and what that means."""


@dataclass(frozen=True)
class Copy:
    """Frames `first` and `second` are one structure."""

    first: int
    second: int
    same_atoms: bool
    """In the same places or all moved alike; otherwise turned, mirrored or listed otherwise."""
    nearly: bool = False
    """In places that differ, and labels with them: one step of a dynamics after another, say."""


def copies(survey: Survey) -> list[Copy]:
    """Every frame that has a copy before it in the order of fingerprints."""
    shape = survey.geometry.fingerprint
    alone = (survey.n_atoms == 1) | ~np.isfinite(survey.geometry.ratio)
    volume = np.nan_to_num(survey.volume / survey.n_atoms)
    mark = shape.sum(axis=1) + 1e3 * survey.n_atoms
    order = np.argsort(mark)
    found: dict[int, Copy] = {}
    for step in range(1, WINDOW):
        a, b = order[:-step], order[step:]
        near = np.flatnonzero((mark[b] - mark[a] < 1e-2) & ~alone[a] & ~alone[b])
        if len(near) == 0:
            break
        a, b = a[near], b[near]
        same = (np.abs(shape[a] - shape[b]).max(axis=1) < SAME_SHAPE) & (
            np.abs(volume[a] - volume[b]) < 1e-3
        )
        same &= (survey.counts[a] == survey.counts[b]).all(axis=1)
        for i, j in zip(a[same], b[same], strict=True):
            first, second = sorted((int(i), int(j)))
            if not _same_fparam(survey.frames[first], survey.frames[second]):
                continue
            moved, alike = _moved(survey, first, second), _same_labels(survey, first, second)
            same_atoms = moved < SAME_PLACE
            if not same_atoms and not (alike and _same_sizes(survey, first, second)):
                continue  # alike as far as the fingerprint sees
            nearly = not alike and _explained(survey, first, second, moved)
            copy = Copy(first, second, same_atoms, nearly)
            known = found.get(second)
            if known is None or _rank(copy) < _rank(known):
                found[second] = copy
    return list(found.values())


def _same_fparam(a: Frame, b: Frame) -> bool:
    """Whether a model could tell the frames apart by their parameters."""
    if a.fparam is None or b.fparam is None:
        return a.fparam is b.fparam
    return np.array_equal(a.fparam, b.fparam)


def _rank(copy: Copy) -> int:
    """The lower, the more alike."""
    return 2 * (not copy.same_atoms) + copy.nearly


def _same_labels(survey: Survey, i: int, j: int) -> bool:
    """Energies, and sizes of the forces, of one structure written with few decimals; labels that a
    frame lacks do not differ."""
    energies = abs(survey.energy[i] - survey.energy[j]) > SAME_ENERGY * survey.n_atoms[i]
    rms, other = survey.rms_force[i], survey.rms_force[j]
    return not (energies or abs(rms - other) > 1e-3 * (rms + 1))


def _same_sizes(survey: Survey, i: int, j: int) -> bool:
    """Whether two frames with energies have forces of the same sizes, in whatever order: random
    displacements that are small may have one fingerprint, energy and mean square force."""
    if not np.isfinite(survey.energy[[i, j]]).all():
        return False
    a, b = survey.frames[i].forces, survey.frames[j].forces
    if a is None or b is None:
        return True
    sizes = [np.sort(np.linalg.norm(f, axis=1)) for f in (a, b)]
    return bool(np.abs(sizes[0] - sizes[1]).max() <= 1e-3 * (survey.max_force[i] + 1))


def _explained(survey: Survey, i: int, j: int, moved: float) -> bool:
    """Whether atoms that `moved` (Å) so far may have these two energies."""
    force = max(survey.max_force[i], survey.max_force[j])
    difference = np.nan_to_num(abs(survey.energy[i] - survey.energy[j])) / survey.n_atoms[i]
    return bool(difference < EXPLAINED * force * moved)


def _moved(survey: Survey, i: int, j: int) -> float:
    """Å: the largest difference of positions or cells; inf between other atoms."""
    a, b = survey.frames[i], survey.frames[j]
    if a.symbols != b.symbols or (a.pbc != b.pbc).any():
        return float("inf")
    strained = float(np.abs(a.cell - b.cell).max())
    if a.pbc.any() and not a.pbc.all():
        moved = b.positions - a.positions
        moved = moved - moved.mean(axis=0)
    else:
        moved = displacement(a, b)
    return max(strained, float(np.abs(moved).max()))


def findings(survey: Survey) -> Iterator[Finding]:
    """Of all sets together."""
    found = copies(survey)
    contradicting = [
        c
        for c in found
        if c.same_atoms
        and abs(survey.energy[c.first] - survey.energy[c.second])
        > CONTRADICTION * survey.n_atoms[c.first]
    ]
    if contradicting:
        worst = max(
            contradicting, key=lambda c: abs(survey.energy[c.first] - survey.energy[c.second])
        )
        difference = abs(survey.energy[worst.first] - survey.energy[worst.second])
        frames = survey.sources([worst.second, worst.first])
        yield Finding(
            "error",
            "copies-contradict",
            f"{frames[0]} and {frames[1]} are one structure with energies {difference:.4g} eV "
            f"apart ({counted(len(contradicting), 'pair')} of this kind)",
            "keep the labels of one calculation",
            survey.sources([c.second for c in contradicting]),
        )
    yield from _within(survey, found)
    yield from _between(survey, found)


def _within(survey: Survey, found: list[Copy]) -> Iterator[Finding]:
    for severity, code, one, more, do in KINDS:
        own = [
            c for c in found if _kind(c) == code and survey.role[c.first] == survey.role[c.second]
        ]
        if own:
            frames = survey.sources(sorted(c.second for c in own))
            first = survey.frames[min(own, key=lambda c: c.second).first].source
            yield Finding(
                severity,
                code,
                f"{counted(len(own), 'frame')} {one if len(own) == 1 else more} in the same set "
                f"({frames[0]} of {first})",
                do,
                frames,
            )


def _kind(copy: Copy) -> str:
    if not copy.same_atoms:
        return "copies-symmetric"
    return "copies-near" if copy.nearly else "copies"


def _between(survey: Survey, found: list[Copy]) -> Iterator[Finding]:
    """Leakage: frames of one set that another one has too."""
    for i in range(len(survey.roles)):
        for j in range(i + 1, len(survey.roles)):
            own = [c for c in found if {survey.role[c.first], survey.role[c.second]} == {i, j}]
            if not own:
                continue
            leaked = {c.second if survey.role[c.second] == j else c.first for c in own}
            size = int((survey.role == j).sum())
            turned = sum(not c.same_atoms for c in own)
            also = f", {turned} of them turned or mirrored" if turned else ""
            frames = survey.sources(sorted(leaked))
            yield Finding(
                "error" if len(leaked) > LEAKED * size else "warning",
                "leakage",
                f"{len(leaked)} of {counted(size, 'frame')} of {survey.roles[j]} are in "
                f"{survey.roles[i]} too{also} ({frames[0]})",
                f"leave them out of one: errors on {survey.roles[j]} look better than they are",
                frames,
            )


def unlike_others(survey: Survey, which: np.ndarray) -> Iterator[Finding]:
    """Notes of frames of one set whose fingerprint is far from that of every other one."""
    which = which[survey.n_atoms[which] > 1]
    if len(which) < 20:
        return
    from scipy.spatial import cKDTree  # half a second, for this alone

    shape = survey.geometry.fingerprint[which]
    size = shape.std(axis=0)
    shape = shape[:, size > 1e-6] / size[size > 1e-6]
    if shape.size == 0:
        return
    shape = shape - shape.mean(axis=0)
    _, _, axes = np.linalg.svd(shape, full_matrices=False)
    reduced = shape @ axes[:6].T
    distance = cKDTree(reduced).query(reduced, k=3)[0][:, 2]
    size = np.log(np.maximum(distance, 1e-6 * distance.max() + 1e-12))
    far = (size > np.median(size) + 6 * max(spread(size), 0.3)) & (distance > 0.5)
    if far.any():
        order = np.argsort(-np.where(far, distance, 0.0))[: int(far.sum())]
        frames = survey.sources(which[order])
        yield Finding(
            "note",
            "frame-alone",
            f"{named(frames)}: distances between atoms unlike those of any other frame",
            "a model will be poor there: add frames like it, or check that it is wanted",
            frames,
        )
