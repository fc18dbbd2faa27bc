"""Every example and the README's code, run as they stand but shorter."""

import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from deepmd_lite.cli import main

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


@pytest.fixture(name="trained", scope="module")
def _trained(tmp_path_factory):
    """The training example with a few steps: (short input, folder of the results)."""
    folder = tmp_path_factory.mktemp("trained")
    config = json.loads((EXAMPLES / "01_train_silicon" / "input.json").read_text())
    config["training"].update(numb_steps=40, disp_freq=20)
    for data in ("training_data", "validation_data"):
        systems = config["training"][data]["systems"]
        config["training"][data]["systems"] = [
            str((EXAMPLES / "01_train_silicon" / s).resolve()) for s in systems
        ]
    short = folder / "input.json"
    short.write_text(json.dumps(config))
    assert main(["train", str(short), "-o", str(folder), "-q"]) == 0
    return short, folder


def test_training_example_writes_what_it_promises(trained):
    folder = trained[1]
    for name in ("model.dpl", "model-best.dpl", "lcurve.out", "learning_curve.png"):
        assert (folder / name).stat().st_size > 0
    rows = [r for r in (folder / "lcurve.out").read_text().splitlines() if not r.startswith("#")]
    assert [int(r.split()[0]) for r in rows][-1] == 40


def test_relaxation_example(trained, capsys, monkeypatch):
    """A barely trained model has no sensible crystal; the pristine cell shows that it runs."""
    monkeypatch.setattr(sys, "argv", ["02_ase_relax.py", str(trained[1] / "model.dpl")])
    example = runpy.run_path(str(EXAMPLES / "02_ase_relax.py"))
    import deepmd_lite as dpl

    calculator = dpl.Calculator(trained[1] / "model.dpl")
    from ase.build import bulk

    formation = example["relaxed_vacancy"](calculator, bulk("Si", a=5.47, cubic=True))
    assert abs(formation) < 100.0


def test_parallel_example(trained, tmp_path):
    pytest.importorskip("mpi4py")
    config = yaml.safe_load((EXAMPLES / "03_mpi_md" / "input.yaml").read_text())
    config.update(model=str(trained[1] / "model.dpl"), replicate=[2, 2, 2], steps=4)
    config["structure"] = str(EXAMPLES / "03_mpi_md" / config["structure"])
    config["velocities"]["temperature"] = 10
    config["output"] = {"directory": str(tmp_path / "run"), "thermo": 1, "trajectory": 2}
    (tmp_path / "md.yaml").write_text(yaml.safe_dump(config))
    mpiexec = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or "mpiexec"
    command = [mpiexec, "-n", "2", sys.executable, "-m", "deepmd_lite", "md", "md.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "run" / "thermo.csv").read_text().splitlines()) == 6
    assert (tmp_path / "run" / "trajectory.extxyz").stat().st_size > 0


def test_readme_block(trained, tmp_path, monkeypatch, capsys):
    """The README's Python, with the short input and a small box in place of the real ones."""
    readme = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", readme, re.S)
    assert len(blocks) == 1
    code = blocks[0]
    replacements = {
        '"examples/01_train_silicon/input.json"': repr(str(trained[0])),
        "(6, 6, 6)": "(1, 1, 1)",
        '"temperature": 1200': '"temperature": 10',
        "run(100)": "run(3)",
    }
    for old, new in replacements.items():
        assert old in code
        code = code.replace(old, new)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "silicon" / "model.dpl").exists()
    assert float(capsys.readouterr().out.split()[-1]) > 0


def test_readme_commands_exist():
    """Options that the README's shell lines use are known to the command."""
    readme = (ROOT / "README.md").read_text()
    for verb, options in {"train": ["--restart"], "test": ["--plot"], "md": ["--continue"]}.items():
        done = subprocess.run(
            [sys.executable, "-m", "deepmd_lite", verb, "--help"], capture_output=True, text=True
        )
        for option in options:
            assert option in readme
            assert option in done.stdout
