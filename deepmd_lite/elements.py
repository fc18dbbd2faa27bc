"""Numbers of the chemical elements, from ASE's tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .system import InputError

FAMILIES = "H", "B", "C Si Ge", "N P As Sb", "O S Se Te", "F Cl Br I At", "He Ne Ar Kr Xe Rn"
"""Elements of a column of the periodic table; all others are metals, which are one family."""


def no_elements(symbols: Iterable[str]) -> list[str]:
    """Those of the symbols that are no chemical element."""
    from ase.data import atomic_numbers as table

    return [s for s in symbols if table.get(s, 0) < 1]


def atomic_numbers(symbols: Sequence[str], where: str) -> list[int]:
    """Atomic number of each element symbol.

    Raises InputError, naming `where`, for what is no element.
    """
    from ase.data import atomic_numbers as table

    unknown = no_elements(symbols)
    if unknown:
        raise InputError(f"{where}: '{unknown[0]}' is not a chemical element")
    return [int(table[s]) for s in symbols]


def covalent_radius(atomic_number: int) -> float:
    """Å; Cordero et al., Dalton Trans. 2008, 2832. 0.2 Å where none is tabulated."""
    from ase.data import covalent_radii

    return float(covalent_radii[atomic_number])


def family(symbol: str) -> str:
    """What is the same for elements that bond alike; of what is no element, the symbol itself."""
    if no_elements([symbol]):
        return symbol
    return next((column for column in FAMILIES if symbol in column.split()), "metals")
