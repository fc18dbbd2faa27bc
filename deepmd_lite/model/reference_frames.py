"""Structures that a model file remembers, with what it said about them when it was written.

They are evaluated again whenever the file is read, on the machine and in the precision in use:
what differs there from where the model was made, a damaged file, a build that computes something
else, is an error at once and not a wrong simulation. Frame parameters are at their mean.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .. import kernels
from ..system import ModelFileError
from .frame_parameters import at_mean
from .structures import Structure, evaluated

if TYPE_CHECKING:
    from .potential import Potential

MOST_ATOMS = 512
"""A larger frame would make the reading of a model slow."""
TOLERANCE = {"float64": 1e-8, "float32": 1e-3}
"""Of a force, relative to the largest one in the frame or 1 eV/Å, and of an atom's energy, relative
to the largest difference from its element's energy bias or 1 eV."""
_PREFIX = "reference."


@dataclass(frozen=True)
class ReferenceFrame(Structure):
    """A structure, and what the model says about it in float64."""

    energies: np.ndarray | None = None
    """(n,) eV."""
    forces: np.ndarray | None = None
    """(n, 3) eV/Å."""


def smallest(candidates: Sequence[Structure]) -> tuple[Structure, ...]:
    """The smallest with the most elements, of those with at most `MOST_ATOMS` atoms; or none."""
    candidates = [c for c in candidates if len(c) <= MOST_ATOMS]
    if not candidates:
        return ()
    return (min(candidates, key=lambda c: (-len(set(c.types.tolist())), len(c))),)


def remembered(potential: Potential) -> tuple[ReferenceFrame, ...]:
    """The reference frames of `potential` with what it says about them now, in float64."""
    if not potential.reference_frames:
        return ()
    exact = at_mean(copy.deepcopy(potential).to_precision("float64").freeze())
    frames = []
    for frame in potential.reference_frames:
        found = evaluated(exact, frame)
        place = (frame.name, frame.positions, frame.cell, frame.pbc, frame.types, frame.real)
        frames.append(ReferenceFrame(*place, found.energies, found.forces))
    return tuple(frames)


def check(potential: Potential, frames: Sequence[ReferenceFrame], where: str) -> None:
    """Evaluate what a file remembers anew.

    Raises ModelFileError, naming `where`, for a result that is not the one remembered.
    """
    tolerance, potential = TOLERANCE[potential.precision], at_mean(potential)
    for frame in frames:
        assert frame.forces is not None
        assert frame.energies is not None
        found = evaluated(potential, frame)
        scale = max(1.0, float(np.abs(frame.forces).max(initial=0.0)))
        force = float(np.abs(found.forces - frame.forces).max(initial=0.0)) / scale
        energy = float(np.abs(found.energies - frame.energies).max(initial=0.0))
        # of energies of thousands of eV all but some eV is bias, which is no network's and exact
        bias = potential.energy_bias.double().cpu().numpy()[frame.types]
        size = max(1.0, float(np.abs(frame.energies - bias).max(initial=0.0)))
        if not (force <= tolerance and energy <= tolerance * size):
            rough = (
                ""
                if potential.precision == "float64"
                else (
                    "; a model that has only begun to learn may be too rough for float32: "
                    "precision float64 takes it"
                )
            )
            raise ModelFileError(
                f"{where}: its reference frame ({frame.name}) gives other results here than when "
                f"the file was written: forces differ by {force * scale:.1e} eV/Å, energies by "
                f"{energy:.1e} eV/atom (allowed: {tolerance * scale:.0e}, {tolerance * size:.0e}; "
                f"{potential.precision}, {kernels.instruction_set()}); copy the file again, or "
                f"reinstall deepmd_lite{rough}"
            )


# --- in the model file --------------------------------------------------------------------------


def to_file(
    frames: Sequence[ReferenceFrame],
) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
    """What goes into the header, and arrays."""
    header, arrays = [], {}
    for k, frame in enumerate(frames):
        header.append(
            {"source": frame.name, "real": frame.real, "pbc": [bool(p) for p in frame.pbc]}
        )
        for name in ("positions", "cell", "types", "energies", "forces"):
            values = np.ascontiguousarray(getattr(frame, name))
            arrays[f"{_PREFIX}{k}.{name}"] = torch.from_numpy(values.copy())
    return header, arrays


def from_file(
    header: Any, arrays: dict[str, torch.Tensor], n_types: int, where: str
) -> tuple[ReferenceFrame, ...]:
    """The frames of a file; takes their arrays out of `arrays`.

    Raises ModelFileError, naming `where`, for frames that do not hold together.
    """
    own = {k: arrays.pop(k) for k in sorted(arrays) if k.startswith(_PREFIX)}
    try:
        frames = tuple(_read(k, entry, own) for k, entry in enumerate(header))
    except (KeyError, TypeError, ValueError) as e:
        raise ModelFileError(f"{where}: its reference frames are damaged: {e}") from None
    for frame in frames:
        if frame.types.min(initial=0) < 0 or frame.types.max(initial=0) >= n_types:
            raise ModelFileError(f"{where}: its reference frames hold types beyond its type map")
    return frames


def _read(k: int, entry: dict[str, Any], arrays: dict[str, torch.Tensor]) -> ReferenceFrame:
    values = {
        name: arrays[f"{_PREFIX}{k}.{name}"].numpy()
        for name in ("positions", "cell", "types", "energies", "forces")
    }
    n = len(values["types"])
    shapes = {
        "positions": (n, 3),
        "cell": (3, 3),
        "types": (n,),
        "energies": (n,),
        "forces": (n, 3),
    }
    for name, shape in shapes.items():
        if values[name].shape != shape or values[name].dtype != (
            np.int32 if name == "types" else np.float64
        ):
            raise ValueError(f"'{name}' is {values[name].dtype} {values[name].shape}")
        if not np.isfinite(values[name]).all():
            raise ValueError(f"'{name}' is not finite")
    if n > MOST_ATOMS:
        raise ValueError(f"{n} atoms, at most {MOST_ATOMS} are allowed")
    pbc = np.array([bool(p) for p in entry["pbc"]])
    if pbc.shape != (3,):
        raise ValueError(f"'pbc' {entry['pbc']}")
    return ReferenceFrame(str(entry["source"]), real=bool(entry["real"]), pbc=pbc, **values)
