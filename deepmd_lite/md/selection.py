"""Atoms that an input names: held, moving, pulled, or alone in touch with a thermostat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from ..schema import Section

Finite = Annotated[float, Field(allow_inf_nan=False)]
Vector = tuple[Finite, Finite, Finite]
"""Along x, y and z."""


class Selection(Section):
    """Atoms that meet every condition given.

    Coordinates are Cartesian, in the structure as replicated, at the beginning of the run; of an
    atom that has left the cell, those of its image in it (`groups.places`).
    """

    elements: list[str] | None = None
    indices: str | list[int] | None = None
    """Numbers from 0 in the replicated structure: a list, or a slice such as "0:100"."""
    axis: Literal["x", "y", "z"] | None = None
    """Axis along which the region is measured."""
    below: Finite | None = None
    """Å along `axis`."""
    above: Finite | None = None
    """Å along `axis`; with `below`: the region between the two."""

    @model_validator(mode="after")
    def _whole(self) -> Selection:
        bounds = self.below is not None or self.above is not None
        if bounds and self.axis is None:
            raise ValueError("'below' and 'above' need an axis: x, y or z")
        if self.axis is not None and not bounds:
            raise ValueError("'axis' needs 'below' or 'above' (Å)")
        if not bounds and self.elements is None and self.indices is None:
            raise ValueError("says no atoms; give elements, indices, or axis with below or above")
        if isinstance(self.indices, str):
            slice_of(self.indices)
        return self

    @property
    def conditions(self) -> dict[str, Any]:
        """Those that are given, of atoms alone."""
        given = self.model_dump(mode="json", exclude_none=True)
        return {key: given[key] for key in Selection.model_fields if key in given}


class Moving(Selection):
    """Atoms that no force moves: they go on at one velocity."""

    velocity: Vector
    """Å/fs."""


class Pulled(Selection):
    """Atoms on each of which a constant force acts besides the model's."""

    force: Vector
    """eV/Å."""


def slice_of(text: str) -> slice:
    """The slice that a text such as '0:100' or '::2' means; raises ValueError."""
    parts = text.split(":")
    try:
        numbers = [int(p) if p.strip() else None for p in parts]
        if len(parts) in (2, 3) and numbers[2:] != [0]:
            return slice(*numbers)
    except ValueError:
        pass
    raise ValueError("key 'indices': expected a list of numbers, or a slice such as '0:100'")


def _listed(value: Any) -> Any:
    several = value if isinstance(value, (list, tuple)) else [value]
    if value is not None and not all(isinstance(x, (Mapping, Selection)) for x in several):
        raise ValueError("expected {elements: …}, {indices: …} or {axis: …, below: …}, or a list")
    return value if value is None else list(several)


OneOrSeveral = BeforeValidator(_listed)
"""Of a list of selections: one alone may stand for it."""


def one_alone(several: list[Any] | None) -> Any:
    """The inverse, for what is kept of an input."""
    return several[0] if several and len(several) == 1 else several
