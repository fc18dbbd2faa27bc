"""DeePMD-kit's portable files, `.dp` (HDF5) and `.yaml`, as the tree that they hold, and back.

The tree is nested dicts and lists with numbers, strings and numpy arrays at its leaves. `.dp`: the
tree as JSON in the root attribute `json`, where each array is the name of a data set; which words
are names follows from the key `@variables` above them. `.yaml`: an array is a mapping of the class
`np.ndarray` with `dtype` and `value`. Nothing in either file is executed.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ..data import hdf5
from ..files import write_atomically
from ..system import ModelFileError
from .tree import FLOATS

DTYPES = (*FLOATS[:3], "int32", "int64", "bool")
"""Types of the arrays that such files hold; bfloat16 has no reader here."""
DEEPEST = 64


def read_dp(path: str | Path) -> dict[str, Any]:
    """The tree in the `.dp` file `path`.

    Raises ModelFileError for a file that is missing, damaged or of another kind, InputError where
    h5py is not installed.
    """
    path = _existing(path)
    h5py = hdf5.h5py_for(path)
    try:
        with h5py.File(path, "r") as file:
            if "json" not in file.attrs:
                raise ModelFileError(
                    f"{path}: an HDF5 file without the attribute 'json', so no model of DeePMD-kit"
                )
            tree = json.loads(file.attrs["json"])
            return _mapping(path, _with_arrays(tree, lambda name: _data_set(path, file, name)))
    except ModelFileError:
        raise
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, RecursionError) as e:
        raise ModelFileError(
            f"{path}: not a readable .dp file ({path.stat().st_size} bytes): {_line(e)}; "
            "copy it again from where it was written"
        ) from None


def write_dp(path: str | Path, tree: dict[str, Any]) -> None:
    """Write `tree` as a `.dp` file, atomically. Raises InputError where h5py is not installed."""
    h5py = hdf5.h5py_for(path)
    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:

        def stored(value: Any) -> str:
            name = f"variable_{len(file):04d}"
            return str(file.create_dataset(name, data=value).name)

        file.attrs["json"] = json.dumps(_with_arrays(tree, stored))
    write_atomically(path, memory.getvalue())


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The tree in the `.yaml` file `path`; raises ModelFileError as `read_dp`."""
    path = _existing(path)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # both build plain types only
    try:
        content = path.read_bytes()
        _check_depth(path, yaml.parse(content, loader))
        tree = yaml.load(content, loader)
    except ModelFileError:
        raise
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(e, "problem", None) or "not a text"
        raise ModelFileError(f"{path}: {line}not valid YAML: {problem}") from None
    except (OSError, ValueError, TypeError, RecursionError) as e:
        raise ModelFileError(f"{path}: cannot be read as YAML: {_line(e)}") from None

    def array(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if value.get("@class") != "np.ndarray" or value.get("dtype") not in DTYPES:
            raise ModelFileError(
                f"{path}: expected an array under '@variables', found {value!r:.60}"
            )
        try:
            return np.asarray(value.get("value"), dtype=value["dtype"])
        except (ValueError, TypeError, OverflowError) as e:
            raise ModelFileError(f"{path}: an array is not valid: {_line(e)}") from None

    _check_size(path, tree)
    try:
        return _mapping(path, _with_arrays(tree, array))
    except RecursionError:
        raise ModelFileError(f"{path}: nested too deeply") from None


def write_yaml(path: str | Path, tree: dict[str, Any]) -> None:
    """Write `tree` as a `.yaml` file, atomically; numbers keep all their digits."""

    def plain(value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            return value
        return {
            "@class": "np.ndarray",
            "@is_variable": True,
            "@version": 1,
            "dtype": value.dtype.name,
            "value": value.tolist(),
        }

    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text = yaml.dump(
        _with_arrays(tree, plain), Dumper=dumper, sort_keys=False, default_flow_style=None
    )
    write_atomically(path, text.encode())


def _with_arrays(tree: Any, leaf: Callable[[Any], Any], variables: bool = False) -> Any:
    """A copy of `tree` with `leaf(value)` for each value under a key `@variables` but null."""
    if isinstance(tree, dict) and not tree.get("@is_variable"):
        return {
            key: _with_arrays(value, leaf, variables or key == "@variables")
            for key, value in tree.items()
        }
    if isinstance(tree, list):
        return [_with_arrays(value, leaf, variables) for value in tree]
    is_array = isinstance(tree, dict) or (variables and tree is not None)
    return leaf(tree) if is_array else tree


def _data_set(path: Path, file: Any, name: Any) -> np.ndarray:
    found: Any = hdf5.member(file, name.strip("/").split("/")) if isinstance(name, str) else None
    if not hasattr(found, "dtype") or found.external:  # numbers of other files are not the model's
        raise ModelFileError(f"{path}: the data set {name!r:.60} is missing")
    if found.dtype.name not in DTYPES or not hdf5.is_stored(found):
        raise ModelFileError(
            f"{path}: the data set {name!r:.60} has {found.dtype.name} {found.shape}; expected "
            f"an array of {', '.join(DTYPES)}"
        )
    return np.asarray(found[()])


def _check_depth(path: Path, events: Iterable[yaml.Event]) -> None:
    """Refuse nesting that would overflow the stack of the reader in C."""
    depth = 0
    for event in events:
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > DEEPEST:
            raise ModelFileError(f"{path}: nested deeper than {DEEPEST} levels; no model is")


def _check_size(path: Path, tree: Any) -> None:
    """Refuse a tree of more entries than the file has bytes: aliases have multiplied them."""
    most, count, stack = path.stat().st_size, 0, [tree]
    while stack and count <= most:
        entries = stack.pop()
        if isinstance(entries, dict):
            entries = list(entries.values())
        if isinstance(entries, list):
            count += len(entries)
            stack += [entry for entry in entries if isinstance(entry, (dict, list))]
    if count > most:
        raise ModelFileError(f"{path}: holds more entries than bytes; aliases repeat its parts")


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise ModelFileError(f"{path}: no such file")
    return path


def _mapping(path: Path, tree: Any) -> dict[str, Any]:
    if not isinstance(tree, dict) or not isinstance(tree.get("model"), dict):
        raise ModelFileError(f"{path}: holds no 'model', so it is no model of DeePMD-kit")
    return tree


def _line(error: Exception) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0][:200]
