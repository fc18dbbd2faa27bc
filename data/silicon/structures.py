"""Geometries of the silicon data set: which frames there are and how each is built.

Nothing here is a label.  A classical Stillinger-Weber potential moves the atoms
(Langevin dynamics) only to reach plausible thermal, strained, defective and
liquid arrangements; energies, forces and stresses come from ``generate.py``.

Every frame is built on its own, from its own random stream, so that a frame does
not depend on which other frames were built before it, or in which order.

Units: Angstrom, eV, Kelvin, femtosecond; strains are dimensionless.
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass

import numpy as np
from ase import units
from ase.build import bulk, make_supercell
from ase.calculators.calculator import Calculator, all_changes

A_REF = 5.475  # Angstrom; PBE lattice constant with the settings of generate.py
ATOM_MASS_U = 28.085
MINIMUM_DISTANCE = 1.85  # Angstrom; closer pairs never occur in a melt


class StillingerWeber(Calculator):
    """Stillinger-Weber silicon (Phys. Rev. B 31, 5262, 1985); energy in eV, forces in eV/A.

    Pairs come from the 27 nearest periodic images and are kept with a skin, so
    the cell need not be large; it has to stay wider than half the cutoff.
    """

    implemented_properties = ["energy", "forces"]
    epsilon, sigma, big_a, big_b = 2.1683, 2.0951, 7.049556277, 0.6022245584
    reach, lam, gamma, cos0 = 1.80, 21.0, 1.20, -1.0 / 3.0
    skin = 0.6

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        i, j, d = self._pairs(atoms)
        r = np.linalg.norm(d, axis=1)
        near = r < self.reach * self.sigma * (1 - 1e-9)
        i, j, d, r = i[near], j[near], d[near], r[near]
        pair_energy, pair_slope = self._pair_term(r)
        # Each pair is listed twice (i->j and j->i), hence the halves.
        energy = 0.5 * pair_energy.sum()
        gradient = 0.5 * pair_slope[:, None] * d / r[:, None]  # dE/dd for each listed pair
        triple_energy, triple_gradient = self._triple_term(len(atoms), i, d, r)
        energy += triple_energy
        gradient += triple_gradient
        forces = np.zeros((len(atoms), 3))
        np.add.at(forces, i, gradient)
        np.add.at(forces, j, -gradient)
        self.results = {"energy": energy, "forces": forces}

    def _pairs(self, atoms):
        """Ordered pairs (i, j, vector from i to j) within the cutoff plus the skin."""
        positions, cell = atoms.positions, atoms.cell.array
        old = getattr(self, "_list", None)
        fresh = (
            old is not None
            and np.array_equal(old["cell"], cell)
            and np.abs(positions - old["at"]).max() < 0.25 * self.skin
        )
        if not fresh:
            grid = np.array(np.meshgrid(*[[-1, 0, 1]] * 3)).reshape(3, -1).T
            inside = positions - np.floor(atoms.get_scaled_positions(wrap=False)) @ cell
            d = inside[None, None] - inside[None, :, None] + (grid @ cell)[:, None, None]
            r2 = np.einsum("sijx,sijx->sij", d, d)
            limit = (self.reach * self.sigma + self.skin) ** 2
            s, i, j = np.nonzero((r2 < limit) & (r2 > 1e-8))
            shift = d[s, i, j] - (positions[j] - positions[i])
            old = self._list = {"cell": cell, "at": positions.copy(), "ijs": (i, j, shift)}
        i, j, shift = old["ijs"]
        return i, j, positions[j] - positions[i] + shift

    def _pair_term(self, r):
        """Two-body energy and its derivative with respect to r, for each pair."""
        x = r / self.sigma
        tail = np.exp(1.0 / (x - self.reach))
        bracket = self.big_b * x**-4 - 1.0
        energy = self.epsilon * self.big_a * bracket * tail
        slope = (
            self.epsilon
            * self.big_a
            * tail
            * (-4.0 * self.big_b * x**-5 - bracket / (x - self.reach) ** 2)
        )
        return energy, slope / self.sigma

    def _triple_term(self, natoms, i, d, r):
        """Three-body energy and its gradient with respect to each listed pair vector."""
        first, second = same_centre_pairs(natoms, i)
        tail = np.exp(self.gamma / (r / self.sigma - self.reach))
        tail_slope = -self.gamma / self.sigma / (r / self.sigma - self.reach) ** 2
        unit = d / r[:, None]
        cosine = np.einsum("nx,nx->n", unit[first], unit[second])
        delta = cosine - self.cos0
        weight = self.epsilon * self.lam * tail[first] * tail[second]
        energy = weight * delta**2
        gradient = np.zeros_like(d)
        for a, b in ((first, second), (second, first)):
            along = energy * tail_slope[a]
            turn = (2 * weight * delta / r[a])[:, None] * (unit[b] - cosine[:, None] * unit[a])
            np.add.at(gradient, a, along[:, None] * unit[a] + turn)
        return energy.sum(), gradient


def same_centre_pairs(natoms, centre):
    """Index pairs (m, n), m before n, of list entries that share their centre atom."""
    order = np.argsort(centre, kind="stable")
    start = np.searchsorted(centre[order], np.arange(natoms + 1))
    first, second = [], []
    for begin, end in itertools.pairwise(start):
        m, n = np.triu_indices(end - begin, k=1)
        first.append(order[begin + m])
        second.append(order[begin + n])
    return np.concatenate(first), np.concatenate(second)


@dataclass(frozen=True)
class Spec:
    """One frame to be made.

    ``strain`` is the linear strain of the lattice (hydrostatic) or the size of
    the shear; ``density`` (g/cm^3) replaces it for liquid and amorphous frames.
    """

    frame_id: str
    config_type: str
    split: str
    temperature: float = 0.0
    strain: float = 0.0
    density: float = 0.0

    def rng(self, seed):
        """Random stream of this frame alone (64 bits of a hash of seed and name)."""
        digest = hashlib.sha256(f"{seed}/{self.frame_id}".encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:8], "little"))


def crystal(a, atoms=32):
    """Perfect diamond: the compact 32-atom body-centred cell, or the 64-atom cube."""
    cube = bulk("Si", "diamond", a=a, cubic=True)
    if atoms == 64:
        return cube * (2, 2, 2)
    return make_supercell(cube, [[-1, 1, 1], [1, -1, 1], [1, 1, -1]])


def dynamics(atoms, kelvin, steps, rng, timestep_fs=2.0, friction_fs=50.0):
    """Langevin dynamics in place (BAOAB splitting); ``kelvin`` is a number or a (from, to) ramp.

    The classical potential is only a sampler, so the friction is strong: frames
    lose the memory of their starting point within a fraction of a picosecond.
    """
    start, end = np.broadcast_to(kelvin, (2,))
    mass = ATOM_MASS_U
    dt = timestep_fs * units.fs
    keep = np.exp(-timestep_fs / friction_fs)
    kt = units.kB * np.linspace(start, end, steps)
    velocity = rng.normal(size=(len(atoms), 3)) * np.sqrt(kt[0] / mass)
    atoms.calc = StillingerWeber()
    force = atoms.get_forces()
    for target in kt:
        velocity += 0.5 * dt * force / mass
        atoms.positions += 0.5 * dt * velocity
        noise = rng.normal(size=velocity.shape)
        velocity = keep * velocity + np.sqrt((1 - keep**2) * target / mass) * noise
        atoms.positions += 0.5 * dt * velocity
        force = atoms.get_forces()
        velocity += 0.5 * dt * force / mass
    atoms.calc = None
    return atoms


def rattle(atoms, sigma, rng):
    """Gaussian displacements of ``sigma`` (A), scaled down until no pair is too close."""
    start = atoms.positions.copy()
    move = rng.normal(scale=sigma, size=start.shape)
    while True:
        atoms.positions = start + move
        if shortest_distance(atoms) > MINIMUM_DISTANCE:
            return atoms
        move *= 0.95


def shortest_distance(atoms):
    """Smallest interatomic distance (A), periodic images included."""
    probe = StillingerWeber()
    return float(np.linalg.norm(probe._pairs(atoms)[2], axis=1).min())


def deform(atoms, matrix):
    """Apply (1 + ``matrix``) to the cell and the atoms."""
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + matrix), scale_atoms=True)
    return atoms


def at_density(density):
    """Lattice constant (A) of diamond with a mass density in g/cm^3."""
    gram_per_cm3 = units.kg * 1e-3 / (units.m * 1e-2) ** 3
    return (8 * ATOM_MASS_U / (density * gram_per_cm3)) ** (1.0 / 3.0)


def build(spec, seed):
    """Atoms of one frame, the same for the same ``spec`` and ``seed``; no labels yet."""
    rng = spec.rng(seed)
    atoms = BUILDERS[spec.config_type](spec, rng)
    if spec.config_type != "eos":
        if shortest_distance(atoms) < MINIMUM_DISTANCE:
            raise RuntimeError(f"{spec.frame_id}: atoms closer than {MINIMUM_DISTANCE} A")
        atoms.wrap()
    return atoms


def _eos(spec, rng):
    return crystal(A_REF * (1 + spec.strain))


def _diamond(spec, rng):
    # A spread of volumes around each temperature lets the model learn the stress.
    a = A_REF * (1 + 3e-6 * spec.temperature + rng.uniform(-0.008, 0.012))
    return dynamics(crystal(a), spec.temperature, 500, rng)


def _strained(spec, rng):
    return dynamics(crystal(A_REF * (1 + spec.strain)), spec.temperature, 500, rng)


def _sheared(spec, rng):
    # A random symmetric traceless strain whose largest entry is spec.strain.
    matrix = rng.normal(size=(3, 3))
    matrix = matrix + matrix.T
    matrix -= np.eye(3) * np.trace(matrix) / 3
    matrix *= spec.strain / np.abs(matrix).max()
    return dynamics(deform(crystal(A_REF), matrix), spec.temperature, 500, rng)


def _rattled(spec, rng):
    return rattle(crystal(A_REF * (1 + spec.strain)), rng.uniform(0.10, 0.20), rng)


def _vacancy(spec, rng):
    # The 64-atom cell keeps the vacancy away from its own images.
    atoms = crystal(A_REF, atoms=64)
    del atoms[int(rng.integers(len(atoms)))]
    return dynamics(atoms, spec.temperature, 700, rng)


def _melt(spec, rng):
    """A melt at 3000 K; 0.8 ps at 4500 K first make sure that nothing of the crystal is left."""
    atoms = rattle(crystal(at_density(spec.density)), 0.15, rng)
    dynamics(atoms, 4500.0, 400, rng)
    return dynamics(atoms, 3000.0, 500, rng)


def _liquid(spec, rng):
    return dynamics(_melt(spec, rng), spec.temperature, 1500, rng)


def _amorphous(spec, rng):
    # Quench to spec.temperature at 0.2 K/fs; the intermediate targets are supercooled liquid.
    atoms = dynamics(_melt(spec, rng), 2000.0, 500, rng)
    steps = int((2000.0 - spec.temperature) / (0.2 * 2.0))
    dynamics(atoms, (2000.0, spec.temperature), steps, rng)
    return dynamics(atoms, spec.temperature, 500, rng)


BUILDERS = {
    "eos": _eos,
    "diamond": _diamond,
    "strained": _strained,
    "sheared": _sheared,
    "rattled": _rattled,
    "vacancy": _vacancy,
    "liquid": _liquid,
    "amorphous": _amorphous,
}


def _series(kind, count, **choices):
    """``count`` specs of one kind; every keyword is a sequence that is cycled through.

    In each run of ten, number 2 goes to validation and number 3 to the test split.
    """
    specs = []
    for n in range(count):
        values = {name: options[n % len(options)] for name, options in choices.items()}
        split = values.pop("split", {2: "validation", 3: "test"}.get(n % 10, "train"))
        label = f"{kind}-{values['tag']}-{n:03d}" if "tag" in values else f"{kind}-{n:03d}"
        values.pop("tag", None)
        specs.append(Spec(label, kind, split, **values))
    return specs


def plan():
    """Every frame of the data set, in the order in which it is to be labelled.

    The kinds are interleaved, so that the first N frames are a balanced data set
    for any N; only the cheap equation of state is moved towards the front.
    """
    groups = [_series("eos", 17, split=["train"], strain=EOS_STRAINS)]
    for kelvin, count in ((300, 16), (450, 10), (600, 20), (900, 16), (1200, 12), (1600, 10)):
        groups.append(_series("diamond", count, temperature=[kelvin], tag=[f"{kelvin}K"]))
    # Held out: a temperature and two strains that training never sees.
    held = {"split": ["test"]}
    groups.append(_series("diamond", 8, temperature=[750], tag=["750K"], **held))
    groups.append(
        _series("strained", 4, temperature=[300], strain=[0.05, -0.05], tag=["5pc"], **held)
    )
    strains = [0.02, -0.02, 0.04, -0.04, 0.06, -0.06, 0.08, -0.08]
    groups.append(_series("strained", 18, temperature=[300, 300, 600], strain=strains))
    groups.append(
        _series("sheared", 12, temperature=[300, 600, 900], strain=[0.02, 0.04, 0.06, 0.05])
    )
    groups.append(_series("rattled", 8, strain=[-0.06, 0.04, -0.04, 0.06, 0.0, -0.02, 0.02]))
    groups.append(_series("vacancy", 1, temperature=[300]))
    melt = _series(
        "liquid",
        20,
        temperature=[1800, 2000, 1600, 2200, 1700, 1800, 2600],
        density=[2.55, 2.45, 2.60, 2.50, 2.70],
    )
    # A melt frame costs four times a crystal's (denser k mesh): part of the series is labelled.
    groups.append(melt[:7] + melt[18:])
    groups.append(
        _series("amorphous", 42, temperature=[300, 600, 900, 300, 450], density=[2.30, 2.25, 2.35])
    )
    queue = []
    for group in groups:
        hurry = 0.05 if group[0].config_type == "eos" else 1.0
        queue += [((n + 0.5) / len(group) * hurry, spec) for n, spec in enumerate(group)]
    return [spec for _, spec in sorted(queue, key=lambda item: (item[0], item[1].frame_id))]


EOS_STRAINS = [0.0, -0.01, 0.01, -0.02, 0.02, -0.03, 0.03, -0.005, 0.005]
EOS_STRAINS += [-0.015, 0.015, -0.04, 0.04, -0.06, 0.06, -0.08, 0.08]
