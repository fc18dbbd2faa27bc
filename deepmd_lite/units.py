"""Units of the package and the few constants that connect them.

Everything inside the package is in eV, Å, fs, u (unified atomic mass), K and e; a virial is in eV.
Pressures are eV/Å³ inside and GPa where a person reads or writes them. Values are CODATA 2018.
"""

BOLTZMANN = 8.617333262e-5
"""Boltzmann constant, eV/K."""

EV_PER_A3_IN_GPA = 160.21766208
"""1 eV/Å³ in GPa."""

GPA_IN_BAR = 1.0e4
"""1 GPa in bar."""

U_PER_A3_IN_G_PER_CM3 = 1.66053906660
"""1 u/Å³ in g/cm³."""

ACCELERATION = 9.648533212331002e-3
"""1 (eV/Å)/u in Å/fs²: acceleration = ACCELERATION * force / mass."""

KINETIC = 1.0 / ACCELERATION
"""1 u (Å/fs)² in eV: kinetic energy = 0.5 * KINETIC * mass * speed²."""
