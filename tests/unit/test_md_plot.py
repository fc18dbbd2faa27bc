"""The report of a run: what it says, what it draws, what it says when it cannot."""

import re

import numpy as np
import pytest
from ase.build import bulk
from matplotlib.image import imread
from pair_potential import PairPotential

from deepmd_lite.cli import main
from deepmd_lite.deviation import md_header, row
from deepmd_lite.md import Simulation
from deepmd_lite.md.plot import plot_run, read_table
from deepmd_lite.md.report import COLUMNS
from deepmd_lite.md.statistics import block_average, slope, with_error
from deepmd_lite.system import InputError
from deepmd_lite.units import BOLTZMANN, EV_PER_A3_IN_GPA

BIASED = "forces of PLUMED on top of the model's: plumed.dat; its log is plumed.log\n"
PULLED = "pull: 20 atoms, (0, 0.03, 0) eV/Å on each\n"
OBSERVE = {
    "rdf": {},
    "msd": {"every": 1, "window": 10},
    "vacf": {"every": 1, "window": 10},
    "stress": {"every": 1, "window": 10},
    "heat_flux": {"every": 2, "window": 10},
    "temperature_profile": {},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with everything in it."""
    folder = tmp_path_factory.mktemp("plot") / "run"
    atoms = bulk("Cu", cubic=True, a=3.7).repeat(2)
    atoms.numbers[::4] = 47
    output = {"directory": folder, "thermo": 1, "trajectory": 0, "observe": OBSERVE}
    options = {"velocities": {"temperature": 500}, "timestep": 2.0, "output": output}
    Simulation(atoms, PairPotential(), **options).run(60)
    return folder


def test_model_deviation_is_drawn(run, tmp_path):
    folder = tmp_path / "several"
    folder.mkdir()
    (folder / "thermo.csv").write_bytes((run / "thermo.csv").read_bytes())
    (folder / "log").write_bytes((run / "log").read_bytes())
    table = folder / "model_devi.out"
    rows = "".join(row(k, (0.02, 0.0, 0.01, 0.2 + 0.01 * k, 0.02, 0.1)) for k in range(9))
    table.write_text(md_header() + rows)
    assert "Model deviation" in plot_run(folder).read_text()
    pixels = imread(folder / "plots" / "model_devi.png")[..., :3]
    assert 0.001 < (pixels.min(axis=2) < 0.8).mean() < 0.5
    table.write_text(md_header() + "   1  2.0\n")
    with pytest.raises(InputError, match=r"model_devi\.out: line 2: 2 values, expected 7"):
        plot_run(folder)


def test_loads_are_drawn(tmp_path):
    """Of a plate that is driven and of one that is held, also where the way turns back."""
    groups = [
        {"axis": "z", "above": 5.0, "velocity": [0.005, 0.0, 0.0]},
        {"axis": "z", "below": 1.0, "velocity": [0.0, 0.0, 0.0]},
    ]
    atoms = bulk("Cu", cubic=True, a=3.7).repeat(2)
    output = {"directory": tmp_path, "thermo": 1, "trajectory": 0}
    Simulation(atoms, PairPotential(), moving=groups, output=output).run(20)
    assert "Loads on driven groups" in plot_run(tmp_path).read_text()
    pixels = imread(tmp_path / "plots" / "loads.png")[..., :3]
    assert 0.001 < (pixels.min(axis=2) < 0.8).mean() < 0.5


def values_of(report):
    """Quantity → value of the table in the page."""
    rows = re.findall(r"<tr><td>(.*?)</td><td>(.*?)</td>", report.read_text())
    return dict(rows)


def test_report_of_a_run(run, capsys):
    assert main(["plot", str(run)]) == 0
    report = run / "report.html"
    assert capsys.readouterr().out.strip() == str(report)
    names = ["msd", "rdf", "temperature_profile", "thermal_conductivity", "thermo", "vacf", "vdos"]
    names += ["viscosity"]
    assert sorted(p.stem for p in (run / "plots").iterdir()) == names
    for picture in (run / "plots").iterdir():
        pixels = imread(picture)[..., :3]
        assert min(pixels.shape[:2]) > 200
        assert 0.001 < (pixels.min(axis=2) < 0.8).mean() < 0.5  # there is something on it
    page = report.read_text()
    assert len(page) < 2_000_000
    assert page.count("data:image/png;base64,") == len(names)
    assert not re.search(r"(src|href)=\"http", page)
    found, thermo = values_of(report), read_table(run / "thermo.csv")
    late = thermo["temperature_K"][12:]
    assert float(found["temperature"].split(" ± ")[0]) == pytest.approx(late.mean(), rel=1e-2)
    assert found["atoms"] == "32"
    assert found["steps"] == "0 … 60"
    assert float(found["speed"].split()[0]) > 0
    assert float(found["potential energy"].split(" ± ")[0]) == pytest.approx(
        thermo["potential_eV"][12:].mean() / 32, abs=1e-3
    )
    drift = slope(thermo["time_fs"][12:] / 1000, thermo["conserved_eV"][12:] * 1000 / 32)
    assert float(found["drift of the total energy"]) == pytest.approx(drift, rel=0.01)
    whole = thermo["conserved_eV"]
    change = float(found["last − first of the total energy"])
    assert change == pytest.approx(whole[-1] - whole[0], rel=0.01)
    assert {"diffusion of Cu", "diffusion of Ag"} <= set(found)


@pytest.mark.parametrize("ensemble", ["nvt-nhc 300 K", "npt-mtk 300 K 2 GPa"])
def test_heat_capacity_and_bulk_modulus(tmp_path, ensemble):
    """Of numbers whose fluctuations are known: 3 k and 5 k an atom, and 100 GPa."""
    n_atoms, kt, v, n = 500, BOLTZMANN * 300, 8000.0, 4000
    rng = np.random.default_rng(5)
    pressure = 2.0 / EV_PER_A3_IN_GPA
    volume = v + np.sqrt(kt * v * EV_PER_A3_IN_GPA / 100) * rng.normal(size=n)
    c = 3 if ensemble.startswith("nvt") else 5
    energy = -1900 + kt * np.sqrt(c * n_atoms) * rng.normal(size=n)
    if c == 5:
        energy -= pressure * volume
    else:
        volume[:] = v
    columns = dict.fromkeys(COLUMNS, np.zeros(n))
    columns |= {"step": np.arange(n), "total_eV": energy, "volume_A3": volume}
    columns |= {f"{x}_A": np.cbrt(volume) for x in "abc"}
    lines = [",".join(map(repr, row)) for row in np.column_stack(list(columns.values())).tolist()]
    text = "\n".join(lines)
    (tmp_path / "thermo.csv").write_text(",".join(COLUMNS) + "\n" + text + "\n")
    line = f"500 atoms, model m.dpl (rcut 6 Å, float64), {ensemble}, timestep 1 fs\n"
    (tmp_path / "log").write_text(f"{line}density 0.2 g/cm³, mass 8000 u, volume 66 Å³\n")
    found = values_of(plot_run(tmp_path, skip=0))
    value, error = map(float, (found["density"] + " ± 0").split(" ± ")[:2])
    assert value == pytest.approx(1.66054 * (8000 / volume).mean(), abs=1e-4)
    assert (error > 0) == (c == 5)
    name = f"heat capacity at constant {'volume' if c == 3 else 'pressure'}"
    value, error = map(float, found[name].split(" ± "))
    assert value == pytest.approx(c, abs=4 * error)
    assert 0.01 * c < error < 0.08 * c
    assert ("bulk modulus" in found) == (c == 5)
    if c == 5:
        value, error = map(float, found["bulk modulus"].split(" ± "))
        assert value == pytest.approx(100, abs=4 * error)
    if c == 5:  # along one axis it is another modulus
        part = (tmp_path / "thermo.csv").read_text().replace("a_A", "z_A")
        (tmp_path / "thermo.csv").write_text(part)
        assert "bulk modulus" not in values_of(plot_run(tmp_path, skip=0))
    ramp = line.replace("300 K", "300 to 600 K")
    for log in (
        ramp,
        line + ramp,
        line + line.replace("300 K", "400 K"),
        line + BIASED,
        line + PULLED,
    ):
        (tmp_path / "log").write_text(log)
        assert name not in values_of(plot_run(tmp_path, skip=0))
    (tmp_path / "log").write_text(line + line)
    assert name in values_of(plot_run(tmp_path, skip=0))


def test_a_running_simulation_can_be_looked_at(run, tmp_path):
    """Only thermo.csv, the last line half written, no summary in the log."""
    text = (run / "thermo.csv").read_text()
    (tmp_path / "thermo.csv").write_text(text[:-30])
    (tmp_path / "log").write_text("32 atoms, model x\n")
    found = values_of(plot_run(tmp_path, skip=0.5))
    assert found["steps"] == "0 … 59"
    assert found["atoms"] == "32"
    assert "speed" not in found


def test_a_system_without_pressure(tmp_path):
    atoms = bulk("Cu", cubic=True, a=3.7).repeat(2)
    atoms.pbc = False
    Simulation(atoms, PairPotential(), output={"directory": tmp_path / "run"}).run(2)
    found = values_of(plot_run(tmp_path / "run"))
    assert "pressure" not in found
    assert "temperature" in found


def test_runs_that_are_not_there(tmp_path, capsys):
    assert main(["plot", str(tmp_path / "no")]) == 1
    assert capsys.readouterr().err == (
        f"dpl plot: error: {tmp_path / 'no'}: no such folder; give the output folder of a run\n"
    )
    (tmp_path / "thermo.csv").write_text("step,time_fs\n")
    with pytest.raises(InputError, match="there is nothing to draw"):
        plot_run(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["thermo.csv"]
    with pytest.raises(InputError, match=r"skip 1.0: expected a fraction"):
        plot_run(tmp_path, skip=1.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n3\n", r"thermo.csv: line 3: 1 values, expected 2"),
        ("a,b\n1,x\n", r"thermo.csv: column b: not all values are numbers"),
        ("a,b\n1,2\n", r"thermo.csv: has no column step"),
    ],
)
def test_damaged_tables_are_named(text, message, tmp_path):
    (tmp_path / "thermo.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        plot_run(tmp_path)
    (tmp_path / "thermo.csv").unlink()
    (tmp_path / "rdf.csv").write_text("x,y\n1,2\n")
    with pytest.raises(InputError, match=r"rdf.csv: has no column 'r_A'"):
        plot_run(tmp_path)


# --- statistics -----------------------------------------------------------------------------


def test_errors_of_a_correlated_series():
    """x ← c x + noise: the variance of its mean is (1 + c) / (1 − c) / n times that of x."""
    rng, c, n = np.random.default_rng(0), 0.9, 1 << 15
    noise, x = rng.normal(size=n) * np.sqrt(1 - c**2), np.zeros(n)
    for i in range(1, n):
        x[i] = c * x[i - 1] + noise[i]
    mean, error = block_average(x + 5.0)
    expected = np.sqrt((1 + c) / (1 - c) / n)
    assert error == pytest.approx(expected, rel=0.5)
    assert abs(mean - 5.0) < 4 * error
    _, white = block_average(rng.normal(size=n))
    assert white == pytest.approx(n**-0.5, rel=0.6)
    assert np.isnan(block_average(np.ones(3))[1])


def test_how_numbers_are_shown():
    assert with_error(300.1234, 0.4567) == "300.12 ± 0.46"
    assert with_error(2607.3, 19.2) == "2607 ± 19"
    assert with_error(-1.0, np.nan) == "-1"
    assert slope(np.arange(5.0), 3 + 2 * np.arange(5.0)) == pytest.approx(2.0)
    assert np.isnan(slope(np.ones(1), np.ones(1)))
