"""Damaged files: every reader either reads or says in one line what is wrong.

Real files with bytes changed, removed, doubled, moved, replaced by numbers that hurt. Never another
exception than the package's own, never a file that keeps a reader busy or fills the memory.
A thousand cases over all readers, the same ones each time; with DPL_FUZZ_CASES as many as it
says, others each time (`make fuzz`).
"""

import contextlib
import os
import resource
import shutil
import signal
import warnings
from pathlib import Path

import numpy as np
import pytest
import yaml
from c_library import ForceField
from golden_files import GOLDEN, unpacked
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models import random_atoms, random_potential

from deepmd_lite.cli import main
from deepmd_lite.data import load
from deepmd_lite.interop import convert, potential_from_tree
from deepmd_lite.interop.convert import READERS as CONVERTED
from deepmd_lite.md import restart
from deepmd_lite.md.comm import Communicator
from deepmd_lite.md.config import MdConfig
from deepmd_lite.md.structure import read_structure
from deepmd_lite.model import load_model, read_header, save_model
from deepmd_lite.schema import parse, read_mapping
from deepmd_lite.system import DeepmdLiteError
from deepmd_lite.training.config import read_input

ROOT = Path(__file__).parents[2]
CASES = os.environ.get("DPL_FUZZ_CASES")
SECONDS = 20
BYTES = 4 * 2**30
"""What a reader may take besides what the process has."""
NASTY = (
    *(
        b"",
        b"\x00",
        b"\xff" * 8,
        b"\n",
        b"nan",
        b"-1",
        b"1e999",
        b"99999999999999999999",
        b"{",
        b"]",
    ),
    *(b'"', b"'", b"&a [*a]", b"!!python/object/apply:os.system", b"Infinity", b"null", b"true"),
    *(b"../../../etc/passwd", "é€\U0001f600".encode(), b"\x80", b"[" * 2000, b"0" * 400, b","),
)

mutation = st.tuples(
    st.sampled_from(("flip", "cut", "double", "insert", "replace", "truncate", "swap")),
    st.floats(0, 1),
    st.floats(0, 1),
    st.sampled_from(NASTY) | st.binary(max_size=12),
)
mutations = st.lists(mutation, min_size=1, max_size=4)


def mutated(content: bytes, changes) -> bytes:
    """`content` after all changes; places are fractions of its length."""
    for kind, place, extent, piece in changes:
        at = int(place * len(content))
        end = min(len(content), at + 1 + int(extent**4 * 200))
        if kind == "flip" and at < len(content):
            bit = 1 << int(extent * 7.99)
            content = content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :]
        elif kind == "cut":
            content = content[:at] + content[end:]
        elif kind == "double":
            content = content[:end] + content[at:]
        elif kind == "insert":
            content = content[:at] + piece + content[at:]
        elif kind == "replace":
            content = content[:at] + piece + content[at + max(1, len(piece)) :]
        elif kind == "truncate":
            content = content[:at]
        elif kind == "swap":
            content = content[end:] + content[at:end] + content[:at]
    return content


@contextlib.contextmanager
def bounded():
    """Ends what takes too long or too much memory."""

    def expired(*_):
        raise TimeoutError(f"still reading after {SECONDS} s")

    status = Path("/proc/self/status").read_text().split()
    size = 1024 * int(status[status.index("VmSize:") + 1])
    old = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, expired)
    signal.alarm(SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (size + BYTES, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, old)
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def one_line(reader, *arguments):
    """Whether `reader` took the file; what it refuses, it refuses in one line."""
    with bounded(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            reader(*arguments)
        except DeepmdLiteError as e:
            message = str(e)
            assert message.strip()
            assert "\n" not in message
            assert len(message) < 5000
            return False
    return True


# --- the real files -------------------------------------------------------------------------


def write_model(folder):
    save_model(random_potential(("O", "H")), folder / "model.dpl")
    return folder / "model.dpl"


def write_extxyz(folder):
    lines = (ROOT / "data" / "silicon" / "train.extxyz").read_text().splitlines(keepends=True)
    (folder / "frames.extxyz").write_text("".join(lines[: 3 * 34]))
    return folder / "frames.extxyz"


def write_npy(folder):
    """A small deepmd/npy system; what is mutated is chosen by the first change."""
    system = folder / "system"
    (system / "set.000").mkdir(parents=True)
    (system / "type.raw").write_text("0\n1\n1\n")
    (system / "type_map.raw").write_text("O\nH\n")
    rng = np.random.default_rng(0)
    arrays = {"coord": (4, 9), "box": (4, 9), "energy": (4,), "force": (4, 9), "virial": (4, 9)}
    for name, shape in arrays.items():
        values = rng.normal(size=shape) * 3
        if name == "box":
            values = np.tile(9.0 * np.eye(3).ravel(), (4, 1))
        np.save(system / "set.000" / f"{name}.npy", values)
    return system


def write_hdf5(folder):
    from deepmd_lite.data.writing import write_systems

    path = folder / "data.hdf5"
    write_systems(load([write_npy(folder)]), path, None, None)
    return path


def write_train_input(folder):
    path = folder / "input.json"
    shutil.copy(ROOT / "examples" / "01_train_silicon" / "input.json", path)
    path.write_text(path.read_text().replace("../../data", str(ROOT / "data")))
    return path


def write_md_input(folder):
    path = folder / "md.yaml"
    shutil.copy(ROOT / "examples" / "04_solid_mechanics" / "tensile.yaml", path)
    return path


def write_lammps(folder):
    from ase.io import write

    atoms = random_atoms("Si8", 7.0, 1)
    write(folder / "si.data", atoms, format="lammps-data", masses=True)
    return folder / "si.data"


def write_restart(folder):
    save_model(random_potential(), folder / "model.dpl")
    atoms = random_atoms("Si8", 7.0, 1)
    atoms.write(folder / "si.extxyz")
    config = {
        "model": str(folder / "model.dpl"),
        "structure": str(folder / "si.extxyz"),
        "steps": 2,
        "guards": {"force": None, "distance": None, "displacement": None},
        "output": {"directory": str(folder / "run"), "thermo": 1, "restart": 1},
    }
    (folder / "md.yaml").write_text(yaml.safe_dump(config))
    assert main(["md", str(folder / "md.yaml"), "-q"]) == 0
    return folder / "run" / "restart"


def write_converted(suffix):
    """A model of DeePMD-kit: one that it wrote itself, or one in its portable form."""

    def write(folder):
        if suffix not in (".dp", ".yaml"):
            return unpacked(f"two_sided{suffix}", folder)
        path = Path(shutil.copy(GOLDEN.parent / "two_sided.dp", folder))
        if suffix == ".yaml":
            convert(path, folder / "model.dpl")
            path = folder / "model.yaml"
            convert(folder / "model.dpl", path)
        return path

    return write


def read_converted(path):
    potential_from_tree(CONVERTED[path.suffix](path), str(path))


READERS = {
    **{
        suffix: (write_converted(suffix), read_converted)
        for suffix in (".pb", ".pth", ".pt", ".dp", ".yaml")
    },
    "model": (write_model, lambda path: load_model(path)),
    "model in C": (write_model, lambda path: ForceField(path)),
    "header": (write_model, lambda path: read_header(path)),
    "extxyz": (write_extxyz, lambda path: load([path])),
    "hdf5": (write_hdf5, lambda path: load([path])),
    "structure": (write_extxyz, lambda path: read_structure(str(path))),
    "lammps": (write_lammps, lambda path: read_structure(str(path), ["Si"])),
    "training input": (write_train_input, lambda path: read_input(path)),
    "md input": (
        write_md_input,
        lambda path: parse(MdConfig, read_mapping(path), str(path)),
    ),
}


FOLDERS = {
    "npy": (write_npy, lambda folder: load([folder])),
    "restart": (write_restart, lambda folder: restart.read(folder, ["Si"], Communicator())),
    "restart described": (write_restart, lambda folder: restart.describe(folder)),
}


def examples():
    """Settings for one reader's share of all cases."""
    return settings(
        max_examples=max(1, int(CASES or 1000) // (len(READERS) + len(FOLDERS))),
        deadline=None,
        derandomize=CASES is None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.mark.parametrize("name", READERS)
def test_files(tmp_path_factory, name):
    write, reader = READERS[name]
    path = write(tmp_path_factory.mktemp("fuzz"))
    content = path.read_bytes()
    assert one_line(reader, path), "the file itself is sound"

    @examples()
    @given(mutations)
    def run(changes):
        path.write_bytes(mutated(content, changes))
        one_line(reader, path)

    run()


@pytest.mark.parametrize("name", FOLDERS)
def test_folders(tmp_path_factory, name):
    write, reader = FOLDERS[name]
    folder = write(tmp_path_factory.mktemp("fuzz"))
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    contents = {p: p.read_bytes() for p in files}
    assert one_line(reader, folder)

    @examples()
    @given(st.sampled_from(files), mutations)
    def run(path, changes):
        path.write_bytes(mutated(contents[path], changes))
        try:
            one_line(reader, folder)
        finally:
            path.write_bytes(contents[path])

    run()
