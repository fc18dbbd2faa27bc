"""Networks of each element, and networks that all elements share, on alloys of many metals.

    python benchmarks/elements.py --elements 7 --time 2m --out elements.json

Random alloys of up to seven metals, fcc, strained and rattled, with the labels of ASE's EMT: 150
frames of 108 atoms to train on, 40 to test. Each training is the preset, but for the keys named.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from descriptors import errors, report
from presets import trained

MODES = ("concat", "strip")
METALS = ("Al", "Cu", "Ag", "Au", "Ni", "Pd", "Pt")
VECTORS = {"neuron": [8], "activation_function": "linear"}
SHARED, STRIPPED = ({"type_embedding": VECTORS | {"tebd_input_mode": x}} for x in MODES)
TRAININGS: dict[str, tuple[bool, bool, dict[str, Any]]] = {
    "networks of each element, that begin as different ones": (False, True, {}),
    "networks of each element": (True, True, {}),
    "networks of each element, embeddings of each pair": (True, False, {}),
    "shared, embeddings told the neighbour": (True, True, SHARED),
    "shared, embeddings told the pair": (True, False, SHARED),
    "shared, embeddings told the pair, strip": (True, False, STRIPPED),
}
"""`alike_elements`, `type_one_side`, and other keys of the section `model`."""


def alloys(n: int, metals: tuple[str, ...], seed: int) -> list[Atoms]:
    """Labelled frames."""
    random = np.random.default_rng(seed)
    frames = []
    for _ in range(n):
        atoms = bulk("Cu", a=3.9, cubic=True) * (3, 3, 3)
        atoms.symbols[:] = random.choice(metals, len(atoms))
        strain = np.eye(3) + random.normal(0.0, 0.015, (3, 3))
        atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
        atoms.positions += random.normal(0.0, 0.12, atoms.positions.shape)
        atoms.calc = EMT()
        labels = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        atoms.calc = SinglePointCalculator(atoms, **labels)
        frames.append(atoms)
    return frames


def main() -> None:
    """Make the frames, train, test; print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--elements", type=int, default=7, choices=range(2, 8), help="metals (7)")
    parser.add_argument("--frames", type=int, default=150, help="to train on (150)")
    parser.add_argument("--preset", default="balanced", help="(balanced)")
    parser.add_argument("--time", default="2m", help="of each training (2m)")
    parser.add_argument("--out", type=Path, help="write JSON there, and a table beside it")
    args = parser.parse_args()
    metals = METALS[: args.elements]
    rows: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / "train.extxyz", alloys(args.frames, metals, 1))
        write(folder / "test.extxyz", alloys(40, metals, 2))
        for k, (label, (alike, one_side, keys)) in enumerate(TRAININGS.items()):
            model = {"type_map": list(metals), "descriptor": {"type_one_side": one_side}, **keys}
            training: dict[str, Any] = {"training_data": {"systems": "train.extxyz"}}
            training |= {"held_out": 0.1, "alike_elements": alike}
            content = {"preset": args.preset, "model": model, "training": training}
            content["loss"] = {"start_pref_v": 0.0, "limit_pref_v": 0.0}  # EMT has no virials here
            path = folder / f"{k}.json"
            path.write_text(json.dumps(content))
            steps = trained([str(path)], args.time, folder / str(k))
            found = errors(folder / str(k) / "model.dpl", folder / "test.extxyz")
            rows[label] = {"steps": steps, **found}
            print(label, {key: round(x, 2) for key, x in rows[label].items()}, flush=True)
    report(rows, __doc__, args.out)


if __name__ == "__main__":
    main()
