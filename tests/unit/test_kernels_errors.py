"""Bad arguments of the compiled kernels give one clear line, never a crash."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from deepmd_lite import kernels
from deepmd_lite.system import InputError


def arguments(**changes):
    """Valid arguments of `kernels.moments` for four atoms, with some replaced."""
    positions = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1.5, 0], [0, 0, 2]], dtype=torch.float64)
    types = torch.tensor([0, 1, 0, 1], dtype=torch.int32)
    offsets, indices = kernels.neighbor_list(positions, types, 4, 3.0)
    environment = kernels.Environment(
        3.0, 0.5, torch.zeros(2, 4).double(), torch.ones(2, 4).double(), True, 0.0, 0.2
    )
    named = {
        "positions": positions,
        "types": types,
        "offsets": offsets,
        "indices": indices,
        "coefficients": torch.ones(2, 5, kernels.POWERS, 16, dtype=torch.float64),
        "environment": environment,
    }
    for name, value in changes.items():
        named[name] = value(named[name])
    return named


def broken(tensor, place, value):
    changed = tensor.clone()
    changed[place] = value
    return changed


def test_the_arguments_are_valid_before_they_are_broken():
    moments, counts, beyond = kernels.moments(**arguments())
    assert moments.shape == (4, 4, 16)
    assert counts.tolist() == [[1, 2], [2, 1], [1, 2], [2, 1]]
    assert beyond == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_positions_that_are_not_finite(value, axis):
    bad = arguments(positions=lambda x: broken(x, (2, axis), value))
    with pytest.raises(InputError, match="position of row 2 is not finite"):
        kernels.moments(**bad)
    with pytest.raises(InputError, match="position of row 2 is not finite"):
        kernels.neighbor_list(bad["positions"], bad["types"], 1, 3.0)


def test_coordinates_whose_difference_overflows():
    far = torch.tensor([[-1.5e308, 0, 0], [1.5e308, 0, 0]], dtype=torch.float64)
    with pytest.raises(InputError, match="too far apart"):
        kernels.neighbor_list(far, torch.zeros(2, dtype=torch.int32), 2, 3.0)


@pytest.mark.parametrize("n_local", [2, 6])
def test_list_names_the_rows_that_coincide(n_local):
    positions = torch.arange(18, dtype=torch.float64).reshape(6, 3)
    positions[5] = positions[1] + 1e-9
    with pytest.raises(InputError, match="rows 1 and 5 coincide"):
        kernels.neighbor_list(positions, torch.zeros(6, dtype=torch.int32), n_local, 3.0)


@pytest.mark.parametrize("cutoff", [0.0, -1.0, float("nan"), float("inf"), 1e300])
def test_cutoff_of_a_list(cutoff):
    good = arguments()
    with pytest.raises(InputError, match="positive cutoff"):
        kernels.neighbor_list(good["positions"], good["types"], 4, cutoff)


@pytest.mark.parametrize("n_local", [-1, 5])
def test_n_local_of_a_list(n_local):
    good = arguments()
    with pytest.raises(InputError, match=f"n_local: expected 0 to 4, found {n_local}"):
        kernels.neighbor_list(good["positions"], good["types"], n_local, 3.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"positions": lambda x: x.float()}, "positions: expected torch.float64, found"),
        ({"positions": lambda x: x[:, :2]}, r"positions: expected shape \(any, 3\), found"),
        ({"types": lambda x: x.long()}, "types: expected torch.int32"),
        ({"types": lambda x: x[:3]}, r"types: expected shape \(4\), found \(3,\)"),
        ({"types": lambda x: broken(x, 3, 2)}, "type of row 3 is 2; the table has 2 types"),
        ({"types": lambda x: broken(x, 0, -1)}, "type of row 0 is -1"),
        ({"offsets": lambda x: x.int()}, "offsets: expected torch.int64"),
        ({"offsets": lambda x: x[:-1]}, "offsets end at"),
        ({"offsets": lambda x: torch.cat([x, x])}, "offsets: expected 1 to 5 entries"),
        ({"offsets": lambda x: broken(x, 0, 1)}, r"offsets\[0\] must be 0"),
        ({"offsets": lambda x: broken(x, 2, 0)}, "offsets of row 1 do not ascend"),
        ({"indices": lambda x: x.long()}, "indices: expected torch.int32"),
        ({"indices": lambda x: broken(x, 4, 4)}, "row 1 lists neighbour 4; there are 4 rows"),
        ({"indices": lambda x: broken(x, 0, -1)}, "row 0 lists neighbour -1"),
        ({"coefficients": lambda x: x.half()}, "coefficients: expected float64 or float32"),
        ({"coefficients": lambda x: x[..., :12]}, "12 features; pad with zeros to a multiple of"),
        ({"coefficients": lambda x: x[:1]}, "coefficients: expected shape"),
        ({"coefficients": lambda x: x[:, :, :5]}, "coefficients: expected shape"),
        ({"coefficients": lambda x: x[:, :0]}, "the table has 0 intervals"),
    ],
)
def test_bad_arguments_of_the_moments(changes, message):
    with pytest.raises(InputError, match=message):
        kernels.moments(**arguments(**changes))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("rcut", 0.4, "expected 0 <= rcut_smth < rcut"),
        ("rcut", float("nan"), "expected 0 <= rcut_smth < rcut"),
        ("table_spacing", 0.0, "expected a positive spacing"),
        ("dstd", torch.zeros(2, 4).double(), "dstd positive"),
        ("dstd", torch.ones(2, 3).double(), "dstd: expected shape"),
        ("davg", torch.full((2, 4), torch.nan).double(), "davg must be finite"),
        ("type_one_side", False, "coefficients: expected shape"),
    ],
)
def test_bad_environment(field, value, message):
    bad = arguments(environment=lambda e: dataclasses.replace(e, **{field: value}))
    with pytest.raises(InputError, match=message):
        kernels.moments(**bad)


def test_a_strided_view_is_as_good_as_a_copy():
    good = arguments()
    expected = kernels.moments(**good)[0]
    good["positions"] = good["positions"].T.contiguous().T
    good["coefficients"] = good["coefficients"].transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(kernels.moments(**good)[0], expected)


def test_instruction_sets_have_names():
    assert kernels.instruction_sets()[0] == "baseline"
    assert kernels.instruction_set() in kernels.instruction_sets()
    with pytest.raises(InputError, match="'mmx' cannot be used here; use one of"):
        kernels.set_instruction_set("mmx")
