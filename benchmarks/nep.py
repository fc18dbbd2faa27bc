"""Evaluations beside NEP, the neuroevolution potential of GPUMD, on one thread of the CPU.

    pip install calorine
    python benchmarks/nep.py --structure pbte.xyz --model fast/model.dpl --out nep.json

NEP is evaluated by calorine as pip builds it, with the hyperparameters that GPUMD takes unless it
is told others, and with random parameters, on which its time does not depend. The codes take turns
in one process; atoms move a little before each call. NEP makes a new neighbour list at each call,
so that we are measured with new lists as well as with one that is used again, as in a simulation.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # before torch is imported
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))

import numpy as np
import torch
from ase import Atoms
from ase.io import read
from common import Table, report

from deepmd_lite import Calculator

CUTOFFS, N_MAX, BASIS, L_MAX, NEURONS = (8, 4), (4, 4), (8, 8), (4, 2, 0), 30
"""GPUMD's: Å of radial and angular terms; radial functions and their basis for each; degrees of
three- and four-body terms (no five-body ones); neurons of the hidden layer."""
MOVE = 1e-4
"""Å."""


def nep_file(path: Path, elements: list[str]) -> Path:
    """A NEP4 with random parameters."""
    random, n = np.random.default_rng(0), len(elements)
    n_inputs = N_MAX[0] + 1 + (N_MAX[1] + 1) * (L_MAX[0] + (L_MAX[1] > 0))
    n_basis = sum((n_max + 1) * (basis + 1) for n_max, basis in zip(N_MAX, BASIS, strict=True))
    parameters = 0.2 * random.normal(size=n * (n_inputs + 2) * NEURONS + 1 + n**2 * n_basis)
    head = (
        f"nep4 {n} {' '.join(elements)}\ncutoff {CUTOFFS[0]} {CUTOFFS[1]} 200 100\n"
        f"n_max {N_MAX[0]} {N_MAX[1]}\nbasis_size {BASIS[0]} {BASIS[1]}\n"
        f"l_max {L_MAX[0]} {L_MAX[1]} {L_MAX[2]}\nANN {NEURONS} 0\n"
    )
    numbers = [*parameters, *[0.1] * n_inputs]  # the last scale the inputs
    path.write_text(head + "".join(f"{x:.7e}\n" for x in numbers))
    return path


def in_turns(codes: Mapping[str, Any], atoms: Atoms, repeats: int) -> dict[str, float]:
    """Median seconds of energies and forces of each calculator; ours have the stress besides."""
    times: dict[str, list[float]] = {name: [] for name in codes}
    structures = {name: atoms.copy() for name in codes}
    for name, calculator in codes.items():
        structures[name].calc = calculator
    for turn in range(repeats + 1):  # the first is not counted
        for name, own in structures.items():
            own.positions += MOVE
            began = time.perf_counter()
            own.get_forces()
            if turn:
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(own) for name, own in times.items()}


def main() -> None:
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--structure", required=True, help="periodic; anything ASE reads")
    made.add_argument("--model", type=Path, nargs="+", required=True, help="of the same elements")
    made.add_argument("--atoms", type=int, default=3000, help="copies are made up to so many")
    made.add_argument("--repeats", type=int, default=9)
    made.add_argument("--out", type=Path, metavar="FILE.json")
    arguments = made.parse_args()
    try:
        from calorine.calculators import CPUNEP
    except ImportError as e:
        raise SystemExit(f"calorine cannot be imported ({e}): pip install calorine") from None
    torch.set_num_threads(1)
    atoms = read(arguments.structure, 0)
    copies = max(1, round((arguments.atoms / len(atoms)) ** (1 / 3)))
    atoms = atoms.repeat(copies)
    atoms.calc = None
    codes: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        elements = sorted(set(atoms.get_chemical_symbols()))
        codes["NEP"] = CPUNEP(str(nep_file(Path(folder) / "nep.txt", elements)))
        for path in arguments.model:
            for precision in ("float64", "float32"):
                name = f"{path}, {precision}"
                codes[name] = Calculator(path, precision=precision)
                codes[f"{name}, new lists"] = Calculator(path, precision=precision, skin=0.0)
        seconds = in_turns(codes, atoms, arguments.repeats)
    per_atom = {name: 1e6 * own / len(atoms) for name, own in seconds.items()}
    rows = [(name, own, per_atom["NEP"] / own) for name, own in per_atom.items()]
    title = f"{atoms.get_chemical_formula()}, one thread"
    table = Table(title, ["", "µs/atom", "NEP takes times"], rows)
    report(arguments, [table], {"microseconds per atom": per_atom}, None)


if __name__ == "__main__":
    main()
