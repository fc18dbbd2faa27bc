"""Which neighbours a model has seen in its training, and what is said of those it has not."""

import math
import re
import warnings

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.units import fs
from model_files import rewrite
from models import environment_of, random_atoms, random_potential

from deepmd_lite import Calculator, Simulation
from deepmd_lite.md.guards import Monitor, Trip
from deepmd_lite.model import load_model, save_model
from deepmd_lite.model.known_pairs import NEARER, KnownPairs
from deepmd_lite.system import DeepmdLiteError, InputError, ModelFileError

NAMES = ["H", "O", "Ar"]
SMALLEST = [[1.6, 1.1, math.inf], [1.1, 2.4, 3.0], [math.inf, 3.0, math.inf]]


@pytest.fixture(name="known")
def _known():
    return KnownPairs(torch.tensor(SMALLEST, dtype=torch.float64))


def molecule(**where):
    """Atoms of H, O and Ar along x, far from each other but where it says otherwise."""
    places = {"H1": 0.0, "H2": 20.0, "O1": 40.0, "O2": 60.0, "Ar": 80.0} | where
    symbols = [name.rstrip("12") for name in places]
    return Atoms(symbols, [[x, 0.0, 0.0] for x in places.values()])


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({}, {}),
        ({"H2": 1.6 * NEARER + 1e-9}, {}),
        ({"H2": 1.6 * NEARER - 1e-9}, {(0, 0): 1.6 * NEARER - 1e-9}),
        ({"O1": 0.9}, {(0, 1): 0.9}),
        ({"O1": 21.5, "O2": 20.9}, {(0, 1): 0.9, (1, 1): 0.6}),
        ({"Ar": 3.9}, {(0, 2): 3.9}),
        ({"Ar": 4.1}, {}),  # further than the cutoff
        ({"Ar": 43.0}, {}),
    ],
)
def test_who_comes_nearer_than_in_the_data(known, where, expected):
    env = environment_of(molecule(**where), NAMES, 5.0).env
    found = known.strangers(env, 4.0)
    assert found == pytest.approx(expected)
    first = dict(list(found.items())[:1])
    assert known.strangers(env, 4.0, but=first) == {
        pair: r for pair, r in found.items() if pair not in first
    }


def test_a_rank_may_have_no_rows(known):
    env = environment_of(Atoms(), NAMES, 5.0).env
    assert known.strangers(env, 4.0) == {}


@pytest.mark.parametrize("with_argon", [False, True])
def test_against_all_distances_of_a_liquid(known, with_argon):
    """With argon every neighbour counts, without it a short list of its own does."""
    atoms = random_atoms("H20O10Ar3" if with_argon else "H20O10", 8.0, 5)
    env, expected = environment_of(atoms, NAMES, 4.5).env, {}
    types, r = [NAMES.index(s) for s in atoms.symbols], atoms.get_all_distances(mic=True)
    for i, j in zip(*np.triu_indices(len(atoms), 1), strict=True):
        pair = min(types[i], types[j]), max(types[i], types[j])
        smallest = SMALLEST[pair[0]][pair[1]]
        if r[i, j] < (NEARER * smallest if math.isfinite(smallest) else 4.0):
            expected[pair] = min(r[i, j], expected.get(pair, math.inf))
    assert expected
    assert known.strangers(env, 4.0) == pytest.approx(expected)


def test_words(known):
    words = known.in_words({(1, 1): 1.234, (0, 2): 2.0}, NAMES)
    assert words == (
        "H-Ar 2.00 Å apart, in the training data never neighbours; "
        "O-O 1.23 Å apart, in the training data 2.40 Å at least"
    )
    assert known.summary(NAMES).startswith("H-H 1.60 Å, H-O 1.10 Å, H-Ar none, O-O 2.40 Å")


def test_of_two_trainings(known):
    other = KnownPairs(torch.full((3, 3), 2.0, dtype=torch.float64))
    both = known.with_those_of(other).smallest
    assert both.tolist() == [[1.6, 1.1, 2.0], [1.1, 2.0, 2.0], [2.0, 2.0, 2.0]]


def test_the_header(known):
    rows = known.to_header()
    assert rows == [[1.6, 1.1, None], [1.1, 2.4, 3.0], [None, 3.0, None]]
    assert torch.equal(KnownPairs.from_header(rows, 3).smallest, known.smallest)
    assert KnownPairs.from_header(None, 3) is None
    for wrong in ([[1.0]], [[1, 2, 3]] * 3, [[-1.0] * 3] * 3, "none", 7, [["a"] * 3] * 3):
        with pytest.raises(InputError, match="smallest_distances: "):
            KnownPairs.from_header(wrong, 3)


def test_the_file_keeps_it(tmp_path):
    model, path = random_potential(("H", "O")), tmp_path / "model.dpl"
    save_model(model, path)
    found = load_model(path).known_pairs
    assert torch.equal(found.smallest, model.known_pairs.smallest)
    assert float(found.smallest.min()) == model.min_distance
    rewrite(path, lambda header, _: header.pop("smallest_distances"), tmp_path / "older.dpl")
    assert load_model(tmp_path / "older.dpl").known_pairs is None
    rewrite(path, lambda header, _: header.update(smallest_distances=[[1.0]]))
    with pytest.raises(ModelFileError, match="header/smallest_distances"):
        load_model(path)


@pytest.fixture(name="model")
def _model(known):
    model = random_potential(("H", "O"))
    model.known_pairs = KnownPairs(known.smallest[:2, :2])
    return model


def test_the_calculator_warns_once_of_each_pair(model):
    calculator = Calculator(model)
    atoms = Atoms("O2", [[0, 0, 0], [2.3, 0, 0]], calculator=calculator)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        atoms.get_potential_energy()
    atoms.positions[1, 0] = 1.6
    with pytest.warns(UserWarning, match=r"O-O 1\.60 Å apart, in the training data 2\.40 Å"):
        atoms.get_potential_energy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        atoms.positions[1, 0] = 2.1  # a new list, and the same pair
        atoms.get_potential_energy()
    other = Atoms("O3", [[0, 0, 0], [2.1, 0, 0], [9, 0, 0]], calculator=calculator)
    with pytest.warns(UserWarning, match=r"O-O 2\.10 Å"):
        other.get_potential_energy()


def liquid():
    atoms = molecule(O1=42.0, O2=43.7)
    del atoms[[0, 1, 4]]
    atoms.cell, atoms.pbc = [30.0] * 3, True
    return atoms


def test_a_run_warns_once_or_stops(model, tmp_path, caplog):
    output = {"directory": tmp_path / "run", "thermo": 100}
    free = {"force": None, "displacement": None, "distance": None, "temperature_jump": None}
    Simulation(liquid(), model, output=output, timestep=0.01, guards=free).run(210)
    words = "O-O 1.70 Å apart, in the training data 2.40 Å at least; energies there are extrapol"
    assert (tmp_path / "run/log").read_text().count("O-O") == 1
    assert f"warning: step 0: {words}" in (tmp_path / "run/log").read_text()
    with pytest.raises(DeepmdLiteError, match=r"step 0: O-O 1\.70 Å .* \(guards: beyond_table\)"):
        Simulation(liquid(), model, guards={**free, "beyond_table": "stop"})
    caplog.clear()
    off = {"directory": tmp_path / "off"}
    Simulation(liquid(), model, output=off, guards={**free, "beyond_table": "off"}).run(1)
    assert "O-O" not in caplog.text


def falling(model, tmp_path, steps, start, speed, **options):
    """The log of two oxygen atoms that fly at each other, `speed` Å/fs, nothing between them."""
    atoms = Atoms("O2", [[5, 5, 5], [5 + start, 5, 5]], cell=[30.0] * 3, pbc=True)
    atoms.set_velocities(np.array([[0.5, 0, 0], [-0.5, 0, 0]]) * speed / fs)
    free = {"force": None, "displacement": None, "distance": None, "temperature_jump": None}
    free |= options.pop("guards", {})
    output = {"directory": tmp_path / "run"}
    run = Simulation(atoms, model, output=output, timestep=0.001, guards=free, **options)
    run.run(steps)
    return (tmp_path / "run/log").read_text()


def test_a_short_run_is_looked_at_with_each_list_and_at_its_end(model, tmp_path):
    log = falling(model, tmp_path / "end", 40, start=2.2, speed=2.0)
    assert "warning: step 40: O-O 2.12 Å apart, in the training data 2.40 Å at least" in log
    log = falling(model, tmp_path / "list", 50, start=2.2, speed=3.0, skin=0.1)
    assert log.count("warning") == 2
    assert "warning: step 34: O-O 2.10 Å apart" in log
    assert "warning: the nearest that were seen: O-O 2.05 Å apart, in the training data" in log


def test_a_guard_that_ends_a_run_tells_of_strangers_too(model, tmp_path, monkeypatch):
    """At a step at which nobody looks otherwise."""
    hot = iter([None] * 30 + [Trip("too hot")])
    monkeypatch.setattr(Monitor, "_heated", lambda *_: next(hot))
    with pytest.raises(DeepmdLiteError, match="step 30: too hot"):
        falling(model, tmp_path, 99, start=2.2, speed=2.0)
    assert "step 30: O-O 2.14 Å apart" in (tmp_path / "run/log").read_text()


def test_pairs_beyond_the_table_are_told_as_what_they_are(model, tmp_path):
    """They are further in than what the data do not hold; the end tells how near pairs came."""
    start = 0.8
    log = falling(model, tmp_path, 20, start=start, speed=2.0)
    where = f"closer than the model's table reaches ({model.table_min_distance():.2f} Å or less)"
    assert f"warning: step 0: 1 pair is {where}; energies there are extrapolated (said" in log
    last = log.splitlines()[-1]
    assert f"21 times in 20 steps a pair was {where}; the nearest that were seen: O-O" in last
    assert "O-O 0.76 Å apart, in the training data 2.40 Å at least; do not trust" in last
    with pytest.raises(DeepmdLiteError, match=re.escape(f"1 pair is {where}")):
        falling(model, tmp_path / "stop", 20, start, 2.0, guards={"beyond_table": "stop"})
