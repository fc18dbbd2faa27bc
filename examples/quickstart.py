"""The whole path in one run: train on ab-initio silicon, test, relax, parallel dynamics, plots.

    make quickstart            (everything it writes is in quickstart/)

Every step is a command that you can run yourself; it is printed before it runs.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import yaml
from ase.io import read

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "data" / "silicon"
OUT = ROOT / "quickstart"
REPLICATE = 10
"""Cubic cells of 8 atoms along each edge: 8,000 atoms."""


def command(*words: str | Path, ranks: int = 1) -> None:
    """Print a `dpl` command and run it; its failure ends the quickstart with the same status."""
    shown = " ".join(os.path.relpath(w) if isinstance(w, Path) else w for w in words)
    launcher = ["mpiexec", "-n", str(ranks)] if ranks > 1 else []
    print(f"\n$ {' '.join([*launcher, 'dpl', shown])}", flush=True)
    if launcher:
        launcher[0] = shutil.which("mpiexec", path=Path(sys.executable).parent) or "mpiexec"
    full = [*launcher, sys.executable, "-m", "deepmd_lite", *map(str, words)]
    status = subprocess.run(full).returncode
    if status:
        sys.exit(status)


def train_and_test() -> dict:
    """Train on the training split; errors on the test split, which it never saw."""
    source = ROOT / "examples" / "01_train_silicon" / "input.json"
    started = time.monotonic()
    command("train", source, "--output", OUT)
    minutes = (time.monotonic() - started) / 60
    test = DATA / "test.extxyz"
    report = OUT / "test.json"
    command("test", OUT / "model.dpl", test, "--plot", OUT / "parity.png", "--json", report)
    return {"minutes": minutes, **json.loads(report.read_text())["total"]}


def relax() -> tuple[float, float]:
    """Lattice constant (Å) and bulk modulus (GPa), as in examples/02_ase_relax.py."""
    import deepmd_lite as dpl

    spec = importlib.util.spec_from_file_location("relax", ROOT / "examples" / "02_ase_relax.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    print("\nlattice constant and bulk modulus from nine volumes (ASE, Birch–Murnaghan)")
    return example.equation_of_state(dpl.Calculator(OUT / "model.dpl"), a0=5.47)


def dynamics() -> dict:
    """1 ps of NVE near 600 K for 8,000 atoms on two ranks."""
    example = ROOT / "examples" / "03_mpi_md"
    config = yaml.safe_load((example / "input.yaml").read_text())
    config.update(
        model=str(OUT / "model.dpl"),
        structure=str(example / "silicon.extxyz"),
        replicate=[REPLICATE] * 3,
    )
    config["output"]["directory"] = str(OUT / "md")
    (OUT / "md.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    shutil.rmtree(OUT / "md", ignore_errors=True)
    command("md", OUT / "md.yaml", ranks=2)
    speed = float(re.findall(r"([\d.]+) µs/atom/step", (OUT / "md" / "log").read_text())[-1])
    with open(OUT / "md" / "thermo.csv", newline="") as f:
        thermo = {k: np.array(v, float) for k, v in _columns(csv.DictReader(f)).items()}
    n = 8 * REPLICATE**3
    later = thermo["time_fs"] >= 200  # the lattice has heated up by then
    slope = np.polyfit(thermo["time_fs"][later], thermo["total_eV"][later], 1)[0]
    return {
        "atoms": n,
        "temperature": thermo["temperature_K"][later].mean(),
        "drift": slope / n * 1e6,  # eV/fs → meV/ps
        "speed": speed,
    }


def _columns(rows) -> dict[str, list[str]]:
    table: dict[str, list[str]] = {}
    for row in rows:
        for key, value in row.items():
            table.setdefault(key, []).append(value)
    return table


def pair_distribution(frames, r_max: float = 5.4, bins: int = 108):
    """Centres of the bins (Å) and g(r) averaged over periodic frames."""
    from deepmd_lite.neighbors import periodic_env

    edges = np.linspace(0.0, r_max, bins + 1)
    shells = 4.0 / 3.0 * np.pi * np.diff(edges**3)
    g = np.zeros(bins)
    for atoms in frames:
        env = periodic_env(
            atoms.positions, atoms.cell.array, atoms.pbc, np.zeros(len(atoms)), r_max
        ).env
        centres = np.repeat(np.arange(len(atoms)), np.diff(env.offsets.numpy()))
        x = env.positions.numpy()
        r = np.linalg.norm(x[env.indices.numpy()] - x[centres], axis=1)
        density = len(atoms) / atoms.get_volume()
        g += np.histogram(r, edges)[0] / (len(atoms) * density * shells)
    return 0.5 * (edges[1:] + edges[:-1]), g / len(frames)


def plot_pair_distribution(temperature: float) -> None:
    """g(r) of the dynamics beside that of the DFT frames of thermal diamond at 600 K."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    simulated = read(OUT / "md" / "trajectory.extxyz", "-2:")
    labelled = [
        atoms
        for split in ("train", "validation", "test")
        for atoms in read(DATA / f"{split}.extxyz", ":")
        if atoms.info["config_type"] == "diamond" and atoms.info.get("temperature") == 600
    ]
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    axis.plot(*pair_distribution(labelled), "o", ms=3, label=f"{len(labelled)} DFT frames, 600 K")
    axis.plot(
        *pair_distribution(simulated),
        label=f"NVE, {len(simulated[0]):,} atoms, {temperature:.0f} K",
    )
    axis.set(xlabel="r (Å)", ylabel="g(r)", title="Silicon, diamond structure")
    axis.legend()
    figure.savefig(OUT / "gr.png", dpi=150)


def main() -> None:
    """Run everything and print one table."""
    OUT.mkdir(exist_ok=True)
    started = time.monotonic()
    errors = train_and_test()
    a0, modulus = relax()
    md = dynamics()
    plot_pair_distribution(md["temperature"])
    dft = json.loads((DATA / "reference.json").read_text())
    rows = [
        ("training", f"{errors['minutes']:.1f} min", ""),
        ("force RMSE, unseen frames", f"{errors['force_rmse'] * 1e3:.0f} meV/Å", ""),
        ("energy RMSE, unseen frames", f"{errors['energy_rmse_per_atom'] * 1e3:.1f} meV/atom", ""),
        ("lattice constant", f"{a0:.3f} Å", f"{dft['a0']:.3f} Å"),
        ("bulk modulus", f"{modulus:.1f} GPa", f"{dft['B']:.1f} GPa"),
        ("NVE temperature", f"{md['temperature']:.0f} K", ""),
        ("NVE energy drift", f"{md['drift']:+.4f} meV/atom/ps", ""),
        (f"speed, {md['atoms']:,} atoms, 2 ranks", f"{md['speed']:.1f} µs/atom/step", ""),
        ("everything", f"{(time.monotonic() - started) / 60:.1f} min", ""),
    ]
    print(f"\n{'':<34}{'this model':>22}{'DFT':>14}")
    print("\n".join(f"{name:<34}{value:>22}{ref:>14}" for name, value, ref in rows))
    plots = "learning_curve.png, parity.png, gr.png"
    print(f"\nModel: quickstart/model.dpl   plots: {plots}   dynamics: quickstart/md/")


if __name__ == "__main__":
    main()
