"""dpl doctor: one verdict a line, and what is broken named with its fix."""

import json
import sys

import pytest

from deepmd_lite import doctor
from deepmd_lite.cli import main


def verdict(name):
    return next(v for v in doctor.examine() if v.name == name)


def test_a_sound_machine(capsys):
    pytest.importorskip("mpi4py")
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [
        *("package", "python", "libraries", "kernels", "threads", "memory", "MPI", "CUDA")
    ]
    assert not any("broken" in line for line in lines)
    mpi = next(line for line in lines if line.startswith("MPI"))
    assert "µs from one to the other" in mpi
    assert "compiled with" in lines[3]


def test_libraries_are_those_of_the_installation(monkeypatch):
    listed = [
        "numpy>=1.24",
        "PyYAML>=6",
        "no-such.package>=1; python_version>'3'",
        "ruff; extra=='x'",
    ]
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: listed)
    found = verdict("libraries")
    assert [part.split()[0] for part in found.found.split(", ")] == ["numpy", "PyYAML"]
    assert found.broken
    assert found.missing == "no-such.package not installed"


def test_an_installation_without_a_record_is_broken(monkeypatch):
    def requires(name):
        raise doctor.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "requires", requires)
    assert "deepmd_lite itself is not installed" in verdict("libraries").line()


def test_json(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "_mpi", lambda: doctor.Verdict("MPI", "x", "broken", "mend", True))
    assert main(["doctor", "--json"]) == 1
    rows = json.loads(capsys.readouterr().out)
    assert {"name", "found", "missing", "fix", "broken", "state"} == set(rows[0])
    assert [row["state"] for row in rows if row["name"] == "MPI"] == ["broken"]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo no such host >&2; exit 3", "two ranks failed: no such host"),
        ('shift 2; "$@"; exit 0', "1 rank(s) in the world"),
        ("sleep 30", "do not answer"),
    ],
)
def test_a_launcher_that_does_not_fit(script, words, tmp_path, monkeypatch):
    pytest.importorskip("mpi4py")
    launcher = tmp_path / "mpiexec"
    launcher.write_text(f"#!/bin/sh\n{script}\n")
    launcher.chmod(0o755)
    monkeypatch.setattr(doctor.shutil, "which", lambda name, path=None: str(launcher))
    monkeypatch.setattr(doctor, "PING_SECONDS", 3.0)
    found = doctor._mpi()
    assert found.broken
    assert words in found.line()
    assert "fix:" in found.line()


def test_no_mpi_is_missing_and_not_broken(monkeypatch):
    def version(name):
        raise doctor.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "version", version)
    found = doctor._mpi()
    assert found.state == "missing"
    assert "one rank" in found.line()


def test_more_threads_than_processors(monkeypatch):
    monkeypatch.setattr(doctor, "_cpus", lambda: 0.4)
    found = verdict("threads")
    assert found.state == "missing"
    assert "OMP_NUM_THREADS=1" in found.fix


def test_kernels_that_cannot_be_loaded(monkeypatch):
    monkeypatch.setitem(sys.modules, "deepmd_lite.kernels", None)
    monkeypatch.delattr("deepmd_lite.kernels", raising=False)
    found = doctor._kernels()
    assert found.broken
    assert "pip install" in found.fix
