"""The energy of each element that a model adds to its network's: fitted to other data, or given.

Two sets of calculations rarely share their zero of energy: pseudopotentials, functionals and codes
put it elsewhere, by so much for each atom of an element. The difference is found by least squares
over compositions; where data do not tell elements apart (all of one composition), the smallest
change is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ..at_frames import AtFrames
from ..data import PreparedFrame, System, prepare
from ..model import Potential, load_model, save_model
from ..system import InputError

SINGULAR = 1e-8
"""Relative size of singular values that count as 0, of columns of equal length: compositions that
do not vary. A rare element still counts."""


def bias_shift(
    model: Potential, frames: Sequence[PreparedFrame], *, of_network: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """What to add to the bias of each element so that energies fit best: (n_types,) eV.

    `of_network`: with the network as it is; otherwise the new bias alone has to fit the energies
    (as before a training). Frames count by their weights. Returns the shift, and what is left of
    the difference of each frame that counts, (n,) eV/atom. Raises InputError where none does: no
    frame of a weight above 0 has an energy.
    """
    n_types = len(model.type_map)
    compositions, differences, sizes, weights = [], [], [], []
    at = AtFrames(model)
    for p in frames:
        if p.frame.energy is None or p.frame.weight == 0:
            continue
        n_e = np.bincount(p.types, minlength=n_types)
        found = float(n_e @ model.energy_bias.numpy())
        if of_network:
            there = at(p.frame.fparam, f"{p.frame.source}: fparam")
            found = float(there.evaluate(p.env).energies.sum())
        compositions.append(n_e)
        differences.append(p.frame.energy - found)
        sizes.append(p.n_atoms)
        weights.append(p.frame.weight)
    if not differences:
        raise InputError("energy bias: no frame has an energy (and a weight above 0) to fit it to")
    matrix, target = np.array(compositions, dtype=float), np.array(differences)
    roots = np.sqrt(weights)
    weighted = matrix * roots[:, None]
    lengths = np.linalg.norm(weighted, axis=0)
    scaled = weighted / np.where(lengths > 0, lengths, 1.0)
    shift = np.linalg.lstsq(scaled, target * roots, rcond=SINGULAR)[0]
    shift /= np.where(lengths > 0, lengths, 1.0)
    return shift, (target - matrix @ shift) / np.array(sizes)


def change_bias(
    source: str | Path,
    output: str | Path,
    systems: Sequence[System] | None = None,
    *,
    values: Sequence[float] | None = None,
    mode: str = "change",
) -> list[str]:
    """Write the model file `source` to `output` with another energy bias; returns what to tell.

    `values` eV, one for each element of the model; or fitted to `systems`, in mode 'change' with
    the network as it is, in mode 'set' without it. All else stays to the bit. Raises InputError for
    a wrong number of values, data without energies or elements that the model does not know.
    """
    model = load_model(source)
    old = model.energy_bias.numpy().copy()
    lines = []
    if values is not None:
        if len(values) != len(old) or not np.isfinite(values).all():
            raise InputError(
                f"bias values: expected {len(old)} finite numbers for {' '.join(model.type_map)}, "
                f"found {len(values)}: {' '.join(map(str, values))}"
            )
        new = np.array(values, dtype=np.float64)
        how = "given"
    else:
        frames = [frame for system in systems or () for frame in system.frames]
        prepared = prepare(frames, model.type_map, model.rcut)
        shift, rest = bias_shift(model, prepared, of_network=mode == "change")
        new = old + shift
        how = f"{mode}, least squares of {len(rest)} frames"
        lines.append(f"{how}; RMSE left {1e3 * np.sqrt(np.mean(rest**2)):.3f} meV/atom")
    model.set_energy_bias(torch.from_numpy(new))
    save_model(model, output, {**model.provenance, "energy bias": how})
    for element, before, after in zip(model.type_map, old, new, strict=True):
        lines.append(f"{element:<3} {before:16.6f} eV -> {after:16.6f} eV")
    return [*lines, f"model: {output}"]
