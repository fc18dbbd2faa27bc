"""Atoms that can turn in open space, laid upon one another.

A molecule that turns moves its atoms along arcs, at no energy. A chord of such an arc is already
wrong at the second order of the way, so the turn is taken out before a way is told from positions.
Wires turn about their axis; slabs and crystals are held by their cells.
"""

from __future__ import annotations

import numpy as np

from ..data import Frame


def can_turn(pbc: np.ndarray) -> bool:
    """Whether a frame periodic along these axes (3,) has the same energy where it is turned."""
    return bool(pbc.sum() <= 1)


def axis_of(frame: Frame) -> np.ndarray | None:
    """(3,) unit vector of the only axis that the frame may turn about; None: about any."""
    if not frame.pbc.any():
        return None
    (along,) = frame.cell[frame.pbc]
    return np.asarray(along / np.linalg.norm(along))


def turns(products: np.ndarray, axis: np.ndarray | None) -> np.ndarray:
    """(…, 3, 3) proper rotations Q that lay centred positions b (n, 3) upon a: b @ Q ≈ a.

    `products`: (…, 3, 3) bᵀ a. Of all rotations (Kabsch, Acta Cryst. A 32, 922 (1976)), or of those
    about the unit vector `axis`, the one with the least sum of squared distances.
    """
    if axis is None:
        u, _, vt = np.linalg.svd(products)
        u[..., :, 2] *= np.linalg.det(u @ vt)[..., None]  # never a mirror image
        return np.asarray(u @ vt)
    x, y, z = axis
    along, across = np.outer(axis, axis), np.array([[0, z, -y], [-z, 0, x], [y, -x, 0]])
    plane = np.eye(3) - along
    cosine, sine = ((products * part).sum(axis=(-2, -1)) for part in (plane, across))
    size = np.maximum(np.hypot(cosine, sine), np.finfo(float).tiny)
    cosine, sine = (np.asarray(x / size)[..., None, None] for x in (cosine, sine))
    return np.asarray(along + cosine * plane + sine * across)


def centred(positions: np.ndarray) -> np.ndarray:
    """(…, n, 3), their means taken out."""
    return np.asarray(positions - positions.mean(axis=-2, keepdims=True))


def likeness(positions: np.ndarray, axis: np.ndarray | None) -> np.ndarray:
    """(F, F) Å²: minus the sums of squared distances of atoms (F, n, 3), each pair laid upon one
    another."""
    places = centred(positions)
    square = (places**2).sum(axis=(1, 2))
    first, second = np.triu_indices(len(places), 1)
    products = np.einsum("ikx,jky->ijxy", places, places, optimize=True)[second, first]
    found = np.zeros((len(places), len(places)))
    found[first, second] = 2 * (turns(products, axis) * products).sum(axis=(1, 2))
    found[first, second] -= square[first] + square[second]
    return found + found.T
