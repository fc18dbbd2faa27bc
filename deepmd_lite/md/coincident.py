"""Atoms that are too close to one another, by the numbers that they have in the structure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from ..system import InputError

_ROWS = re.compile(r"rows (\d+) and (\d+) (?=coincide|are .* apart)")
"""What kernels say of two rows of atoms and ghosts, an order that no user knows."""


class TooClose(InputError):
    """Two atoms where the model knows no energy: at one place, or before its table begins."""

    def __init__(self, what: str) -> None:
        super().__init__(f"structure: {what}; take one of them out, or move it")
        self.what = what
        """Which atoms, how close, and what the limit is."""


@contextmanager
def atoms_named(ids: torch.Tensor, types: torch.Tensor, type_map: Sequence[str]) -> Iterator[None]:
    """Inside, an InputError on rows that are too close becomes TooClose of these atoms.

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
        raise TooClose(f"atoms {a} and {b} {str(e)[found.end() :]}") from None
