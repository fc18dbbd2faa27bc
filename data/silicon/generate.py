"""Label the silicon data set with density functional theory and write its splits.

    python generate.py label --workers 2      # resumable; each frame is stored when done
    python generate.py collect                # build the split files from what is done
    python generate.py status

Geometries come from ``structures.py``; energies, forces and stresses come from
Quantum ESPRESSO (``pw.x``) through ASE.  Units: eV, eV/A, eV/A^3 (stress positive
under tension, Voigt order xx yy zz yz xz xy), as ASE defines them.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import re
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import structures
from ase import units
from ase.calculators.espresso import Espresso, EspressoProfile
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write

HERE = Path(__file__).resolve().parent
SPLITS = ("train", "validation", "test")
PSEUDO_DIR = "/usr/share/espresso/pseudo"
PSEUDO = "Si.pbe-rrkj.UPF"

# One set of settings for every frame, so that all lie on one energy surface.
ECUTWFC_RY = 20.0
# 2.5 times the wavefunction cutoff instead of four: the density components left
# out are tiny for this soft pseudopotential (forces change by about 1 meV/A).
ECUTRHO_RY = 50.0
# Wide enough to make the melt converge with few k-points, and still without any
# effect on the crystal (a0 by 0.001 A, bulk modulus by 0.1 GPa; see README).
DEGAUSS_RY = 0.04
CONV_THR_RY = 2e-6
# Gapped frames are converged with the small mesh; the metallic melt needs more points.
KPTS = (2, 2, 2)
KPTS_METALLIC = (3, 3, 3)
KOFFSET = (1, 1, 1)
# At a fixed cutoff the number of plane waves follows the volume, and pw.x leaves
# that change out of its stress (Pulay stress).  The missing pressure is C N / V with
# C = 2/3 Ecut dE/dEcut per atom, a property of the atom more than of its
# surroundings; this value is what the equation of state says at equilibrium.
PULAY_EV_PER_ATOM = 0.0233


def input_data(
    natoms,
    symmetric,
    metallic,
    ecutwfc=ECUTWFC_RY,
    ecutrho=ECUTRHO_RY,
    conv_thr=CONV_THR_RY,
):
    """pw.x namelists of one frame; cutoffs and threshold in Ry."""
    empty_bands = natoms * 3 // 8 if metallic else natoms // 4
    return {
        "control": {
            "calculation": "scf",
            "tprnfor": True,
            "tstress": True,
            "disk_io": "none",
            "outdir": "./out",
        },
        "system": {
            "ecutwfc": ecutwfc,
            "ecutrho": ecutrho,
            "occupations": "smearing",
            "smearing": "gaussian",
            "degauss": DEGAUSS_RY,
            # Disordered frames have no symmetry; the perfect crystals are cheaper with it.
            "nosym": not symmetric,
            "nbnd": 2 * natoms + empty_bands,
        },
        "electrons": {
            "conv_thr": conv_thr,
            "mixing_beta": 0.7,
            "electron_maxstep": 60,
            "diago_thr_init": 7e-4,
        },
    }


class Unconverged(RuntimeError):
    """The self-consistent field did not reach its threshold; the frame must not be used."""


def single_point(atoms, directory, command, symmetric=False, kpts=KPTS, **cutoffs):
    """Energy (E - TS, eV), forces and stress of ``atoms`` with pw.x, as a calculator-carrying copy.

    Raises ``Unconverged`` when the SCF loop stopped without converging.
    """
    directory = Path(directory)
    shutil.rmtree(directory, ignore_errors=True)
    calculator = Espresso(
        profile=EspressoProfile(command=command, pseudo_dir=PSEUDO_DIR),
        directory=directory,
        input_data=input_data(len(atoms), symmetric, kpts != KPTS, **cutoffs),
        pseudopotentials={"Si": PSEUDO},
        kpts=kpts,
        koffset=KOFFSET,
    )
    labelled = atoms.copy()
    labelled.calc = calculator
    log = directory / "espresso.pwo"
    try:
        energy = labelled.get_potential_energy()
    except Exception as error:
        text = log.read_text() if log.exists() else ""
        if "convergence NOT achieved" in text:
            raise Unconverged(str(directory)) from error
        raise
    text = log.read_text()
    if "convergence has been achieved" not in text:
        raise Unconverged(str(directory))
    results = {
        "energy": energy,
        "forces": labelled.get_forces(),
        "stress": labelled.get_stress(),
    }
    labelled.calc = SinglePointCalculator(labelled, **results)
    labelled.info["cpu_seconds"] = cpu_seconds(text)
    shutil.rmtree(directory, ignore_errors=True)
    return labelled


def cpu_seconds(text):
    """CPU time (s) that pw.x reports at the end of its output."""
    stamp = re.findall(r"PWSCF +: +(.*?)CPU", text)[-1]
    parts = re.findall(r"([\d.]+)([hms])", stamp.replace(" ", ""))
    return float(sum(float(n) * {"h": 3600, "m": 60, "s": 1}[unit] for n, unit in parts))


def store(atoms, path):
    """Write ``atoms`` so that ``path`` either holds the whole frame or does not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    write(partial, atoms, format="extxyz")
    os.replace(partial, path)


def label(spec, options):
    """Build and label one frame; returns a one-line report."""
    target = options.work / "frames" / f"{spec.frame_id}.extxyz"
    atoms = structures.build(spec, options.seed)
    atoms.info.update(
        config_type=spec.config_type,
        frame_id=spec.frame_id,
        temperature=float(spec.temperature),
        strain=float(spec.strain),
        density=float(atoms.get_masses().sum() / atoms.get_volume() * 1e24 / units._Nav),
    )
    scratch = options.work / "scratch" / spec.frame_id
    try:
        done = single_point(
            atoms, scratch, options.command, spec.config_type == "eos", kpts=mesh_of(atoms)
        )
    except Unconverged:
        note = options.work / "rejected" / f"{spec.frame_id}.txt"
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text("SCF not converged\n")
        return f"{spec.frame_id}: REJECTED, SCF not converged"
    store(done, target)
    largest = np.abs(done.get_forces()).max()
    return f"{spec.frame_id}: {done.info['cpu_seconds']:.0f} CPU s, max |F| {largest:.2f} eV/A"


def mesh_of(atoms):
    """k-point mesh of a frame: the dense one where the density of states has no gap."""
    return KPTS_METALLIC if atoms.info["config_type"] == "liquid" else KPTS


def is_handled(spec, work):
    """True when the frame was stored, or was rejected, by an earlier run."""
    stored = work / "frames" / f"{spec.frame_id}.extxyz"
    return stored.exists() or (work / "rejected" / f"{spec.frame_id}.txt").exists()


def command_label(options):
    """Label what is not done yet; threads only wait for pw.x, which does the work."""
    os.environ["OMP_NUM_THREADS"] = "1"
    queue = [spec for spec in structures.plan() if not is_handled(spec, options.work)]
    print(f"{len(queue)} frames to label", flush=True)
    begin = time.time()
    with ThreadPoolExecutor(options.workers) as pool:
        jobs = {pool.submit(label, spec, options): spec for spec in queue}
        for count, job in enumerate(as_completed(jobs), start=1):
            try:
                report = job.result()
            except Exception as error:  # one bad frame must not end the run
                report = f"{jobs[job].frame_id}: FAILED, {error!r}"
            left = (time.time() - begin) / count * (len(queue) - count) / 60
            print(f"[{count}/{len(queue)}, {left:.0f} min left] {report}", flush=True)


def finished(work):
    """Stored frames, with the Pulay stress, in the order of the plan: {split: [Atoms]}."""
    frames = {split: [] for split in SPLITS}
    for spec in structures.plan():
        path = work / "frames" / f"{spec.frame_id}.extxyz"
        if path.exists():
            frames[spec.split].append(with_pulay_stress(read(path)))
    return frames


def equation_of_state(frames, largest_strain=0.031):
    """Lattice constant, bulk modulus and energy from the perfect crystals.

    Third-order Birch-Murnaghan in energy: a cubic polynomial in x = V**(-2/3),
    fitted by least squares to the frames with linear strain up to ``largest_strain``.
    """
    used = [
        a
        for a in frames
        if a.info["config_type"] == "eos" and abs(a.info["strain"]) <= largest_strain
    ]
    if len(used) < 6:
        return None
    volume = np.array([a.get_volume() / len(a) for a in used])
    energy = np.array([a.get_potential_energy() / len(a) for a in used])
    pressure = np.array([-a.get_stress()[:3].mean() for a in used])
    cubic = np.polynomial.Polynomial.fit(volume ** (-2 / 3), energy, 3)
    slope, curve = cubic.deriv(), cubic.deriv(2)
    roots = slope.roots()
    roots = roots[np.isreal(roots)].real
    x0 = next(x for x in roots if curve(x) > 0)
    v0 = x0 ** (-1.5)
    # dE/dV = E'(x) dx/dV; at the minimum only the second derivative survives.
    bulk_modulus = v0 * curve(x0) * (2 / 3 * v0 ** (-5 / 3)) ** 2
    zero = np.polynomial.Polynomial.fit(volume ** (-2 / 3), pressure, 3)
    x_stress = zero.roots()[np.argmin(np.abs(zero.roots() - x0))].real
    return {
        "a0": float((8 * v0) ** (1 / 3)),
        "a0_unit": "angstrom (conventional cubic cell)",
        "B": float(bulk_modulus / units.GPa),
        "B_unit": "GPa",
        "energy_per_atom": float(cubic(x0)),
        "energy_unit": "eV (pseudopotential total energy E - TS)",
        "a0_from_zero_stress": float((8 * x_stress ** (-1.5)) ** (1 / 3)),
        "fit": "third-order Birch-Murnaghan, least squares on energy, |linear strain| <= 0.03",
        "fit_points": len(used),
        "fit_rms_error_meV_per_atom": float(
            1e3 * np.sqrt(np.mean((cubic(volume ** (-2 / 3)) - energy) ** 2))
        ),
        "volume_per_atom": float(v0),
        "temperature": 0.0,
        "note": "static lattice, no zero-point motion; same settings as every frame",
    }


def with_pulay_stress(atoms):
    """The frame with the Pulay term in its stress, so that stress is the slope of the energy."""
    term = -PULAY_EV_PER_ATOM * len(atoms) / atoms.get_volume()
    results = {
        "energy": atoms.get_potential_energy(),
        "forces": atoms.get_forces(),
        "stress": atoms.get_stress() + term * np.array([1, 1, 1, 0, 0, 0]),
    }
    corrected = atoms.copy()
    corrected.info["pulay_stress"] = term  # eV/A^3, subtract to get what pw.x printed
    corrected.info["kpts"] = "x".join(map(str, mesh_of(atoms)))
    corrected.calc = SinglePointCalculator(corrected, **results)
    return corrected


def command_collect(options):
    """Write the split files, reference.json, SHA256SUMS and the table in README.md."""
    frames = finished(options.work)
    for split, members in frames.items():
        if members:
            write(HERE / f"{split}.extxyz.part", members, format="extxyz")
            os.replace(HERE / f"{split}.extxyz.part", HERE / f"{split}.extxyz")
    reference = equation_of_state(list(itertools.chain(*frames.values())))
    if reference:
        (HERE / "reference.json").write_text(json.dumps(reference, indent=2) + "\n")
    names = [f"{split}.extxyz" for split in SPLITS] + ["reference.json", "convergence.json"]
    lines = []
    for name in names:
        if (HERE / name).exists():
            digest = hashlib.sha256((HERE / name).read_bytes()).hexdigest()
            lines.append(f"{digest}  {name}\n")
    (HERE / "SHA256SUMS").write_text("".join(lines))
    text = summary(options.work)
    refresh_readme(text)
    print(text)


def summary(work):
    """Markdown: how many frames of each kind and split are stored, and what they cost."""
    frames = finished(work)
    everything = list(itertools.chain(*frames.values()))
    planned = structures.plan()
    lines = ["| config_type | " + " | ".join(SPLITS) + " | planned |", "|---|---|---|---|---|"]
    for kind in sorted({spec.config_type for spec in planned}):
        counts = [sum(a.info["config_type"] == kind for a in frames[s]) for s in SPLITS]
        counts.append(sum(spec.config_type == kind for spec in planned))
        lines.append(f"| {kind} | " + " | ".join(map(str, counts)) + " |")
    totals = [len(frames[s]) for s in SPLITS] + [len(planned)]
    lines.append("| total | " + " | ".join(map(str, totals)) + " |")
    disordered = sum(a.info["config_type"] in ("liquid", "amorphous") for a in everything)
    spent = sum(a.info["cpu_seconds"] for a in everything)
    shortest = min(structures.shortest_distance(a) for a in everything)
    rejected = sorted(path.stem for path in (work / "rejected").glob("*.txt"))
    lines += [
        "",
        f"{len(everything)} of {len(planned)} planned frames are labelled "
        f"({disordered / len(everything):.0%} liquid or amorphous), in {spent:.0f} CPU seconds of "
        f"`pw.x`. Rejected, SCF not converged: {', '.join(rejected) or 'none'}. "
        f"Shortest distance in any frame: {shortest:.2f} Å.",
    ]
    return "\n".join(lines)


def command_status(options):
    """Print the summary."""
    print(summary(options.work))


def refresh_readme(text):
    """Put ``text`` between the two markers of README.md."""
    readme = HERE / "README.md"
    if readme.exists():
        head, _, rest = readme.read_text().partition("<!-- summary -->\n")
        _, _, tail = rest.partition("<!-- end of summary -->")
        readme.write_text(f"{head}<!-- summary -->\n{text}\n<!-- end of summary -->{tail}")


def main(arguments=None):
    """Command line entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=["label", "collect", "status"])
    parser.add_argument("--workers", type=int, default=1, help="pw.x processes at a time")
    parser.add_argument("--seed", type=int, default=2024, help="seed of all geometries")
    parser.add_argument("--command", default="pw.x", help="how to start pw.x")
    parser.add_argument(
        "--work",
        type=Path,
        default=Path(tempfile.gettempdir()) / "silicon-dft",
        help="folder for finished frames and scratch files",
    )
    options = parser.parse_args(arguments)
    {"label": command_label, "collect": command_collect, "status": command_status}[options.action](
        options
    )


if __name__ == "__main__":
    sys.exit(main())
