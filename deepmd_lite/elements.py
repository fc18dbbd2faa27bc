"""Numbers of the chemical elements, from ASE's tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .system import InputError


def no_elements(symbols: Iterable[str]) -> list[str]:
    """Those of the symbols that are no chemical element."""
    from ase.data import atomic_numbers as table

    return [s for s in symbols if table.get(s, 0) < 1]


def atomic_numbers(symbols: Sequence[str], where: str) -> list[int]:
    """Of each element symbol. Raises InputError, naming `where`, for what is no element."""
    from ase.data import atomic_numbers as table

    unknown = no_elements(symbols)
    if unknown:
        raise InputError(f"{where}: '{unknown[0]}' is not a chemical element")
    return [int(table[s]) for s in symbols]


def covalent_radius(atomic_number: int) -> float:
    """Å; Cordero et al., Dalton Trans. 2008, 2832. 0.2 Å where none is tabulated."""
    from ase.data import covalent_radii

    return float(covalent_radii[atomic_number])
