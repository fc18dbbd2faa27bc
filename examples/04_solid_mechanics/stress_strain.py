"""The stress-strain curve of a tensile run.

    python examples/04_solid_mechanics/stress_strain.py tensile [--modulus GPa]

Reads thermo.csv of a run whose ensemble is `strain` along a, prints strength and the first slope,
writes stress_strain.png and stress_strain.csv beside it. Strain: length over first length,
less 1. Stress: force over the present cross section (Cauchy), GPa, tension positive.
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

BEGINNING = (0.01, 0.04)
"""Strains between which the first slope is fitted: the sides have come to rest by then."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--modulus", type=float, help="Young's modulus to draw beside it, GPa")
    given = parser.parse_args()

    thermo = np.genfromtxt(given.run / "thermo.csv", delimiter=",", names=True)
    strain = thermo["a_A"] / thermo["a_A"][0] - 1.0
    stress, sides = (
        thermo["stress_xx_GPa"],
        0.5 * (thermo["stress_yy_GPa"] + thermo["stress_zz_GPa"]),
    )
    early = (strain > BEGINNING[0]) & (strain < BEGINNING[1])
    slope = np.polyfit(strain[early], stress[early], 1)[0]
    strongest = int(np.argmax(stress))
    print(f"slope from 1 to 4 % {slope:.0f} GPa")
    print(f"strength {stress[strongest]:.1f} GPa at a strain of {strain[strongest]:.3f}")
    print(f"stress on the sides {sides.mean():+.2f} ± {sides.std():.2f} GPa (mean, spread)")
    print(f"temperature {thermo['temperature_K'][1:].mean():.0f} K")

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(100 * strain, stress, label="along [100]")
    axes.plot(100 * strain, sides, label="across, mean of two")
    if given.modulus:
        end = min(strain[-1], 0.08)
        label = f"elastic, {given.modulus:.0f} GPa"
        axes.plot([0, 100 * end], [0, given.modulus * end], "k--", linewidth=1, label=label)
    axes.set(xlabel="engineering strain / %", ylabel="stress / GPa")
    axes.legend()
    figure.savefig(given.run / "stress_strain.png", dpi=120)
    table = np.column_stack([strain, stress, sides, thermo["temperature_K"]])
    header = "strain,stress_along_GPa,stress_across_GPa,temperature_K"
    path = given.run / "stress_strain.csv"
    np.savetxt(path, table, delimiter=",", header=header, comments="", fmt="%.6g")
    print(f"wrote {given.run / 'stress_strain.png'} and {path}")


if __name__ == "__main__":
    main()
