"""Energies and forces of structures: python label.py STRUCTURES LABELLED.

Here by EMT, in the place of a DFT code's calculator (ase.calculators.espresso, .vasp, .aims …),
whose directories and restarts would go here as well. A structure that does not converge is left
out.
"""

import sys

import ase.io
from ase.calculators.calculator import CalculationFailed
from ase.calculators.emt import EMT

labelled = []
for atoms in ase.io.read(sys.argv[1], ":"):
    atoms.calc = EMT()
    try:
        atoms.get_forces()
        atoms.get_stress()
    except CalculationFailed as e:
        print("left out:", e)
        continue
    labelled.append(atoms)
ase.io.write(sys.argv[2], labelled)
