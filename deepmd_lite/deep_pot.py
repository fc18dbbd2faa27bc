"""A potential on plain arrays, with the names, shapes and signs of DeePMD-kit's `DeepPot`.

For scripts that have coordinates and cells of many frames and no `ase.Atoms`: those written for
`deepmd.infer` work with this import in place of theirs. Energies in eV, forces in eV/Å, virials in
eV (+Σ r ⊗ f, positive under compression), lengths in Å.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import torch

from .at_frames import AtFrames
from .committee import loaded
from .deviation import Relative, deviation, table
from .files import write_atomically
from .kernels import neighbor_list
from .model import Potential
from .model.known_pairs import end_of_table
from .neighbors import PeriodicEnv, periodic_env
from .system import Evaluation, InputError, LocalEnv, counted_once

VIRTUAL = -1
"""Type of a place without an atom, in frames of several sizes."""


MOLECULES = 2048
"""Atoms of as many molecules as are evaluated at a time."""
APART = 1.0
"""Å beyond the cutoff, between molecules that share a list."""


@dataclass(frozen=True)
class _Batch:
    """Frames that are evaluated together: one with a cell, or many molecules."""

    frame: np.ndarray
    """(n_local,) number of the frame that each local atom is of."""
    atom: np.ndarray
    """(n_local,) which of its atoms."""
    env: LocalEnv
    periodic: PeriodicEnv | None
    """Of a frame with a cell."""

    def fold(self, rows: torch.Tensor) -> np.ndarray:
        """(n_local, k): rows (n_all, k) added up onto the atoms that own them."""
        return (rows if self.periodic is None else self.periodic.fold(rows)).numpy()

    def add_virials(self, found: Evaluation, sums: np.ndarray) -> None:
        """Those of the frames that are here, to `sums` (frames, 9) eV."""
        if self.periodic is not None:
            sums[self.frame[0]] += found.virial.numpy().ravel()
        else:
            products = self.env.positions[:, :, None] * found.forces[:, None, :]
            np.add.at(sums, self.frame, products.flatten(1).numpy())


class DeepPot:
    """A model of arrays: `energies, forces, virials = DeepPot("model.dpl").eval(…)`."""

    def __init__(
        self,
        model_file: str | Path | Potential,
        auto_batch_size: bool | int = True,
        *,
        device: str | None = None,
        precision: str | None = None,
    ) -> None:
        """`model_file`: path of a `.dpl` file, or a loaded model; `device`, `precision` as of
        `Calculator`. `auto_batch_size` is taken and changes nothing: frames with a cell are
        evaluated one at a time, molecules many at a time, each by all threads.

        Raises InputError for a device that is not there, ModelFileError for a bad file.
        """
        self.model = cast(Potential, loaded(model_file, precision, device))
        self._at = AtFrames(self.model)

    def eval(
        self,
        coords: npt.ArrayLike,
        cells: npt.ArrayLike | None,
        atom_types: npt.ArrayLike,
        atomic: bool = False,
        fparam: npt.ArrayLike | None = None,
        aparam: npt.ArrayLike | None = None,
        mixed_type: bool = False,
    ) -> tuple[np.ndarray, ...]:
        """Energies (frames, 1), forces (frames, atoms, 3) and virials (frames, 9) of all frames.

        `coords` (frames, atoms, 3) or (frames, 3 · atoms), anywhere; `cells` (frames, 9) or
        (frames, 3, 3), rows are lattice vectors, or None for molecules; `atom_types` (atoms,) are
        places in `get_type_map()`, with `mixed_type` (frames, atoms), where −1 is no atom. With
        `atomic` also energies (frames, atoms, 1) and virials (frames, atoms, 9) of atoms, which
        sum to those of the frame: Σ f ⊗ r in DeePMD-kit's order, the transposed matrices of
        `model.atomic_virials`. `fparam`: frame parameters
        (frames, k), or (k,) of all frames, default: the model's own; `aparam`: None, as no model
        here has any. Raises InputError, naming the argument, for what does not fit.
        """
        if aparam is not None and np.size(aparam):
            raise InputError("aparam: models here have no parameters of atoms; leave them out")
        frames, n = _shape(coords, atom_types, mixed_type)
        parameters = self._parameters(fparam, frames)
        forces, virials = np.zeros((frames, n, 3)), np.zeros((frames, 9))
        own, own_virials = np.zeros((frames, n, 1)), np.zeros((frames, n, 9))
        beyond = 0
        for batch in self._batches(coords, cells, atom_types, mixed_type, parameters):
            if not batch.env.n_local:
                continue
            model = cast(Potential, self._at(parameters[batch.frame[0]]))
            found = model.evaluate(batch.env)
            here = batch.frame, batch.atom
            own[here] = found.energies.numpy()[:, None]
            forces[here] = batch.fold(found.forces)
            batch.add_virials(found, virials)
            beyond += found.beyond_table
            if atomic:
                each = model.atomic_virials(batch.env, found.forces)
                own_virials[here] = batch.fold(each.mT.flatten(1))
        if beyond:
            warnings.warn(
                f"pairs of atoms closer than {end_of_table(self.model)}: "
                f"{counted_once(beyond)} in {frames} frames; energies there are extrapolated",
                stacklevel=2,
            )
        result = own.sum(axis=1), forces, virials
        return (*result, own, own_virials) if atomic else result

    def eval_descriptor(
        self,
        coords: npt.ArrayLike,
        cells: npt.ArrayLike | None,
        atom_types: npt.ArrayLike,
        mixed_type: bool = False,
    ) -> np.ndarray:
        """(frames, atoms, W): what the fitting networks see of each atom; arguments of `eval`."""
        frames, n = _shape(coords, atom_types, mixed_type)
        found: np.ndarray | None = None
        for batch in self._batches(coords, cells, atom_types, mixed_type, [None] * frames):
            own = self.model.invariants(batch.env).double().numpy()
            if found is None:
                found = np.zeros((frames, n, own.shape[1]))
            found[batch.frame, batch.atom] = own
        return np.zeros((0, n, 0)) if found is None else found

    def get_type_map(self) -> list[str]:
        """Element of each type."""
        return list(self.model.type_map)

    def get_ntypes(self) -> int:
        """Number of elements."""
        return len(self.model.type_map)

    def get_rcut(self) -> float:
        """Å: the cutoff."""
        return self.model.rcut

    def get_dim_fparam(self) -> int:
        """Numbers of a frame that its energy depends on beside the atoms."""
        return self._at.takes

    def has_default_fparam(self) -> bool:
        """Whether the model knows the numbers of frames for which none are given."""
        return bool(self.model.config.fitting_net.default_fparam)

    def get_dim_aparam(self) -> int:
        """0: models have no parameters of atoms."""
        return 0

    def get_sel_type(self) -> list[int]:
        """All types: each atom has an energy."""
        return list(range(self.get_ntypes()))

    def _parameters(
        self, fparam: npt.ArrayLike | None, frames: int
    ) -> Sequence[np.ndarray | None] | np.ndarray:
        """Those of each frame."""
        given = np.zeros(0) if fparam is None else np.asarray(fparam)
        k = self._at.takes
        if not given.size:
            return [None] * frames
        if not k:
            raise InputError(
                "fparam: this model has none (its numb_fparam is 0); one of DeePMD-kit with frame "
                "parameters is converted for a value of them (dpl convert --fparam)"
            )
        if given.size not in (k, frames * k):
            raise InputError(
                f"fparam: expected {k} number{'s' * (k > 1)} for all frames, or ({frames}, {k}) "
                f"for each; found shape {given.shape}"
            )
        return np.broadcast_to(given.reshape(-1, k), (frames, k))

    def _batches(
        self,
        coords: npt.ArrayLike,
        cells: npt.ArrayLike | None,
        atom_types: npt.ArrayLike,
        mixed_type: bool,
        parameters: Sequence[np.ndarray | None] | np.ndarray,
    ) -> Iterator[_Batch]:
        """All frames, those of a batch at the same of their `parameters`."""
        frames, n = _shape(coords, atom_types, mixed_type)
        positions = np.asarray(coords, dtype=np.float64).reshape(frames, n, 3)
        types = np.broadcast_to(_types(atom_types, self.model.type_map, mixed_type), (frames, n))
        if cells is None:
            for these in _runs(parameters, max(1, MOLECULES // n)):
                yield self._molecules(positions[these], types[these], these.start)
            return
        boxes = np.asarray(cells, dtype=np.float64)
        if boxes.size != 9 * frames:
            raise InputError(
                f"cells: expected 9 numbers for each of {frames} frames, (frames, 9) or "
                f"(frames, 3, 3), or None without a cell; found shape {boxes.shape}"
            )
        each = zip(positions, boxes.reshape(-1, 3, 3), types, strict=True)
        for k, (x, cell, own) in enumerate(each):
            rows = np.flatnonzero(own != VIRTUAL)
            atoms = x[rows], cell, np.full(3, True), own[rows]
            periodic = periodic_env(*atoms, self.model.rcut, f"frame {k}")
            yield _Batch(np.full(len(rows), k), rows, periodic.env, periodic)

    def _molecules(self, positions: np.ndarray, types: np.ndarray, first: int) -> _Batch:
        """Frames (n, atoms, 3) without cells, numbered from `first`: one list for all of them, made
        where they stand side by side, too far apart to see each other."""
        real = types != VIRTUAL
        frame, atom = np.nonzero(real)
        rows = positions[frame, atom]
        bad = frame[~np.isfinite(rows).all(axis=1)]
        if len(bad):
            raise InputError(f"frame {first + bad[0]}: a coordinate is not finite")
        x = positions[:, :, 0]
        low = np.where(real, x, np.inf).min(axis=1)
        length = np.where(real, x, -np.inf).max(axis=1) - low + self.model.rcut + APART
        length = np.where(real.any(axis=1), length, 0.0)
        apart = rows.copy()
        apart[:, 0] += ((np.cumsum(length) - length) - low)[frame]
        of_rows = torch.from_numpy(types[frame, atom])
        listed = torch.from_numpy(apart), of_rows, len(rows), self.model.rcut
        env = LocalEnv(torch.from_numpy(rows), of_rows, len(rows), *neighbor_list(*listed))
        return _Batch(frame + first, atom, env, None)


def _runs(parameters: Sequence[np.ndarray | None] | np.ndarray, most: int) -> Iterator[slice]:
    """Frames that follow one another and have the same parameters, at most so many."""
    first = 0
    for k in range(1, len(parameters) + 1):
        ends = k == len(parameters) or k - first == most
        if ends or not np.array_equal(parameters[k], parameters[first]):  # type: ignore[arg-type]
            yield slice(first, k)
            first = k


def _shape(coords: npt.ArrayLike, atom_types: npt.ArrayLike, mixed_type: bool) -> tuple[int, int]:
    """Frames and atoms of each; InputError where coordinates and types do not go together."""
    types, numbers = np.asarray(atom_types), np.asarray(coords)
    expected = "(frames, atoms), as mixed_type says" if mixed_type else "(atoms,)"
    if types.ndim != 1 + mixed_type or not types.size:
        raise InputError(f"atom_types: expected shape {expected}, found {types.shape}")
    n = types.shape[-1]
    frames, rest = divmod(numbers.size, 3 * n)
    if rest or (mixed_type and frames != len(types)):
        of = f"{len(types)} frames of {n} atoms" if mixed_type else f"frames of {n} atoms"
        raise InputError(
            f"coords: expected (frames, {n}, 3) or (frames, {3 * n}), as atom_types has {of}; "
            f"found {numbers.size} numbers of shape {numbers.shape}"
        )
    return frames, n


def _types(atom_types: npt.ArrayLike, type_map: Sequence[str], mixed_type: bool) -> np.ndarray:
    types = np.asarray(atom_types)
    if not np.issubdtype(types.dtype, np.number):
        raise InputError(
            f"atom_types: expected places in the type map {list(type_map)}, numbers; found "
            f"{types.ravel()[0]!r}"
        )
    lowest = VIRTUAL if mixed_type else 0
    wrong = types[(types < lowest) | (types >= len(type_map)) | (types != np.floor(types))]
    if len(wrong):
        raise InputError(
            f"atom_types: expected places in the type map {list(type_map)}, {lowest} to "
            f"{len(type_map) - 1}; found {wrong[0]}"
        )
    return types.astype(np.int32)


def calc_model_devi(
    coord: npt.ArrayLike,
    box: npt.ArrayLike | None,
    atype: npt.ArrayLike,
    models: Sequence[DeepPot],
    fname: str | Path | None = None,
    frequency: int = 1,
    *,
    atomic: bool = False,
    relative: float | None = None,
    relative_v: float | None = None,
    fparam: npt.ArrayLike | None = None,
) -> np.ndarray:
    """(frames, 8): step and deviations of `models`, those of the columns of `model_devi.out`.

    Step, then the largest, smallest and mean deviation of virial (eV/atom) and of force (eV/Å),
    then that of the energy (eV/atom); with `atomic` the force's of each atom as well. `coord`,
    `box`, `atype`, `fparam` as of `DeepPot.eval`; frame k is step k · `frequency`; definitions and
    the levels of `relative` and `relative_v`: see `deviation`. Written to the file `fname`, if
    given. Raises InputError for fewer than two models, and for models that number elements
    differently.
    """
    if len(models) < 2:
        raise InputError(f"models: expected two or more, found {len(models)}")
    maps = [model.get_type_map() for model in models]
    for k, other in enumerate(maps):
        if other != maps[0]:
            raise InputError(
                f"models: model {k + 1} has the type map {other}, model 1 {maps[0]}: types would "
                "mean other elements; Calculator and dpl devi go by element"
            )
    parts = zip(*(model.eval(coord, box, atype, fparam=fparam) for model in models), strict=True)
    energies, forces, virials = (np.stack(part, axis=1) for part in parts)
    virials = virials.reshape(*virials.shape[:2], 3, 3)
    levels = Relative(relative, relative_v)
    found = [
        deviation(e, f, v, levels)
        for e, f, v in zip(energies[..., 0], forces, virials, strict=True)
    ]
    if fname is not None:
        write_atomically(fname, "".join(table(found, frequency, atomic=atomic)).encode())
    rows = (
        [k * frequency, *d.columns, d.energy, *(d.atoms if atomic else ())]
        for k, d in enumerate(found)
    )
    columns = 8 + (forces.shape[2] if atomic else 0)
    return np.array(list(rows), dtype=np.float64).reshape(-1, columns)
