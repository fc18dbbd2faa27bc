"""The benchmarks run and count right; how long anything takes is not tested."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_flops_of_a_small_model(monkeypatch):
    """3 neighbours in 2 runs, M = 3, A = 2, one hidden layer of 5, counted on paper."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import roofline

    shape = roofline.Shape(neighbors=3, runs=2, features=3, axis=2, fitting=[5])
    assert shape.inputs == 5  # 6 entries of D, of which (0, 1) and (1, 0) are the same
    counts = roofline.flops(shape)
    assert counts == {
        "runs": 2 * 2 * (2 * 3 * 24),
        "pairs": 3 * (2 * 24 + 4 * (10 + 8) + 2 * 4),
        "descriptor": 5 * (8 + 16),
        "fitting": (2 * 5 * 5 + 2 * 5 * 1) * 2,
        "total": 576 + 384 + 120 + 120,
    }
    assert roofline.seconds_at(6e9, gflops=2.0, threads=3) == pytest.approx(1.0)


def test_infer_prints_finite_numbers(tmp_path):
    out = tmp_path / "infer.json"
    options = "--atoms 192 --threads 1 --precision float32 --repeats 1 --seconds 0 --gemm-sizes 64"
    done = subprocess.run(
        [
            sys.executable,
            BENCHMARKS / "infer.py",
            *options.split(),
            "--lammps",
            "--work",
            tmp_path,
            "--out",
            out,
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (case,) = json.loads(out.read_text())["cases"]
    for entry in case["codes"].values():
        assert all(math.isfinite(t) and t > 0 for t in entry["seconds"])
    (row,) = [x for x in done.stdout.splitlines() if "float32" in x and "%" in x]
    cells = [c.strip().removesuffix(" %").replace(",", "") for c in row.strip("|").split("|")]
    assert all(math.isfinite(float(c)) and float(c) >= 0 for c in cells if c != "float32")
    assert row in out.with_suffix(".md").read_text()


def test_a_wrong_size_is_one_clear_line():
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "infer.py"), "--atoms", "200"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: 200 atoms: expected 192 · k³")


def test_a_number_in_two_parts(monkeypatch):
    """The first has ten bits after the leading one, and both together are the number; products
    of parts cut to ten bits, as tensor cores take them, have the error of float32."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import products
    import torch

    def cut(y):
        return (y.view(torch.int32) & ~0x1FFF).view(torch.float32)

    x = torch.randn(40, 300, generator=torch.Generator().manual_seed(1))
    weight = torch.randn(300, 20, generator=torch.Generator().manual_seed(2))
    high, low = products.two_parts(x)
    assert torch.equal(cut(high), high)
    assert torch.equal(high + low, x)
    exact = x.double() @ weight.double()
    parts = [cut(y).double() for y in (high, low, *products.two_parts(weight))]
    in_three = parts[0] @ parts[2] + parts[0] @ parts[3] + parts[1] @ parts[2]
    scale = float((x.double().abs() @ weight.double().abs()).max())
    assert float((in_three - exact).abs().max()) < 2**-20 * scale
    assert float((cut(x).double() @ cut(weight).double() - exact).abs().max()) > 2**-16 * scale
    found = products.in_three(x, products.two_parts(weight)).double()
    assert float((found - exact).abs().max()) < 2**-20 * scale


def test_a_nep_of_two_elements_has_its_numbers(monkeypatch, tmp_path):
    """30 inputs, 30 neurons and an output weight each for both; 9 functions of 5 for four pairs,
    radial and angular."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import nep

    lines = nep.nep_file(tmp_path / "nep.txt", ["Pb", "Te"]).read_text().splitlines()
    assert lines[0] == "nep4 2 Pb Te"
    assert len(lines) == 6 + 2 * (30 + 1 + 1) * 30 + 1 + 4 * (45 + 45) + 30
