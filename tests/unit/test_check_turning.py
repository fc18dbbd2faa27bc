"""Molecules and wires that turn: right labels of theirs are no error, wrong ones are found."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from deepmd_lite.check import findings_in_sample
from deepmd_lite.check.turning import turns
from deepmd_lite.data import Frame

CELLS = {"open": (0, 0, 0), "wire": (0, 0, 1), "box": (1, 1, 1)}


def springs(symbols, rest, positions, pbc):
    """Springs of 30 eV/Å² between all atoms, of the lengths that they have in `rest`."""
    apart = positions[:, None] - positions
    length = np.linalg.norm(apart, axis=2) + np.eye(len(rest))
    stretch = length - np.linalg.norm(rest[:, None] - rest, axis=2) - np.eye(len(rest))
    periodic = np.array(pbc, dtype=bool)
    return Frame(
        symbols,
        positions,
        15.0 * np.eye(3) if any(pbc) else np.zeros((3, 3)),
        periodic,
        energy=float(7.5 * (stretch**2).sum()) - 300.0,
        forces=-30 * ((stretch / length)[:, :, None] * apart).sum(axis=1),
    )


def turning(symbols, rest, n=80, pbc=(0, 0, 0)):
    """Frames of a molecule, or of one that is a wire along z, in any orientation."""
    rng = np.random.default_rng(5)
    turned = Rotation.random(n, rng).as_matrix()
    if sum(pbc) == 1:
        angles = rng.uniform(0, 2 * np.pi, n)
        turned = Rotation.from_rotvec(np.outer(angles, [0, 0, 1])).as_matrix()
    moved = np.array(rest, dtype=float) + 0.05 * rng.normal(size=(n, len(rest), 3))
    frames = [
        springs(symbols, np.array(rest), x @ q, pbc) for x, q in zip(moved, turned, strict=True)
    ]
    return [replace(frame, source=f"x, frame {k}") for k, frame in enumerate(frames)]


NITROGEN = ("N", "N"), [[0, 0, 0], [1.1, 0, 0]]
AMMONIA = (
    ("N", "H", "H", "H"),
    [[0, 0, 0.3], [0.94, 0, 0], [-0.47, 0.81, 0], [-0.47, -0.81, 0]],
)


def accused(frames):
    return {
        f.code: f for f in findings_in_sample(frames, "x", cutoff=6.0) if f.code[:6] == "force-"
    }


@pytest.mark.parametrize("where", ["open", "wire"])
@pytest.mark.parametrize("molecule", [NITROGEN, AMMONIA], ids=["N2", "NH3"])
def test_what_turns_is_clean(molecule, where):
    assert not accused(turning(*molecule, pbc=CELLS[where]))


def test_in_a_large_cell_it_is_no_error():
    """There the turn is not taken out."""
    found = accused(turning(*NITROGEN, pbc=CELLS["box"]))
    assert {f.severity for f in found.values()} <= {"warning"}
    assert "molecules that turn" in found["force-order"].do


@pytest.mark.parametrize(
    ("change", "code", "severity", "words"),
    [
        (lambda f: -f, "force-sign", "error", "look like gradients"),
        (lambda f: 23.0605 * f, "force-unit", "error", "divide forces by 23.0605"),
        (lambda f: f[::-1], "force-order", "error", "in reverse order"),
        (lambda f: np.roll(f, -1, axis=1), "force-order", "error", "the first number is that of y"),
        (np.random.default_rng(1).permutation, "force-order", "warning", "another order of atoms"),
    ],
    ids=["sign", "unit", "reverse", "components", "random"],
)
def test_wrong_forces_of_what_turns_are_found(change, code, severity, words):
    frames = [replace(f, forces=change(f.forces)) for f in turning(*AMMONIA)]
    finding = accused(frames)[code]
    assert finding.severity == severity
    assert words in finding.do


def test_crystals_beside_molecules_are_held():
    """Forces in a random order are an error where most pairs are of crystals."""
    rng = np.random.default_rng(6)
    frames = [replace(f, source=f"y, frame {k}") for k, f in enumerate(turning(*NITROGEN, n=5))]
    for k in range(60):
        moved = np.array(AMMONIA[1]) + 0.05 * rng.normal(size=(4, 3))
        frame = springs(AMMONIA[0], np.array(AMMONIA[1]), moved, CELLS["box"])
        dense = 4.0 * np.eye(3)  # as springs know no images
        frames.append(
            replace(frame, cell=dense, forces=rng.permutation(frame.forces), source=f"y, frame {k}")
        )
    assert accused(frames)["force-order"].severity == "error"


def test_a_turn_is_never_a_mirror_image():
    rng = np.random.default_rng(2)
    a = rng.normal(size=(6, 3))
    turned = Rotation.random(random_state=rng).as_matrix()
    np.testing.assert_allclose(turns((a @ turned).T @ a, None), turned.T, atol=1e-12)
    q = turns((a * [-1, 1, 1]).T @ a, None)
    assert np.linalg.det(q) == pytest.approx(1)
    axis = np.array([0.6, 0.0, 0.8])
    about = Rotation.from_rotvec(2.5 * axis).as_matrix()
    np.testing.assert_allclose(turns((a @ about).T @ a, axis), about.T, atol=1e-12)
    assert np.linalg.det(turns((a * [-1, 1, 1]).T @ a, axis)) == pytest.approx(1)
