"""A frame with its labels from what ASE read, under the names that people write labels under.

Labels are taken from the calculator that ASE attaches and from `info` and `arrays`. Two names of
one quantity may both be present if their values agree; a frame where they disagree is refused,
because only its author can say which one is meant.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress

from ..system import InputError
from .frames import Frame

ENERGY_KEYS = (
    "energy",
    "free_energy",
    "REF_energy",
    "TotEnergy",
    "dft_energy",
    "energies",
)
"""eV, of the whole frame; `energies` only for want of others, added up if one for each atom."""
FORCES_KEYS = ("forces", "force", "REF_forces", "dft_forces", "dft_force")
"""eV/Å."""
VIRIAL_KEYS = ("virial", "virials", "REF_virial", "REF_virials", "dft_virial")
"""eV, nine numbers, positive under compression."""
STRESS_KEYS = ("stress", "REF_stress", "dft_stress")
"""eV/Å³, tension positive: six in Voigt's order xx yy zz yz xz xy, or nine."""
_LABELS = (*ENERGY_KEYS, *FORCES_KEYS, *VIRIAL_KEYS, *STRESS_KEYS)
_KEYS_OF = {
    "energy": ENERGY_KEYS,
    "forces": FORCES_KEYS,
    "virial": VIRIAL_KEYS + STRESS_KEYS,
    "stress": VIRIAL_KEYS + STRESS_KEYS,
}
NO_CHOICE: Mapping[str, str] = MappingProxyType({})
SPELLING = {key.lower(): key for key in _LABELS}
"""Labels are found in any case: `Forces`, `DFT_energy`."""
FPARAM_KEY = "fparam"
"""In `info`, a number or several: frame parameters."""
WEIGHT_KEYS = ("weight", "config_weight")
LABEL_WEIGHTS = {
    "config_energy_weight": "energy",
    "config_forces_weight": "forces",
    "config_stress_weight": "virial",
    "config_virials_weight": "virial",
}
"""MACE's weights of single labels: 0 leaves the label out, other values are not used."""

STATES = ("charge", "total_charge", "spin", "multiplicity", "spin_multiplicity")
"""In `info`, what a model that sees elements and positions alone cannot tell."""
HEAD_KEY = "head"
"""In `info`, the level of theory of a frame's labels, as MACE tells them apart."""


def frame_from_atoms(
    atoms: Atoms,
    source: str,
    notes: Counter[str] | None = None,
    *,
    chosen: bool = False,
    labels: Mapping[str, str] = NO_CHOICE,
) -> Frame:
    """Structure and labels of `atoms`; what was left out is counted in `notes`.

    `chosen`: somebody has written the name `energy` and means it. Otherwise a calculator's
    `free_energy` is the energy, where it has forces: they are derivatives of that.
    `labels`: as in `read_ase_file`.
    Raises InputError, naming `source`, for labels of a wrong size or that contradict one another.
    """
    notes = Counter() if notes is None else notes
    values = _named_values(atoms, source, labels)
    pbc = np.array(atoms.pbc, dtype=bool)
    cell = np.array(atoms.cell, dtype=np.float64) if pbc.any() else np.zeros((3, 3))
    results = atoms.calc.results if atoms.calc is not None else {}
    free = not chosen and results.get("forces") is not None
    read: dict[str, Any] = {
        "energy": _energy(values, len(atoms), source, notes, prefer_free=free),
        "forces": _forces(values, source),
        "virial": _virial(values, cell, pbc, source, notes),
    }
    for key, label in LABEL_WEIGHTS.items():
        factor = _scalar(values[key], source, key) if key in values else 1.0
        if factor == 0.0:
            read[label] = None
        elif factor != 1.0:
            notes[f"{key} is used only where it is 0, which leaves the label out"] += 1
    for key in values:
        other = key.lower().endswith("weight") and key not in (*WEIGHT_KEYS, *LABEL_WEIGHTS)
        if other and np.size(values[key]) == 1:
            notes[f"{key} is not used; the weight of a frame is {' or '.join(WEIGHT_KEYS)}"] += 1
    weights = {key: _scalar(values[key], source, key) for key in WEIGHT_KEYS if key in values}
    return Frame(
        symbols=tuple(atoms.get_chemical_symbols()),
        positions=np.array(atoms.positions, dtype=np.float64),
        cell=cell,
        pbc=pbc,
        **read,
        fparam=_fparam(atoms, source),
        weight=_agreed(weights, 1e-6, source, "") if weights else 1.0,
        config_type=_text(atoms, "config_type"),
        head=_text(atoms, HEAD_KEY),
        source=source,
    )


def _text(atoms: Atoms, key: str) -> str | None:
    value = atoms.info.get(key)
    return None if value is None else str(value)


def differences(states: set[tuple[str, ...]]) -> list[str]:
    """What differs of `STATES` and, last, the heads: a line each, of what the frames have."""
    lines = []
    for key, those in zip((*STATES, HEAD_KEY), zip(*states, strict=True), strict=True):
        values = sorted(set(those))
        if len(values) < 2:
            continue
        shown = ", ".join(values[:6]) + (" …" if len(values) > 6 else "")
        lines.append(
            f"frames differ in {key} ({shown}), and all are trained as one: choose those of one "
            f"level of theory (FILE#{HEAD_KEY}=NAME)"
            if key == HEAD_KEY
            else f"frames differ in {key} ({shown}), which a model cannot see: energies of the "
            "same atoms would contradict one another"
        )
    return lines


def state_of(atoms: Atoms) -> tuple[str, ...]:
    """Values of `STATES` and the head, for `differences`."""
    return tuple(str(atoms.info.get(key, "not given")) for key in (*STATES, HEAD_KEY))


def _named_values(atoms: Atoms, source: str, labels: Mapping[str, str]) -> dict[str, Any]:
    """Every value of the frame by name: arrays, info, and what ASE moved into a calculator.

    What `labels` chooses has the name of the label, and nothing else is left of that label.

    The calculator's results are taken as they are: its get_forces() would zero the forces of
    constrained atoms.
    """
    values: dict[str, Any] = {
        k: v for k, v in atoms.arrays.items() if k not in ("numbers", "positions")
    }
    values.update(atoms.info)
    if np.shape(values.get("virial", ())) == (3, 3):
        values["virial"] = np.transpose(values["virial"])  # extended XYZ is read by columns
    results = dict(atoms.calc.results) if atoms.calc is not None else {}
    chosen = {label: results.get(name, values.get(name)) for label, name in labels.items()}
    others = {key for label in labels for key in _KEYS_OF[label]}
    for those in (values, results):
        for key in [k for k in those if SPELLING.get(k.lower()) in others]:
            del those[key]
    for key, value in results.items():
        if key in values and not np.array_equal(values[key], value):
            raise InputError(
                f"{source}: {key} of the calculator differs from {key} in info or arrays; remove "
                "the one that is not meant"
            )
        if value is not None:
            values[key] = value
    for key in [k for k in values if SPELLING.get(k.lower(), k) != k]:
        name, value = SPELLING[key.lower()], values.pop(key)
        if name in values and not np.array_equal(np.ravel(values[name]), np.ravel(value)):
            raise InputError(f"{source}: '{key}' and '{name}' differ; remove the one not meant")
        values.setdefault(name, value)
    return values | {label: value for label, value in chosen.items() if value is not None}


def _numbers(value: Any, source: str, key: str) -> np.ndarray:
    """`value` as a flat float64 array."""
    try:
        return np.asarray(value, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError):
        shown = " ".join(str(value).split())[:60]
        raise InputError(f"{source}: {key}: expected numbers, found {shown!r}") from None


def _scalar(value: Any, source: str, key: str) -> float:
    numbers = _numbers(value, source, key)
    if len(numbers) != 1:
        raise InputError(f"{source}: {key}: expected one number, found {len(numbers)}")
    return float(numbers[0])


def _agreed(candidates: dict[str, Any], tolerance: float, source: str, unit: str) -> Any:
    """The first candidate, when every other one is within `tolerance` of it."""
    first, *others = candidates
    for other in others:
        difference = float(np.abs(candidates[first] - candidates[other]).max())
        if difference > tolerance:
            raise InputError(
                f"{source}: '{first}' and '{other}' disagree by {difference:.3g} {unit}; remove "
                "the one that is not meant"
            )
    return candidates[first]


def _energy(
    values: dict[str, Any], n: int, source: str, notes: Counter[str], *, prefer_free: bool
) -> float | None:
    """Total energy, eV: the first of ENERGY_KEYS.

    `free_energy` may differ from `energy` (smearing: energy extrapolated to zero width); which is
    taken is noted, the other names must agree.
    """
    *totals, per_atom = ENERGY_KEYS
    found = {key: _scalar(values[key], source, key) for key in totals if key in values}
    if not found and per_atom in values:
        numbers = _numbers(values[per_atom], source, per_atom)
        if len(numbers) not in (1, n):
            raise InputError(
                f"{source}: {per_atom}: expected 1 number or {n}, found {len(numbers)}"
            )
        return float(numbers.sum())
    if not found:
        return None
    free = found.pop("free_energy", None) if "energy" in found else None
    largest = max(abs(e) for e in found.values())
    energy = float(_agreed(found, 1e-5 * n + 1e-7 * largest, source, "eV"))
    if free is not None and prefer_free and found.keys() == {"energy"}:
        if free != energy:
            notes["the free energy is taken, whose derivatives the forces are"] += 1
        return free
    if free is not None and free != energy:
        notes["free_energy differs from energy; energy is used"] += 1
    return energy


def _forces(values: dict[str, Any], source: str) -> np.ndarray | None:
    """(n, 3) eV/Å: the first of FORCES_KEYS."""
    found = {}
    for key in FORCES_KEYS:
        if key in values:
            numbers = _numbers(values[key], source, key)
            found[key] = numbers.reshape(np.shape(values[key]))
    shapes = {key: array.shape for key, array in found.items()}
    if len(set(shapes.values())) > 1:
        raise InputError(f"{source}: forces of different shapes: {shapes}; keep one of them")
    return _agreed(found, 1e-4, source, "eV/Å") if found else None


def _fparam(atoms: Atoms, source: str) -> np.ndarray | None:
    """(k,), in the order in which they stand in the file."""
    value: Any = atoms.info.get(FPARAM_KEY)
    if np.shape(value) == (3, 3):  # extended XYZ makes a matrix, by columns, of nine numbers
        value = np.transpose(value)
    return None if value is None else _numbers(value, source, FPARAM_KEY)


def _virial(
    values: dict[str, Any], cell: np.ndarray, pbc: np.ndarray, source: str, notes: Counter[str]
) -> np.ndarray | None:
    """(3, 3) eV, −volume · stress: from a virial key, or from the stress of a periodic cell.

    Of slabs and wires it is over the volume of the cell, vacuum included: −dE/dε with atoms moved
    along in every direction, as where the vacuum is periodic.
    """
    found = {}
    for key in VIRIAL_KEYS:
        if key in values:
            numbers = _numbers(values[key], source, key)
            if len(numbers) != 9:
                raise InputError(
                    f"{source}: {key}: expected 9 numbers (xx xy xz yx yy yz zx zy zz), "
                    f"found {len(numbers)}"
                )
            found[key] = numbers.reshape(3, 3)
    volume = abs(np.linalg.det(cell)) if pbc.any() else 0.0
    for key in STRESS_KEYS:
        if key not in values:
            continue
        if not volume > 0:
            notes[f"{key} left out: the frame has no periodic cell with a volume"] += 1
            continue
        numbers = _numbers(values[key], source, key)
        if len(numbers) not in (6, 9):
            raise InputError(
                f"{source}: {key}: expected 6 numbers (xx yy zz yz xz xy) or 9, "
                f"found {len(numbers)}"
            )
        stress = voigt_6_to_full_3x3_stress(numbers) if len(numbers) == 6 else numbers
        found[key] = -volume * stress.reshape(3, 3)
    if not found:
        return None
    # rounding in files: a stress with 5 decimals, four digits of the largest component
    largest = max(float(np.abs(v).max()) for v in found.values())
    return _agreed(found, 1e-5 * volume + 1e-3 * largest, source, "eV (as −volume · stress)")


def unlabelled(frames: Sequence[Frame], found: set[str], labels: Mapping[str, str]) -> list[str]:
    """What the file does have, where it lacks energies or forces altogether."""
    notes = []
    names = ", ".join(sorted(found)) or "nothing"
    spelled = {SPELLING.get(name.lower()) for name in found}
    for label, keys in (("energy", ENERGY_KEYS), ("forces", FORCES_KEYS)):
        lacking = all(getattr(frame, label) is None for frame in frames)
        # else a weight of 0 leaves out what is there
        if lacking and spelled.isdisjoint(keys) and label not in labels:
            notes.append(f"no {label} under any of {', '.join(keys)}; the file has: {names}")
    return notes
