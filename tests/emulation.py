"""The CUDA kernels compiled for the host: their own source over tests/cuda/emulate.h."""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import subprocess
from pathlib import Path

from deepmd_lite import kernels

SOURCES = Path(kernels.cuda.__file__).parent
EMULATOR = Path(__file__).parent / "cuda"
FLAGS = [
    *("-std=c++17", "-O2", "-g", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror"),
    *("-ffp-contract=off", "-U_FORTIFY_SOURCE", "-DDPL_EMULATE"),
    *(f"-I{SOURCES}", f"-I{SOURCES.parent}", f"-I{EMULATOR}"),
    *os.environ.get("DPL_EMULATION_FLAGS", "").split(),  # make sanitize-cuda
]


def emulated_library(folder: Path) -> Path:
    """Compiled into `folder` by the first process that asks for it."""
    library = folder / "libdpl_cuda_emulated.so"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not library.exists():
            _compile(folder, library)
    return library


def compiler() -> str:
    """The C++ compiler."""
    found = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    assert found, "a C++ compiler is needed: the kernels were built with one"
    return found


def _compile(folder: Path, library: Path) -> None:
    sources = [*sorted(SOURCES.glob("*.cu")), EMULATOR / "emulate.cpp"]
    assert len(sources) > 4
    objects = [folder / f"{source.stem}.o" for source in sources]
    for source, made in zip(sources, objects, strict=True):
        command = [compiler(), *FLAGS, "-x", "c++", "-c", str(source), "-o", str(made)]
        subprocess.run(command, check=True)
    whole = folder / "unfinished.so"
    command = [compiler(), *FLAGS, "-shared", *map(str, objects), "-o", str(whole)]
    subprocess.run(command, check=True)
    whole.rename(library)


def shuffle(device: kernels.cuda.Device, seed: int) -> None:
    """Blocks and threads of an emulated device run in another order; 0: ascending. Those of a GPU
    run as they like."""
    if hasattr(device.native, "dpl_emulate_shuffle"):
        device.native.dpl_emulate_shuffle(ctypes.c_uint64(seed))
