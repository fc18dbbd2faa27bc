"""Checks of many systems: what chance makes of so many, and what is wrong all the same."""

import numpy as np
import pytest

from deepmd_lite.check import energies as check_energies
from deepmd_lite.check import exchanged
from deepmd_lite.check.exchanged import Usual, exchange, left_out
from deepmd_lite.check.pairs import near_pairs
from deepmd_lite.check.survey import Survey, robust_fit
from deepmd_lite.data import Frame, System

ELEMENTS = ("Ag", "Au", "Cu", "Pd", "Pt")
ENERGIES = np.array([-2.0, -3.5, -4.0, -1.0, -8.0])


def alloys(n, seed, folder=None, elements=ELEMENTS, energies=ENERGIES):
    """Systems of 4 frames of 8 atoms, two or three elements; energies have a bond term of their
    own, exponentially distributed as what compositions do not explain is, and a type map each."""
    random = np.random.default_rng(seed)
    places = 2.9 * np.argwhere(np.ones((2, 2, 2))).astype(float)
    found = []
    for k in range(n):
        own = random.choice(len(elements), size=random.integers(2, 4), replace=False)
        types = random.choice(own, size=8)
        types[0], types[1] = own[0], own[1]
        bond = random.exponential(0.12)
        name = str(k)
        if folder is not None:
            name = str(folder / f"{k}")
            (folder / f"{k}").mkdir()
            (folder / f"{k}" / "type_map.raw").write_text("\n".join(elements[a] for a in own))
        frames = [
            Frame(
                tuple(elements[a] for a in types),
                places + random.normal(scale=0.02, size=(8, 3)),
                5.8 * np.eye(3),
                np.ones(3, dtype=bool),
                energy=float(energies[types].sum() + 8 * (bond + random.normal(scale=0.01))),
                source=f"{name}, frame {j}",
            )
            for j in range(4)
        ]
        found.append(System(name, frames))
    return found


def swap(system, first, second):
    other = {first: second, second: first}
    for frame in system.frames:
        frame.symbols = tuple(other.get(s, s) for s in frame.symbols)


def told(systems):
    survey = Survey.of({"data": systems})
    every = np.arange(len(survey))
    return [f for f in check_energies.findings(survey, every) if f.code != "energy-outlier"]


@pytest.mark.parametrize("seed", range(6))
def test_the_farthest_of_many_right_systems_is_not_accused(seed):
    assert told(alloys(400, seed)) == []


METALS = ("Ag", "Al", "Au", "Co", "Cu", "Fe", "Ir", "Ni", "Pd", "Pt", "Rh", "Zn")


def test_right_systems_that_share_few_elements_are_not_accused():
    """Constants of twelve elements fit 25 systems far better than any that they are not fitted to:
    by what is left of the fitted ones, a third of such sets were called wrong."""
    accused = 0
    for seed in range(40):
        zeros = np.random.default_rng(seed).uniform(-9, -1, len(METALS))
        found = told(alloys(25, seed, elements=METALS, energies=zeros))
        accused += "element-swapped" in {f.code for f in found}
    assert accused <= 2


def test_constants_are_fitted_without_the_system_that_is_judged(monkeypatch):
    random = np.random.default_rng(1)
    shares = random.dirichlet(np.ones(3), 30)
    shares = np.pad(shares, ((0, 1), (0, 1)))
    shares[-1] = 0, 0, 0.5, 0.5  # the only one with the fourth element
    energies = shares @ [-1.0, -4.0, -2.0, 7.0] + random.normal(scale=0.02, size=31)
    found, part = left_out(shares, energies)
    assert np.flatnonzero(np.isnan(found)).tolist() == [30]
    for k in range(30):
        others = np.arange(31) != k
        constants, _ = robust_fit(shares[others], energies[others])
        assert found[k] == pytest.approx(energies[k] - shares[k] @ constants, abs=0.01)
        inverse = np.linalg.pinv(shares[others].T @ shares[others])
        expected = (1 + shares[k] @ inverse @ shares[k]) ** -0.5
        assert part[k] == pytest.approx(expected, abs=0.05)
    monkeypatch.setattr(exchanged, "MANY_SYSTEMS", 2)
    np.testing.assert_allclose(left_out(shares, energies)[0], found, atol=0.01)


def test_without_a_type_map_no_element_comes_from_elsewhere():
    survey = Survey.of({"a": alloys(20, 0)})
    survey.elements, shares = ["C", "F", "Si"], np.array([[0, 0.8, 0.2]])
    constants, usual = np.array([-9.0, -2.0, -5.0]), Usual.of([0.1, 0.2])
    as_carbon = np.array([0.8 * -2.0 + 0.2 * -9.0])
    assert exchange(survey, 0, (shares, as_carbon, constants), -0.8, usual) == ""
    as_fluorine = np.array([0.2 * -2.0 + 0.8 * -5.0])
    assert exchange(survey, 0, (shares, as_fluorine, constants), -1.8, usual) == "F and Si"


def test_true_exchanges_among_many_are_found(tmp_path):
    systems = alloys(400, 5, tmp_path)
    counts = [[x.frames[0].symbols.count(s) for s in ("Pd", "Pt")] for x in systems]
    wrong = [k for k, (a, b) in enumerate(counts) if min(a, b) and abs(a - b) >= 3][:3]
    assert len(wrong) == 3
    for k in wrong:
        swap(systems[k], "Pd", "Pt")
    found = told(systems)
    assert {f.code for f in found} == {"element-swapped"}
    assert {f.what.partition(":")[0] for f in found} == {systems[k].name for k in wrong}
    assert all("right with Pd and Pt exchanged" in f.what for f in found)
    assert {f.severity for f in found} == {"error"}
    for x in systems:  # elements that go by name are rarely exchanged
        (tmp_path / x.name / "type_map.raw").unlink(missing_ok=True)
    (tmp_path / "type_map.raw").unlink(missing_ok=True)
    found = [f for f in told(systems) if f.code == "element-swapped"]
    assert {f.severity for f in found} == {"warning"}
    assert not any("type_map" in f.do for f in found)


def test_pairs_are_of_the_type_map_of_the_system(tmp_path):
    (tmp_path / "type_map.raw").write_text("Cu\nAg\n")
    assert exchanged.type_map_of(str(tmp_path)) == {"Cu", "Ag"}
    assert exchanged.type_map_of(str(tmp_path / "set.000")) == {"Cu", "Ag"}
    assert exchanged.type_map_of(str(tmp_path / "set.000" / "x")) is None


def phases(shift):
    """Of one metal in one file: crystals, and frames of other distances, whose energies are
    those of bonds; every other crystal is `shift` (eV/atom) off."""
    random = np.random.default_rng(2)
    grid = np.argwhere(np.ones((2, 2, 2))).astype(float)
    frames = []
    for k in range(60):
        apart = (2.7, 3.0)[k // 30] + random.normal(scale=0.01)
        off = shift * (k % 2) * (k < 30)
        frames.append(
            Frame(
                ("Cu",) * 8,
                apart * grid + random.normal(scale=0.02, size=(8, 3)),
                2 * apart * np.eye(3),
                np.ones(3, dtype=bool),
                energy=8 * (-3.5 + 2.0 * (apart - 2.7) + off + random.normal(scale=0.005)),
                source=f"x, frame {k}",
            )
        )
    return [System("x", frames)]


def test_two_phases_in_one_file_are_not_two_zeros():
    (found,) = told(phases(0.0))
    assert (found.severity, found.code) == ("note", "energy-zeros")
    assert "structures explain it" in found.what
    (found,) = told(phases(4.5))
    assert (found.severity, found.code) == ("error", "energy-zeros")
    assert found.frames == tuple(f"x, frame {k}" for k in range(1, 30, 2))


@pytest.mark.parametrize(("elements", "severity"), [(("Ag", "Au"), "error"), (("Ag",), "warning")])
def test_files_of_other_compositions_are_no_error(elements, severity):
    """Eight atoms each; one lies 4 eV/atom off, where cohesion may be the reason."""
    random = np.random.default_rng(3)
    grid = 2.9 * np.argwhere(np.ones((2, 2, 2)))
    systems = []
    for name, kinds in (("a", ("Ag", "Au")), ("b", ("Au",)), ("c", ("Ag", "Au")), ("d", elements)):
        symbols = (*kinds * 8,)[:8]
        energy = sum(-2.0 if s == "Ag" else -3.5 for s in symbols) + 32.0 * (name == "d")
        frames = [
            Frame(
                symbols,
                grid + random.normal(scale=0.02, size=(8, 3)),
                5.8 * np.eye(3),
                np.ones(3, dtype=bool),
                energy=energy + random.normal(scale=0.05),
                source=f"{name}, frame {k}",
            )
            for k in range(4)
        ]
        systems.append(System(name, frames))
    (found,) = told(systems)
    assert (found.severity, found.code) == (severity, "energy-zeros")


def test_what_is_usual():
    random = np.random.default_rng(0)
    usual = Usual.of(random.exponential(0.1, size=3000).tolist())
    assert usual.known
    assert 0.02 < usual.so_far_off(1.15) < 3
    assert usual.so_far_off(2.5) < 1e-3
    assert usual.so_far_off(0.0) == pytest.approx(30)
    few = Usual.of([0.1, 0.2])
    assert not few.known
    assert few.so_far_off(0.1) == 0.0


def test_frames_of_each_system():
    systems = alloys(3, 1)
    survey = Survey.of({"a": systems[:1], "b": systems[1:]})
    chosen = np.array([9, 0, 3, 11, 8])
    places = survey.by_system(chosen)
    assert {k: v.tolist() for k, v in places.items()} == {0: [1, 2], 2: [0, 3, 4]}
    assert survey.by_system(np.array([], dtype=int)) == {}


def test_pairs_are_the_same_in_pieces(monkeypatch):
    systems = alloys(2, 1)
    for frame in (f for s in systems for f in s.frames):
        frame.forces = np.random.default_rng(3).normal(size=(8, 3))
    survey = Survey.of({"a": systems})
    whole = near_pairs(survey, np.arange(8))
    monkeypatch.setattr("deepmd_lite.check.pairs.CHUNK", 8)
    pieces = near_pairs(survey, np.arange(8))
    assert len(whole) == 12
    for name in ("first", "second", "force_work", "uncertainty", "strain", "volume", "moved"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(pieces, name))
