"""What data cannot tell of their elements, however right they are: bonds that are in none of them,
and energies that compositions leave open."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

SINGULAR = 1e-8
"""Relative size of singular values that count as 0, of columns of equal length: compositions that
do not vary. A rare element still counts."""
TOLD = 1e-6
"""By how much the part of an element that compositions show may fall short of all of it."""


def told_apart(compositions: np.ndarray) -> np.ndarray:
    """(E,) bool: elements whose energy these (F, E) numbers of atoms determine; an element that
    occurs nowhere counts as such."""
    lengths = np.linalg.norm(compositions, axis=0)
    _, s, v = np.linalg.svd(compositions / np.where(lengths > 0, lengths, 1.0), full_matrices=False)
    rank = int((s > SINGULAR * s[0]).sum())
    return np.asarray(((v[:rank] ** 2).sum(axis=0) > 1.0 - TOLD) | (lengths == 0))


def alike(elements: Sequence[str], compositions: np.ndarray) -> list[str]:
    """Those of the elements whose energies the (F, E) numbers of atoms leave open."""
    numbers = np.asarray(compositions, dtype=float)
    if not numbers.size:
        return []
    told = told_apart(numbers)
    return [e for e, one in zip(elements, told, strict=True) if not one]


def not_apart(elements: Sequence[str]) -> str:
    """How they are told of."""
    return f"the compositions do not tell {', '.join(elements)} apart"


ONLY_DIFFERENCES = (
    "only differences of energy between structures of such compositions mean something, not those "
    "to single atoms or to other compositions"
)


def unknown_bonds(
    elements: Sequence[str], counts: np.ndarray, seeing: np.ndarray, with_forces: np.ndarray
) -> Iterator[tuple[str, str]]:
    """Elements without a neighbour or a force, and what a model cannot know of them, in words.

    `counts` (F, E) of the atoms of each frame; `seeing` (F,) bool: frames in which there are
    neighbours; `with_forces` (F,) bool. Nothing where there are no neighbours at all.
    """
    present, among, pulled = (
        counts[k].sum(axis=0) for k in (slice(None), seeing, seeing & with_forces)
    )
    if not among.any():
        return
    alone = [e for k, e in enumerate(elements) if present[k] and not among[k]]
    if alone:
        yield (
            f"{', '.join(alone)}: only as isolated atoms",
            "a model of these data knows nothing of bonds to them: add structures that have some, "
            "or leave these atoms out",
        )
    still = [e for k, e in enumerate(elements) if among[k] and not pulled[k]]
    if still and pulled.any():
        yield (
            f"{', '.join(still)}: in no frame with forces, which others have",
            "a model of these data knows bonds to them by energies alone: add forces",
        )
