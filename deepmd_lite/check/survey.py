"""What is measured once on every frame, so that each check is a few lines of statistics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..data import Frame, System
from ..elements import no_elements
from .geometry import Geometry, radii_of, scan

ROUNDS = 12
"""Of a robust fit, each with weights from the one before."""
ROBUST = 1.4826
"""Median absolute deviation to standard deviation of a normal distribution."""


@dataclass
class Survey:
    """The frames of all sets one after another, and their numbers; NaN where a label is missing."""

    frames: list[Frame]
    system: np.ndarray
    """(F,) int: the system (file or folder) that each frame comes from."""
    names: list[str]
    """Of the systems."""
    role: np.ndarray
    """(F,) int: the set that each frame belongs to."""
    roles: list[str]
    """Names of the sets: training, validation, test; or 'data'."""
    elements: list[str]
    counts: np.ndarray
    """(F, n_elements) atoms of each element."""
    energy: np.ndarray
    """(F,) eV."""
    volume: np.ndarray
    """(F,) Å³, NaN unless periodic in three directions."""
    geometry: Geometry
    quiet: bool = True
    """Whether checks that take long say how far they are."""

    @classmethod
    def of(cls, sets: dict[str, list[System]], quiet: bool = True) -> Survey:
        """Measure the frames of `sets`: systems by the name of their set; `quiet`: without telling
        how far that is."""
        systems = [(role, s) for role, members in enumerate(sets.values()) for s in members]
        frames = [f for _, s in systems for f in s.frames]
        sizes = [len(s.frames) for _, s in systems]
        elements = sorted({e for f in frames for e in set(f.symbols)})
        compositions = {s: [s.count(e) for e in elements] for s in {f.symbols for f in frames}}
        periodic = np.array([f.pbc.all() for f in frames])
        volumes = np.abs(np.linalg.det(np.array([f.cell for f in frames])))
        return cls(
            frames=frames,
            system=np.repeat(np.arange(len(systems)), sizes),
            names=[s.name for _, s in systems],
            role=np.repeat([role for role, _ in systems], sizes),
            roles=list(sets),
            elements=elements,
            counts=np.array([compositions[f.symbols] for f in frames]),
            energy=np.array([np.nan if f.energy is None else f.energy for f in frames]),
            volume=np.where(periodic, volumes, np.nan),
            geometry=scan(frames, elements, quiet),
            quiet=quiet,
        )

    def by_system(self, which: np.ndarray) -> dict[int, np.ndarray]:
        """Places in `which` (frame numbers) of the frames of each system that has some there."""
        system = self.system[which]
        order = np.argsort(system, kind="stable")
        numbers, first = np.unique(system[order], return_index=True)
        parts = np.split(order, first[1:]) if len(order) else []
        return {int(k): own for k, own in zip(numbers, parts, strict=True)}

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def unknown(self) -> list[str]:
        """Names that are no chemical elements."""
        return no_elements(self.elements)

    @cached_property
    def n_atoms(self) -> np.ndarray:
        """(F,)."""
        return self.counts.sum(axis=1)

    @cached_property
    def radii(self) -> np.ndarray:
        """(n_elements,) covalent radii, Å."""
        return radii_of(self.elements)

    @cached_property
    def max_force(self) -> np.ndarray:
        """(F,) length of the largest force, eV/Å."""
        return self._of_forces(lambda f: float(np.sqrt((f**2).sum(axis=1).max())))

    @cached_property
    def rms_force(self) -> np.ndarray:
        """(F,) root of the mean square length, eV/Å."""
        return self._of_forces(lambda f: float(np.sqrt((f**2).sum() / len(f))))

    @cached_property
    def net_force(self) -> np.ndarray:
        """(F,) length of the sum of all forces, eV/Å."""
        return self._of_forces(lambda f: float(np.linalg.norm(f.sum(axis=0))))

    def _of_forces(self, number: Callable[[np.ndarray], float]) -> np.ndarray:
        return np.array([np.nan if f.forces is None else number(f.forces) for f in self.frames])

    def sources(self, numbers: Sequence[int] | np.ndarray) -> tuple[str, ...]:
        """File and number of frames."""
        return tuple(self.frames[int(i)].source for i in numbers)


def spread(values: np.ndarray) -> float:
    """Robust standard deviation (from the median absolute deviation), NaN left out."""
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return float("nan")
    return float(ROBUST * np.median(np.abs(values - np.median(values))))


def robust_fit(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float]:
    """Coefficients (k,) of y ≈ x @ c and the robust standard deviation of what is left.

    Least squares with Huber's weights, minimal norm where columns depend on one another.
    """
    weight = np.ones(len(y))
    coefficients = np.zeros(x.shape[1])
    scale = 0.0
    for _ in range(ROUNDS if len(y) else 0):
        root = np.sqrt(weight)
        coefficients = np.linalg.lstsq(x * root[:, None], y * root, rcond=1e-10)[0]
        left = np.abs(y - x @ coefficients)
        scale = ROBUST * float(np.median(left))
        weight = huber(left, scale)
    return coefficients, scale


def huber(left: np.ndarray, scale: float) -> np.ndarray:
    """Weights of what a fit leaves, by Huber: 1 within 1.5 of its `scale`, and less farther off."""
    limit = 1.5 * max(scale, 1e-12)
    return limit / np.maximum(np.abs(left), limit)


def correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Of two series that both vanish for a pair of equal frames; robust against few outliers."""
    size = np.abs(x) * np.median(np.abs(y)) + np.abs(y) * np.median(np.abs(x))
    kept = size <= np.quantile(size, 0.95)
    x, y = x[kept], y[kept]
    norm = np.sqrt((x * x).sum() * (y * y).sum())
    return float((x * y).sum() / norm) if norm > 0 else 0.0
