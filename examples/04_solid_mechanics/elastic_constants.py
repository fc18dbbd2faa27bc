"""Elastic constants of silicon, and the model's stresses beside those of DFT.

    python examples/04_solid_mechanics/elastic_constants.py [MODEL.dpl] [-o FOLDER]

Prints C11, C12 and C44 of the crystal at rest (atoms relaxed in every strained cell), then what one
least-squares fit finds for the shear moduli C' = (C11 - C12)/2 and C44 in the DFT stresses of the
sheared frames of data/silicon, and in the model's stresses for the same frames. Those frames are
snapshots of warm crystals under strains of several percent, so the fit is to be compared between
model and DFT, not with the crystal at rest. Writes stress_parity.png. Units: GPa, tension positive.
"""

import argparse
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.filters import FrechetCellFilter
from ase.io import read
from ase.optimize import BFGS
from ase.units import GPa
from matplotlib.figure import Figure

import deepmd_lite as dpl

DATA = Path(__file__).parents[2] / "data" / "silicon"
STRAIN = 0.003
STRAINED = ("eos", "strained", "sheared", "rattled")
SUPERCELL = np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]])
"""Cubic cells along each axis, of the data's 32-atom cell."""


def relaxed_stress(crystal: Atoms, calculator, strain: np.ndarray) -> np.ndarray:
    """(6,) GPa of `crystal` in a cell strained by (3, 3), atoms relaxed."""
    strained = crystal.copy()
    strained.set_cell(crystal.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    strained.calc = calculator
    BFGS(strained, logfile=None).run(fmax=1e-5, steps=100)
    return strained.get_stress() / GPa


def elastic_constants(calculator, a0: float) -> tuple[float, dict[str, float]]:
    """Lattice constant (Å) at zero stress, and C11, C12, C44 (GPa) from central differences."""
    crystal = bulk("Si", a=a0, cubic=True)
    crystal.calc = calculator
    BFGS(FrechetCellFilter(crystal), logfile=None).run(fmax=1e-6, steps=100)
    stretch, shear = np.zeros((3, 3)), np.zeros((3, 3))
    stretch[0, 0] = STRAIN
    shear[1, 2] = shear[2, 1] = 0.5 * STRAIN
    of_stretch, of_shear = (
        (relaxed_stress(crystal, calculator, e) - relaxed_stress(crystal, calculator, -e))
        / (2 * STRAIN)
        for e in (stretch, shear)
    )
    constants = {"C11": of_stretch[0], "C12": of_stretch[1:3].mean(), "C44": of_shear[3]}
    return crystal.cell.lengths().mean(), {k: float(v) for k, v in constants.items()}


def fitted_shear_moduli(frames: list[Atoms], stresses: np.ndarray) -> tuple[float, float]:
    """C' and C44 (GPa) that fit the deviatoric stresses (n, 6) of sheared frames best."""
    diagonal, off_diagonal = [], []
    for frame, stress in zip(frames, stresses, strict=True):
        deformed = np.linalg.solve(SUPERCELL, frame.cell.array)
        strain = deformed / np.cbrt(np.linalg.det(deformed)) - np.eye(3)
        pulled = np.diag(strain) - np.trace(strain) / 3
        diagonal += zip(2 * pulled, stress[:3] - stress[:3].mean(), strict=True)
        gamma = [strain[1, 2] + strain[2, 1], strain[0, 2] + strain[2, 0]]
        gamma.append(strain[0, 1] + strain[1, 0])
        off_diagonal += zip(gamma, stress[3:], strict=True)

    def slope(pairs: list) -> float:
        x, y = np.array(pairs).T
        return float(x @ y / (x @ x))

    return slope(diagonal), slope(off_diagonal)


def plot_parity(found: dict[str, tuple[np.ndarray, np.ndarray]], path: Path) -> None:
    """Stress of the model over that of DFT, (n, 6) GPa each, by kind of frame."""
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    for kind, (reference, model) in found.items():
        error = np.sqrt(np.mean((model - reference) ** 2))
        label = f"{kind}: RMSE {error:.2f} GPa"
        axes.plot(reference.ravel(), model.ravel(), ".", markersize=4, label=label)
    axes.axline((0, 0), slope=1, color="black", linewidth=0.8)
    axes.set(xlabel="DFT stress / GPa", ylabel="model stress / GPa", aspect="equal")
    axes.set_title("all six components, tension positive")
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", type=Path, default=DATA / "silicon.dpl")
    parser.add_argument("-o", "--output", type=Path, default=Path("."))
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    calculator = dpl.Calculator(given.model)

    a0, c = elastic_constants(calculator, a0=5.475)
    print(f"crystal at rest, a0 = {a0:.4f} Å")
    print("  ".join(f"{name} = {value:.1f} GPa" for name, value in c.items()))
    print(f"bulk modulus (C11 + 2 C12)/3 = {(c['C11'] + 2 * c['C12']) / 3:.1f} GPa")
    young = (c["C11"] - c["C12"]) * (c["C11"] + 2 * c["C12"]) / (c["C11"] + c["C12"])
    print(f"Young's modulus along [100] = {young:.1f} GPa")

    frames = [f for s in ("train", "validation", "test") for f in read(DATA / f"{s}.extxyz", ":")]
    found = {}
    for kind in STRAINED:
        chosen = [f for f in frames if f.info["config_type"] == kind]
        reference = np.array([f.get_stress() for f in chosen]) / GPa
        model = np.array([calculator.get_stress(f) for f in chosen]) / GPa
        found[kind] = reference, model
        if kind == "sheared":
            print(f"\nleast squares over {len(chosen)} sheared frames   C'/GPa  C44/GPa")
            for name, stresses in (("DFT", reference), ("model", model)):
                shear = fitted_shear_moduli(chosen, stresses)
                print(f"{name:<36} {shear[0]:>7.1f} {shear[1]:>8.1f}")
    plot_parity(found, given.output / "stress_parity.png")
    print(f"\nwrote {given.output / 'stress_parity.png'}")


if __name__ == "__main__":
    main()
