"""The tree's rules: a layer imports only below itself; heavy libraries stay where they belong."""

import ast
import re
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "deepmd_lite"
LAYER = {
    "units": 0,
    "system": 0,
    "files": 1,
    "elements": 1,
    "schema": 1,
    "geometry": 1,
    "free_memory": 1,
    "launchers": 1,
    "progress": 1,
    "kernels": 1,
    "pairs": 1,
    "neighbors": 2,
    "data": 3,
    "model": 3,
    "page": 1,
    "check": 4,
    "committee": 4,
    "at_frames": 5,
    "deviation": 6,
    "training": 7,
    "evaluate": 7,
    "calculator": 7,
    "deep_pot": 7,
    "md": 7,
    "interop": 7,
    "lammps": 7,
    "doctor": 8,
    "uncertainty": 7,
    "certify": 8,
    "learning": 8,
    "cli": 9,
    "__init__": 10,
    "__main__": 10,
}
ONLY_IN = {
    "dpdata": {"data/dpdata_files.py"},
    "h5py": {"data/hdf5.py", "md/trajectory/h5md.py"},
    "mpi4py": {"md/comm.py"},
    "torch.distributed": {"training/parallel.py"},
}
"""Libraries, or parts of them, that only these files may import."""
FREE_OF = {
    "torch": {"units.py", "schema.py", "geometry.py", "md/domain.py", "data/formats.py"},
    "ase": {"kernels", "model", "neighbors.py", "system.py", "md/domain.py", "md/halo.py"},
}
"""Files and folders that must not import these libraries."""


def sources():
    return sorted(PACKAGE.rglob("*.py"))


def unit_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports(path: Path):
    """(absolute module, line) of every import, relative ones resolved, lazy ones included."""
    package = ("deepmd_lite", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            module = ".".join([*base, *((node.module or "").split(".") if node.module else [])])
            if node.module:
                yield module, node.lineno
            else:
                for alias in node.names:
                    yield f"{module}.{alias.name}", node.lineno
        elif isinstance(node, ast.ImportFrom):
            yield node.module, node.lineno
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.lineno


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_only_below(path):
    own = unit_of(path)
    for module, line in imports(path):
        parts = module.split(".")
        if parts[0] != "deepmd_lite" or len(parts) == 1:
            continue
        other = parts[1]
        if other == own or other not in LAYER:
            continue
        assert LAYER[other] < LAYER[own], f"{path}:{line} imports {module}, which is not below"


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_libraries_stay_where_they_belong(path):
    name = path.relative_to(PACKAGE).as_posix()
    for module, line in imports(path):
        library = module.split(".")[0]
        for guarded, places in ONLY_IN.items():
            if f"{module}.".startswith(f"{guarded}."):
                assert name in places, f"{path}:{line} imports {guarded}"
        if library in FREE_OF:
            forbidden = {f for f in FREE_OF[library] if name == f or name.startswith(f + "/")}
            assert not forbidden, f"{path}:{line} imports {library}"


DISTRIBUTION = {"yaml": "pyyaml", "typing_extensions": "pydantic"}
"""Import name → the declared library that it is, or that brings it along."""


def test_every_library_is_declared():
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    users = {
        extra: project["optional-dependencies"][extra]
        for extra in ("mpi", "hdf5", "dpdata", "lammps")
    }
    given = project["dependencies"] + [name for names in users.values() for name in names]
    declared = {re.match(r"[\w-]+", requirement)[0] for requirement in given}
    for path in sources():
        for module, line in imports(path):
            name = module.split(".")[0]
            if name not in sys.stdlib_module_names | {"deepmd_lite"}:
                assert DISTRIBUTION.get(name, name) in declared, f"{path}:{line} imports {name}"


def test_every_unit_has_a_layer():
    units = {unit_of(p) for p in sources()}
    assert units <= set(LAYER), f"give a layer to {units - set(LAYER)}"


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_budgets(path):
    text = path.read_text()
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno - node.lineno < 80, f"{path}: {node.name}"
