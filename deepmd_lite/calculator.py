"""The potential as an ASE calculator.

Units and signs are ASE's: eV, eV/Å, stress in eV/Å³ with tension positive, Voigt order
xx yy zz yz xz xy; `get_property("virial", atoms)` (3, 3) eV is −volume · stress, positive under
compression.
Of several models the first gives all of that, and `results` has in addition (definitions: see
`deviation`), as it has of a model whose file holds a committee (`uncertainty`) where one of these
is asked for: `calculator.get_property("uncertainty", atoms)`.

    forces_std   (n,) eV/Å: deviation of the force on each atom
    uncertainty  eV/Å: the largest of them
    energy_var   eV²: variance of the total energy over the models
    forces_comm  (n_models, n, 3) eV/Å: forces of every model

A model with frame parameters takes those of `atoms.info["fparam"]`, else the calculator's.
"""

from __future__ import annotations

import difflib
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from ase import Atoms
from ase.calculators.calculator import (
    Calculator as AseCalculator,
)
from ase.calculators.calculator import (
    PropertyNotImplementedError,
    all_changes,
)
from ase.outputs import Properties, all_outputs
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress

from .at_frames import AtFrames
from .committee import Committee, ModelOrPath, has_members, loaded
from .deviation import force_deviation
from .model import Potential
from .model.known_pairs import end_of_table
from .neighbors import PeriodicEnv, periodic_env
from .system import Evaluation, InputError, LocalEnv, Model, counted_once, type_indices

ARGUMENTS = "model", "device", "precision", "skin", "fparam"
OF_ASE = {"atoms", "label", "directory", "restart"}
DEVIATIONS = ["forces_std", "uncertainty", "energy_var", "forces_comm"]


class Calculator(AseCalculator):
    """Energy, free_energy, forces, energies, stress and stresses of a Deep Potential.

    Partial periodicity is honoured axis by axis; cells smaller than the cutoff and single atoms
    need nothing special. The stress of a slab is over the volume of its cell, vacuum included. The
    neighbour list reaches `skin` beyond the cutoff and is reused until some atom has moved, or the
    cell has strained, far enough to need a new one. `stresses` are those of
    `model.atomic_virials`, computed only when they are asked for; their sum is the stress.

    As any calculator of ASE it remembers the last structure. Threads of a program may share one,
    and take turns; to compute at the same time they take one each, which may share a model that
    was loaded once. Processes may be forked or spawned; those that are forked compute with one
    thread each.
    """

    name = "deepmd_lite"
    """How files that ASE writes call this calculator."""
    implemented_properties = [
        *("energy", "free_energy", "forces", "energies", "stress", "stresses", "virial"),
        *DEVIATIONS,
    ]

    def __init__(
        self,
        model: str | Path | Potential | Sequence[str | Path | Potential],
        device: str | None = None,
        precision: str | None = None,
        skin: float = 0.5,
        fparam: npt.ArrayLike | None = None,
        **of_ase: Any,
    ) -> None:
        """Attach a model, or several that measure their deviation.

        `model`: path of a `.dpl` file, or a `Potential`, or a list of those; `device` 'cpu', or a
        GPU: 'cuda' or 'cuda:N' (a `Potential` that is given is moved there, for all who have it;
        default: where it is, and the CPU for a file); `precision`
        'float64' or 'float32' of the arithmetic (default: the model's); `skin` Å;
        `fparam`: the frame parameters, a number or a list, of atoms that have none in their `info`
        (default: the model's `default_fparam`); `of_ase`: what
        every calculator of ASE takes (`atoms`, `label`, `directory`, `restart`). Raises
        InputError for other arguments and for a device that is not there, saying what is missing,
        ModelFileError for a bad file.
        """
        for name in of_ase.keys() - OF_ASE:
            close = difflib.get_close_matches(name, ARGUMENTS, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(ARGUMENTS)}"
            raise InputError(f"Calculator: unknown argument '{name}'; {hint}")
        super().__init__(**of_ase)
        # torch and NumPy have objects of such names
        precision, device = (None if x is None else str(x) for x in (precision, device))
        if precision not in (None, "float64", "float32"):
            raise InputError(f"precision '{precision}': expected 'float64' or 'float32'")
        if not (isinstance(skin, (int, float, np.number)) and 0 <= skin < np.inf):
            raise InputError(f"skin {skin!r}: expected a number of Å that is not negative")
        self.model = cast(Potential | Committee, loaded(model, precision, device))
        self.parameters.update(model=_described(model), precision=precision)
        self._at = AtFrames(self.model)
        self._fparam: list[float] | None = None
        """Of atoms that have none."""
        self._seen_fparam: list[float] | None = None
        """Of the atoms of the last results."""
        if fparam is not None:
            self._fparam = self._at.checked(fparam, "Calculator: fparam")
            self.parameters.update(fparam=self._fparam)
        self.skin = skin
        self._members: Committee | None = None
        self._list: _ReusedList | None = None
        self._evaluated: tuple[PeriodicEnv, LocalEnv, Evaluation] | None = None
        self._warned_of = 0
        self._strangers: set[tuple[int, int]] = set()
        self._warned_of_stress = False
        self._lock = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        """Without what is made again where it is needed."""
        state = {**self.__dict__, "_list": None, "_evaluated": None}
        del state["_lock"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.RLock())

    def __repr__(self) -> str:
        m = self.model
        elements = " ".join(m.type_map)
        return f"<Calculator {self.parameters['model']}: {elements}, rcut {m.rcut:g} Å>"

    def get_property(
        self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True
    ) -> Any:
        """A result, computed where it is not known yet; one thread after the other."""
        if atoms is None and self.atoms is None:
            raise InputError(f"{name}: there are no atoms yet; ask atoms that have the calculator")
        with self._lock:
            if name in ("stress", "stresses", "virial") and allow_calculation:
                self._warn_of_stress()
            if name != "virial":
                return super().get_property(name, atoms, allow_calculation)
            # not among the results, where it would stop ASE: not a property it knows
            stress = super().get_property("stress", atoms, allow_calculation)
            if stress is None:
                return None
            assert self.atoms is not None
            return -self.atoms.get_volume() * voigt_6_to_full_3x3_stress(stress)

    def get_descriptors(self, atoms: Atoms | None = None) -> np.ndarray:
        """(n, W): what the networks of the (first) model see of each atom's neighbourhood.

        Invariant under what leaves energies as they are; of one element they may be compared, to
        choose structures that differ, or to look at them in a plane. Raises InputError without
        atoms, and as `calculate`.
        """
        atoms = self.atoms if atoms is None else atoms
        if atoms is None:
            raise InputError("get_descriptors: there are no atoms yet; give some")
        with self._lock:
            found = self._first.invariants(self._env(self._neighbors(atoms), atoms))
        return found.double().numpy()

    def get_atomic_volumes(self) -> np.ndarray:
        """(n,) Å³: by which ASE divides the kinetic part of the stress of an atom. As of the rest,
        it is the whole volume: stresses add up to the stress."""
        assert self.atoms is not None
        return np.full(len(self.atoms), self.atoms.get_volume())

    def export_properties(self) -> Properties:
        """Those of the results that ASE knows by name."""
        return Properties({k: v for k, v in self.results.items() if k in all_outputs})

    def set(self, **parameters: Any) -> dict[str, Any]:
        """Raises InputError for any parameter: nothing of a calculator can be changed."""
        for name in parameters:
            raise InputError(f"Calculator.set({name}=…): make a new calculator instead")
        return {}

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """What has changed of that which the energy depends on; charges and spins do not count.

        ASE asks for each property again; an exact comparison takes a tenth of the time of its own.
        """
        own = self.atoms
        if own is None:
            return list(all_changes)
        other_state = self._seen_fparam != self._fparam_of(atoms)
        return ["fparam"] * other_state + [
            name
            for name, before, now in (
                ("positions", own.positions, atoms.positions),
                ("numbers", own.numbers, atoms.numbers),
                ("cell", own.cell.array, atoms.cell.array),
                ("pbc", own.pbc, atoms.pbc),
            )
            if not np.array_equal(before, now)
        ]

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Fill `self.results`; what they have of an unchanged structure stays.

        Raises InputError for unknown elements or positions not finite.
        """
        changed = bool(system_changes) or (atoms is not None and bool(self.check_state(atoms)))
        super().calculate(atoms, properties, system_changes)
        atoms = self.atoms  # the copy that ASE compares the next call with
        if atoms is None:
            raise InputError("calculate: there are no atoms yet; give some")
        if changed:  # what is known is of other atoms, whatever is refused of these
            self.results, self._evaluated = {}, None
        wanted = set(properties or ())
        if wanted & {"stress", "stresses"} and not _has_volume(atoms):
            raise PropertyNotImplementedError(
                "stress needs a cell with a volume that is periodic in one direction at least; "
                f"the volume is {abs(atoms.cell.volume):g} Å³, pbc is {atoms.pbc}"
            )
        if not self.results or self._evaluated is None:
            self._evaluate(atoms)
        assert self._evaluated is not None
        periodic, env, evaluation = self._evaluated
        if "stresses" in wanted:
            model = cast(Potential | Committee, self._at(self._seen_fparam))
            rows = model.atomic_virials(env, evaluation.forces)
            virials = periodic.fold(rows.flatten(1)).unflatten(1, (3, 3)).numpy()
            stresses = -virials / atoms.get_volume()
            self.results["stresses"] = full_3x3_to_voigt_6_stress(stresses)
        if "forces_comm" in self.results:
            return
        if isinstance(self.model, Committee):
            self._add_deviation(cast(Committee, self._at(self._seen_fparam)), periodic, env)
        elif wanted & set(DEVIATIONS):
            if self._members is None:
                self._members = _committee_of(self.model)
            self._add_deviation(self._members, periodic, env)

    @property
    def _first(self) -> Potential:
        """The model, or the first of several."""
        first = self.model.models[0] if isinstance(self.model, Committee) else self.model
        return cast(Potential, first)

    def _fparam_of(self, atoms: Atoms) -> list[float] | None:
        """Frame parameters of the atoms; None: the model's default, or it takes none."""
        given = atoms.info.get("fparam") if self._at.takes else None
        if given is None:
            return self._fparam
        return self._at.checked(given, 'atoms.info["fparam"]')

    def _warn_of_stress(self) -> None:
        """Once, of one that was not trained."""
        provenance = getattr(self._first, "provenance", None) or {}
        if provenance.get("virials trained") is False and not self._warned_of_stress:
            self._warned_of_stress = True
            warnings.warn(
                "the model was not trained on virials: do not trust its stress", stacklevel=4
            )

    def _warn_of_extrapolation(self, env: LocalEnv, beyond: int) -> None:
        """When there are more than twice as many pairs `beyond` the table as at the last warning,
        not at each step of a bad run; and once of each pair of elements that the model does not
        know so near, which is looked for with each new list."""
        found, known = [], getattr(self._first, "known_pairs", None)
        if beyond > 2 * self._warned_of:
            self._warned_of, n = beyond, counted_once(beyond)
            pairs = f"{n} pair{'s' if n > 1 else ''} of atoms"
            found.append(f"{pairs} closer than {end_of_table(self._first)}")
        if known is not None and self._list is not None and not self._list.looked_at:
            self._list.looked_at = True
            new = known.strangers(env, self._first.rcut, but=self._strangers)
            self._strangers |= new.keys()
            found += [known.in_words(new, self._first.type_map)] if new else []
        if found:
            warnings.warn(f"{'; '.join(found)}: energies there are extrapolated", stacklevel=5)

    def _evaluate(self, atoms: Atoms) -> None:
        """Everything that one evaluation gives."""
        periodic = self._neighbors(atoms)
        env = self._env(periodic, atoms)
        self._seen_fparam = self._fparam_of(atoms)
        evaluation = self._at(self._seen_fparam).evaluate(env)
        self._warn_of_extrapolation(env, evaluation.beyond_table)
        energy = float(evaluation.energies.sum())
        if not np.isfinite(energy):
            raise InputError("structure: the energy is not finite; do two atoms coincide?")
        self._evaluated = periodic, env, evaluation
        self.results = {
            "energy": energy,
            "free_energy": energy,
            "energies": evaluation.energies.numpy(),
            "forces": periodic.fold(evaluation.forces).numpy(),
        }
        if _has_volume(atoms):
            virial = evaluation.virial.numpy()
            self.results["stress"] = full_3x3_to_voigt_6_stress(-virial / atoms.get_volume())

    def _add_deviation(self, committee: Committee, periodic: PeriodicEnv, env: LocalEnv) -> None:
        """What the other models say, beside the results of the first."""
        energies, forces = [self.results["energy"]], [self.results["forces"]]
        for e in committee.others(env):
            energies.append(float(e.energies.sum()))
            forces.append(periodic.fold(e.forces).numpy())
        spread = force_deviation(np.stack(forces))
        self.results["forces_std"] = spread
        self.results["uncertainty"] = float(spread.max(initial=0.0))
        self.results["energy_var"] = float(np.var(energies))
        self.results["forces_comm"] = np.stack(forces)

    def _neighbors(self, atoms: Atoms) -> PeriodicEnv:
        if self._list is None or not self._list.serves(atoms):
            if self._list is not None and not self._list.is_of(atoms):
                # another structure deserves warnings of its own
                self._warned_of, self._strangers = 0, set()
            self._list = _ReusedList(atoms, self.model, self.skin)
        return self._list.periodic

    def _env(self, periodic: PeriodicEnv, atoms: Atoms) -> LocalEnv:
        return periodic.moved(torch.from_numpy(atoms.positions), torch.from_numpy(atoms.cell.array))


class _ReusedList:
    """A neighbour list with the configuration that it was built for."""

    def __init__(self, atoms: Atoms, model: Model, skin: float) -> None:
        types = type_indices(atoms.get_chemical_symbols(), model.type_map, "structure")
        cutoff = model.rcut + skin
        self.atoms = atoms.copy()
        self.looked_at = False
        """For pairs of elements that the model does not know."""
        self.rcut = model.rcut
        self.cutoff = cutoff
        self.periodic = periodic_env(
            atoms.positions, atoms.cell.array, atoms.pbc, np.array(types, dtype=np.int32), cutoff
        )

    def is_of(self, atoms: Atoms) -> bool:
        """Whether it was built for the same elements and periodicity."""
        old = self.atoms
        return np.array_equal(atoms.numbers, old.numbers) and np.array_equal(atoms.pbc, old.pbc)

    def serves(self, atoms: Atoms) -> bool:
        """Whether no pair within the cutoff can be missing from the list.

        A homogeneous strain F from the cell of the build moves a pair at distance d at most to
        d / ‖F⁻¹‖; what positions do beyond it moves a pair by at most twice the largest
        displacement u. The list serves while (cutoff of the list) / ‖F⁻¹‖ − 2 u ≥ rcut.
        """
        old = self.atoms
        if not self.is_of(atoms):
            return False
        if not np.isfinite(atoms.positions).all() or not np.isfinite(atoms.cell.array).all():
            return False
        expected = old.positions
        shrinking: float | np.floating = 1.0
        if (atoms.cell.array != old.cell.array).any():
            if abs(old.cell.volume) == 0 or abs(atoms.cell.volume) == 0:
                return False
            strain = np.linalg.solve(old.cell.array, atoms.cell.array)
            if np.linalg.matrix_rank(strain) < 3:
                return False
            expected = old.positions @ strain
            shrinking = 1.0 / np.linalg.norm(np.linalg.inv(strain), 2)
        moved = np.sqrt(((atoms.positions - expected) ** 2).sum(axis=1).max(initial=0.0))
        return bool(self.cutoff * shrinking - 2.0 * moved >= self.rcut)


def _committee_of(model: Model) -> Committee:
    if not has_members(model):
        raise PropertyNotImplementedError(
            "uncertainty: the model's file holds no committee; add one (dpl uncertainty), or give "
            "the calculator several models"
        )
    return Committee.of_members(model)


def _described(model: ModelOrPath | Sequence[ModelOrPath]) -> str:
    """A model in words for files that ASE writes: the paths, where it was read from files."""
    if isinstance(model, (list, tuple)):
        return ", ".join(map(_described, model))
    return str(model) if isinstance(model, (str, Path)) else type(model).__name__


def _has_volume(atoms: Atoms) -> bool:
    return bool(atoms.pbc.any()) and atoms.cell.volume > 0
