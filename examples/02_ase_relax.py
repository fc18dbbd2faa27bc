"""Lattice constant, bulk modulus and a relaxed vacancy of silicon with the ASE calculator.

python examples/02_ase_relax.py [MODEL]        (default: quickstart/model.dpl)
"""

import sys

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.eos import EquationOfState
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS, LBFGS
from ase.units import GPa

import deepmd_lite as dpl


def equation_of_state(calculator, a0: float):
    """Lattice constant (Å) and bulk modulus (GPa) of diamond from a Birch–Murnaghan fit."""
    volumes, energies = [], []
    for strain in np.linspace(-0.02, 0.02, 9):
        crystal = bulk("Si", a=a0 * (1 + strain), cubic=True)
        crystal.calc = calculator
        volumes.append(crystal.get_volume())
        energies.append(crystal.get_potential_energy())
    v0, _, modulus = EquationOfState(volumes, energies, eos="birchmurnaghan").fit()
    return v0 ** (1 / 3), modulus / GPa


def relaxed_vacancy(calculator, crystal: Atoms) -> float:
    """Formation energy (eV) of a vacancy in a 3×3×3 supercell of the relaxed crystal."""
    perfect = crystal.repeat((3, 3, 3))
    perfect.calc = calculator
    vacancy = perfect.copy()
    del vacancy[0]
    vacancy.rattle(0.02, seed=0)
    vacancy.calc = calculator
    LBFGS(vacancy, logfile=None).run(fmax=0.01, steps=200)
    per_atom = perfect.get_potential_energy() / len(perfect)
    return vacancy.get_potential_energy() - per_atom * len(vacancy)


def main() -> None:
    calculator = dpl.Calculator(sys.argv[1] if len(sys.argv) > 1 else "quickstart/model.dpl")
    crystal = bulk("Si", a=5.3, cubic=True)
    crystal.calc = calculator
    BFGS(FrechetCellFilter(crystal), logfile=None).run(fmax=1e-4)
    print(f"relaxed cell        a0 = {crystal.cell.lengths().mean():.4f} Å")
    a0, modulus = equation_of_state(calculator, crystal.cell.lengths().mean())
    print(f"equation of state   a0 = {a0:.4f} Å, B = {modulus:.1f} GPa")
    print(f"vacancy (unrelaxed cell) {relaxed_vacancy(calculator, crystal):.2f} eV")


if __name__ == "__main__":
    main()
