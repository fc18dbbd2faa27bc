"""Files of pair energies: the splines that DeePMD-kit makes of them, and what is refused."""

import importlib.util

import numpy as np
import pytest
from golden_files import GOLDEN, read, unpacked
from models import write_pair_table

from deepmd_lite.model.pair_table import read_pair_table
from deepmd_lite.system import InputError


@pytest.mark.parametrize(
    ("name", "file", "rcut"),
    [
        ("srtab.pb", "open.tab", 3.6),
        ("srtab.pth", "open.tab", 3.6),
        ("srtab_radial.pb", "ended.tab", 3.6),
    ],
)
def test_the_splines_are_those_of_deepmd_kit(name, file, rcut, tmp_path):
    """Of a table that is continued by a cubic, and of one continued by zeros."""
    spec = importlib.util.spec_from_file_location("golden_make", GOLDEN / "make.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    make.write_tables(tmp_path)
    found = read_pair_table(tmp_path / file, ["O", "H"], rcut)
    pairs = read(unpacked(name, tmp_path))["model"]["models"][1]
    info, data = (pairs["tab"]["@variables"][key] for key in ("tab_info", "tab_data"))
    assert [found.start, found.spacing, found.coefficients.shape[2], 2] == info.tolist()
    expected = data.reshape(2, 2, -1, 4)[..., ::-1]
    np.testing.assert_allclose(found.coefficients, expected, rtol=0, atol=1e-10)


def values(table, a, b, r):
    """Energy and slope at r of a pair of types."""
    place = (r - table.start) / table.spacing
    k = np.minimum(place.astype(int), table.coefficients.shape[2] - 1)
    t, c = place - k, table.coefficients[a, b, k]
    slope = (3 * c[:, 3] * t + 2 * c[:, 2]) * t + c[:, 1]
    return ((c[:, 3] * t + c[:, 2]) * t + c[:, 1]) * t + c[:, 0], slope / table.spacing


def test_splines_meet_the_rows_and_are_twice_continuous(tmp_path):
    rows = write_pair_table(tmp_path / "t", 2)
    table = read_pair_table(tmp_path / "t", ["H", "O"], 2.0)
    r = rows[:-1, 0] + 1e-12
    for column, (a, b) in enumerate(((0, 0), (0, 1), (1, 1)), 1):
        energy, slope = values(table, a, b, r)
        np.testing.assert_allclose(energy, rows[:-1, column], atol=1e-7)
        np.testing.assert_allclose(energy, values(table, b, a, r)[0], rtol=0)
        inner, h = rows[1:-1, 0], 1e-9
        left, right = (values(table, a, b, inner + side * h) for side in (-1, 1))
        np.testing.assert_allclose(left, right, rtol=1e-6, atol=1e-6)
        assert abs(slope[0]) < 1e-6  # as clamped there


@pytest.mark.parametrize(
    ("last", "rcut", "end"),
    [
        (0.0, 2.0, 2.0),  # as it is
        (0.0, 1.5, 2.0),  # cut by the cutoff, not here
        (0.0, 2.51, 2.6),  # zeros up to the first row beyond the cutoff
        (1.0, 1.9, 2.0),
        (1.0, 2.05, 2.1),  # no room: it falls to 0 beyond the cutoff
        (1.0, 3.0, 2.9),  # it is 0 a row before the cutoff
    ],
)
def test_where_a_table_ends(last, rcut, end, tmp_path):
    r = 0.1 * np.arange(1, 21)
    np.savetxt(tmp_path / "t", np.column_stack([r, 2.0 + last - r]))
    table = read_pair_table(tmp_path / "t", ["Si"], rcut)
    reached = table.start + table.spacing * table.coefficients.shape[2]
    assert reached == pytest.approx(end)
    energy, slope = values(table, 0, 0, np.array([reached]))
    kept = last if rcut <= 2.0 else 0.0
    np.testing.assert_allclose([energy[0], slope[0]], [kept, 0.0], atol=1e-9)
    if rcut > 2.0:
        np.testing.assert_allclose(values(table, 0, 0, np.array([2.0]))[0], last, atol=1e-9)


def test_two_rows_are_enough(tmp_path):
    (tmp_path / "t").write_text("# r  Si-Si\n0.5 8.0\n1.0 0.0\n")
    table = read_pair_table(tmp_path / "t", ["Si"], 1.0)
    np.testing.assert_allclose(table.coefficients[0, 0, 0], [8.0, 0.0, -24.0, 16.0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected at least 2 rows of 4 columns"),
        ("0.1 1 2 3\n", "found 1 rows of 4"),
        ("0.1 1 2\n0.2 1 2\n", r"4 columns \(distance, and .* 2 elements .*found 2 rows of 3"),
        ("0.1 1 2 x\n0.2 1 2 3\n", "not a table of numbers"),
        ("0.1 1 2 3\n0.2 1 2\n", "not a table of numbers"),
        ("0.1 1 2 3\n0.2 1 2 nan\n", "not finite"),
        ("0.1 1 2 3\n0.2 1 2 3\n0.4 0 0 0\n", r"row 3 is at 0\.4 Å; expected .*equal steps"),
        ("0.2 1 2 3\n0.1 1 2 3\n", "row 2 is at"),
        ("-0.1 1 2 3\n0.0 1 2 3\n", "at least 0 Å"),
        ("0 1 2 3\n1e-9 1 2 3\n", "steps of 1e-09 Å are too small"),
    ],
)
def test_what_is_no_table_is_one_clear_line(text, message, tmp_path):
    path = tmp_path / "pairs.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        read_pair_table(path, ["H", "O"], 6.0)
    assert "\n" not in str(error.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match=r"absent: cannot be read|absent not found"):
        read_pair_table(tmp_path / "absent", ["H"], 6.0)
    with pytest.raises(InputError, match="cannot be read"):
        read_pair_table(tmp_path, ["H"], 6.0)
