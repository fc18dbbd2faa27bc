"""What a path of data says besides the place: which frames, and which names are the labels.

`train.extxyz@:100` are the first hundred frames, `@5` the sixth, `@::10` every tenth, as in ASE;
`train.extxyz#energy=REF_energy,forces=REF_forces` takes these values and no others, whatever else
the file has; and both, in this order. `train.xyz#head=pbe` are the frames whose `head` this is,
which are counted from 0 then. A file that has such a name is that file.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..schema import located
from ..system import InputError
from .frames import System
from .hdf5 import SUFFIXES

LABELS = ("energy", "forces", "virial", "stress")
HEAD = "head"
_LABEL = rf"(?:{'|'.join((*LABELS, HEAD))})=[^,=#]+"
_PLACE = re.compile(
    r"(?P<path>.+?)(?P<rest>"
    r"(?:@(?P<frames>-?\d+|-?\d*:-?\d*(?::-?\d*)?))?"
    rf"(?:#(?P<labels>{_LABEL}(?:,{_LABEL})*))?)"
)
_LIKE_LABELS = re.compile(r"(?P<path>.+?)(?:@[-\d:]+)?#(?P<labels>[^/#][^#]*=[^#]*)")
"""As of somebody who means labels, whatever these are called."""


@dataclass(frozen=True)
class Place:
    """A path and what is wanted of it."""

    path: str
    rest: str = ""
    """As it was written, to be joined to a path again."""
    frames: slice = field(default_factory=lambda: slice(None))
    labels: Mapping[str, str] = field(default_factory=dict)
    """Of `LABELS` → a name in the file."""
    head: str | None = None
    """The level of theory wanted; None: all."""

    def of(self, system: System) -> System:
        """The frames wanted. Raises InputError where there are none."""
        if not self.rest:
            return system
        frames = system.frames[self.frames]
        if not frames:
            n = len(system.frames)
            raise InputError(f"{system.name}{self.rest}: no such frames; it has {n}, from 0 on")
        return replace(system, name=system.name + self.rest, frames=frames)


def located_data(given: str, folder: Path | None, where: str) -> str:
    """As `schema.located`, for a path that may say which frames and labels are wanted."""
    place = place_of(given)
    return located(place.path, folder, where) + place.rest


def place_of(given: str | Path) -> Place:
    """What a path says.

    Raises InputError for steps of 0 frames, a label that is named twice, and what no label is.
    """
    match = _PLACE.fullmatch(str(given))
    if match is None or not match["rest"] or Path(given).exists():
        _refuse_unknown_labels(str(given))
        return Place(str(given))
    frames = slice(None)
    if match["frames"] is not None:
        numbers = [int(x) if x else None for x in match["frames"].split(":")]
        if len(numbers) == 1:
            (k,) = numbers
            numbers = [k, None if k == -1 else (k or 0) + 1]
        frames = slice(*numbers)
        if frames.step == 0:
            raise InputError(f"{given}: a step of 0 frames")
    pairs = [tuple(pair.split("=")) for pair in (match["labels"] or "").split(",") if pair]
    labels: dict[str, str] = dict(pairs)
    if len(labels) < len(pairs) or {"virial", "stress"} <= labels.keys():
        raise InputError(f"{given}: one name for each label, of virial and stress one of the two")
    head = labels.pop(HEAD, None)
    return Place(match["path"], match["rest"], frames, labels, head)


def _refuse_unknown_labels(given: str) -> None:
    """Raise InputError where a path goes on, behind the name of a file, like one that has labels.

    Groups of HDF5 files, which are written so too, may have any name.
    """
    found = _LIKE_LABELS.fullmatch(given)
    if found is None or Path(given).exists():
        return
    path = Path(found["path"])
    if path.suffix.lower() in SUFFIXES or not path.is_file():
        return
    for pair in found["labels"].split(","):
        key, mark, name = pair.partition("=")
        if not (mark and name):
            raise InputError(f"{given}: expected LABEL=NAME behind '#', found '{pair}'")
        if key not in (*LABELS, HEAD):
            close = difflib.get_close_matches(key, (*LABELS, HEAD), n=1, cutoff=0.5)
            known = ", ".join((*LABELS, HEAD))
            hint = f"did you mean '{close[0]}'?" if close else f"known are {known}"
            raise InputError(f"{given}: unknown label '{key}'; {hint}")
