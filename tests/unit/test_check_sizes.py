"""Labels too large for matter: molecules, and sets that are in part in another unit."""

from dataclasses import replace

import numpy as np
import pytest
from ase.build import molecule

from deepmd_lite.check import findings_in_sample
from deepmd_lite.data import Frame

KCAL = 23.0605
ALL_ELECTRONS, OF_BONDS = -4209.0, -35.0
"""eV, of ethanol: as a code gives it, and without that of isolated atoms."""


def ethanol(energy, n=100, rattle=(0.02, 0.06)):
    """Frames with springs of 40 eV/Å² for bonds and softer ones for angles."""
    atoms = molecule("CH3CH2OH")
    length = atoms.get_all_distances() + np.eye(len(atoms))
    constant = np.where(length < 1.6, 40.0, np.where(length < 2.6, 3.0, 0.5))
    np.fill_diagonal(constant, 0.0)
    rng, frames = np.random.default_rng(3), []
    for k in range(n):
        positions = atoms.positions + rng.uniform(*rattle) * rng.normal(size=(len(atoms), 3))
        apart = positions[:, None] - positions
        now = np.linalg.norm(apart, axis=2) + np.eye(len(atoms))
        stretch = now - length
        frames.append(
            Frame(
                *(tuple(atoms.symbols), positions, np.zeros((3, 3)), np.zeros(3, dtype=bool)),
                energy=energy + 0.25 * float((constant * stretch**2).sum()),
                forces=-((constant * stretch / now)[:, :, None] * apart).sum(axis=1),
                source=f"x, frame {k}",
            )
        )
    return frames


def in_kcal(frame):
    return replace(frame, energy=KCAL * frame.energy, forces=KCAL * frame.forces)


def found(frames):
    return {f.code: f for f in findings_in_sample(frames, "x", cutoff=6.0)}


@pytest.mark.parametrize(
    ("energy", "codes"),
    [(ALL_ELECTRONS, {"energy-size", "force-size"}), (OF_BONDS, {"force-size"})],
)
def test_all_labels_of_a_molecule_in_kcal_per_mol(energy, codes):
    frames = ethanol(energy)
    assert found(frames) == {}
    findings = found([in_kcal(frame) for frame in frames])
    assert set(findings) == codes
    assert all("kcal/mol" in f.do for f in findings.values())
    assert findings["force-size"].severity == "warning"


def test_frames_without_near_ones_tell_it_too():
    apart = [replace(frame, fparam=np.array([float(k)])) for k, frame in enumerate(ethanol(-35.0))]
    assert found(apart) == {}
    findings = found([in_kcal(frame) for frame in apart])
    assert set(findings) == {"force-size"}
    assert "–H bonds" in findings["force-size"].what


def test_energies_below_those_of_all_electrons_are_named():
    frames = ethanol(ALL_ELECTRONS)
    findings = found(frames[:60] + [in_kcal(frame) for frame in frames[60:]])
    assert set(findings) == {"energy-size"}
    assert findings["energy-size"].severity == "error"
    assert findings["energy-size"].frames == tuple(f"x, frame {k}" for k in range(60, 100))


@pytest.mark.parametrize("hot", [0.04, 0.06, 0.08])
def test_no_sign_or_unit_is_made_of_two_zeros(hot):
    """Between cold frames in eV and hot ones in kcal/mol forces seem opposed to energies."""
    frames = ethanol(OF_BONDS, 60, (0.001, 0.002))
    frames += [in_kcal(frame) for frame in ethanol(OF_BONDS, 40, (hot, hot))]
    frames = [replace(frame, source=f"x, frame {k}") for k, frame in enumerate(frames)]
    findings = found(frames)
    assert findings["labels-contradict"].severity == "warning"
    assert not {"force-sign", "force-unit", "energy-unit"} & set(findings)
