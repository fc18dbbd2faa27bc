"""How well converged, and how self-consistent, the labels of the silicon data set are.

    python convergence.py tight FRAME_ID ...      # against higher cutoffs and denser k-points
    python convergence.py differences FRAME_ID ...  # forces and stress against energy differences

Reads finished frames from the work folder of ``generate.py``; every result is
added to ``convergence.json`` here.
Units: eV, Angstrom, meV/A, GPa.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import generate
import numpy as np
from ase import units
from ase.io import read

TIGHT = {"ecutwfc": 26.0, "ecutrho": 78.0, "conv_thr": 5e-7}
DENSER = {(2, 2, 2): (3, 3, 3), (3, 3, 3): (4, 4, 4)}
DISPLACEMENT = 0.01  # Angstrom
STRAIN = 0.005


def tight(frame_id, options):
    """Differences of a stored frame to the same frame with tighter settings."""
    stored = read(options.work / "frames" / f"{frame_id}.extxyz")
    kpts = DENSER[generate.mesh_of(stored)]
    scratch = options.work / "convergence" / f"{frame_id}-tight"
    better = generate.single_point(stored, scratch, options.command, kpts=kpts, **TIGHT)
    force = 1e3 * (stored.get_forces() - better.get_forces())
    stress = (stored.get_stress() - better.get_stress()) / units.GPa
    energy = stored.get_potential_energy() - better.get_potential_energy()
    return {
        "frame_id": frame_id,
        "kpts": list(generate.mesh_of(stored)),
        "tight_kpts": list(kpts),
        "tight_cutoffs_Ry": [TIGHT["ecutwfc"], TIGHT["ecutrho"]],
        "force_rms_meV_per_A": float(np.sqrt(np.mean(force**2))),
        "force_max_meV_per_A": float(np.abs(force).max()),
        "rms_of_the_forces_meV_per_A": float(1e3 * np.sqrt(np.mean(stored.get_forces() ** 2))),
        "energy_meV_per_atom": float(1e3 * energy / len(stored)),
        "stress_GPa": [float(s) for s in stress],
        "cpu_seconds": better.info["cpu_seconds"],
    }


def differences(frame_id, options):
    """One force and one stress component of a frame against central differences of its energy."""
    stored = read(options.work / "frames" / f"{frame_id}.extxyz")
    corrected = generate.with_pulay_stress(stored)
    scratch = options.work / "convergence" / f"{frame_id}-fd"

    def energy_change(change):
        pair = []
        for sign in (1, -1):
            atoms = stored.copy()
            change(atoms, sign)
            solved = generate.single_point(
                atoms, scratch, options.command, kpts=generate.mesh_of(stored), conv_thr=1e-8
            )
            pair.append(solved.get_potential_energy())
        return pair[0] - pair[1]

    def move(atoms, sign):
        atoms.positions[0, 0] += sign * DISPLACEMENT

    def stretch(atoms, sign):
        matrix = np.eye(3)
        matrix[0, 0] += sign * STRAIN
        atoms.set_cell(atoms.cell.array @ matrix, scale_atoms=True)

    stress_unit = 2 * STRAIN * stored.get_volume() * units.GPa
    return {
        "frame_id": frame_id,
        "force_eV_per_A": float(stored.get_forces()[0, 0]),
        "force_from_energies": -energy_change(move) / (2 * DISPLACEMENT),
        "stress_xx_GPa_of_pw": float(stored.get_stress()[0] / units.GPa),
        "stress_xx_GPa_stored": float(corrected.get_stress()[0] / units.GPa),
        "stress_xx_GPa_from_energies": energy_change(stretch) / stress_unit,
        "displacement_A": DISPLACEMENT,
        "strain": STRAIN,
    }


def main(arguments=None):
    """Command line entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=["tight", "differences"])
    parser.add_argument("frames", nargs="+", metavar="FRAME_ID")
    parser.add_argument("--command", default="pw.x", help="how to start pw.x")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "silicon-dft")
    options = parser.parse_args(arguments)
    target = generate.HERE / "convergence.json"
    for frame_id in options.frames:
        result = {"tight": tight, "differences": differences}[options.action](frame_id, options)
        print(json.dumps(result, indent=2), flush=True)
        report = json.loads(target.read_text()) if target.exists() else {}
        report.setdefault(options.action, {})[frame_id] = result
        target.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
