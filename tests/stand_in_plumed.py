"""A little of PLUMED under its Python interface, where the real one is not installed.

Distances of two atoms (minimum image), the volume, the energy; RESTRAINT and PRINT of them. Units
of input and files are PLUMED's: kJ/mol, nm, ps.
"""

import os
import re
from pathlib import Path

import numpy as np


class PlumedError(RuntimeError):
    pass


class Plumed:
    def __init__(self):
        self.given, self.actions, self.restraints, self.prints = {}, {}, [], []
        self.stage, self.committor = "fresh", None

    def cmd(self, key, value=None):
        if hasattr(self, key):
            getattr(self, key)(*(() if value is None else (value,)))
        elif key.startswith("set"):
            self.given[key[3:]] = value
        else:
            raise PlumedError(f"cannot interpret cmd {key}")

    def init(self):
        assert self.stage == "fresh"
        self.stage = "ready"
        log = Path(self.given["LogFile"])
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("PLUMED, a stand-in\n")
        text = re.sub(r"#.*", "", Path(self.given["PlumedDat"]).read_text())
        text = re.sub(
            r"\.\.\.(.*?)\.\.\.", lambda m: m[1].replace("\n", " "), text, flags=re.DOTALL
        )
        for line in filter(str.strip, text.splitlines()):
            self.readInputLine(line)

    def readInputLine(self, line):
        label, _, rest = line.rpartition(":")
        label = label or f"@{len(self.restraints)}"
        name, *words = rest.split()
        keys = dict(word.split("=") for word in words)
        if name in ("DISTANCE", "VOLUME", "ENERGY"):
            atoms = [int(a) - 1 for a in keys.get("ATOMS", "").split(",") if a]
            if any(a >= self.given["Natoms"] for a in atoms):
                raise PlumedError(f"\n(a/b.cpp:1) f()\nERROR in {name}: atom out of range")
            self.actions[label.strip()] = (name, atoms)
        elif name == "RESTRAINT":
            numbers = [float(keys.get(k, 0.0)) for k in ("AT", "KAPPA", "SLOPE")]
            self.restraints.append((label.strip(), keys["ARG"], *numbers))
        elif name == "PRINT":
            path = Path(keys["FILE"])
            if path.exists() and not self.given["Restart"]:
                os.replace(path, path.with_name(f"bck.0.{path.name}"))
            arguments = keys["ARG"].split(",")
            file = open(path, "a", buffering=1)  # noqa: SIM115
            file.write(f"#! FIELDS time {' '.join(arguments)}\n")
            self.prints.append((file, arguments, int(keys.get("STRIDE", 1))))
        elif name == "COMMITTOR":
            self.committor = keys["ARG"], float(keys["BASIN_LL1"]), float(keys["BASIN_UL1"])
        elif name != "FLUSH":
            raise PlumedError(f'\nAction "{name}" is not known.')

    def prepareDependencies(self):
        assert self.stage == "ready"
        self.stage = "prepared"

    def isEnergyNeeded(self, flag):
        flag[0] = any(name == "ENERGY" for name, _ in self.actions.values())

    def shareData(self):
        assert self.stage == "prepared"
        self.stage = "shared"

    def variable(self, name, atoms):
        """Value, and derivatives by two atoms, strain (each divided by the unit) and energy."""
        g = self.given
        length, energy = g["MDLengthUnits"], g["MDEnergyUnits"]
        box = g["Box"]
        if name == "ENERGY":
            return float(g["Energy"][0]) * energy, None, None, energy
        if name == "VOLUME":
            volume = abs(np.linalg.det(box)) * length**3
            return volume, None, volume * np.eye(3), 0.0
        d = g["Positions"][atoms[1]] - g["Positions"][atoms[0]]
        if box.any():
            shifts = [np.array(s) for s in np.ndindex(3, 3, 3)]
            fractional = d @ np.linalg.inv(box)
            d = (fractional - np.round(fractional)) @ box
            d = min((d + (s - 1) @ box for s in shifts), key=np.linalg.norm)
        r = np.linalg.norm(d)
        slope = d / r * length
        return r * length, slope, np.outer(d, slope), 0.0

    def performCalc(self):
        assert self.stage == "shared"
        self.stage, g = "ready", self.given
        values = {label: self.variable(*action) for label, action in self.actions.items()}
        printed = {label: value[0] for label, value in values.items()}
        unit, self.bias = g["MDEnergyUnits"], 0.0
        for label, argument, at, kappa, slope in self.restraints:
            value, by_atoms, by_strain, by_energy = values[argument]
            bias = 0.5 * kappa * (value - at) ** 2 + slope * (value - at)
            push = (kappa * (value - at) + slope) / unit
            self.bias += bias / unit
            printed[f"{label}.bias"] = bias
            if by_energy:
                g["Forces"] *= 1.0 + push * by_energy
                g["Virial"] *= 1.0 + push * by_energy
            if by_atoms is not None:
                first, second = self.actions[argument][1]
                g["Forces"][first] += push * by_atoms
                g["Forces"][second] -= push * by_atoms
            if by_strain is not None:
                g["Virial"] += push * by_strain
        if self.committor is not None:
            argument, low, high = self.committor
            g["StopFlag"][0] = low < values[argument][0] < high
        for file, arguments, stride in self.prints:
            if int(g["StepLong"][0]) % stride == 0:
                time = int(g["StepLong"][0]) * g["Timestep"] * g["MDTimeUnits"]
                row = [time, *(printed[re.sub(r"\s", "", a)] for a in arguments)]
                file.write("".join(f" {x:f}" for x in row) + "\n")

    def getBias(self, value):
        value[0] = self.bias
