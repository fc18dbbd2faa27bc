"""The energy of each element that a model adds to its network's: fitted to other data, or given.

Two sets of calculations rarely share their zero of energy: pseudopotentials, functionals and codes
put it elsewhere, by so much for each atom of an element. The difference is found by least squares
over compositions; where data do not tell elements apart (all of one composition), the smallest
change is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ..at_frames import AtFrames
from ..check.coverage import SINGULAR, alike, not_apart
from ..data import PreparedFrame, System, prepare
from ..model import Potential, load_model, save_model
from ..progress import progress
from ..system import InputError


class Shift(NamedTuple):
    """A change of the energy bias."""

    values: np.ndarray
    """(n_types,) eV."""
    rest: np.ndarray
    """(n,) eV/atom: what is left of the difference of each frame that counts."""
    alike: tuple[str, ...]
    """Elements that the compositions of the data do not tell apart."""

    @property
    def note(self) -> str:
        """On the elements that are alike; empty without."""
        if not self.alike:
            return ""
        return (
            f"note: {not_apart(self.alike)}: of all biases that fit the energies these are the "
            "smallest; for other compositions give values (dpl change-bias -b), or data of several"
        )


def bias_shift(
    model: Potential, frames: Iterable[PreparedFrame], *, of_network: bool = True
) -> Shift:
    """What to add to the bias of each element so that energies fit best.

    `of_network`: with the network as it is; otherwise the new bias alone has to fit the energies
    (as before a training), and that is the smallest. Frames count by their weights. Raises
    InputError where none does: no frame of a weight above 0 has an energy.
    """
    n_types = len(model.type_map)
    compositions, differences, sizes, weights = [], [], [], []
    at = AtFrames(model)
    for p in frames:
        if p.frame.energy is None or p.frame.weight == 0:
            continue
        n_e = np.bincount(p.types, minlength=n_types)
        found = 0.0
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
    found_e = _smallest(matrix * roots[:, None], target * roots)
    rest = (target - matrix @ found_e) / np.array(sizes)
    open_ones = tuple(alike(model.type_map, matrix))
    return Shift(found_e if of_network else found_e - model.energy_bias.numpy(), rest, open_ones)


def _smallest(matrix: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The shortest of all x for which |matrix x − target| is least."""
    lengths = np.linalg.norm(matrix, axis=0)
    u, s, v = np.linalg.svd(matrix / np.where(lengths > 0, lengths, 1.0), full_matrices=False)
    rank = int((s > SINGULAR * s[0]).sum())
    # the rank is that of columns of equal length; what these leave open is chosen for x itself
    equations, values = v[:rank] * lengths, (u.T @ target)[:rank] / s[:rank]
    return np.asarray(np.linalg.lstsq(equations, values, rcond=None)[0])


def change_bias(
    source: str | Path,
    output: str | Path,
    systems: Sequence[System] | None = None,
    *,
    values: Sequence[float] | None = None,
    mode: str = "change",
    quiet: bool = True,
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
        each = progress(frames, "neighbour lists", quiet=quiet)
        prepared = prepare(each, model.type_map, model.rcut)
        told = progress(prepared, "evaluating", quiet=quiet)
        shift = bias_shift(model, told, of_network=mode == "change")
        new = old + shift.values
        how = f"{mode}, least squares of {len(shift.rest)} frames"
        lines.append(f"{how}; RMSE left {1e3 * np.sqrt(np.mean(shift.rest**2)):.3f} meV/atom")
        lines += [shift.note] if shift.alike else []
    model.set_energy_bias(torch.from_numpy(new))
    save_model(model, output, {**model.provenance, "energy bias": how})
    for element, before, after in zip(model.type_map, old, new, strict=True):
        lines.append(f"{element:<3} {before:16.6f} eV -> {after:16.6f} eV")
    return [*lines, f"model: {output}"]
