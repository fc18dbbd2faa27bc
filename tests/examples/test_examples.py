"""Every example and the README's code, run as they stand but shorter."""

import importlib.util
import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from ase.io import read

from deepmd_lite.cli import main
from deepmd_lite.md.config import MdConfig
from deepmd_lite.schema import parse

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


def test_active_learning_example(tmp_path, monkeypatch):
    """From one crystal, with the command that labels."""
    folder = tmp_path / "example"
    shutil.copytree(EXAMPLES / "07_active_learning", folder)
    config = yaml.safe_load((folder / "learn.yaml").read_text())
    config.update(rounds=1, output=str(tmp_path / "copper"))
    config["initial"]["frames"] = 5
    for entry in config["explore"]:
        entry["steps"] = 20
    (folder / "learn.yaml").write_text(yaml.safe_dump(config))
    training = json.loads((folder / "train.json").read_text())
    training["training"].update(numb_steps=20)
    (folder / "train.json").write_text(json.dumps(training))
    monkeypatch.chdir(tmp_path)
    assert main(["learn", str(folder / "learn.yaml"), "-q"]) == 0
    assert (tmp_path / "copper" / "model.dpl").exists()


SILICON = str(ROOT / "data" / "silicon" / "silicon.dpl")


def example_module(path):
    """A script as a module, so that its sizes can be made smaller."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_elastic_constants_example(tmp_path, monkeypatch, capsys):
    """Against the bulk modulus of DFT, and DFT's own shear moduli beside the model's."""
    script = EXAMPLES / "04_solid_mechanics" / "elastic_constants.py"
    monkeypatch.setattr(sys, "argv", [script.name, SILICON, "-o", str(tmp_path)])
    example_module(script).main()
    printed = capsys.readouterr().out
    reference = json.loads((ROOT / "data" / "silicon" / "reference.json").read_text())
    bulk_modulus = float(re.search(r"bulk modulus .* = ([\d.]+) GPa", printed)[1])
    assert bulk_modulus == pytest.approx(reference["B"], rel=0.05)
    rows = re.findall(r"^(DFT|model) +([\d.]+) +([\d.]+)$", printed, re.M)
    assert [row[0] for row in rows] == ["DFT", "model"]
    dft, model = ([float(x) for x in row[1:]] for row in rows)
    assert model == pytest.approx(dft, rel=0.35)
    assert (tmp_path / "stress_parity.png").stat().st_size > 0


def test_tensile_example(tmp_path, monkeypatch, capsys):
    """Its input as it stands but smaller, then the curve: stress follows strain."""
    folder = EXAMPLES / "04_solid_mechanics"
    config = yaml.safe_load((folder / "tensile.yaml").read_text())
    assert (folder / config["structure"]).exists()
    config.update(model=SILICON, structure=str(folder / config["structure"]))
    config.update(replicate=[2, 2, 2], steps=100)
    config["ensemble"]["rate"] = 2e-4
    config["velocities"]["temperature"] = 20
    config["ensemble"]["temperature"] = 10
    config["output"] = {"directory": str(tmp_path / "run"), "thermo": 5}
    (tmp_path / "md.yaml").write_text(yaml.safe_dump(config))
    assert main(["md", str(tmp_path / "md.yaml"), "-q"]) == 0
    monkeypatch.setattr(sys, "argv", ["stress_strain.py", str(tmp_path / "run")])
    example_module(folder / "stress_strain.py").main()
    curve = np.genfromtxt(tmp_path / "run" / "stress_strain.csv", delimiter=",", names=True)
    assert curve["strain"][-1] == pytest.approx(0.04)
    assert 1.0 < curve["stress_along_GPa"][-1] < 10.0
    assert (tmp_path / "run" / "stress_strain.png").stat().st_size > 0
    assert "strength" in capsys.readouterr().out


def test_liquid_example(tmp_path):
    """Its input as it stands but smaller; the observables are written and drawn."""
    folder = EXAMPLES / "05_liquid"
    config = yaml.safe_load((folder / "liquid.yaml").read_text())
    path, _, frame = config["structure"].partition("@")
    assert read(folder / path, int(frame)).info["config_type"] == "liquid"
    config.update(model=SILICON, structure=f"{folder / path}@{frame}")
    config.update(replicate=[2, 1, 1], steps=100)
    config["output"]["directory"] = str(tmp_path / "run")
    config["output"]["observe"]["msd"] = {"every": 2, "window": 12}
    config["output"]["observe"]["vacf"]["window"] = 20
    (tmp_path / "md.yaml").write_text(yaml.safe_dump(config))
    assert main(["md", str(tmp_path / "md.yaml"), "-q"]) == 0
    assert main(["plot", str(tmp_path / "run")]) == 0
    rdf = np.genfromtxt(tmp_path / "run" / "rdf.csv", delimiter=",", names=True)
    assert 2.2 < rdf["r_A"][np.argmax(rdf["g_SiSi"])] < 2.7
    assert (tmp_path / "run" / "diffusion.csv").exists()
    assert (tmp_path / "run" / "report.html").stat().st_size > 0


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


def test_the_code_of_the_guide_to_ase(monkeypatch, tmp_path):
    """As it stands, from the top of the tree; files go elsewhere."""
    monkeypatch.chdir(ROOT)
    names = {}
    for code in re.findall(r"```python\n(.*?)```", (ROOT / "docs/ase.md").read_text(), re.S):
        if "phonopy" in code and importlib.util.find_spec("phonopy") is None:
            continue
        code = code.replace('"doubted.extxyz"', repr(str(tmp_path / "doubted.extxyz")))
        exec(compile(code, "docs/ase.md", "exec"), names)
    assert len(names["images"]) == 5
    assert read(tmp_path / "doubted.extxyz").arrays["forces_std"].max() == 0.0


def commands(text):
    """Verb and options of each line `dpl VERB …` in the shell blocks and code words of a text."""
    blocks = re.findall(r"```sh\n(.*?)```", text, re.S)
    prose = re.sub(r"```.*?```", "", text, flags=re.S)
    for line in [*"\n".join(blocks).splitlines(), *re.findall("`([^`]*)`", prose)]:
        words = re.sub(r"\$\(.*?\)", "", line.partition("#")[0]).split()
        if "dpl" in words and len(words) > (k := words.index("dpl")) + 1:
            verb, *rest = words[k + 1 :]
            yield verb, [w.partition("=")[0] for w in rest if re.match(r"--?[a-z]", w)]


def test_keys_for_commands_of_lammps_are_right():
    """Each one by itself beside what an input must have."""
    seen = []
    rows = re.findall(r"^\|.*\|(.*)\|$", (ROOT / "docs/from-lammps.md").read_text(), re.M)
    for row in rows:
        for snippet in re.findall(r"`(\w+: [^`]*)`", row):
            content = yaml.safe_load(snippet)
            if content.keys() <= MdConfig.model_fields.keys():
                parse(MdConfig, {"model": "a.dpl", "structure": "a.xyz", "steps": 1} | content, "")
                seen.append(snippet)
    assert len(seen) > 20
    assert sum("ensemble" in snippet for snippet in seen) == 9


def test_commands_of_readme_and_guides_exist():
    """The verbs, and every option that is used with them."""
    helps, seen = {}, 0
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for verb, options in commands(path.read_text()):
            if not verb.islower() or verb.startswith("-"):
                continue
            if verb not in helps:
                command = [sys.executable, "-m", "deepmd_lite", verb, "--help"]
                done = subprocess.run(command, capture_output=True, text=True)
                assert done.returncode == 0, f"{path.name}: dpl {verb}"
                helps[verb] = done.stdout
            for option in options:
                seen += 1
                assert re.search(rf"(?<![\w-]){option}(?![\w-])", helps[verb]), (
                    f"{path.name}: dpl {verb} {option}"
                )
    assert len(helps) > 12
    assert seen > 50
