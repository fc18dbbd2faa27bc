"""Whether the cell of a run may change as its ensemble has it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..system import InputError, Model
from .ensemble import Ensemble
from .integrate.cell_motion import modes


def check_cell_changes(
    ensemble: Ensemble,
    cell: np.ndarray,
    pbc: Sequence[bool],
    absent: Sequence[bool],
    n_held: int,
    model: Model,
    force: bool,
) -> list[str]:
    """Refuse an ensemble that changes the cell where that makes no sense; returns warnings.

    `cell` (3, 3) Å, periodic along `pbc`, of vectors some of which may be `absent`; `model`:
    `provenance["virials trained"]` is what its file says. Raises InputError unless all strains
    are along periodic axes, no atom is held and the model was trained on virials; `force` turns the
    last into a warning. A model of which nothing is known gets one too.
    """
    if not ensemble.changes_cell:
        return []
    name = f"ensemble '{ensemble.type}'"
    if not all(pbc) and (any(absent) or not _leaves_open_axes(ensemble, cell, pbc)):
        way_out = "give a coupling of periodic axes alone (x, y, z, xy, xz or yz)"
        if ensemble.type == "strain":
            way_out = "strain a periodic axis, with lateral: fixed"
        raise InputError(
            f"{name} changes the cell along axes that are not periodic; the structure has pbc "
            f"{[bool(p) for p in pbc]}: {way_out} to a cell with all its vectors, set pbc in the "
            "structure, or use an nvt ensemble"
        )
    if n_held:
        raise InputError(
            f"{name} changes the cell, and the {n_held} held atoms would have to move with it "
            "while the forces on them count in its stress: use an nvt ensemble, or take out "
            "'frozen' and the constraints of the structure"
        )
    provenance = getattr(model, "provenance", None)
    if provenance is None or provenance.get("virials trained") is True:
        return []
    if "virials trained" not in provenance:
        return [
            f"the model does not say whether it was trained on virials; {name} rests on its "
            "stress: compare that with a reference calculation"
        ]
    problem = (
        f"{name} rests on the stress, and the model was not trained on virials "
        "(dpl info shows 'virials trained')"
    )
    if force:
        return [f"{problem}; going on as asked"]
    raise InputError(
        f"{problem}: train with virial data and start_pref_v > 0, or go on all the same with "
        "--force"
    )


def _leaves_open_axes(ensemble: Ensemble, cell: np.ndarray, pbc: Sequence[bool]) -> bool:
    """Whether all strains are within the line or plane of the periodic lattice vectors."""
    if ensemble.type == "strain":
        return pbc["abc".index(ensemble.axis or "a")] and ensemble.lateral != "stress-free"
    if not any(pbc):
        return False
    _, _, axes = np.linalg.svd(cell[np.array(pbc)])
    across = axes[sum(pbc) :]
    return bool(np.allclose(modes(ensemble.coupling or "isotropic") @ across.T, 0.0))
