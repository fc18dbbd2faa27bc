"""Atoms that are too close to one another, by the numbers that they have in the structure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from ..system import InputError

_ROWS = re.compile(r"rows (\d+) and (\d+) (?=coincide|are .* apart)")
"""What kernels say of two rows of atoms and ghosts, an order that no user knows."""


@contextmanager
def atoms_named(ids: torch.Tensor, types: torch.Tensor, type_map: Sequence[str]) -> Iterator[None]:
    """Inside, an InputError on rows that are too close becomes one on the atoms of these rows.

    `ids` (n_all,) int64 and `types` (n_all,) int32 of atoms and ghosts.
    """
    try:
        yield
    except InputError as e:
        found = _ROWS.search(str(e))
        if found is None:
            raise
        rows = sorted(map(int, found.groups()), key=lambda row: int(ids[row]))
        a, b = (f"{int(ids[row])} ({type_map[int(types[row])]})" for row in rows)
        rest = str(e)[found.end() :]
        raise InputError(
            f"structure: atoms {a} and {b} {rest}; take one of them out, or move it"
        ) from None
