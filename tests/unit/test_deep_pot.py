"""Arrays in, arrays out: the numbers of `Calculator`, in DeePMD-kit's names, shapes and signs."""

import numpy as np
import pytest
from ase import Atoms
from models import environment_of, random_atoms, random_potential

import deepmd_lite as dpl
from deepmd_lite.cli import main
from deepmd_lite.deep_pot import calc_model_devi
from deepmd_lite.model import save_model
from deepmd_lite.system import InputError

STRUCTURES = [random_atoms("Si4C4", 6.5, seed, skew=0.1) for seed in range(3)]
COORDS = np.stack([atoms.positions for atoms in STRUCTURES])
CELLS = np.stack([atoms.cell.array for atoms in STRUCTURES])


@pytest.fixture(name="pot", scope="module")
def _pot():
    return dpl.DeepPot(random_potential(("Si", "C"), rcut=4.0))


def types_of(pot, atoms):
    return [pot.get_type_map().index(symbol) for symbol in atoms.symbols]


def asked(pot, atoms):
    atoms = atoms.copy()
    atoms.calc = dpl.Calculator(pot.model)
    return atoms


@pytest.mark.parametrize("flat", [False, True])
def test_the_numbers_of_the_calculator(pot, flat):
    coords, cells = (x.reshape(3, -1) if flat else x for x in (COORDS, CELLS))
    types = types_of(pot, STRUCTURES[0])
    e, f, v, own, own_virials = pot.eval(coords, cells, types, atomic=True)
    shapes = (3, 1), (3, 8, 3), (3, 9), (3, 8, 1), (3, 8, 9)
    assert tuple(x.shape for x in (e, f, v, own, own_virials)) == shapes
    for k, atoms in enumerate(asked(pot, a) for a in STRUCTURES):
        assert e[k, 0] == pytest.approx(atoms.get_potential_energy(), abs=1e-12)
        np.testing.assert_allclose(f[k], atoms.get_forces(), atol=1e-12)
        stress = -v[k].reshape(3, 3) / atoms.get_volume()
        np.testing.assert_allclose(stress, atoms.get_stress(voigt=False), atol=1e-13)
        np.testing.assert_allclose(own[k, :, 0], atoms.get_potential_energies(), atol=1e-12)
    np.testing.assert_allclose(own_virials.sum(axis=1), v, atol=1e-11)
    for k, atoms in enumerate(STRUCTURES):
        periodic = environment_of(atoms, pot.get_type_map(), pot.get_rcut())
        rows = pot.model.atomic_virials(periodic.env)
        each = periodic.fold(rows.flatten(1)).reshape(8, 3, 3).numpy()
        assert np.abs(each - each.transpose(0, 2, 1)).max() > 1e-3
        np.testing.assert_allclose(
            own_virials[k].reshape(8, 3, 3), each.transpose(0, 2, 1), atol=1e-12
        )
    for x, y in zip(pot.eval(coords, cells, types), (e, f, v), strict=True):
        np.testing.assert_array_equal(x, y)


def test_molecules_have_no_cell(pot):
    e, f, v = pot.eval(COORDS[:1], None, types_of(pot, STRUCTURES[0]))
    free = STRUCTURES[0].copy()
    free.pbc, free.cell = False, None
    free = asked(pot, free)
    assert e[0, 0] == pytest.approx(free.get_potential_energy(), abs=1e-12)
    np.testing.assert_allclose(f[0], free.get_forces(), atol=1e-12)
    np.testing.assert_allclose(v[0], np.einsum("ia,ib->ab", COORDS[0], f[0]).ravel(), atol=1e-11)


def test_many_molecules_at_a_time(pot, monkeypatch):
    """Each as if it were alone, wherever they stand, in as many batches as it takes."""
    monkeypatch.setattr("deepmd_lite.deep_pot.MOLECULES", 24)
    random = np.random.default_rng(1)
    coords = random.uniform(0, 3.5, (8, 6, 3)) + random.uniform(-50, 50, (8, 1, 3))
    types = random.integers(0, 2, (8, 6))
    types[2, 3] = types[5, 0] = -1
    types[4] = -1
    found = pot.eval(coords, None, types, atomic=True, mixed_type=True)
    descriptors = pot.eval_descriptor(coords, None, types, mixed_type=True)
    for k in range(8):
        real = types[k] >= 0
        if not real.any():
            assert not any(x[k].any() for x in found)
            continue
        alone = Atoms([("Si", "C")[t] for t in types[k, real]], coords[k, real])
        alone = asked(pot, alone)
        assert found[0][k, 0] == pytest.approx(alone.get_potential_energy(), abs=1e-12)
        np.testing.assert_allclose(found[1][k, real], alone.get_forces(), atol=1e-11)
        virial = np.einsum("ia,ib->ab", coords[k, real], found[1][k, real])
        np.testing.assert_allclose(found[2][k], virial.ravel(), atol=1e-10)
        np.testing.assert_allclose(found[4][k].sum(axis=0), found[2][k], atol=1e-10)
        own = dpl.Calculator(pot.model).get_descriptors(alone)
        np.testing.assert_allclose(descriptors[k, real], own, atol=1e-12)
    coords[6, 2, 1] = np.nan
    with pytest.raises(InputError, match="frame 6: a coordinate is not finite"):
        pot.eval(coords, None, types, mixed_type=True)


def test_frames_with_cells_take_no_arrays_of_all_frames(pot, monkeypatch):
    """Or the time would grow with the square of their number."""
    n, asked_for, zeros = 50, [], np.zeros
    monkeypatch.setattr(np, "zeros", lambda shape, *a: asked_for.append(shape) or zeros(shape, *a))
    coords, cells = np.repeat(COORDS[:1], n, axis=0), np.repeat(CELLS[:1], n, axis=0)
    pot.eval(coords, cells, types_of(pot, STRUCTURES[0]))
    assert sum(isinstance(shape, tuple) and shape[0] == n for shape in asked_for) < 10


def test_frames_of_several_sizes(pot):
    """−1 is no atom: as if the frame were shorter, wherever it stands."""
    types = np.array([types_of(pot, atoms) for atoms in STRUCTURES])
    types[1] = types[1, ::-1]
    types[2, [0, 5]] = -1
    e, f, v, own, own_virials = pot.eval(COORDS, CELLS, types, atomic=True, mixed_type=True)
    for k in range(3):
        real = types[k] >= 0
        one = pot.eval(COORDS[k, real][None], CELLS[k], types[k, real], atomic=True)
        for x, y in zip((e[k], v[k]), (one[0][0], one[2][0]), strict=True):
            np.testing.assert_allclose(x, y, atol=1e-12)
        for x, y in zip((f, own, own_virials), (one[1], one[3], one[4]), strict=True):
            np.testing.assert_allclose(x[k, real], y[0], atol=1e-12)
            assert not x[k, ~real].any()
    found = pot.eval_descriptor(COORDS, CELLS, types, mixed_type=True)
    assert not found[2, [0, 5]].any()
    assert found[2, 1].any()


def test_descriptors(pot):
    found = pot.eval_descriptor(COORDS, CELLS, types_of(pot, STRUCTURES[0]))
    calculator = dpl.Calculator(pot.model)
    for k, atoms in enumerate(STRUCTURES):
        np.testing.assert_allclose(found[k], calculator.get_descriptors(atoms), atol=1e-12)


def test_atoms_closer_than_any_before_are_told(pot):
    close = [[[0.0, 0.0, 0.0], [0.1, 0.0, 0.0]], [[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]]]
    with pytest.warns(UserWarning, match=r"table reaches .*: 1 in 2 frames"):
        pot.eval(close, None, [0, 1])


def test_what_scripts_ask(pot):
    told = pot.get_type_map(), pot.get_ntypes(), pot.get_rcut(), pot.get_sel_type()
    assert told == (["Si", "C"], 2, 4.0, [0, 1])
    assert pot.get_dim_fparam() == pot.get_dim_aparam() == 0
    e, f, v = pot.eval(COORDS[:0], CELLS[:0], [0, 1])
    assert (e.shape, f.shape, v.shape) == ((0, 1), (0, 2, 3), (0, 9))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"coords": COORDS[:, :7]}, "coords: expected (frames, 8, 3) or (frames, 24)"),
        ({"cells": CELLS[:2]}, "cells: expected 9 numbers for each of 3 frames"),
        ({"cells": CELLS.reshape(3, 9)[:, :6]}, "found shape (3, 6)"),
        ({"atom_types": [0] * 7 + [2]}, "places in the type map ['Si', 'C'], 0 to 1; found 2"),
        ({"atom_types": [0] * 7 + [-1]}, "0 to 1; found -1"),
        ({"atom_types": [0] * 7 + [0.5]}, "found 0.5"),
        ({"atom_types": [[0] * 8]}, "expected shape (atoms,), found (1, 8)"),
        ({"atom_types": [[0] * 8], "mixed_type": True}, "as atom_types has 1 frames of 8 atoms"),
        ({"atom_types": ["Si"] * 8}, "numbers; found np.str_('Si')"),
        ({"fparam": [0.1]}, "fparam: this model has none"),
        ({"coords": np.where(np.arange(24) == 3, np.nan, COORDS.reshape(3, 24))}, "frame 0"),
        ({"cells": np.zeros((3, 9))}, "frame 0: the cell has zero volume"),
    ],
)
def test_what_does_not_fit_is_one_line(pot, change, message):
    given = {"coords": COORDS, "cells": CELLS, "atom_types": types_of(pot, STRUCTURES[0])}
    with pytest.raises(InputError) as error:
        pot.eval(**{**given, **change})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_deviations_are_those_of_the_command(tmp_path):
    models = [random_potential(("Si", "C"), rcut=4.0 + k, seed=k) for k in range(3)]
    files = [str(tmp_path / f"{k}.dpl") for k in range(3)]
    for model, path in zip(models, files, strict=True):
        save_model(model, path)
    system = tmp_path / "data"
    (system / "set.000").mkdir(parents=True)
    np.save(system / "set.000/coord.npy", COORDS.reshape(3, -1))
    np.save(system / "set.000/box.npy", CELLS.reshape(3, -1))
    types = types_of(dpl.DeepPot(files[0]), STRUCTURES[0])
    (system / "type.raw").write_text("\n".join(map(str, types)))
    (system / "type_map.raw").write_text("Si\nC\n")
    of_command, own = tmp_path / "devi.out", tmp_path / "own.out"
    assert main(["devi", "-m", *files, "-s", str(system), "-o", str(of_command), "-f", "10"]) == 0
    pots = [dpl.DeepPot(path) for path in files]
    found = calc_model_devi(COORDS, CELLS, types, pots, own, 10, atomic=True)
    assert found.shape == (3, 16)
    np.testing.assert_allclose(found[:, :8], np.loadtxt(of_command), rtol=2e-6)
    np.testing.assert_allclose(found, np.loadtxt(own), rtol=2e-6)
    np.testing.assert_allclose(found[:, 4], found[:, 8:].max(axis=1))


def test_deviations_of_nothing():
    pots = [dpl.DeepPot(random_potential(("Si", "C"), seed=seed)) for seed in (1, 2)]
    assert calc_model_devi(COORDS[:0], CELLS[:0], [0] * 8, pots).shape == (0, 8)
    assert calc_model_devi(COORDS[:0], CELLS[:0], [0] * 8, pots, atomic=True).shape == (0, 16)


def test_deviations_of_models_that_number_otherwise():
    pots = [dpl.DeepPot(random_potential(types)) for types in (("Si", "C"), ("C", "Si"))]
    with pytest.raises(InputError, match="types would mean other elements"):
        calc_model_devi(COORDS, CELLS, [0] * 8, pots)
    with pytest.raises(InputError, match="expected two or more, found 1"):
        calc_model_devi(COORDS, CELLS, [0] * 8, pots[:1])
