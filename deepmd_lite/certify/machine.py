"""The same numbers however they are computed: table, precision, device, instruction set, ranks."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .. import kernels, launchers
from ..model import Potential
from ..model.structures import Structure, evaluated
from ..model.table_error import TABLE_TOLERANCE, measure_table
from ..neighbors import periodic_env
from ..system import Model
from .verdict import Verdict

LIMIT = 1e-9
"""eV/atom, and relative to the largest force: of the processor's numbers from another device's."""
BEGUN = "begun"
"""What ranks print once they have found each other."""
RANKS = 4
SECONDS = 120.0
"""After which ranks that have not answered are given up."""


def table(model: Potential, samples: Sequence[Structure]) -> Verdict:
    """The table beside the networks that it was made from, at every pair."""
    errors = []
    for sample in samples:
        env = periodic_env(sample.positions, sample.cell, sample.pbc, sample.types, model.rcut).env
        error = measure_table(model, env)["force_ev_per_a"] / evaluated(model, sample).force_scale
        errors.append((error, sample.name))
    # beyond what was measured when the file was written, for structures that were not there
    limit, unit = 10 * TABLE_TOLERANCE, "of the largest force, or eV/Å"
    return Verdict.worst("table against networks", errors, limit, unit)


def single_precision(model: Potential, samples: Sequence[Structure]) -> list[Verdict]:
    """float32 arithmetic beside float64."""
    single = copy.deepcopy(model).to_precision("float32")
    energies, forces = [], []
    for sample in samples:
        exact, found = evaluated(model, sample), evaluated(single, sample)
        energies.append((abs(found.energy - exact.energy) / len(sample), sample.name))
        error = float(np.abs(found.forces - exact.forces).max()) / exact.force_scale
        forces.append((error, sample.name))
    unit = "of the largest force"
    return [
        Verdict.worst("float32 energies", energies, 1e-4, "eV/atom", warns=True),
        Verdict.worst("float32 forces", forces, 1e-3, unit, warns=True),
    ]


def processor(model: Potential, host: Potential, samples: Sequence[Structure]) -> Verdict:
    """The model on its device beside `host`, the same on the processor."""
    errors = []
    for sample in samples:
        expected, found = evaluated(host, sample), evaluated(model, sample)
        energy = np.abs(found.energies - expected.energies).max()
        force = np.abs(found.forces - expected.forces).max() / expected.force_scale
        virial = np.abs(found.virial - expected.virial).max()
        error = float(np.max([energy, force, virial / expected.force_scale / len(sample)]))
        errors.append((error, sample.name))
    name = f"{model.device} = {host.device}"
    return Verdict.worst(name, errors, LIMIT, "eV/atom, of the largest force")


def instruction_sets(model: Model, samples: Sequence[Structure]) -> Verdict:
    """Every instruction set of this build that this processor has."""
    own, known = kernels.instruction_set(), kernels.instruction_sets()
    errors = []
    try:
        for sample in samples:
            results = {}
            for name in known:
                kernels.set_instruction_set(name)
                results[name] = evaluated(model, sample)
            for name, found in results.items():
                first = results[known[0]]
                error = float(np.abs(found.forces - first.forces).max()) / first.force_scale
                errors.append((error, name))
    finally:
        kernels.set_instruction_set(own)
    name = f"instruction sets {', '.join(known)}"
    return Verdict.worst(name, errors, 1e-10, "of the largest force")


def ranks(path: str | Path, sample: Structure, symbols: Sequence[str]) -> Verdict:
    """Forces of `RANKS` ranks under mpiexec beside those of one, on the model file at `path`.

    Ranks that do not come to begin say nothing about the model.
    """
    name, limit, unit = f"1 rank = {RANKS} ranks", 1e-10, "eV/Å"
    mpiexec = launchers.mpiexec()
    if mpiexec is None:
        return Verdict(name, None, limit, unit, "no mpiexec here: pip install 'deepmd_lite[mpi]'")
    job = {
        "model": str(path),
        "symbols": list(symbols),
        "positions": sample.positions.tolist(),
        "cell": sample.cell.tolist(),
        "pbc": sample.pbc.tolist(),
    }
    command = [mpiexec, "-n", str(RANKS), sys.executable, "-m", "deepmd_lite.certify.on_ranks"]
    try:
        done = subprocess.run(
            command,
            input=json.dumps(job),
            capture_output=True,
            text=True,
            timeout=SECONDS,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    except subprocess.TimeoutExpired as e:
        begun, words = BEGUN.encode() in (e.stdout or b""), f"no answer in {SECONDS:g} s"
    except OSError as e:
        begun, words = False, str(e)
    else:
        begun = BEGUN in done.stdout
        if begun and not done.returncode:
            return Verdict(name, float(done.stdout.split()[-1]), limit, unit, sample.name)
        last = ([x for x in done.stderr.splitlines() if x.strip()] or ["no message"])[-1]
        words = f"status {done.returncode}: {last}"
    if begun:
        return Verdict(name, np.inf, limit, unit, f"{mpiexec}: {words}")
    return Verdict(name, None, limit, unit, f"{mpiexec} does not start them: {words}; dpl doctor")
