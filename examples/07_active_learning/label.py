"""Energies and forces of structures: python label.py STRUCTURES LABELLED.

Here by EMT, in the place of a DFT code's calculator (ase.calculators.espresso, .vasp, .aims …),
whose directories and restarts would go here as well. A structure that does not converge is left
out. Each is written when it is done, so that none is lost where the work is interrupted.
"""

import sys

import ase.io
from ase.calculators.calculator import CalculationFailed
from ase.calculators.emt import EMT

structures, labelled = sys.argv[1:]
ase.io.write(labelled, [], format="extxyz")  # none of them may converge
for atoms in ase.io.read(structures, ":"):
    atoms.calc = EMT()
    try:
        atoms.get_forces()
        atoms.get_stress()
    except CalculationFailed as e:
        print("left out:", e)
        continue
    ase.io.write(labelled, atoms, format="extxyz", append=True)
