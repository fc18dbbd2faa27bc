"""Numbers of the chemical elements, from ASE's tables."""

from __future__ import annotations

from collections.abc import Sequence

from .system import InputError


def atomic_numbers(symbols: Sequence[str], where: str) -> list[int]:
    """Of each element symbol. Raises InputError, naming `where`, for what is no element."""
    from ase.data import atomic_numbers as table

    unknown = [s for s in symbols if table.get(s, 0) < 1]
    if unknown:
        raise InputError(f"{where}: '{unknown[0]}' is not a chemical element")
    return [int(table[s]) for s in symbols]


def covalent_radius(atomic_number: int) -> float:
    """Å; Cordero et al., Dalton Trans. 2008, 2832. 0.2 Å where none is tabulated."""
    from ase.data import covalent_radii

    return float(covalent_radii[atomic_number])
