"""How far several potentials deviate from one another: a measure of how far to trust them.

Definitions as in DeePMD-kit, with ⟨⟩ over the models (std with ddof = 0):

    force of atom i      ε_i = sqrt ⟨|F_i − ⟨F_i⟩|²⟩          eV/Å, relative: / (|⟨F_i⟩| + level)
    virial component ab  ε_ab = sqrt ⟨(V_ab − ⟨V_ab⟩)²⟩ / N   eV/atom, relative: / (|⟨V⟩|/N + level)
    energy               sqrt ⟨(E − ⟨E⟩)²⟩ / N                eV/atom

max, min and avg are over atoms and over the nine components; avg of the virial is
sqrt(Σ ε_ab² / 9). The largest ε_i is what structures are selected by in active learning. Where
labels take the place of the means, the same numbers are the errors of the models.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from .data import Frame, System
from .files import write_atomically
from .kernels import neighbor_list
from .model import Potential, load_model
from .neighbors import periodic_env
from .system import Evaluation, InputError, LocalEnv, type_indices

COLUMNS = ("max_devi_v", "min_devi_v", "avg_devi_v", "max_devi_f", "min_devi_f", "avg_devi_f")


class Committee:
    """Several potentials as one: the first drives, all of them give the deviation.

    What is said and done of one potential (`evaluate`, `type_map`, `precision`, `provenance`) is
    that of the first. Lists must reach to `rcut`, the largest cutoff.
    """

    def __init__(self, models: Sequence[Any], names: Sequence[str | Path] | None = None) -> None:
        """`models`: at least two, each with `rcut`, `type_map` and `evaluate(LocalEnv)`.

        Elements go by name. Raises InputError, naming the model, where one lacks an element of the
        first.
        """
        if len(models) < 2:
            raise InputError(f"model deviation: expected two models or more, found {len(models)}")
        self.models = list(models)
        self.type_map: list[str] = list(models[0].type_map)
        self.rcut: float = max(model.rcut for model in models)
        self.precision: str = getattr(models[0], "precision", "float64")
        self.provenance: dict[str, Any] | None = getattr(models[0], "provenance", None)
        self._types: list[torch.Tensor | None] = []
        self._mapped: dict[int, tuple[weakref.ref[torch.Tensor], int, torch.Tensor]] = {}
        for k, model in enumerate(models):
            where = f"model {k + 1}" if names is None else str(names[k])
            missing = [name for name in self.type_map if name not in model.type_map]
            if missing:
                raise InputError(
                    f"{where}: does not know {', '.join(missing)}, which the first model does; "
                    "put the model with the fewest elements first"
                )
            same = list(model.type_map[: len(self.type_map)]) == self.type_map
            numbers = [list(model.type_map).index(name) for name in self.type_map]
            self._types.append(None if same else torch.tensor(numbers, dtype=torch.int32))

    @classmethod
    def of_members(cls, model: Potential) -> Committee:
        """A potential with the members that its file holds (`uncertainty`); it drives.

        Raises InputError where there are none.
        """
        if model.members is None:
            raise InputError(
                "the file of the only model holds no committee that could deviate from it; add "
                "one (dpl uncertainty MODEL DATA… -o OUT), or give several models"
            )
        return cls([model, *(model.member(k) for k in range(len(model.members)))])

    def evaluate(self, env: LocalEnv) -> Evaluation:
        """That of the first model."""
        evaluation: Evaluation = self.models[0].evaluate(env)
        return evaluation

    def atomic_virials(self, env: LocalEnv, forces: torch.Tensor | None = None) -> torch.Tensor:
        """Those of the first model, and so the `forces`."""
        given = () if forces is None else (forces,)
        virials: torch.Tensor = self.models[0].atomic_virials(env, *given)
        return virials

    def neighbor_list(
        self, positions: torch.Tensor, types: torch.Tensor, n_local: int, cutoff: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`kernels.neighbor_list`, made where the first model evaluates."""
        return listed(self.models[0], positions, types, n_local, cutoff)

    @property
    def torch_device(self) -> torch.device:
        """Where the first model evaluates."""
        return device_of(self.models[0])

    def others(self, env: LocalEnv) -> Iterator[Evaluation]:
        """Those of all other models, in order, of the same atoms and list."""
        for k, model in enumerate(self.models[1:], 1):
            own = env
            if self._types[k] is not None:  # rows stay sorted by the first's types: any will do
                types = self._types_of(k, env.types)
                own = LocalEnv(env.positions, types, env.n_local, env.offsets, env.indices)
            yield model.evaluate(own)

    def _types_of(self, k: int, types: torch.Tensor) -> torch.Tensor:
        """`types` as model k numbers them: the same tensor as long as they are the same."""
        kept = self._mapped.get(k)
        if kept is None or kept[0]() is not types or kept[1] != types._version:
            numbers = self._types[k]
            assert numbers is not None
            own = numbers.to(types.device)[types.long()]
            kept = self._mapped[k] = weakref.ref(types), types._version, own
        return kept[2]


def listed(
    model: Any, positions: torch.Tensor, types: torch.Tensor, n_local: int, cutoff: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """`kernels.neighbor_list`, made where the model evaluates if it can say so."""
    own = getattr(model, "neighbor_list", neighbor_list)
    result: tuple[torch.Tensor, torch.Tensor] = own(positions, types, n_local, cutoff)
    return result


def device_of(model: Any) -> torch.device:
    """Where the model evaluates without a copy of the atoms: the CPU, if it does not say so."""
    torch_device: torch.device = getattr(model, "torch_device", torch.device("cpu"))
    return torch_device


def loaded(model: Any, precision: str | None, device: str | None = None) -> Any:
    """The model at a path or as it is, in the precision asked for; of several a `Committee`.

    It evaluates on `device`: 'cpu', 'cuda' or 'cuda:N'; None: where it is, and the CPU for a file.
    Raises InputError where there is no such device, for a model that cannot go there, and for what
    is no model.
    """
    if isinstance(model, (list, tuple)):
        names = [m if isinstance(m, (str, Path)) else f"model {k + 1}" for k, m in enumerate(model)]
        if not model:
            raise InputError("model: expected a model or several, found an empty list")
        models = [loaded(m, precision, device) for m in model]
        return models[0] if len(models) == 1 else Committee(models, names)
    if isinstance(model, (str, Path)):
        return load_model(Path(model).expanduser(), precision).to_device(device or "cpu")
    if not all(hasattr(model, name) for name in ("rcut", "type_map", "evaluate")):
        raise InputError(
            "model: expected the path of a model file, or an object with rcut, type_map and "
            f"evaluate; found {type(model).__name__}"
        )
    if device not in (None, getattr(model, "device", "cpu")):
        if not hasattr(model, "to_device"):
            raise InputError(f"device '{device}': this model computes on the CPU alone")
        model.to_device(device)
    if precision is not None and precision != getattr(model, "precision", precision):
        raise InputError(
            f"precision '{precision}' for a Potential of {model.precision}: give its file, or "
            f"copy.deepcopy(model).to_precision('{precision}'), which leaves this one as it is"
        )
    return model


@dataclass(frozen=True)
class Relative:
    """Levels of relative deviations; None: absolute ones."""

    force: float | None = None
    """eV/Å."""
    virial: float | None = None
    """eV/atom."""


@dataclass(frozen=True)
class Deviation:
    """Deviation of the models on one structure; eV/Å and eV/atom, or ratios if relative."""

    max_v: float
    min_v: float
    avg_v: float
    max_f: float
    min_f: float
    avg_f: float
    energy: float
    atoms: np.ndarray = field(repr=False)
    """(n,): of the force on each atom."""

    @property
    def columns(self) -> tuple[float, ...]:
        """In the order of `COLUMNS`."""
        return self.max_v, self.min_v, self.avg_v, self.max_f, self.min_f, self.avg_f


def force_deviation(
    forces: np.ndarray, level: float | None = None, label: np.ndarray | None = None
) -> np.ndarray:
    """(n,) from `forces` (n_models, n, 3) eV/Å; from the mean, or from `label` (n, 3)."""
    centre = forces.mean(axis=0) if label is None else label
    found = np.sqrt(((forces - centre) ** 2).sum(axis=-1).mean(axis=0))
    return found if level is None else found / (np.linalg.norm(centre, axis=-1) + level)


def virial_deviation(
    virials: np.ndarray, level: float | None = None, label: np.ndarray | None = None
) -> np.ndarray:
    """(9,) from `virials` (n_models, 3, 3) eV/atom; from the mean, or from `label` (3, 3)."""
    centre = virials.mean(axis=0) if label is None else label
    found = np.sqrt(((virials - centre) ** 2).mean(axis=0)).ravel()
    return found if level is None else found / (np.linalg.norm(centre) + level)


def deviation(
    energies: np.ndarray, forces: np.ndarray, virials: np.ndarray, relative: Relative = Relative()
) -> Deviation:
    """From `energies` (n_models,) eV, `forces` (n_models, n, 3) eV/Å and `virials`
    (n_models, 3, 3) eV of one structure."""
    n = forces.shape[1]
    f = force_deviation(forces, relative.force)
    v = virial_deviation(virials / n, relative.virial)
    return _summed(f, v, float(np.std(energies)) / n)


def error(
    energies: np.ndarray,
    forces: np.ndarray,
    virials: np.ndarray,
    frame: Frame,
    relative: Relative = Relative(),
) -> Deviation:
    """As `deviation`, from the labels of `frame` instead of the means; nan without a label."""
    n, nan = frame.n_atoms, np.nan
    label_e = nan if frame.energy is None else frame.energy
    label_f = np.full((n, 3), nan) if frame.forces is None else frame.forces
    label_v = np.full((3, 3), nan) if frame.virial is None else frame.virial
    f = force_deviation(forces, relative.force, label_f)
    v = virial_deviation(virials / n, relative.virial, label_v / n)
    return _summed(f, v, float(np.sqrt(np.mean((energies - label_e) ** 2))) / n)


def _summed(f: np.ndarray, v: np.ndarray, energy: float) -> Deviation:
    return Deviation(
        *(float(v.max()), float(v.min()), mean_virial(v)),
        *(float(f.max()), float(f.min()), float(f.mean()), energy),
        atoms=f,
    )


def mean_virial(v: np.ndarray) -> float:
    """The avg of the nine components."""
    return float(np.linalg.norm(v)) / 3.0


# --- structures of data sets ------------------------------------------------------------------


def deviations(
    committee: Committee,
    systems: Sequence[System],
    relative: Relative = Relative(),
    *,
    real_error: bool = False,
    quiet: bool = True,
) -> dict[str, list[Deviation]]:
    """Deviations of every frame, by the name of its system; errors instead where `real_error`.

    Raises InputError for an element that the models do not know.
    """
    found: dict[str, list[Deviation]] = {}
    total = sum(len(system.frames) for system in systems)
    with tqdm(total=total, unit="frame", desc="evaluating", disable=quiet or None) as bar:
        for system in systems:
            for frame in system.frames:
                types = np.array(type_indices(frame.symbols, committee.type_map, frame.source))
                where = (frame.positions, frame.cell, frame.pbc)
                periodic = periodic_env(*where, types, committee.rcut, frame.source)
                env = periodic.env
                parts = [committee.evaluate(env), *committee.others(env)]
                forces = np.stack([periodic.fold(e.forces).numpy() for e in parts])
                energies = np.array([float(e.energies.sum()) for e in parts])
                virials = np.stack([e.virial.numpy() for e in parts])
                one = (
                    error(energies, forces, virials, frame, relative)
                    if real_error
                    else deviation(energies, forces, virials, relative)
                )
                found.setdefault(system.name, []).append(one)
                bar.update()
    return found


# --- files ------------------------------------------------------------------------------------


def md_header() -> str:
    """First line of the file that MD writes: that of LAMMPS' pair style `deepmd`."""
    return f"#{'step':>11}" + "".join(f"{name:>19}" for name in COLUMNS) + "\n"


def row(step: int, values: Sequence[float]) -> str:
    """A line of either file."""
    return f"{step:12d}" + "".join(f"{value:19.6e}" for value in values) + "\n"


def write_deviations(
    found: Mapping[str, Sequence[Deviation]],
    path: str | Path,
    frequency: int = 1,
    *,
    atomic: bool = False,
) -> None:
    """Write what `dp model-devi` writes: for each system a name, a header and a row for each frame.

    Frame k of a system is step k · `frequency`. After `COLUMNS` follow the energy's deviation and,
    where `atomic`, those of all atoms. Raises InputError if the file cannot be written.
    """
    names = [*COLUMNS, "devi_e", *(["atm_devi_f(N)"] if atomic else [])]
    header = f"# {'step':10}" + "".join(f"{name:19}" for name in names) + "\n"
    lines = []
    for system, frames in found.items():
        lines += [f"# {system}\n", header]
        for k, d in enumerate(frames):
            lines.append(row(k * frequency, [*d.columns, d.energy, *(d.atoms if atomic else ())]))
    write_atomically(path, "".join(lines).encode())
